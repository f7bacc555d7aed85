"""Usage counters: what was counted is stored once, by day, at a stop too; what a kill loses, and an outage does not."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, installation, problem
from tests.support.databases import NamedDatabase
from tests.support.e2e import Installation, Tenant, eventually

USAGE, SINGLE, BATCH = "/api/v1/usage", "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"
HOUR = 3600


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    """An API that stores its counts at a stop only."""
    folder = tmp_path_factory.mktemp("usage")
    settings = {"usage_interval": HOUR}
    with installation(folder, broker, database_server, migrated_template, "relay", "api", **settings) as started:
        yield started


def stored(running: Installation, tenant: Tenant) -> dict[str, int]:
    """Return what the table holds of a tenant, of all days together."""
    names = ("requests", "events", "bytes", "refused")
    with psycopg.connect(running.database.url()) as connection:
        row = connection.execute(
            "SELECT sum(requests), sum(events), sum(bytes), sum(refused) FROM usage WHERE tenant = %s", (tenant.slug,)
        ).fetchone()
    assert row is not None
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}


def restart(running: Installation) -> None:
    assert running["api"].stop() == 0
    running["api"].start()
    running["api"].wait_ready()


def send(tenant: Tenant, count: int) -> int:
    """Ingest some events in a batch, and return the bytes of its body."""
    body = (
        b'{"events":[' + b",".join(b'{"type":"t","source":"s","data":%d}' % number for number in range(count)) + b"]}"
    )
    tenant.call("POST", BATCH, content=body)
    return len(body)


def test_what_was_counted_is_stored_at_a_stop_and_shown_by_day(running: Installation) -> None:
    tenant = running.register("counted")
    tenant.call("POST", SINGLE, json=EVENT)
    first = stored(running, tenant)
    octets = send(tenant, 10)
    tenant.call("POST", BATCH, json={"events": [EVENT, EVENT | {"type": 1}]}, expect=207)
    tenant.call("GET", "/api/v1/rules")

    restart(running)

    shown = tenant.call("GET", USAGE)["days"]
    today = datetime.now(UTC).date()
    assert {day["day"] for day in shown} <= {str(today), str(today - timedelta(days=1))}
    assert first == dict.fromkeys(first, 0)
    totals = stored(running, tenant)
    assert totals == {name: sum(day[name] for day in shown) for name in totals}
    assert totals["events"] == 1 + 10 + 1
    assert totals["requests"] == 4
    assert totals["bytes"] > octets
    assert totals["refused"] == 0


def test_counts_of_one_run_are_added_to_those_of_another(running: Installation) -> None:
    tenant = running.register("added")
    tenant.call("POST", SINGLE, json=EVENT)

    for _ in range(2):
        send(tenant, 5)
        restart(running)

    assert stored(running, tenant)["events"] == 1 + 10


def test_a_kill_loses_what_was_counted_since_it_was_stored_last_and_no_more(running: Installation) -> None:
    tenant = running.register("killed")
    tenant.call("POST", SINGLE, json=EVENT)
    restart(running)
    send(tenant, 7)

    running["api"].kill()
    running["api"].start()
    running["api"].wait_ready()

    assert stored(running, tenant)["events"] == 1


def test_a_day_without_use_is_not_shown_and_a_range_that_cannot_be_is_refused(running: Installation) -> None:
    tenant = running.register("asking")
    with psycopg.connect(running.database.url()) as connection:
        for day in ("2026-01-30", "2026-01-31", "2026-02-01"):
            connection.execute("INSERT INTO usage VALUES (%s, %s, 1, 2, 3, 4)", (tenant.slug, day))

    found = tenant.call("GET", f"{USAGE}?from=2026-01-31&to=2026-02-28")["days"]

    assert [day["day"] for day in found] == ["2026-01-31", "2026-02-01"]
    assert {name: found[0][name] for name in ("requests", "events", "bytes", "refused")} == {
        "requests": 1,
        "events": 2,
        "bytes": 3,
        "refused": 4,
    }
    for query in ("from=2026-02-02&to=2026-02-01", "from=2020-01-01&to=2026-01-01", "from=x", "to=0", "day=2026-01-01"):
        answer = tenant.http.get(f"{USAGE}?{query}", headers={"X-API-Key": tenant.key})
        problem(answer, 400, "invalid-parameters")


def test_counts_wait_for_a_database_that_is_away_and_are_stored_once(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    settings: dict[str, Any] = {"usage_interval": 0.2}
    with installation(tmp_path, broker, database_server, migrated_template, "relay", "api", **settings) as running:
        tenant = running.register("waiting")
        tenant.call("POST", SINGLE, json=EVENT)
        eventually(lambda: _has_events(running, tenant, 1))
        with closing(psycopg.connect(running.database.url(), autocommit=True)) as connection:
            connection.execute("BEGIN")
            connection.execute("LOCK TABLE usage IN ACCESS EXCLUSIVE MODE")
            for _ in range(5):
                send(tenant, 10)
            connection.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE usename = 'ps_api' AND datname = current_database()"""
            )
            send(tenant, 10)
            connection.execute("ROLLBACK")

        eventually(lambda: _has_events(running, tenant, 61))
        send(tenant, 1)
        eventually(lambda: _has_events(running, tenant, 62))


def _has_events(running: Installation, tenant: Tenant, count: int) -> None:
    assert stored(running, tenant)["events"] == count


def test_a_batch_that_is_sent_twice_is_added_once(database: NamedDatabase) -> None:
    add = "SELECT add_usage(%s, %s, '2026-01-31', ARRAY['acme', 'nobody'], %s, %s, %s, %s)"
    with psycopg.connect(database.url()) as connection:
        connection.execute("INSERT INTO tenants (tenant, name) VALUES ('acme', 'Acme')")
        one, two = [1, 1], [2, 2]

        added = [
            connection.execute(add, (process, number, counts, counts, counts, counts)).fetchone()
            for process, number, counts in (("a", 1, one), ("a", 1, one), ("b", 1, one), ("a", 2, two), ("a", 1, one))
        ]

        rows = connection.execute("SELECT tenant, requests, events, bytes, refused FROM usage").fetchall()
    assert added == [(True,), (False,), (True,), (True,), (False,)]
    assert rows == [("acme", 4, 4, 4, 4)]
