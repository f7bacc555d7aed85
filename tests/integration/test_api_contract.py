"""The document and the two ingestion routes agree: every answer described is produced, every one produced is described.

The application is the real one, on a real broker and database, within this process: so its bounds can be drawn in.
"""

import asyncio
import gzip
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from pydantic import SecretStr

from api import body, http_protocol, keys, topics
from api.app import Application, create_app
from api.ingestion import publisher
from api.server import open_services, server_config
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT
from tests.support.databases import NamedDatabase, execute

pytest.importorskip("jsonschema", reason="jsonschema checks answers against the document: make install")

from tests.support.contract import Got, Operation

SINGLE, BATCH = "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"
PEPPER = "pepper-of-the-tests"
JSON = {"Content-Type": "application/json"}
GZIP = {"Content-Encoding": "gzip"}
Answers = list[tuple[str, str, Got]]
"""Path, what was done, and what came back."""


def wrapped(path: str, *events: Any) -> Any:
    """Return the body that holds these events on a route."""
    return events[0] if path == SINGLE else {"events": list(events)}


def folded(path: str, *events: Any) -> bytes:
    return gzip.compress(json.dumps(wrapped(path, *events)).encode())


class Bench:
    """Runs the application, and keeps what it answered."""

    def __init__(self, broker: EmbeddedKafka, database: NamedDatabase, home: Path) -> None:
        self.broker = broker
        self.database = database
        self.home = home
        self.answers: Answers = []
        self.document: Any = None

    @asynccontextmanager
    async def running(self, bootstrap: str | None = None, limits: str = "") -> AsyncIterator[Application]:
        made = Settings(
            home=self.home,
            kafka_bootstrap=bootstrap or self.broker.bootstrap,
            kafka_username="ps-api",
            kafka_password=SecretStr(self.broker.password("ps-api")),
            database_url=SecretStr(self.database.url("ps_api")),
            key_pepper=SecretStr(PEPPER),
            limits=limits,
        )
        async with open_services(made, keys.peppers(made), wall_clock, unexpected) as services:
            app = create_app(services, wall_clock)
            self.document = app.openapi()
            yield app

    def client(self, app: Application) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")

    async def register(self, app: Application, slug: str, topics_are: str = "active") -> str:
        async with self.client(app) as http:
            answer = await http.post("/api/v1/auth/register/tenant", json={"tenant": slug, "name": slug})
        assert answer.status_code == 201, answer.text
        if topics_are == "active":
            settings = self.broker.settings()
            Admin(settings).create([tenant_topic_spec(settings, slug, "events")])
        with psycopg.connect(self.database.url()) as connection:
            connection.execute(
                "INSERT INTO tenant_topics (tenant, dataset, status) VALUES (%s, 'events', %s)", (slug, topics_are)
            )
        return str(answer.json()["api_key"])

    async def post(self, app: Application, what: str, key: str | None, content: Any, **headers: str) -> None:
        """Send to both routes what `content` gives for each, and keep the answers."""
        named = JSON | ({} if key is None else {"X-API-Key": key}) | headers
        for path in (SINGLE, BATCH):
            made = (
                content(path)
                if callable(content)
                else content
                if isinstance(content, bytes)
                else wrapped(path, content)
            )
            sent = json.dumps(made).encode() if isinstance(made, dict) else made
            async with self.client(app) as http:
                answer = await http.post(path, content=sent, headers=named)
            self.answers.append((path, what, Got(answer.status_code, answer.headers, answer.json())))

    async def send_raw(self, app: Application, what: str, head: Callable[[str], bytes]) -> None:
        """Send bytes that are no good request to the application behind uvicorn."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(server_config(app))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            for path in (SINGLE, BATCH):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
                writer.write(head(path))
                said = await asyncio.wait_for(reader.read(), 10)
                writer.close()
                status, *lines = said.partition(b"\r\n\r\n")[0].decode().splitlines()
                headers = dict(line.lower().split(": ", 1) for line in lines)
                self.answers.append(
                    (path, what, Got(int(status.split()[1]), headers, json.loads(said.partition(b"\r\n\r\n")[2])))
                )
            server.should_exit = True
            await serving


def unexpected(error: Exception) -> None:
    raise AssertionError(error)


async def _answers_of_a_working_one(bench: Bench, app: Application, patched: pytest.MonkeyPatch) -> None:
    key = await bench.register(app, "contract")
    await bench.post(app, "an event", key, EVENT)
    await bench.post(app, "an event without an id", key, {"type": "a", "source": "b", "data": None})
    await bench.post(app, "the longest names", key, EVENT | {"id": "i" * 128, "source": "s" * 127, "type": "t" * 256})
    await bench.post(app, "compressed", key, lambda path: folded(path, EVENT), **GZIP)
    await bench.post(app, "with a key of its own", key, EVENT, **{"Idempotency-Key": '"k"'})
    await bench.post(app, "that key again for another body", key, EVENT | {"data": 2}, **{"Idempotency-Key": "k"})
    await bench.post(app, "no idempotency key", key, EVENT, **{"Idempotency-Key": '"'})
    await bench.post(app, "no JSON", key, b"{")
    await bench.post(app, "no UTF-8", key, b'{"type":"\xff"}')
    await bench.post(app, "no gzip", key, b"{}", **GZIP)
    await bench.post(app, "an unknown encoding", key, b"{}", **{"Content-Encoding": "br"})
    await bench.post(app, "no JSON by its type", key, b"{}", **{"Content-Type": "text/plain"})
    await bench.post(app, "a tenant in the body", key, EVENT | {"tenant": "acme"})
    await bench.post(app, "no key", None, EVENT)
    await bench.post(app, "a mistyped key", "ps_live_x", EVENT)
    await bench.post(app, "a wrong type", key, EVENT | {"type": 1})
    await bench.post(app, "a misspelt member", key, EVENT | {"prodcut": "BTC-USD"})
    await bench.post(app, "a time far ahead", key, EVENT | {"time": "2099-01-01T00:00:00Z"})
    await bench.post(app, "too many bytes", key, b" " * (1024 * 1024 + 1))
    await bench.post(app, "a bomb", key, gzip.compress(b" " * 10_000_000), **GZIP)
    await bench.post(app, "too deep", key, b'{"a":' * 50 + b"1" + b"}" * 50)
    await bench.post(app, "several, one wrong", key, lambda path: wrapped(path, EVENT, EVENT | {"type": 1}))
    await bench.post(app, "too many events", key, lambda path: wrapped(path, *[EVENT] * 1001))
    await bench.post(app, "a viewer's key", _viewers(bench, "contract"), EVENT)
    patched.setattr(body, "ARRIVE_WITHIN", 0.05)
    await bench.post(app, "a body that does not come", key, lambda _: _stalled())
    patched.undo()


def _viewers(bench: Bench, tenant: str) -> str:
    key = keys.generate()
    digest = keys.digest(key, PEPPER.encode())
    with psycopg.connect(bench.database.url()) as connection:
        connection.execute(
            "INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version) VALUES (%s, %s, 'v', 'viewer', %s, 1)",
            (tenant, key.id, digest),
        )
    return key.text


async def _stalled() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(1)


async def _answers_of_a_troubled_one(bench: Bench, app: Application, patched: pytest.MonkeyPatch) -> None:
    patched.setattr(topics, "MAX_WAIT", 0.05)
    for slug, status in (("early", "provisioning"), ("refused", "refused")):
        await bench.post(app, f"topics {status}", await bench.register(app, slug, status), EVENT)
    suspended = await bench.register(app, "suspended")
    with psycopg.connect(bench.database.url()) as connection:
        connection.execute("UPDATE tenants SET status = 'suspended' WHERE tenant = 'suspended'")
    await bench.post(app, "a suspended tenant", suspended, EVENT)
    key = await bench.register(app, "trouble")
    patched.setattr(app.edge._admission, "_max_requests", 0)
    await bench.post(app, "no room", key, EVENT)
    patched.undo()
    patched.setattr(app.edge._ingestion, "_ingestion", None)
    await bench.post(app, "a fault of ours", key, EVENT)
    patched.undo()


async def _answers_without_a_broker(bench: Bench, patched: pytest.MonkeyPatch) -> None:
    patched.setattr(publisher, "CONFIRM_WITHIN", 0.2)
    async with bench.running(f"127.0.0.1:{process.free_port()}") as app:
        key = await bench.register(app, "unheard")
        await bench.post(app, "no broker", key, EVENT)
        await bench.post(app, "no broker, one wrong", key, lambda path: wrapped(path, EVENT, EVENT | {"type": 1}))
    patched.undo()


async def _answers_without_a_database(bench: Bench, app: Application) -> None:
    name = bench.database.name
    execute(bench.database.server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    execute(
        bench.database.server_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    await bench.post(app, "no database", keys.generate().text, EVENT)


async def _answers_to_no_request(bench: Bench, app: Application, patched: pytest.MonkeyPatch) -> None:
    await bench.send_raw(app, "no HTTP", lambda _: b"SSH-2.0\r\n\r\n")
    await bench.send_raw(
        app, "a large head", lambda path: f"POST {path} HTTP/1.1\r\nX: {'x' * 40_000}\r\n\r\n".encode()
    )
    patched.setattr(http_protocol, "HEAD_WITHIN", 0.1)
    await bench.send_raw(app, "half a head", lambda path: f"POST {path} HTTP/1.1\r\n".encode())
    patched.undo()


async def _answers_to_too_much(bench: Bench) -> None:
    async with bench.running(limits="free.requests=1") as app:
        key = await bench.register(app, "hurried")
        for _ in range(20):
            await bench.post(app, "one event of many", key, EVENT)
        for _ in range(20):
            await bench.post(app, "one bad key of many", keys.generate().text, EVENT)


async def _produce(bench: Bench, patched: pytest.MonkeyPatch) -> None:
    async with bench.running() as app:
        await _answers_of_a_working_one(bench, app, patched)
        await _answers_to_no_request(bench, app, patched)
        await _answers_of_a_troubled_one(bench, app, patched)
    await _answers_without_a_broker(bench, patched)
    await _answers_to_too_much(bench)
    async with bench.running() as app:
        await _answers_without_a_database(bench, app)


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Bench]:
    name = f"ps_contract_{secrets.token_hex(6)}"
    execute(database_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    made = Bench(broker, NamedDatabase(database_server, name), tmp_path_factory.mktemp("contract"))
    try:
        with pytest.MonkeyPatch.context() as patched:
            asyncio.run(_produce(made, patched))
        yield made
    finally:
        execute(database_server, f"DROP DATABASE {name} WITH (FORCE)")


def operation(bench: Bench, path: str) -> Operation:
    return Operation(bench.document, bench.document["paths"][path]["post"])


@pytest.mark.parametrize("path", [SINGLE, BATCH])
def test_every_answer_that_is_produced_is_described(bench: Bench, path: str) -> None:
    described = operation(bench, path)
    faults = {
        f"{what}: {got.status} {got.problem}": found
        for where, what, got in bench.answers
        if where == path
        and (
            found := described.faults(got) or []
            if (got.status, got.problem) in described.answers()
            else ["no example of this type"]
        )
    }

    assert faults == {}


@pytest.mark.parametrize("path", [SINGLE, BATCH])
def test_every_answer_that_is_described_is_produced(bench: Bench, path: str) -> None:
    produced = {(got.status, got.problem) for where, _, got in bench.answers if where == path}

    assert operation(bench, path).answers() - produced == set()


@pytest.mark.parametrize("path", [SINGLE, BATCH])
def test_every_example_agrees_with_its_schema(bench: Bench, path: str) -> None:
    described = operation(bench, path)

    assert [found for schema, value in described.examples() for found in described.disagreements(schema, value)] == []


def test_what_the_cases_were_answered(bench: Bench) -> None:
    told = {(what, path): (got.status, got.problem) for path, what, got in bench.answers}

    assert told["an event", SINGLE] == told["an event", BATCH] == (202, "")
    assert told["several, one wrong", BATCH] == (207, "")
    assert told["no broker, one wrong", BATCH] == (503, "unconfirmed")
    assert told["a suspended tenant", SINGLE] == (403, "forbidden")
    assert told["a bomb", SINGLE] == (413, "too-large")
    assert told["that key again for another body", BATCH] == (422, "idempotency-key-reused")
