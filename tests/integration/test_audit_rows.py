"""The audit in the database: appended by its function only, by tenant, without a gap; whatever else is done shows."""

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, ObjectNotInPrerequisiteState
from pydantic import SecretStr

from api.audit import repository
from api.audit.chain import GENESIS, Head, Place, Row, verified, verify_end
from api.audit.entry import Action, Actor, append_change
from api.audit.repository import Filter
from api.audit.service import Audit, Verdict
from api.cursor import CursorSeal
from api.database import Connection, Database
from pulsestream.core.settings import Settings
from tests.support.databases import NamedDatabase, execute

ACTOR = Actor("03kV8sLq2ZxYb", "owner", "request-1")
APPEND = "SELECT append_audit('rule.create', 'k', 'rule:1', %s::text::jsonb)"
CONTENT = '{"actor": {"id": "k", "role": "owner"}, "after": {"price": 15000.10}}'
ROWS = "SELECT tenant, seq, at, action, actor, target, entry, hash FROM audit WHERE tenant = %s ORDER BY seq"


@pytest.fixture(scope="module")
def database(database_server: str, migrated_template: str) -> Iterator[NamedDatabase]:
    """One database for all of these tests: each has a tenant of its own."""
    name = f"ps_audit_{secrets.token_hex(6)}"
    execute(database_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield NamedDatabase(database_server, name)
    execute(database_server, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def acting(database: NamedDatabase, tenant: str, role: str = "ps_api") -> Iterator[psycopg.Connection]:
    """Open a transaction as the API has them, for a tenant."""
    with psycopg.connect(database.url(role)) as connection:
        connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
        yield connection


def append(database: NamedDatabase, tenant: str, rows: int) -> None:
    with psycopg.connect(database.url("ps_api"), autocommit=True) as connection:
        for _ in range(rows):
            with connection.transaction():
                connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
                connection.execute(APPEND, (CONTENT,))


def assert_whole(database: NamedDatabase, tenant: str, rows: int) -> None:
    with psycopg.connect(database.url()) as connection:
        held = [Row(*row) for row in connection.execute(ROWS, (tenant,)).fetchall()]
        head = connection.execute("SELECT seq, hash FROM audit_heads WHERE tenant = %s", (tenant,)).fetchone()
    assert head is not None
    verify_end(verified(tenant, Place(), held), Head(Place(*head), len(held)))
    assert [row.seq for row in held] == [*range(1, rows + 1)]
    assert [row.at for row in held] == sorted(row.at for row in held)


def verdict(database: NamedDatabase, tmp_path: Path, tenant: str, limit: int = 2) -> Verdict:
    """Return what the API finds in the tenant's whole chain, `limit` rows at once."""

    async def walk() -> Verdict:
        cursor = None
        async with opened(database, tmp_path) as audit:
            while True:
                found = await audit.verify(tenant, limit, cursor)
                cursor = found.next_cursor
                if cursor is None:
                    return found

    return asyncio.run(walk())


class opened:  # noqa: N801 - read as a word
    """The service over a database that is open in this block."""

    def __init__(self, database: NamedDatabase, home: Path) -> None:
        self.database = Database(Settings(home=home, database_url=SecretStr(database.url("ps_api"))))

    async def __aenter__(self) -> Audit:
        await self.database.open()
        return Audit(self.database, CursorSeal({1: b"pepper of the tests"}))

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()


def test_rows_that_are_appended_make_a_chain_for_each_tenant(database: NamedDatabase, tenant: str) -> None:
    append(database, tenant, 3)
    append(database, f"{tenant}2", 2)

    assert_whole(database, tenant, 3)
    assert_whole(database, f"{tenant}2", 2)


def test_appends_at_the_same_time_make_one_chain_without_a_gap_also_where_some_are_taken_back(
    database: NamedDatabase, tenant: str
) -> None:
    def work(worker: int) -> int:
        kept = 0
        with psycopg.connect(database.url("ps_api"), autocommit=True) as connection:
            for number in range(20):
                taken_back = (number + worker) % 3 == 0
                with connection.transaction(force_rollback=taken_back):
                    connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
                    connection.execute(APPEND, (CONTENT,))
                kept += not taken_back
        return kept

    with ThreadPoolExecutor(8) as pool:
        kept = sum(pool.map(work, range(8)))

    assert_whole(database, tenant, kept)


def test_a_change_that_is_not_committed_leaves_no_row(database: NamedDatabase, tmp_path: Path, tenant: str) -> None:
    async def fail() -> None:
        made = Database(Settings(home=tmp_path, database_url=SecretStr(database.url("ps_api"))))
        await made.open()
        try:
            async with made.tenant(tenant) as connection:
                await append_change(connection, ACTOR, Action.RULE_CREATE, "rule:1", after={})
                raise LookupError
        finally:
            await made.close()

    with pytest.raises(LookupError):
        asyncio.run(fail())

    assert verdict(database, tmp_path, tenant).head == 0


@pytest.mark.parametrize("setting", ["SELECT 1", "SELECT set_config('pulsestream.tenant', '', true)"])
def test_a_transaction_without_a_tenant_appends_nothing(database: NamedDatabase, setting: str) -> None:
    with psycopg.connect(database.url("ps_api")) as connection:
        connection.execute(setting)  # type: ignore[call-overload]  # of this test

        with pytest.raises(ObjectNotInPrerequisiteState, match="the transaction has none"):
            connection.execute(APPEND, (CONTENT,))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO audit SELECT tenant, seq + 1, at, action, actor, target, entry, hash FROM audit",
        "UPDATE audit SET action = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO audit_heads VALUES ('acme', 9, now(), '')",
        "UPDATE audit_heads SET seq = 0",
        "DELETE FROM audit_heads",
        "TRUNCATE audit_heads",
    ],
)
def test_the_api_appends_by_the_function_only(database: NamedDatabase, statement: str, tenant: str) -> None:
    append(database, tenant, 1)

    with acting(database, tenant) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement)  # type: ignore[call-overload]  # of this test


