"""Who may do what with the stored data: the sink writes every tenant's, the API reads one tenant's."""

import secrets
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from schemas.records import DeadLetter, Record
from sinks.database import Database
from sinks.errors import DatabaseAwayError, DatabaseError
from sinks.plan import Place, Position, plan
from sinks.rows import Arrived
from tests.support.databases import BOTH_KINDS
from tests.support.sinking import START, alert, bar, encoded, event, stat, taken, tick, trade

RECORDS: dict[str, Record] = {
    "ticks": tick(1),
    "trades": trade(1),
    "events": event(1),
    "stats": stat(1, 1),
    "bars": bar(1),
    "alerts": alert(1),
    "dlq": DeadLetter(
        reason="undecodable", message="m", topic="ps.acme.ticks.v1", partition=0, offset=1, headers=[], first_seen=START
    ),
}
DATA = ("ticks", "trades", "events", "stats", "bars", "alerts", "dead_letters", "trade_hours")
CONTROL = (
    *("tenants", "api_keys", "subscriptions", "rules", "tenant_topics", "outbox", "idempotency_keys"),
    *("alert_marks", "silences"),
)


@pytest.fixture
def stored(database: Any) -> Any:
    """The database with one record of each dataset for each of two tenants, written as the sink."""
    sink = Database(database.url("ps_sink"))
    sink.connect()
    for tenant in ("acme", "beta"):
        for dataset, record in RECORDS.items():
            place = Place(f"ps.{tenant}.{dataset}.v1", f"{tenant}-{dataset}", 0)
            arrived = Arrived(place.topic, 0, 0, START, None, encoded([record])[0][1])
            sink.positions([place])
            sink.store(plan([taken(arrived)], {(place.topic, 0): Position(place, 0)}, START), lambda _: None)
    sink.close()
    return database


def not_refused(url: str, statements: Iterable[str]) -> list[str]:
    """Return the statements that a role may run."""
    allowed = []
    for statement in statements:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT set_config('pulsestream.tenant', 'acme', true)")
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                connection.rollback()
            else:
                connection.rollback()
                allowed.append(statement)
    return allowed


def rows_seen(url: str, tenant: str | None) -> list[tuple[str, str]]:
    """Return (table, tenant) of every row that a session with this tenant set sees."""
    with psycopg.connect(url) as connection:
        if tenant is not None:
            connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
        found = {table: connection.execute(f"SELECT tenant FROM {table}").fetchall() for table in DATA}
        return [(table, row[0]) for table, rows in found.items() for row in rows]


@BOTH_KINDS
def test_the_api_sees_the_rows_of_the_tenant_that_is_set_and_none_without_one(stored: Any) -> None:
    seen = {tenant: rows_seen(stored.url("ps_api"), tenant) for tenant in ("acme", "beta", "nobody", "", None)}

    assert seen == {
        "acme": [(table, "acme") for table in DATA],
        "beta": [(table, "beta") for table in DATA],
        "nobody": [],
        "": [],
        None: [],
    }


@BOTH_KINDS
def test_the_api_changes_no_stored_data(stored: Any) -> None:
    statements = [
        *(f"INSERT INTO {table} (tenant) VALUES ('acme')" for table in DATA),
        *(f"UPDATE {table} SET tenant = 'acme'" for table in DATA),
        *(f"DELETE FROM {table}" for table in DATA),
        "SELECT * FROM event_ids",
        "UPDATE sink_offsets SET next_offset = 0",
        "DELETE FROM sink_offsets",
        "DELETE FROM sink_gaps",
        "UPDATE feeds SET state = 'connected'",
        "UPDATE dead_letters SET letter = ''",
    ]

    assert not_refused(stored.url("ps_api"), statements) == []


@BOTH_KINDS
def test_the_api_reads_no_hash_of_a_key_and_changes_nothing_that_makes_a_key_what_it_is(stored: Any) -> None:
    fixed = ("tenant", "id", "role", "hmac", "pepper_version", "created_at", "created_by", "last_used_at")
    statements = [
        "SELECT hmac FROM api_keys",
        "SELECT * FROM api_keys",
        *(f"UPDATE api_keys SET {column} = DEFAULT" for column in fixed),
        "INSERT INTO api_keys (last_used_at) VALUES (now())",
        "DELETE FROM api_keys",
    ]

    assert not_refused(stored.url("ps_api"), statements) == []
    for role in ("ps_notifier", "ps_sink"):
        assert not_refused(stored.url(role), ["SELECT id FROM api_keys", "SELECT note_key_use('{}', '{}')"]) == []
    refused = ["SELECT hmac FROM api_keys", "UPDATE api_keys SET revoked_at = NULL", "SELECT note_key_use('{}', '{}')"]
    assert not_refused(stored.url("ps_relay"), refused) == []


