"""The sink on a real broker and a real database: each record has exactly one effect."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from pulsestream.core.clock import to_datetime
from pulsestream.core.kafka import Admin, TopicSpec
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS
from schemas.codec import codec
from schemas.records import Bar, Feed, Gap, Record, Tick, Trade
from sinks import database, tables
from tests.support.databases import BOTH_KINDS
from tests.support.sinking import (
    START,
    Scene,
    alert,
    bar,
    encoded,
    event,
    running_sink,
    send,
    stat,
    tick,
    trade,
    wait_until,
)

MINUTE = 60_000_000


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    yield made
    made.delete_topics()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pulsestream_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("dataset", "table", "records"),
    [
        ("ticks", "ticks", [tick(number) for number in range(300)]),
        ("own-ticks", "ticks", [tick(number, exchange="x-desk") for number in range(300)]),
        ("trades", "trades", [trade(number) for number in range(300)]),
        ("events", "events", [event(number) for number in range(300)]),
        ("bars", "bars", [bar(number) for number in range(300)]),
        ("stats", "stats", [stat(number, number) for number in range(300)]),
        ("alerts", "alerts", [alert(number) for number in range(300)]),
    ],
)
def test_every_record_is_one_row(scene: Scene, dataset: str, table: str, records: list[Any]) -> None:
    scene.make("dlq", dataset)
    scene.send(dataset, records)

    with running_sink(scene.settings):
        scene.wait_stored(dataset, 300)

    identity = "alert_id" if table == "alerts" else "event_id"
    stored = [row[0] for row in scene.rows(f"SELECT {identity} FROM {table} WHERE tenant = %s", scene.tenant)]
    assert sorted(stored) == sorted(getattr(record, identity) for record in records)


def test_a_row_holds_the_record_exactly(scene: Scene) -> None:
    sent: dict[str, Record] = {
        "ticks": tick(1, quote_time=START - 1, trade_id=2**62, best_bid_size=0.1 + 0.2, price=123456.789012345),
        "trades": trade(2**62, price=0.1 + 0.2, exchange_time=START, received_time=START + 1, sequence=None),
        "bars": bar(1, offset=7, complete=False, quote_volume=0.1 + 0.2, trades=2**40, vwap=None, origin="trades"),
    }
    scene.make("dlq", *sent)
    for dataset, record in sent.items():
        scene.send(dataset, [record])

    with running_sink(scene.settings):
        for dataset in sent:
            scene.wait_stored(dataset, 1)

    assert {dataset: held(scene, dataset, type(record)) for dataset, record in sent.items()} == {
        dataset: shown(record) for dataset, record in sent.items()
    }


TIMES = {"exchange_time", "received_time", "quote_time", "start"}
AS_OF = {"as_of_topic": "source", "as_of_partition": 0, "as_of_offset": 7}


def held(scene: Scene, table: str, kind: type[Tick | Trade | Bar]) -> dict[str, object]:
    """Return the only row of a table, by the record's own fields."""
    fields = [field.name for field in msgspec.structs.fields(kind)]
    names = [name for name in fields if name != "as_of"] + (list(AS_OF) if "as_of" in fields else [])
    (stored,) = scene.rows(f"SELECT {', '.join(names)} FROM {table} WHERE tenant = %s", scene.tenant)
    return dict(zip(names, stored, strict=True))


def shown(record: Record) -> dict[str, object]:
    """Return a record as its row holds it."""
    fields = msgspec.structs.asdict(record)
    expected = {name: to_datetime(value) if name in TIMES else value for name, value in fields.items()}
    return expected if expected.pop("as_of", None) is None else expected | AS_OF


