"""Refusals of known keys in the audit: which leave a row, over which route, and what an absent database costs."""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import api.database
from api import errors, keys
from api.audit import denials
from api.audit.denials import Denials
from api.audit.repository import Filter
from api.audit.service import Audit
from api.cursor import CursorSeal
from api.database import Database
from api.errors import Denial
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, RULE, installation
from tests.support.databases import NamedDatabase, execute
from tests.support.e2e import Installation, Tenant, eventually

AUDIT, RULES = "/api/v1/audit", "/api/v1/rules"
NAMED = {"X-Request-ID": "refused-by-the-test"}


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("denials")
    with installation(folder, broker, database_server, migrated_template, "api") as started:
        yield started


def another_key(running: Installation, tenant: Tenant, role: str = "owner", **columns: str) -> keys.ApiKey:
    """Store a key of the tenant that nobody has used yet, with these SQL expressions in its columns."""
    key = keys.generate()
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    statement = (
        "INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version"
        f"{names}) VALUES (%s, %s, 'k', %s, %s, 1{values})"
    )
    with psycopg.connect(running.database.url()) as connection:
        digest = keys.digest(key, b"pepper-of-the-tests")
        connection.execute(statement, (tenant.slug, key.id, role, digest))  # type: ignore[arg-type]  # of this test
    return key


def refused(tenant: Tenant, key: str, method: str, path: str, **request: Any) -> httpx.Response:
    answer = tenant.http.request(method, path, headers={"X-API-Key": key} | NAMED, **request)
    assert answer.status_code in (401, 403), answer.text
    return answer


def denied(tenant: Tenant, rows: int) -> list[dict[str, Any]]:
    """Return the rows of refused requests, oldest first, once there are so many or more."""
    found: list[dict[str, Any]] = []

    def look() -> None:
        found[:] = tenant.call("GET", AUDIT, params={"action": "access.denied"})["entries"][::-1]
        assert len(found) >= rows, found

    eventually(look)
    return found


def test_a_role_that_may_not_leaves_a_row_on_every_kind_of_route(running: Installation) -> None:
    tenant = running.register("roles")
    viewer = another_key(running, tenant, "viewer")

    refused(tenant, viewer.text, "POST", RULES, json=RULE)
    refused(tenant, viewer.text, "POST", "/api/v1/ingestion/events", json=EVENT)
    refused(tenant, viewer.text, "GET", AUDIT)

    rows = denied(tenant, 3)
    assert [row["denial"] for row in rows] == [
        {"reason": "role", "permission": permission, "times": 1}
        for permission in ("rules:write", "events:write", "audit:read")
    ]
    for row in rows:
        assert row["actor"] == {"id": viewer.id, "role": "viewer"}
        assert (row["target"], row["request_id"]) == (f"key:{viewer.id}", NAMED["X-Request-ID"])
        assert row["before"] is None
        assert row["after"] is None
    assert tenant.call("GET", f"{AUDIT}/verify")["intact"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"revoked_at": "now()"}, "key revoked"), ({"expires_at": "now()"}, "key expired")],
)
def test_a_key_whose_time_is_over_leaves_a_row(running: Installation, columns: dict[str, str], reason: str) -> None:
    tenant = running.register("over")
    key = another_key(running, tenant, **columns)

    refused(tenant, key.text, "GET", RULES)

    (row,) = denied(tenant, 1)
    assert row["denial"] == {"reason": reason, "permission": None, "times": 1}
    assert row["actor"]["id"] == key.id


def test_a_known_id_with_another_secret_leaves_a_row_also_at_the_registry(running: Installation) -> None:
    tenant = running.register("guessed")
    key = another_key(running, tenant)
    other = another_key(running, tenant)
    guessed = keys.ApiKey(key.id, keys.generate().secret)

    refused(tenant, guessed.text, "GET", RULES)
    basic = (other.id, keys.ApiKey(other.id, keys.generate().secret).text)
    assert tenant.http.get("/registry/subjects", auth=basic).status_code == 401

    first, second = denied(tenant, 2)
    assert (first["denial"]["reason"], first["actor"]["id"]) == ("wrong secret", key.id)
    assert (second["denial"]["reason"], second["actor"]["id"]) == ("wrong secret", other.id)


def test_a_live_connection_that_is_refused_leaves_a_row(running: Installation) -> None:
    tenant = running.register("live")
    key = another_key(running, tenant, revoked_at="now()")

    url = f"ws://127.0.0.1:{running.api_port}/api/v1/live"
    with connect(url, proxy=None, additional_headers=NAMED) as socket:
        socket.send(json.dumps({"type": "subscribe", "key": key.text}))
        with suppress(ConnectionClosed):
            socket.recv(60)

    (row, *_) = denied(tenant, 1)
    assert (row["denial"]["reason"], row["actor"]["id"], row["request_id"]) == (
        "key revoked",
        key.id,
        NAMED["X-Request-ID"],
    )


def test_a_suspended_tenants_requests_leave_a_row(running: Installation) -> None:
    tenant = running.register("suspended")
    _set_status(running, tenant, "suspended")
    eventually(lambda: _assert_status(tenant, 403))

    _set_status(running, tenant, "active")
    eventually(lambda: _assert_status(tenant, 200))

    denials_told = [row["denial"] for row in denied(tenant, 1)]
    assert {(told["reason"], told["permission"]) for told in denials_told} == {("tenant suspended", None)}