@pytest.mark.parametrize("role", ["ps_owner", "postgres"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET action = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE audit_heads SET seq = 0",
        "DELETE FROM audit_heads",
        "TRUNCATE audit_heads",
    ],
)
def test_even_who_owns_the_tables_changes_nothing_in_passing(
    database: NamedDatabase, role: str, statement: str, tenant: str
) -> None:
    append(database, tenant, 2)

    with psycopg.connect(database.url()) as connection:
        connection.execute(f"SET ROLE {role}")  # type: ignore[call-overload]  # of this test
        with pytest.raises(InsufficientPrivilege, match="the audit is append-only"):
            connection.execute(statement)  # type: ignore[call-overload]

    assert_whole(database, tenant, 2)


@pytest.mark.parametrize("role", ["ps_sink", "ps_notifier"])
def test_no_other_service_appends(database: NamedDatabase, role: str, tenant: str) -> None:
    with acting(database, tenant, role) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(APPEND, (CONTENT,))


def test_a_tenant_sees_its_own_chain_and_nobody_without_one(database: NamedDatabase, tenant: str) -> None:
    append(database, tenant, 2)
    append(database, f"{tenant}2", 1)

    seen = {}
    for bound in (tenant, f"{tenant}2", "nobody", ""):
        with acting(database, bound) as connection:
            found = connection.execute("SELECT tenant FROM audit UNION ALL SELECT tenant FROM audit_heads").fetchall()
            seen[bound] = [owner for (owner,) in found]

    assert seen == {tenant: [tenant] * 3, f"{tenant}2": [f"{tenant}2"] * 2, "nobody": [], "": []}