@BOTH_KINDS
def test_the_sink_touches_nothing_but_data(stored: Any) -> None:
    statements = [
        *(f"SELECT * FROM {table}" for table in CONTROL),
        *(f"INSERT INTO {table} (tenant) VALUES ('acme')" for table in CONTROL),
        *(f"DELETE FROM {table}" for table in (*DATA, "event_ids", "sink_offsets", "sink_gaps")),
        "SELECT find_api_key('x')",
        "TRUNCATE ticks",
        "DROP TABLE ticks",
        "ALTER TABLE ticks DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine (one integer)",
    ]

    assert not_refused(stored.url("ps_sink"), statements) == []


def test_what_became_of_a_dead_letter_is_written_by_the_api_for_its_tenant_and_not_by_the_sink(stored: Any) -> None:
    settle = "UPDATE dead_letters SET settled = 'replayed', settled_at = now() RETURNING tenant"
    with psycopg.connect(stored.url("ps_api")) as connection:
        connection.execute("SELECT set_config('pulsestream.tenant', 'acme', true)")
        settled = connection.execute(settle).fetchall()

    assert settled == [("acme",)]
    assert not_refused(stored.url("ps_sink"), [settle]) == []
    assert not_refused(stored.url("ps_relay"), [settle, "SELECT letter FROM dead_letters"]) == []


def test_the_notifier_reads_the_alerts_of_every_tenant_and_nothing_else(stored: Any) -> None:
    others = ["ticks", "events", "stats", "feeds", "sink_offsets", "audit", "silences", *CONTROL]
    with psycopg.connect(stored.url("ps_notifier")) as connection:
        alerts = connection.execute("SELECT tenant FROM alerts ORDER BY 1").fetchall()

    assert alerts == [("acme",), ("beta",)]
    assert not_refused(stored.url("ps_notifier"), [f"SELECT * FROM {table}" for table in others]) == []


def test_the_notifier_changes_of_a_channel_only_how_it_does_and_writes_one_kind_of_row_of_the_audit(
    stored: Any,
) -> None:
    statements = [
        "INSERT INTO channels (tenant) VALUES ('acme')",
        "DELETE FROM channels",
        *(f"UPDATE channels SET {column} = DEFAULT" for column in ("target", "secret", "enabled", "disabled_reason")),
        "SELECT append_audit('rule.create', NULL, 'x', '{}')",
        "UPDATE tenants SET status = 'active'",
        "DELETE FROM notification_attempts",
    ]

    assert not_refused(stored.url("ps_notifier"), statements) == []
    assert not_refused(stored.url("ps_sink"), ["SELECT * FROM channels", "SELECT disable_channel('a', 'b', 'c')"]) == []
    assert not_refused(stored.url("ps_api"), ["SELECT secret FROM channels", "SELECT * FROM channels"]) == []


def test_row_level_security_is_forced_on_every_data_table(stored: Any) -> None:
    with psycopg.connect(stored.url()) as connection:
        forced = connection.execute(
            "SELECT relname FROM pg_class WHERE relname = ANY (%s) AND relrowsecurity AND relforcerowsecurity",
            ([*DATA, "event_ids"],),
        ).fetchall()

    assert sorted(forced) == sorted((table,) for table in (*DATA, "event_ids"))


def test_a_sink_says_what_a_database_without_migrations_lacks(database_server: str) -> None:
    name = f"ps_test_empty_{secrets.token_hex(4)}"
    with psycopg.connect(database_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        parts = urlsplit(database_server)
        sink = Database(urlunsplit(parts._replace(path=f"/{name}")))
        try:
            with pytest.raises(DatabaseError, match="run `pulsestream migrate`"):
                sink.connect()
        finally:
            sink.close()
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_sink_says_that_its_url_is_wrong(database: Any) -> None:
    sink = Database(database.url("ps_nobody"))

    with pytest.raises(DatabaseError, match="PULSESTREAM_DATABASE_URL is wrong"):
        sink.connect()


def test_a_sink_waits_for_a_database_that_is_away() -> None:
    sink = Database("postgresql://ps_sink@127.0.0.1:1/none")

    with pytest.raises(DatabaseAwayError):
        sink.connect()
