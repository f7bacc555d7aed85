"""Erasure of deleted tenants, by its own steps on a real broker and database: everything goes, whatever kills it."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, but not in its __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from psycopg import sql

from api.erasure.broker import Belongings
from api.erasure.schedule import ErasureSchedule
from api.erasure.service import Erasure, due, preview
from api.erasure.tables import KEPT, OUTBOX, ErasureError, tables
from api.reconciler import Reconciler
from api.relay_database import connect
from api.tenants import operators
from pulsestream.core.errors import UsageError
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.core.topics import SUBSCRIPTIONS
from pulsestream.local.access import ensure_users
from pulsestream.local.roles import child_environment
from tests.support.databases import BOTH_KINDS, NamedDatabase
from tests.support.e2e import eventually
from tests.support.rounds import Rounds

SettingsOf = Callable[..., Settings]
ROWS = 12
"""Of each table; erased in batches of 5."""
BEFORE_ROWS = (
    "before topics", "noted topics", "topics found", "topics deleted", "before access", "access removed", "noted rows",
)  # fmt: skip
AFTER_ROWS = ("before farewell", "before outbox", "noted outbox", "noted check", "finished")


@pytest.fixture
def admin(database: NamedDatabase) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def relay(service_settings: SettingsOf) -> Settings:
    return service_settings("relay")


@pytest.fixture
def other(tenant: str) -> str:
    """A tenant whose name begins like the one that is erased."""
    return f"{tenant}2"


def fill(admin: psycopg.Connection, tenant: str, rows: int = ROWS) -> dict[str, int]:
    """Give a tenant rows in every table that the catalogue knows; return how many by table."""
    admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'Acme Trading')", (tenant,))
    found = admin.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND EXISTS "
        "(SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname IN ('tenant', 'topic_id'))"
    ).fetchall()
    with psycopg.connect(admin.info.dsn, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        filled = [table.name for table in reversed(tables(connection))]
    assert set(filled) == {name for (name,) in found} - KEPT - {OUTBOX}
    for table in filled:
        for number in range(rows):
            insert(admin, table, tenant, number)
    return dict.fromkeys(filled, rows)


def insert(admin: psycopg.Connection, table: str, tenant: str, number: int) -> None:
    """Insert a row with a value of the right kind in every column that needs one."""
    columns = admin.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name = %s AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'",
        (table,),
    ).fetchall()
    row = {name: FIXED.get((table, name), value_of(kind, number)) for name, kind in columns} | MORE.get(table, {})
    of_topic = {"topic": f"ps.{tenant}.ticks.v1", "topic_id": f"{tenant}-{number}"}
    row |= {"tenant": tenant} if "tenant" in row else of_topic
    names, places = map(sql.Identifier, row), [sql.Placeholder()] * len(row)
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table), sql.SQL(", ").join(names), sql.SQL(", ").join(places)
    )
    values = [value.replace("{tenant}", tenant) if isinstance(value, str) else value for value in row.values()]
    admin.execute(statement, values)


MORE: dict[str, dict[str, Any]] = {"silences": {"ends_at": "2027-01-01 00:00:00+00"}}
FIXED: dict[tuple[str, str], Any] = {
    ("api_keys", "role"): "owner",
    ("channels", "kind"): "webhook",
    ("notification_alerts", "state"): "firing",
    ("notification_attempts", "outcome"): "failed",
    ("silences", "matchers"): '[{"name": "product", "op": "=", "value": "BTC-USD"}]',
}


def value_of(kind: str, number: int) -> Any:
    if kind in {"text", "character varying"}:
        return f"x{number}-{{tenant}}"
    if kind.startswith("timestamp"):
        return f"2026-01-{number + 1:02d} 12:00:00+00"
    if kind == "date":
        return f"2026-01-{number + 1:02d}"
    others = {"bytea": bytes([number]), "jsonb": "{}", "boolean": True, "ARRAY": [], "time without time zone": "12:00"}
    return others.get(kind, number)


def counts(admin: psycopg.Connection, tenant: str) -> dict[str, int]:
    """Return how many rows the tenant has, by table that has some; without those that stay."""
    with psycopg.connect(admin.info.dsn, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        held = {table.name: table.count(connection, tenant) for table in tables(connection)}
    (waiting,) = admin.execute("SELECT count(*) FROM outbox WHERE tenant = %s", (tenant,)).fetchall()
    return {name: rows for name, rows in (held | {OUTBOX: waiting[0]}).items() if rows}


def at_the_broker(settings: Settings, tenant: str) -> None:
    """Give a tenant topics, users, access rules and a consumer group."""
    admin = Admin(settings)
    admin.create([tenant_topic_spec(settings, tenant, dataset) for dataset in ("ticks", "events", "dlq")])
    users = {f"t.{tenant}": "p" * 20, f"t.{tenant}.desk": "q" * 20}
    ensure_users(settings, users)
    prefixed, read, allow = ResourcePatternType.PREFIXED, AclOperation.READ, AclPermissionType.ALLOW
    rules = [
        AclBinding(kind, name, prefixed, f"User:{user}", "*", read, allow)
        for user in users
        for kind, name in ((ResourceType.TOPIC, f"ps.{tenant}."), (ResourceType.GROUP, f"t.{tenant}."))
    ]
    for future in admin.client.create_acls(rules).values():
        future.result()


def delete(settings: Settings, tenant: str) -> None:
    with connect(settings, "test") as connection:
        operators.delete(connection, tenant, timedelta(0))


def publish(admin: psycopg.Connection) -> None:
    """Do as the relay's publisher: mark what waits as published."""
    admin.execute("UPDATE outbox SET published_at = now() WHERE published_at IS NULL")