FORGERIES = {
    "UPDATE audit SET action = 'rule.delete' WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET actor = NULL WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET target = 'rule:2' WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET at = at + INTERVAL '1 microsecond' WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET entry = replace(entry, '15000.10', '15000.1') WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET entry = entry || ' ' WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET hash = sha256(hash) WHERE {own} AND seq = 3": 3,
    "UPDATE audit SET seq = CASE seq WHEN 4 THEN 9 ELSE 4 END WHERE {own} AND seq IN (4, 5)": 4,
    "UPDATE audit SET seq = 0 WHERE {own} AND seq = 1": 1,
    "UPDATE audit SET tenant = tenant || '-other' WHERE {own} AND seq = 3": 3,
    "DELETE FROM audit WHERE {own} AND seq = 1": 1,
    "DELETE FROM audit WHERE {own} AND seq = 3": 3,
    "DELETE FROM audit WHERE {own} AND seq >= 4": 4,
    "DELETE FROM audit WHERE {own} AND seq = 6": 6,
    "DELETE FROM audit WHERE {own}": 1,
    "DELETE FROM audit_heads WHERE {own}": 1,
    "UPDATE audit_heads SET seq = 5 WHERE {own}": 6,
    "UPDATE audit_heads SET hash = '' WHERE {own}": 6,
    "INSERT INTO audit SELECT tenant, 7, at, action, actor, target, entry, hash FROM audit WHERE {own} AND seq = 6": 7,
    "INSERT INTO audit SELECT tenant, -1, at, action, actor, target, entry, hash FROM audit WHERE {own} AND seq = 6": 1,
}


@pytest.mark.parametrize("limit", [2, 100])
def test_whatever_a_superuser_does_with_the_guards_off_shows_at_the_first_bad_row(
    database: NamedDatabase, tmp_path: Path, tenant: str, limit: int
) -> None:
    found: dict[str, Any] = {}
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for number, forgery in enumerate(FORGERIES):
            victim = f"{tenant}-{number}"
            append(database, victim, 6)
            assert verdict(database, tmp_path, victim, limit).intact
            connection.execute(forgery.format(own=f"tenant = '{victim}'"))  # type: ignore[call-overload]  # of this test
            found[forgery] = verdict(database, tmp_path, victim, limit).broken_at

    assert found == FORGERIES


def test_a_chain_that_grows_while_it_is_verified_is_whole(
    database: NamedDatabase, tmp_path: Path, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(database, tenant, 4)
    read_head = repository.read_head

    async def read_head_and_grow(connection: Connection, owner: str) -> Head:
        head = await read_head(connection, owner)
        append(database, tenant, 1)
        return head

    monkeypatch.setattr(repository, "read_head", read_head_and_grow)
    found = verdict(database, tmp_path, tenant, limit=3)

    assert (found.intact, found.first, found.last, found.head) == (True, 4, 5, 5)


def test_a_chain_without_rows_is_whole(database: NamedDatabase, tmp_path: Path, tenant: str) -> None:
    empty = verdict(database, tmp_path, tenant)

    assert (empty.intact, empty.last, empty.head, empty.hash) == (True, 0, 0, GENESIS.hex())


def test_rows_of_a_time_are_found_by_their_numbers(database: NamedDatabase, tmp_path: Path, tenant: str) -> None:
    append(database, tenant, 5)
    with psycopg.connect(database.url()) as connection:
        times = [row[2] for row in connection.execute(ROWS, (tenant,)).fetchall()]
    micros = [round(time.timestamp() * 1_000_000) for time in times]

    async def search(wanted: Filter) -> list[int]:
        async with opened(database, tmp_path) as audit:
            return [entry["seq"] for entry in (await audit.search(tenant, wanted, 100, None)).entries]

    assert asyncio.run(search(Filter(from_time=micros[1], to_time=micros[3]))) == [3, 2]
    assert asyncio.run(search(Filter(from_time=micros[4] + 1))) == []
    assert asyncio.run(search(Filter(to_time=micros[0]))) == []
    assert asyncio.run(search(Filter(action="rule.create", actor="k", target="rule:1"))) == [5, 4, 3, 2, 1]
    assert asyncio.run(search(Filter(actor="nobody"))) == []


def test_an_entry_that_somebody_broke_is_still_shown(database: NamedDatabase, tmp_path: Path, tenant: str) -> None:
    append(database, tenant, 1)
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE audit SET entry = '{' WHERE tenant = %s", (tenant,))

    async def read() -> dict[str, Any]:
        async with opened(database, tmp_path) as audit:
            return (await audit.search(tenant, Filter(), 10, None)).entries[0]

    shown = asyncio.run(read())

    assert (shown["seq"], shown["action"], shown["actor"], shown["after"]) == (1, "rule.create", None, None)