@BOTH_KINDS
def test_a_record_stored_before_is_left_out_at_another_offset(scene: Scene) -> None:
    scene.make("dlq", "ticks", "alerts", "events")
    for dataset, record in (("ticks", tick), ("alerts", alert), ("events", event)):
        scene.send(dataset, [record(number) for number in range(50)])

    with running_sink(scene.settings):
        scene.wait_stored("ticks", 50)
        scene.wait_stored("alerts", 50)
        scene.wait_stored("events", 50)
        before = {table: metric("sink_duplicates_total", dataset=table) for table in ("ticks", "alerts", "events")}
        for dataset, record in (("ticks", tick), ("alerts", alert), ("events", event)):
            scene.send(dataset, [record(number) for number in range(40, 90)])
            scene.wait_stored(dataset, 100)
        wait_until(lambda: metric("sink_duplicates_total", dataset="events") >= before["events"] + 10)

    assert {table: scene.count(table) for table in before} == {"ticks": 90, "alerts": 90, "events": 90}
    after = {table: metric("sink_duplicates_total", dataset=table) for table in before}
    assert {table: after[table] - before[table] for table in before} == {"ticks": 10, "alerts": 10, "events": 10}


@BOTH_KINDS
def test_a_trade_that_comes_again_changes_nothing_though_its_source_rounds_the_time_differently(scene: Scene) -> None:
    live = [trade(number) for number in range(1, 11)]
    filled = [trade(number, exchange_time=START + number * 1000 + 1, price=7.0) for number in range(6, 16)]
    scene.make("dlq", "trades")

    with running_sink(scene.settings):
        scene.send("trades", live)
        scene.wait_stored("trades", 10)
        scene.send("trades", filled)
        scene.wait_stored("trades", 20)
        scene.send("trades", [*live, trade(20, product="ETH-USD"), trade(20), trade(20)])
        scene.wait_stored("trades", 33)

    stored = scene.rows("SELECT trade_id, price FROM trades WHERE tenant = %s AND product = 'BTC-USD'", scene.tenant)
    assert sorted(stored) == [
        *((number, 100.5 + number) for number in range(1, 11)),
        *((number, 7.0) for number in range(11, 16)),
        (20, 120.5),
    ]
    counted = scene.rows("SELECT product, trades, first_id, last_id FROM trade_hours WHERE tenant = %s", scene.tenant)
    assert sorted(counted) == [("BTC-USD", 16, 1, 20), ("ETH-USD", 1, 20, 20)]


