"""When keys were used last: written once in a while, without a place that fills, and at a stop."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from api import key_use
from api.database import Database
from api.key_use import KeyUse
from pulsestream.core.clock import to_datetime, wall_clock
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation
from tests.support.databases import BOTH_KINDS, NamedDatabase
from tests.support.e2e import rows
from tests.support.keyring import owner_of

SECOND = 1_000_000


def store(database: NamedDatabase, *ids: str) -> None:
    with psycopg.connect(database.url()) as connection:
        for key_id in ids:
            connection.execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'x')", (f"t-{key_id}",))
            connection.execute(
                "INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version)"
                " VALUES (%s, %s, 'x', 'owner', '', 1)",
                (f"t-{key_id}", key_id),
            )


def used(database: NamedDatabase) -> dict[str, int | None]:
    """Return when each key was used last, as microseconds."""
    found = rows(database, "SELECT id, (extract(epoch FROM last_used_at) * 1000000)::bigint AS at FROM api_keys")
    return {row["id"]: row["at"] for row in found}


def with_database(database: NamedDatabase, scenario: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        opened = Database(Settings(database_url=database.url("ps_api")))  # type: ignore[arg-type] # made secret
        await opened.open()
        try:
            await scenario(opened)
        finally:
            await opened.close()

    asyncio.run(run())


@BOTH_KINDS
def test_the_newest_use_of_each_key_of_any_tenant_is_written(database: NamedDatabase) -> None:
    store(database, "a", "b", "c")
    now = wall_clock() - 100 * SECOND

    async def scenario(opened: Database) -> None:
        times = iter([now, now + 1, now + 2, now + 3])
        first, late = KeyUse(opened, lambda: next(times)), KeyUse(opened, lambda: now - 5)
        for key_id in ("a", "b", "a", "nobody's"):
            first.note(key_id)
        await first.write()
        late.note("a")
        await late.write()

    with_database(database, scenario)

    assert used(database) == {"a": now + 2, "b": now + 1, "c": None}


def test_no_use_lies_ahead_whatever_the_clock_of_a_process_says(database: NamedDatabase) -> None:
    store(database, "a")

    async def scenario(opened: Database) -> None:
        ahead = KeyUse(opened, lambda: wall_clock() + 3600 * SECOND)
        ahead.note("a")
        await ahead.write()

    with_database(database, scenario)

    assert (used(database)["a"] or 0) < wall_clock() + 60 * SECOND


def test_what_the_database_does_not_take_is_written_later_and_does_not_grow_without_bound(
    database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(database, "a", "b", "c")
    monkeypatch.setattr(key_use, "MOST", 2)
    name = "note_key_use(text[], timestamptz[])"

    async def scenario(opened: Database) -> None:
        uses = KeyUse(opened, wall_clock)
        for key_id in ("a", "b", "c"):
            uses.note(key_id)
        with psycopg.connect(database.url(), autocommit=True) as admin:
            admin.execute(f"REVOKE EXECUTE ON FUNCTION {name} FROM ps_api")
            await uses.write()
            assert set(used(database).values()) == {None}
            uses.note("c")
            admin.execute(f"GRANT EXECUTE ON FUNCTION {name} TO ps_api")
        await uses.write()

    with_database(database, scenario)

    assert [key_id for key_id, at in sorted(used(database).items()) if at] == ["a", "b"]


def test_many_keys_are_written_in_parts_by_two_processes_at_once(
    database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"k{number}" for number in range(40)]
    store(database, *ids)
    monkeypatch.setattr(key_use, "AT_ONCE", 15)

    async def scenario(opened: Database) -> None:
        for _ in range(10):
            both = KeyUse(opened, wall_clock), KeyUse(opened, wall_clock)
            for number, key_id in enumerate(ids):
                both[0].note(key_id)
                both[1].note(ids[-1 - number])
            await asyncio.gather(*(uses.write() for uses in both))
            assert [uses._noted for uses in both] == [{}, {}]

    with_database(database, scenario)

    assert None not in used(database).values()


def test_uses_are_written_again_and_again_and_at_a_stop(database: NamedDatabase) -> None:
    store(database, "a", "b")

    async def scenario(opened: Database) -> None:
        uses = KeyUse(opened, wall_clock)
        running = asyncio.create_task(uses.run(0.01))
        uses.note("a")
        for _ in range(6000):
            if used(database)["a"] is not None:
                break
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        assert used(database)["a"] is not None
        stopping = asyncio.create_task(uses.run(3600))
        await asyncio.sleep(0)
        uses.note("b")
        stopping.cancel()
        await asyncio.wait([stopping])

    with_database(database, scenario)

    assert used(database)["b"] is not None


def test_a_process_that_stops_has_written_what_its_clients_used(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    began = to_datetime(wall_clock())
    with installation(tmp_path, broker, database_server, migrated_template, "api") as running:
        owner = owner_of(running)
        viewer, idle = owner.create("viewer"), owner.create("viewer")
        assert viewer.works()

        assert running.services.pop("api").stop() == 0

        found = {row["id"]: row["last_used_at"] for row in rows(running.database, "SELECT * FROM api_keys")}
        assert found[idle.id] is None
        for holder in (owner, viewer):
            assert began <= found[holder.id] <= to_datetime(wall_clock())