def erase(settings: Settings, admin: psycopg.Connection, tenant: str) -> None:
    deadline = time.monotonic() + 60
    with connect(settings, "test") as connection:
        erasure = Erasure(connection, Belongings(settings), tenant, batch=5)
        while not erasure.run():
            publish(admin)
            assert time.monotonic() < deadline, "the erasure does not end"


def status(admin: psycopg.Connection, tenant: str) -> str:
    ((found,),) = admin.execute("SELECT status FROM tenants WHERE tenant = %s", (tenant,)).fetchall()
    return str(found)


def left_at_the_broker(settings: Settings, tenant: str) -> tuple[list[str], list[str], int]:
    belongings = Belongings(settings)
    access = belongings.access(tenant)
    return belongings.topics(tenant), sorted(access.users), len(access.rules)


@BOTH_KINDS
def test_everything_of_a_tenant_goes_and_nothing_of_its_neighbour(
    relay: Settings,
    service_settings: SettingsOf,
    admin: psycopg.Connection,
    tenant: str,
    other: str,
) -> None:
    filled, neighbours = fill(admin, tenant), fill(admin, other)
    for each in (tenant, other):
        at_the_broker(service_settings("admin"), each)
    delete(relay, tenant)
    with connect(relay, "test") as connection:
        told = preview(connection, Belongings(relay), tenant)

    erase(relay, admin, tenant)

    assert counts(admin, tenant) == {}
    assert left_at_the_broker(relay, tenant) == ([], [], 0)
    assert {name: rows for name, rows in counts(admin, other).items() if name != OUTBOX} == neighbours
    topics, users, rules = left_at_the_broker(relay, other)
    assert (len(topics), len(users), rules) == (3, 2, 4)
    row = admin.execute(
        "SELECT status, name, delete_after, topics, users, cardinality(rules), removed, finished_at IS NOT NULL"
        " FROM tenants JOIN erasures USING (tenant) WHERE tenant = %s",
        (tenant,),
    ).fetchone()
    assert row is not None
    assert row[:3] == ("deleted", tenant, None)
    assert row[3:6] == (told["topics"], [f"t.{tenant}", f"t.{tenant}.desk"], 4)
    assert {name: rows for name, rows in row[6].items() if name != OUTBOX} == filled == told["rows"]
    assert row[7]
    actions = admin.execute("SELECT action FROM audit WHERE tenant = %s ORDER BY seq", (tenant,)).fetchall()
    assert actions == [("tenant.delete",), ("tenant.erase",)]