def test_the_hours_of_trades_are_those_of_a_recount_in_whatever_order_they_come(scene: Scene) -> None:
    hour = 3_600_000_000
    numbers = [*range(0, 200, 3), *range(190, 50, -1), *range(120)]
    times = {number: START + number * hour // 20 for number in numbers}
    records = [trade(number, exchange_time=times[number], received_time=times[number]) for number in numbers]
    scene.make("dlq", "trades")
    scene.send("trades", records)

    with running_sink(scene.settings.model_copy(update={"sink_batch": 50})):
        scene.wait_stored("trades", len(records))

    recount = "SELECT date_trunc('hour', exchange_time, 'UTC'), count(*), min(trade_id), max(trade_id)"
    expected = scene.rows(f"{recount} FROM trades WHERE tenant = %s GROUP BY 1 ORDER BY 1", scene.tenant)
    counted = "SELECT hour, trades, first_id, last_id FROM trade_hours WHERE tenant = %s ORDER BY 1"
    assert scene.rows(counted, scene.tenant) == expected
    assert sum(row[1] for row in expected) == len(set(numbers))


def test_a_trade_that_somebody_stores_meanwhile_is_one_row_and_counted_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.make("dlq", "trades")

    with running_sink(scene.settings):
        scene.send("trades", [trade(number) for number in range(0, 300, 7)], partition=0)
        scene.wait_stored("trades", 43)
        monkeypatch.setattr(database.Database, "_may_know_staged", lambda *_: False)  # a look that comes too early
        scene.send("trades", [trade(number) for number in range(300)], partition=0)
        scene.wait_stored("trades", 343)

    assert scene.rows("SELECT trades, first_id, last_id FROM trade_hours") == [(300, 0, 299)]
    assert scene.count("trades") == 300


def test_the_bar_with_the_greatest_as_of_wins_and_of_an_exchanges_own_the_one_read_last(scene: Scene) -> None:
    start = bar(1).start
    scene.make("dlq", "bars")
    with running_sink(scene.settings):
        for sent, offset in enumerate((5, 3, 9, 7), start=1):
            scene.send("bars", [bar(1, offset=offset, volume=offset, origin="trades", event_id="coinbase:BTC-USD:b")])
            scene.wait_stored("bars", sent)
        scene.send("bars", [bar(1, volume=late, received_time=start + late) for late in (5.0, 9.0, 3.0)])
        scene.wait_stored("bars", 7)
        scene.send("bars", [bar(1, volume=7.0, received_time=start + 7)])
        scene.wait_stored("bars", 8)

    volumes = scene.rows("SELECT origin, volume FROM bars WHERE tenant = %s ORDER BY origin", scene.tenant)
    assert volumes == [("exchange", 9.0), ("trades", 9.0)]


def test_a_record_repeated_within_a_batch_is_one_row(scene: Scene) -> None:
    scene.make("dlq", "ticks", "trades", "alerts", "events", "stats")
    for dataset, record in (("ticks", tick), ("trades", trade), ("alerts", alert), ("events", event)):
        scene.send(dataset, [record(number // 2) for number in range(40)])
    scene.send("stats", [stat(number // 2, number) for number in range(40)])

    tables = ("ticks", "trades", "alerts", "events", "stats")
    with running_sink(scene.settings):
        for dataset in tables:
            scene.wait_stored(dataset, 40)

    assert [scene.count(table) for table in tables] == [20, 20, 20, 20, 20]


def test_many_ticks_of_which_some_are_stored_are_one_row_each(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(0, 1000, 7)], partition=0)

    with running_sink(scene.settings):
        scene.wait_stored("ticks", 143)
        before = metric("sink_duplicates_total", dataset="ticks")
        scene.send("ticks", [tick(number // 2, price=7.0) for number in range(2000)], partition=0)
        scene.wait_stored("ticks", 2143)
        wait_until(lambda: metric("sink_duplicates_total", dataset="ticks") == before + 1143)

    stored = scene.rows("SELECT event_id, price = 7.0 FROM ticks WHERE tenant = %s", scene.tenant)
    assert sorted(stored) == sorted((tick(number).event_id, number % 7 > 0) for number in range(1000))


def test_a_retried_event_is_one_row_though_the_edge_gave_it_another_time(scene: Scene) -> None:
    first = event(1, time=START, received_time=START)
    retried = event(1, time=START + 7, received_time=START + 7)
    scene.make("dlq", "events")

    with running_sink(scene.settings):
        scene.send("events", [first])
        scene.wait_stored("events", 1)
        scene.send("events", [retried])
        scene.wait_stored("events", 2)

    assert scene.rows("SELECT time FROM events WHERE tenant = %s", scene.tenant) == [(to_datetime(START),)]
    assert scene.dead_letters(1, timeout=1) == []


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two batches"])
def test_another_body_under_a_stored_id_is_a_dead_letter(scene: Scene, *, together: bool) -> None:
    original, other = event(1), event(1, data='{"price": 2.5}')
    scene.make("dlq", "events")

    if together:
        scene.send("events", [original, other, event(2)])
    with running_sink(scene.settings):
        if not together:
            scene.send("events", [original])
            scene.wait_stored("events", 1)
            scene.send("events", [other, event(2)])
        scene.wait_stored("events", 3)

    (letter,) = scene.dead_letters(1)
    assert (letter.reason, letter.value) == ("id_conflict", encoded([other])[0][1])
    assert scene.rows("SELECT event_id, data FROM events WHERE tenant = %s ORDER BY 1", scene.tenant) == [
        ("desk:1", {"price": 1.5}),
        ("desk:2", {"price": 1.5}),
    ]


@BOTH_KINDS
def test_the_statistic_with_the_greatest_as_of_wins_in_whatever_order_it_comes(scene: Scene) -> None:
    scene.make("dlq", "stats")
    with running_sink(scene.settings):
        for sent, offset in enumerate((5, 3, 9, 7), start=1):
            scene.send("stats", [stat(1, offset)])
            scene.wait_stored("stats", sent)
        scene.send("stats", [stat(2, offset) for offset in (5, 9, 3)])
        scene.wait_stored("stats", 7)
        scene.send("stats", [stat(3, 1, topic_id="b"), stat(3, 9, topic_id="B"), stat(3, 8, topic_id="a")])
        scene.wait_stored("stats", 10)

    held = scene.rows("SELECT as_of_topic, as_of_offset, count FROM stats WHERE tenant = %s ORDER BY at", scene.tenant)
    assert held == [("source", 9, 9), ("source", 9, 9), ("b", 1, 1)]


def test_a_statistic_is_stored_with_its_forecast(scene: Scene) -> None:
    scene.make("dlq", "stats")
    with running_sink(scene.settings):
        scene.send("stats", [stat(1, 1, forecast_volatility=0.75, forecast_low=1.25, forecast_high=1.75)])
        scene.wait_stored("stats", 1)

    held = scene.rows("SELECT forecast_volatility, forecast_low, forecast_high, revision, as_of_offset FROM stats")
    assert held == [(0.75, 1.25, 1.75, 0, 1)]


BAD = {
    "malformed": (b"\x00\x00\x00\x00\x01\xff\xff\xff", "undecodable"),
    "no frame": (b"hello", "undecodable"),
    "null": (None, "undecodable"),
    "trailing bytes": (codec(Tick).encode(tick(7)) + b"x", "undecodable"),
    "unknown schema": (b"\x00\x00\x00\x03\xe7" + codec(Tick).encode(tick(7))[5:], "unknown_schema"),
    "an event": (encoded([event(7)])[0][1], "wrong_schema"),
    "NaN": (codec(Tick).encode(tick(7, price=float("nan"))), "invalid_price"),
    "1e308": (codec(Tick).encode(tick(7, price=1e308)), "invalid_price"),
    "infinite size": (codec(Tick).encode(tick(7, size=float("inf"))), "invalid_size"),
    "zero byte": (codec(Tick).encode(tick(7, product="BTC\x00USD")), "invalid_name"),
    "1 MB name": (codec(Tick).encode(tick(7, product="A" * 500_000)), "invalid_name"),
    "own exchange": (codec(Tick).encode(tick(7, exchange="x-desk")), "wrong_exchange"),
}


def test_bad_records_are_dead_letters_with_their_bytes_and_their_neighbours_are_stored(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    values = [value for value, _ in BAD.values()]
    mixed = [value for pair in zip(values, _good(len(values)), strict=True) for value in pair]

    placed = scene.send_bytes("ticks", *mixed)
    with running_sink(scene.settings):
        scene.wait_stored("ticks", len(mixed))

    letters = {(letter.partition, letter.offset): letter for letter in scene.dead_letters(len(values))}
    assert [letters[where].reason for where in placed[::2]] == [reason for _, reason in BAD.values()]
    assert [letters[where].value for where in placed[::2]] == values
    assert {(letter.topic, letter.key) for letter in letters.values()} == {(scene.topic("ticks"), b"BTC-USD")}
    assert scene.count("ticks") == len(values)


def _good(number: int) -> list[bytes]:
    return [value for _, value in encoded(tick(100 + each) for each in range(number))]  # type: ignore[misc]


@BOTH_KINDS
def test_what_only_the_database_refuses_is_bisected_to_the_record(scene: Scene) -> None:
    records = [alert(number) for number in range(64)]
    for culprit in (0, 31, 63):
        records[culprit] = alert(culprit, rule_id=secrets.token_hex(8000))  # beyond what an index row holds
    scene.make("dlq", "alerts")
    scene.send("alerts", records)

    with running_sink(scene.settings):
        scene.wait_stored("alerts", 64)

    letters = scene.dead_letters(3)
    assert [letter.reason for letter in letters] == ["refused_by_database"] * 3
    assert "54000" in letters[0].message
    assert [letter.value for letter in letters] == [encoded([records[each]])[0][1] for each in (0, 31, 63)]
    assert scene.count("alerts") == 61


def test_times_more_than_five_minutes_ahead_are_dead_letters(scene: Scene) -> None:
    late, just = START + 5 * MINUTE + 1, START + 5 * MINUTE
    datasets = ("ticks", "trades", "events", "stats", "bars", "alerts")
    scene.make("dlq", *datasets)
    for at in (late, just):
        scene.send("trades", [trade(at, price=1.0, exchange_time=at, received_time=at)])
        scene.send("bars", [bar(0, received_time=at, event_id=f"coinbase:BTC-USD:{at}")])
        scene.send("ticks", [tick(at, price=1.0, exchange_time=at, received_time=at)])
        scene.send("events", [event(at, time=at, received_time=at)])
        scene.send("stats", [stat(at, 1, at=at, event_id=f"s:{at}")])
        scene.send("alerts", [alert(at, at=at)])

    with running_sink(scene.settings, clock=lambda: START):
        for dataset in datasets:
            scene.wait_stored(dataset, 2)

    assert [letter.reason for letter in scene.dead_letters(6)] == ["time_out_of_range"] * 6
    assert [scene.count(table) for table in datasets] == [1] * 6


@pytest.mark.parametrize("missing", [True, False], ids=["its topic is missing", "too large even without its value"])
def test_a_dead_letter_that_cannot_be_stored_is_counted_and_holds_nobody_up(scene: Scene, *, missing: bool) -> None:
    scene.make("ticks")
    if not missing:
        Admin(scene.admin).create([TopicSpec(scene.topic("dlq"), 1, {"max.message.bytes": "200"})])
    before = metric("sink_dead_letters_lost_total", reason="undecodable")

    noise = [b"x" + secrets.token_bytes(5000) for _ in range(2)]
    scene.send_bytes("ticks", noise[0], *_good(3), noise[1])
    with running_sink(scene.settings):
        scene.wait_stored("ticks", 5)

    assert metric("sink_dead_letters_lost_total", reason="undecodable") == before + 2
    assert scene.count("ticks") == 3


def test_the_feeds_ledger_holds_what_is_said_of_trades_and_backfills(scene: Scene) -> None:
    hole = Gap(kind="trade_id", from_id=5, to_id=9, opened=START, closed=None, cause="missed", missing=3)
    progress = Gap(kind="backfill", from_id=70, to_id=99, opened=START, closed=None, cause="backfill")
    end = f"coinbase:{scene.tenant}"
    said = {
        f"backfill:{end}": Feed(
            exchange="coinbase", product="BTC-USD", state="connected", at=1, gap=progress, version=1
        ),
        f"conn:{end}": Feed(exchange="coinbase", state="connected", at=1, complete_until=START, version=1),
        f"gap:{end}:t5": Feed(exchange="coinbase", product="BTC-USD", state="connected", at=1, gap=hole, version=1),
        f"trades:{end}": Feed(
            exchange="coinbase", product="BTC-USD", state="connected", at=1, last_trade_id=9, version=1
        ),
    }
    with running_sink(scene.settings):
        send(scene.admin, FEEDS, [(key, codec(Feed).encode(feed)) for key, feed in said.items()])
        wait_until(lambda: scene.rows("SELECT FROM feeds WHERE key = %s", f"trades:{end}"))

    names = "key, gap_kind, gap_from_id, gap_to_id, gap_missing, last_trade_id, complete_until"
    stored = scene.rows(f"SELECT {names} FROM feeds WHERE key LIKE %s ORDER BY key", f"%{end}%")
    assert stored == [
        (f"backfill:{end}", "backfill", 70, 99, None, None, None),
        (f"conn:{end}", None, None, None, None, None, to_datetime(START)),
        (f"gap:{end}:t5", "trade_id", 5, 9, 3, None, None),
        (f"trades:{end}", None, None, None, None, 9, None),
    ]


def test_the_feeds_ledger_holds_the_newest_version_of_each_key(scene: Scene) -> None:
    def feed(version: int, state: str, gap: Gap | None = None) -> bytes:
        record = Feed(exchange="coinbase", state=state, at=START, gap=gap, version=version)
        return codec(Feed).encode(record)

    gap = Gap(kind="time", opened=START, closed=START + 1, cause="killed")
    moved, opened, gone, back = (f"{kind}:{scene.tenant}" for kind in ("conn", "gap", "gone", "back"))
    lost = metric("sink_dead_letters_lost_total", reason="undecodable")
    with running_sink(scene.settings):
        before = scene.stored_of(FEEDS)
        sent = [(moved, feed(5, "connected")), (moved, feed(4, "stale")), (opened, feed(1, "disconnected", gap))]
        sent += [(gone, feed(1, "stale")), (back, feed(1, "stale"))]
        send(scene.admin, FEEDS, sent)
        wait_until(lambda: scene.rows("SELECT FROM feeds WHERE key = %s", back))
        sent = [(moved, feed(3, "stale")), (gone, None), (back, None), (back, feed(2, "connected")), (opened, b"noise")]
        send(scene.admin, FEEDS, sent)
        wait_until(lambda: scene.stored_of(FEEDS) >= before + 10)

    held = scene.rows(
        "SELECT key, state, version, gap_kind, gap_closed, gap_cause FROM feeds WHERE key LIKE %s ORDER BY key",
        f"%:{scene.tenant}",
    )
    assert held == [
        (back, "connected", 2, None, None, None),
        (moved, "connected", 5, None, None, None),
        (opened, "disconnected", 1, "time", to_datetime(START + 1), "killed"),
    ]
    assert metric("sink_dead_letters_lost_total", reason="undecodable") == lost + 1


SETTLED = {
    "settled": "text",
    "settled_at": "timestamptz",
    "settled_by": "text",
    "settled_reason": "text",
}
"""Columns that the API writes."""
INGESTED = {"ticks", "trades", "events", "stats", "bars", "alerts"}
"""Tables with a column that the server fills in: the order of ingestion."""


@pytest.mark.parametrize("table", [*{table.name: table for table in tables.BY_DATASET.values()}.values(), tables.FEEDS])
def test_columns_and_types_are_those_of_the_migrations(database: Any, table: tables.Table) -> None:
    with psycopg.connect(database.url()) as connection:
        found = connection.execute(
            "SELECT column_name, replace(data_type, 'timestamp with time zone', 'timestamptz')"
            " FROM information_schema.columns WHERE table_name = %s",
            (table.name,),
        ).fetchall()

    own = SETTLED if table is tables.DEAD_LETTERS else {"ingested": "bigint"} if table.name in INGESTED else {}
    assert dict(found) == dict(table.columns) | own


def test_a_name_too_long_for_an_index_is_a_dead_letter_and_not_the_end(scene: Scene) -> None:
    scene.make("dlq", "stats")
    scene.send("stats", [stat(1, 1), stat(2, 1, window=secrets.token_hex(4000)), stat(3, 1)])

    with running_sink(scene.settings):
        scene.wait_stored("stats", 3)

    (letter,) = scene.dead_letters(1)
    assert letter.reason == "refused_by_database"
    assert "54000" in letter.message
    assert scene.count("stats") == 2