def _set_status(running: Installation, tenant: Tenant, status: str) -> None:
    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE tenants SET status = %s WHERE tenant = %s", (status, tenant.slug))


def _assert_status(tenant: Tenant, status: int) -> None:
    assert tenant.http.get(RULES, headers={"X-API-Key": tenant.key}).status_code == status


def test_what_names_no_known_key_leaves_no_row(running: Installation) -> None:
    tenant = running.register("nobody")
    for key in (keys.generate().text, "ps_live_x", ""):
        refused(tenant, key, "GET", RULES)
    viewer = another_key(running, tenant, "viewer")
    refused(tenant, viewer.text, "POST", RULES, json=RULE)

    (row,) = denied(tenant, 1)

    assert row["actor"]["id"] == viewer.id


def test_a_storm_of_refused_requests_is_few_rows_that_count_them_all_when_the_process_stops(
    running: Installation,
) -> None:
    tenant = running.register("storm")
    viewer = another_key(running, tenant, "viewer")
    refused(tenant, viewer.text, "POST", RULES, json=RULE)
    denied(tenant, 1)
    for _ in range(199):
        refused(tenant, viewer.text, "POST", RULES, json=RULE)

    assert running["api"].stop() == 0
    running["api"].start()
    running["api"].wait_ready()

    rows = denied(tenant, 2)
    assert sum(row["denial"]["times"] for row in rows) == 200
    assert len(rows) < 20, "one a minute at most, and one at the end"


# ---- the task that writes them, on a database that comes and goes ----


@pytest.fixture
def settings(database: NamedDatabase, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=SecretStr(database.url("ps_api")))


@asynccontextmanager
async def writing(database: Database, monotonic: Callable[[], float]) -> Any:
    made = Denials(database, monotonic)
    task = asyncio.create_task(made.write())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await made.close()


async def told(database: Database, tenant: str) -> list[int]:
    rows = (await Audit(database, CursorSeal({1: b"pepper"})).search(tenant, Filter(), 100, None)).entries
    return [row["denial"]["times"] for row in rows[::-1]]


async def until(check: Callable[[], Any], expected: Any) -> None:
    async with asyncio.timeout(60):
        while await check() != expected:  # noqa: ASYNC110 - a row in a database is no event
            await asyncio.sleep(0.05)


def problem_of(key_id: str, tenant: str) -> errors.Problem:
    return errors.forbidden("no", Denial(tenant, key_id, "viewer", "rules:write", "role"))


def test_refusals_within_a_minute_are_one_row_more(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials, "LOOK", 0.05)
    now = 1000.0

    async def scenario() -> None:
        nonlocal now
        database = Database(settings)
        await database.open()
        async with writing(database, lambda: now) as made:
            made.note(problem_of("k", "acme"), "r")
            await until(lambda: told(database, "acme"), [1])
            for _ in range(7):
                made.note(problem_of("k", "acme"), "r")
            made.note(errors.forbidden("nobody's"), "r")
            made.note(problem_of("k2", "acme"), "r")
            await until(lambda: told(database, "acme"), [1, 1])
            now += 61
            await until(lambda: told(database, "acme"), [1, 1, 7])
        await database.close()

    asyncio.run(scenario())


def test_refusals_while_the_database_is_away_are_written_when_it_is_back(
    settings: Settings, database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "LOOK", 0.05)
    monkeypatch.setattr(api.database, "POOL_WAIT", 0.2)

    async def scenario() -> list[int]:
        pool = Database(settings)
        await pool.open()
        async with writing(pool, lambda: 1000.0) as made:
            _let_in(database, everybody=False)
            for number in range(3):
                made.note(problem_of(f"k{number}", "acme"), "r")
            await asyncio.sleep(1)
            _let_in(database, everybody=True)
            await until(lambda: _told_or_nothing(pool), [1, 1, 1])
        found = await told(pool, "acme")
        await pool.close()
        return found

    assert asyncio.run(scenario()) == [1, 1, 1]


async def _told_or_nothing(database: Database) -> list[int]:
    try:
        return await told(database, "acme")
    except errors.Problem:
        return []


def _let_in(database: NamedDatabase, *, everybody: bool) -> None:
    execute(database.server_url, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS {str(everybody).lower()}")
    if not everybody:
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'"
        execute(database.server_url, ended)


def test_a_row_that_the_database_refuses_keeps_none_behind_it(
    settings: Settings, database: NamedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "LOOK", 0.05)
    broken = f"broken-{secrets.token_hex(3)}"
    with psycopg.connect(database.url()) as connection:
        connection.execute("INSERT INTO audit VALUES (%s, 1, now(), 'x', NULL, 'x', '{}', '')", (broken,))

    async def scenario() -> None:
        pool = Database(settings)
        await pool.open()
        async with writing(pool, lambda: 1000.0) as made:
            made.note(problem_of("k", broken), "r")
            made.note(problem_of("k", "acme"), "r")
            await until(lambda: told(pool, "acme"), [1])
        await pool.close()

    asyncio.run(scenario())
