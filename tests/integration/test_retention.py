"""Retention on both kinds of databases, as the relay's role: what goes, what stays, and what is told before."""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from api.relay_database import Connection, connect
from api.retention import plan, schedule, service, store
from api.retention.plan import TABLES, Chunk, Table
from api.retention.service import BusyError, Report
from pulsestream.cli import app
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from schemas.codec import codec
from sinks.database import Database
from sinks.plan import Place, Position
from sinks.plan import plan as planned
from sinks.rows import Arrived
from tests.support.databases import BOTH_KINDS, NamedDatabase
from tests.support.sinking import taken, trade, wait_until

pytestmark = BOTH_KINDS
DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
TIERS = {"acme": "free", "beta": "pro", "corp": "enterprise"}
PERIODS: dict[str, timedelta | None] = {"acme": 30 * DAY, "beta": 365 * DAY, "corp": None, "nobody": None}
OTHERS = {
    "ticks": {"exchange": "coinbase", "product": "A", "price": 1, "received_time": NOW},
    "trades": {
        "exchange": "coinbase", "product": "A", "trade_id": 1, "price": 1, "size": 1, "side": "buy",
        "received_time": NOW,
    },
    "events": {"type": "t", "source": "s", "received_time": NOW, "data": "{}"},
    "stats": {
        "exchange": "coinbase", "product": "A", "window": "1m", "basis": "ticks", "count": 1, "revision": 0,
        "as_of_topic": "s", "as_of_partition": 0, "as_of_offset": 1,
    },
    "bars": {
        "exchange": "coinbase", "product": "A", "period": "1m", "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1,
        "complete": True, "revision": 0, "origin": "trades", "received_time": NOW,
    },
    "alerts": {
        "seq": 1, "rule_id": "r", "rule_name": "r", "rule_version": 1, "exchange": "coinbase", "product": "A",
        "state": "firing", "reason": "r", "severity": "info", "labels": "{}", "last_prices": "[]",
    },
}  # fmt: skip
Old = tuple[str, datetime, datetime]
"""A row: tenant, event time, append time."""


@pytest.fixture
def admin(database: NamedDatabase) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a database with a tenant of each tier."""
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.cursor().executemany(
            "INSERT INTO tenants (tenant, name, tier) VALUES (%s, 'x', %s)", list(TIERS.items())
        )
        yield connection


@pytest.fixture
def relay(service_settings: Callable[..., Settings]) -> Iterator[Connection]:
    with connect(service_settings("relay"), "test") as connection:
        yield connection


def put(admin: psycopg.Connection, table: Table, rows: list[Old]) -> None:
    fixed = OTHERS[table.name]
    columns = ["tenant", table.time, "appended_at", table.key, *fixed]
    quoted = ", ".join(f'"{column}"' for column in columns)
    with admin.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table.name} ({quoted}) VALUES ({', '.join(['%s'] * len(columns))})",
            [(*row, secrets.token_hex(8), *fixed.values()) for row in rows],
        )


def kept(admin: psycopg.Connection, table: Table) -> Counter[Old]:
    return Counter(admin.execute(f"SELECT tenant, {table.time}, appended_at FROM {table.name}").fetchall())


def chunks(admin: psycopg.Connection, table: str) -> int | None:
    """Return how many chunks a table has; None for a plain table."""
    if not admin.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").rowcount:
        return None
    found = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = %s"
    [count] = admin.execute(found, (table,)).fetchone() or (0,)
    return int(count)


def is_old(row: Old) -> bool:
    """Say what retention should: the plain rule, row by row."""
    tenant, *times = row
    period = PERIODS[tenant]
    return period is not None and max(times) < NOW - period


def some_rows(seed: int) -> list[Old]:
    """Rows around every tier's cutoff, some of which the broker took long after their event."""
    random = Random(seed)
    ages = [0, 1, 29, 30, 31, 45, 60, 364, 366, 500]
    made = []
    for tenant in PERIODS:
        for _ in range(40):
            at = NOW - random.choice(ages) * DAY + timedelta(seconds=random.randint(-3, 3))
            late = random.choice([timedelta(0), timedelta(seconds=1), 20 * DAY, 400 * DAY])
            made.append((tenant, at, min(at + late, NOW)))
    return made