def test_killed_wherever_it_is_the_next_run_ends_it_and_no_row_is_counted_twice(
    relay: Settings, service_settings: SettingsOf, admin: psycopg.Connection, tenant: str,
    rounds: Rounds,
) -> None:  # fmt: skip
    filled = fill(admin, tenant)
    at_the_broker(service_settings("admin"), tenant)
    delete(relay, tenant)
    order = [*filled][::-1]  # children before parents, positions first
    every = [*BEFORE_ROWS, *(f"rows of {name}" for name in (order[0], order[5], order[-1])), *AFTER_ROWS]
    fatal_moments = every[:: rounds(2, 1)]
    died = []

    for fatal in fatal_moments:
        publish(admin)
        command = [sys.executable, "-m", "tests.support.dying_erasure", tenant, fatal, str(rounds(8, 3))]
        done = subprocess.run(
            command,
            env=child_environment(relay),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in {0, -9}, done.stderr
        died += [fatal] if done.returncode else []
    erase(relay, admin, tenant)

    assert died == fatal_moments
    assert counts(admin, tenant) == {}
    assert left_at_the_broker(relay, tenant) == ([], [], 0)
    (removed,) = admin.execute("SELECT removed FROM erasures WHERE tenant = %s", (tenant,)).fetchall()
    assert {name: rows for name, rows in removed[0].items() if name != OUTBOX} == filled
    erased = admin.execute("SELECT FROM audit WHERE tenant = %s AND action = 'tenant.erase'", (tenant,)).fetchall()
    assert len(erased) == 1


@pytest.mark.parametrize("what", ["row", "topic"])
def test_what_comes_late_is_found_before_a_tenant_counts_as_erased(
    relay: Settings, service_settings: SettingsOf, admin: psycopg.Connection, tenant: str, what: str
) -> None:
    fill(admin, tenant, 1)
    delete(relay, tenant)
    late = []

    def moment(name: str) -> None:
        if name == "noted check" and not late:
            late.append(name)
            settings = service_settings("admin")
            if what == "row":
                insert(admin, "ticks", tenant, 3)
            else:
                Admin(settings).create([tenant_topic_spec(settings, tenant, "ticks")])

    with connect(relay, "test") as connection:
        erasure = Erasure(connection, Belongings(relay), tenant, moment=moment)
        while not erasure.run():
            publish(admin)

    assert late
    assert counts(admin, tenant) == {}
    assert left_at_the_broker(relay, tenant)[0] == []


def test_a_table_that_the_relay_is_not_let_into_stops_the_erasure(
    relay: Settings, admin: psycopg.Connection, tenant: str
) -> None:
    admin.execute("CREATE TABLE fresh (tenant text, id text, PRIMARY KEY (tenant, id))")
    admin.execute("ALTER TABLE fresh ENABLE ROW LEVEL SECURITY")
    fill(admin, tenant, 1)
    delete(relay, tenant)

    with connect(relay, "test") as connection:
        with pytest.raises(ErasureError, match="fresh"):
            Erasure(connection, Belongings(relay), tenant).run()
        admin.execute("GRANT SELECT, DELETE ON fresh TO ps_relay")  # but no policy: it would see no row
        with pytest.raises(ErasureError, match="fresh"):
            tables(connection)
    admin.execute("REVOKE ALL ON fresh FROM ps_relay")
    admin.execute("SELECT let_erase('fresh')")
    erase(relay, admin, tenant)
    assert counts(admin, tenant) == {}


@BOTH_KINDS
def test_every_table_of_tenants_can_be_erased(admin: psycopg.Connection, database: NamedDatabase) -> None:
    with psycopg.connect(database.url("ps_relay"), autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        named = {table.name: table for table in tables(connection)}

    assert {"ticks", "api_keys", "dead_letters", "sink_offsets", "usage", "idempotency_keys"} <= named.keys()
    assert [name for name, table in named.items() if not table.by_topic and table.key[:1] != ("tenant",)] == []
    del admin


def test_the_relay_removes_keys_and_rules_of_nobody_else(
    relay: Settings, admin: psycopg.Connection, tenant: str, other: str
) -> None:
    for each in (tenant, other):
        fill(admin, each, 1)
    delete(relay, tenant)

    with connect(relay, "test") as connection:
        removed = {
            table: connection.execute(f"DELETE FROM {table}").rowcount  # type: ignore[arg-type] # of this test
            for table in ("rules", "subscriptions", "api_keys", "usage", "sink_offsets")
        }

    assert removed == dict.fromkeys(removed, 1)


def test_nothing_is_made_for_a_tenant_that_is_being_deleted_and_nothing_brings_it_back_once_it_began(
    relay: Settings, admin: psycopg.Connection, tenant: str
) -> None:
    admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, '')", (tenant,))
    admin.execute("INSERT INTO tenant_topics (tenant, dataset) VALUES (%s, 'ticks')", (tenant,))
    delete(relay, tenant)

    with connect(relay, "test") as connection:
        assert Reconciler(relay, connection).provision(again=True) is False
        assert Belongings(relay).topics(tenant) == []
        assert tenant in due(connection)
        Erasure(connection, Belongings(relay), tenant).run()
        with pytest.raises(UsageError, match="is being erased"):
            operators.restore(connection, tenant)
    assert Belongings(relay).topics(tenant) == []


def test_a_tenant_whose_rows_the_database_does_not_let_go_holds_up_no_other(
    relay: Settings, admin: psycopg.Connection, tenant: str, other: str
) -> None:
    for each in (tenant, other):
        fill(admin, each, 1)
        delete(relay, each)
    admin.execute(
        "CREATE FUNCTION stubborn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'it stays'; END $$"
    )
    admin.execute(
        f"CREATE TRIGGER stubborn BEFORE DELETE ON rules FOR EACH ROW WHEN (OLD.tenant = '{tenant}') "
        "EXECUTE FUNCTION stubborn()"
    )
    stop = threading.Event()
    schedule = ErasureSchedule(relay, stop)

    def other_is_deleted() -> None:
        publish(admin)
        assert status(admin, other) == "deleted"

    schedule.start()
    try:
        eventually(other_is_deleted)
    finally:
        stop.set()
        schedule.join()

    assert status(admin, tenant) == "deleting"
    assert f"tenant {tenant} is not erased yet: it stays" in (schedule.problem() or "")


@pytest.mark.parametrize("suspended", [False, True])
def test_a_tenant_is_restored_within_its_grace_period_as_it_was(
    relay: Settings, admin: psycopg.Connection, tenant: str, *, suspended: bool
) -> None:
    admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, '')", (tenant,))
    insert(admin, "subscriptions", tenant, 0)
    published = "SELECT value IS NOT NULL FROM outbox WHERE topic = %s ORDER BY id"

    with connect(relay, "test") as connection:
        if suspended:
            operators.suspend(connection, tenant, "")
        operators.delete(connection, tenant, timedelta(days=7))
        assert due(connection) == []
        operators.restore(connection, tenant)
        with pytest.raises(UsageError, match="only one that is deleting"):
            operators.restore(connection, tenant)

    (row,) = admin.execute(
        "SELECT status, delete_after, was_suspended FROM tenants WHERE tenant = %s", (tenant,)
    ).fetchall()
    assert row == ("suspended" if suspended else "active", None, False)
    told = [is_there for (is_there,) in admin.execute(published, (SUBSCRIPTIONS,)).fetchall()]
    assert told == ([False, False] if suspended else [False, True])


def test_the_slug_is_never_given_again(relay: Settings, admin: psycopg.Connection, tenant: str) -> None:
    fill(admin, tenant, 1)
    delete(relay, tenant)
    erase(relay, admin, tenant)

    with pytest.raises(psycopg.errors.UniqueViolation):
        admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, '')", (tenant,))