def run(relay: Connection, *, dry_run: bool = False, **overrides: Any) -> Report:
    return service.run(relay, Settings(**overrides), NOW, dry_run=dry_run)


def told(report: Report) -> dict[tuple[str, str], int]:
    return {named: removed.rows for named, removed in report.removed.items()}


def test_rows_beyond_their_tenants_period_go_and_no_other_and_a_dry_run_tells_them_before(
    admin: psycopg.Connection, relay: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH", 7)
    rows = {table.name: some_rows(seed) for seed, table in enumerate(TABLES)}
    for table in TABLES:
        put(admin, table, rows[table.name])
    expected = {table: Counter(row[0] for row in those if is_old(row)) for table, those in rows.items()}

    tried = run(relay, dry_run=True)
    untouched = {table.name: kept(admin, table) for table in TABLES}
    ran = run(relay)

    assert untouched == {table: Counter(those) for table, those in rows.items()}
    assert {table.name: kept(admin, table) for table in TABLES} == {
        table: Counter(row for row in those if not is_old(row)) for table, those in rows.items()
    }
    assert (
        told(tried)
        == told(ran)
        == {(table, tenant): count for table, by_tenant in expected.items() for tenant, count in by_tenant.items()}
    )
    assert run(relay).removed == {}


def test_a_chunk_that_nobody_needs_goes_whole_and_others_lose_rows(
    admin: psycopg.Connection, relay: Connection
) -> None:
    [ticks] = [table for table in TABLES if table.name == "ticks"]
    alone, shared, fresh = NOW - 100 * DAY, NOW - 90 * DAY, NOW - DAY
    put(admin, ticks, [("acme", at, at) for at in [alone] * 5 + [shared] * 3 + [fresh]])
    put(admin, ticks, [("beta", shared, shared)])
    before = chunks(admin, "ticks")

    tried, ran = run(relay, dry_run=True), run(relay)

    assert told(ran) == told(tried) == {("ticks", "acme"): 8}
    assert Counter(row[:2] for row in kept(admin, ticks).elements()) == {("acme", fresh): 1, ("beta", shared): 1}
    if before is None:
        assert (ran.chunks, tried.chunks) == (0, 0)
    else:
        assert (ran.chunks, tried.chunks, before, chunks(admin, "ticks")) == (1, 1, 3, 2)
        assert ran.removed["ticks", "acme"].octets


def test_a_chunk_that_somebody_writes_to_for_long_stays_until_the_next_run(
    admin: psycopg.Connection, relay: Connection, database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "HOLD_WITHIN", "100ms")
    [ticks] = [table for table in TABLES if table.name == "ticks"]
    old = NOW - 100 * DAY
    put(admin, ticks, [("acme", old, old)])

    with psycopg.connect(database.url()) as backfill:
        put(backfill, ticks, [("acme", old, NOW)])
        ran = run(relay)
        backfill.commit()

    if chunks(admin, "ticks") is not None:
        assert (ran.held, ran.chunks) == (1, 0)
    assert kept(admin, ticks) == {("acme", old, NOW): 1}


def test_no_row_is_lost_that_is_committed_while_its_chunk_is_about_to_be_dropped(
    admin: psycopg.Connection, relay: Connection, database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill writes into an old chunk that was found to be over, and commits while retention waits for it."""
    monkeypatch.setattr(store, "HOLD_WITHIN", "60s")
    [ticks] = [table for table in TABLES if table.name == "ticks"]
    old = NOW - 100 * DAY
    put(admin, ticks, [("acme", old, old)])
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    with psycopg.connect(database.url()) as backfill, ThreadPoolExecutor(1) as thread:
        put(backfill, ticks, [("acme", old, NOW)])
        running = thread.submit(run, relay)
        wait_until(lambda: running.done() or admin.execute(waits).rowcount)
        backfill.commit()
        ran = running.result(60)

    assert ran.chunks == 0
    assert kept(admin, ticks) == {("acme", old, NOW): 1}


def test_a_deadlock_with_who_writes_to_a_chunk_that_is_being_dropped_leaves_both_whole(
    admin: psycopg.Connection, relay: Connection, database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill comes while the chunk is held, and waits; the server ends one of the two, here the run."""
    [ticks] = [table for table in TABLES if table.name == "ticks"]
    if chunks(admin, ticks.name) is None:
        pytest.skip("a plain table has no chunks to drop")
    old = NOW - 100 * DAY
    put(admin, ticks, [("acme", old, old)])
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    drop = store.drop

    with psycopg.connect(database.url()) as backfill, ThreadPoolExecutor(1) as thread:
        backfill.execute("SET deadlock_timeout = '1h'")  # so that the other one finds the deadlock

        def drop_beside_a_backfill(connection: Connection, table: Table, chunk: Chunk) -> None:
            writing.append(thread.submit(put, backfill, ticks, [("acme", old, NOW)]))
            wait_until(lambda: writing[0].done() or admin.execute(waits).rowcount)
            drop(connection, table, chunk)

        writing: list[Future[None]] = []
        monkeypatch.setattr(store, "drop", drop_beside_a_backfill)
        ran = run(relay)
        writing[0].result(60)
        backfill.commit()

    assert (ran.held, ran.chunks) == (1, 0)
    assert kept(admin, ticks) == {("acme", old, NOW): 1}


def test_hours_of_trades_and_ids_of_events_go_when_nothing_can_need_them(
    admin: psycopg.Connection, relay: Connection
) -> None:
    [trades] = [table for table in TABLES if table.name == "trades"]
    hour, kept_hour = (NOW - 40 * DAY).replace(minute=0), (NOW - 50 * DAY).replace(minute=0)
    put(admin, trades, [("acme", hour, hour), ("acme", kept_hour, NOW - DAY)])
    for at in (hour, kept_hour, NOW - DAY):
        admin.execute("INSERT INTO trade_hours VALUES ('acme', 'coinbase', 'A', %s, 1, 1, 1)", (at,))
    for number, age in enumerate((1, 30, 32, 400)):
        admin.execute(
            "INSERT INTO event_ids (tenant, event_id, body, time, claimed_at) VALUES ('corp', %s, '', %s, %s)",
            (str(number), NOW, NOW - age * DAY),
        )

    tried, ran = run(relay, dry_run=True), run(relay)

    assert told(tried) == told(ran) == {("trades", "acme"): 1, ("trade_hours", "acme"): 1, ("event_ids", "corp"): 2}
    hours = admin.execute("SELECT hour FROM trade_hours ORDER BY hour").fetchall()
    assert [at for (at,) in hours] == [kept_hour, NOW - DAY]
    assert admin.execute("SELECT event_id FROM event_ids ORDER BY 1").fetchall() == [("0",), ("1",)]


def test_what_the_sink_stores_again_after_its_rows_went_is_stored(
    admin: psycopg.Connection, relay: Connection, database: NamedDatabase
) -> None:
    at = int((NOW - 100 * DAY).timestamp() * 1e6)
    record = trade(1, exchange_time=at, received_time=at)
    sink = Database(database.url("ps_sink"))
    sink.connect()
    place = Place("ps.acme.trades.v1", "id", 0)
    for offset in range(2):
        arrived = Arrived(place.topic, 0, offset, at, None, codec(type(record)).encode(record))
        sink.positions([place])
        batch = planned([taken(arrived)], {(place.topic, 0): Position(place, offset)}, at)
        assert sink.store(batch, lambda _: None).rows == {"trades": 1}
        if offset == 0:
            assert told(run(relay)) == {("trades", "acme"): 1, ("trade_hours", "acme"): 1}
    sink.close()

    assert admin.execute("SELECT trades FROM trade_hours").fetchall() == [(1,)]


def test_one_run_at_a_time(relay: Connection, service_settings: Callable[..., Settings]) -> None:
    with connect(service_settings("relay"), "other") as other:
        assert store.take_turn(other)
        with pytest.raises(BusyError, match="another run"):
            run(relay)
        store.end_turn(other)

    assert run(relay).removed == {}


def test_a_run_that_is_to_stop_stops_between_two_batches(
    admin: psycopg.Connection, relay: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH", 2)
    alerts = TABLES[-1]
    put(admin, alerts, [("acme", NOW - 40 * DAY + timedelta(seconds=number), NOW - 40 * DAY) for number in range(5)])
    put(admin, alerts, [("corp", NOW - 40 * DAY, NOW - 40 * DAY)])  # the chunk stays

    service.run(relay, Settings(), NOW, dry_run=False, stopping=lambda: kept(admin, alerts).total() < 6)

    assert kept(admin, alerts).total() == 4
    assert told(run(relay)) == {("alerts", "acme"): 3}


def test_new_chunks_get_the_length_that_their_rate_allows(
    admin: psycopg.Connection, relay: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SURE", timedelta(0))
    monkeypatch.setattr(store, "memory", lambda _: 1)
    now = datetime.now(UTC)
    put(admin, TABLES[0], [("acme", now, now)])

    tried, ran = run(relay, dry_run=True), run(relay)

    if chunks(admin, "ticks") is None:
        assert ran.spans == []
        return
    assert [(span.table, span.present, span.fitting) for span in tried.spans] == [("ticks", DAY, plan.SPANS[0])]
    assert ran.spans == tried.spans
    lengths = admin.execute(
        "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'ticks'"
    )
    assert lengths.fetchall() == [(plan.SPANS[0],)]


def test_the_relay_runs_it_in_the_background(
    admin: psycopg.Connection, service_settings: Callable[..., Settings]
) -> None:
    put(admin, TABLES[0], [("acme", NOW - 40 * DAY, NOW - 40 * DAY)] * 3)
    stop = threading.Event()
    running = schedule.Schedule(service_settings("relay"), stop, first=0.01, every=0.05)
    before = REGISTRY.get_sample_value("pulsestream_retention_last_run_timestamp_seconds") or 0.0

    running.start()
    wait_until(lambda: (REGISTRY.get_sample_value("pulsestream_retention_last_run_timestamp_seconds") or 0) > before)
    stop.set()
    running.join(60)

    assert kept(admin, TABLES[0]).total() == 0


def test_the_command_tells_by_table_and_tenant_what_would_go_and_then_does_it(
    admin: psycopg.Connection, service_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(admin, TABLES[0], [("acme", NOW - 40 * DAY, NOW - 40 * DAY)] * 3)
    url = service_settings("relay").database_url.get_secret_value()
    monkeypatch.setenv("PULSESTREAM_DATABASE_URL", url)
    monkeypatch.setenv("PULSESTREAM_RETENTION_DAYS_PRO", "90")

    tried = CliRunner().invoke(app, ["retention", "--dry-run"])
    still = kept(admin, TABLES[0]).total()
    ran = CliRunner().invoke(app, ["retention"])

    assert "kept: free 30 days, pro 90 days, enterprise for ever; ids of events 31 days" in tried.output
    assert "3 rows would go" in tried.output
    assert [line.split()[:3] for line in tried.output.splitlines() if "acme" in line] == [["ticks", "acme", "3"]]
    assert (still, kept(admin, TABLES[0]).total()) == (3, 0)
    assert "3 rows are gone" in ran.output
