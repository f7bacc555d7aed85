"""Records of a schema that this version does not know: learned from a registry, or dead letters until it is known."""

import io
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fastavro
import msgspec
import pytest
from pydantic import SecretStr

from pulsestream.core.settings import Settings
from schemas import registry, remote
from schemas.codec import codec
from schemas.records import Tick
from schemas.remote import RegistryAwayError, fetch
from tests.support.registries import register, schema_registry
from tests.support.sinking import Scene, running_sink, tick, wait_until


@pytest.fixture(autouse=True)
def nothing_learned() -> Iterator[None]:
    yield
    registry._learned().clear()


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    made.make("dlq", "ticks")
    yield made
    made.delete_topics()


def asking(scene: Scene, url: str) -> Settings:
    return scene.settings.model_copy(update={"schema_registry_url": SecretStr(url)})


def newer_tick(**change: object) -> str:
    """Return tick.avsc with a field more, or changed otherwise."""
    schema = json.loads(registry.current("tick").text)
    schema["fields"].append({"name": "venue", "type": "string", "default": ""})
    return json.dumps(schema | change)


def written(schema_id: int, number: int) -> bytes:
    """Return a tick as a newer version of this system would write it."""
    fields = msgspec.structs.asdict(tick(number)) | {"venue": "spot"}
    return struct.pack(">bI", 0, schema_id) + _body(newer_tick(), fields)


def _body(text: str, fields: dict[str, Any]) -> bytes:

    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(json.loads(text)), fields)
    return buffer.getvalue()


def test_a_schema_that_a_real_registry_knows_is_learned_and_its_records_are_stored(scene: Scene) -> None:
    with schema_registry() as url:
        for number in range(len(registry.released()) + 1):  # until its ids are beyond ours
            register(url, f"other-{number}", json.dumps({"type": "record", "name": f"Other{number}", "fields": []}))
        schema_id = register(url, "ticks-value", newer_tick())
        assert schema_id not in registry.released()

        with running_sink(asking(scene, url)):
            scene.send_bytes("ticks", *(written(schema_id, number) for number in range(5)), codec(Tick).encode(tick(9)))
            scene.send_bytes("ticks", struct.pack(">bI", 0, 9_999) + b"body")
            scene.wait_stored("ticks", 7)

    ids = [row[0] for row in scene.rows("SELECT event_id FROM ticks WHERE tenant = %s", scene.tenant)]
    assert sorted(ids) == sorted(tick(number).event_id for number in (*range(5), 9))
    assert [letter.reason for letter in scene.dead_letters(1)] == ["unknown_schema"]


class Answers:
    """A registry that gives these answers, one after the other, the last one again and again."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []


@contextmanager
def serving(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append(self.path)
            status, body = answers.answers[0] if len(answers.answers) == 1 else answers.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def said(schema: str) -> bytes:
    return json.dumps({"schema": schema}).encode()


def test_a_registry_that_fails_is_asked_again_and_then_given_up() -> None:
    rests: list[float] = []
    failing = Answers((503, b""), (500, b""), (200, said(newer_tick())))
    with serving(failing) as url:
        found = fetch(url, 99, rests.append)
    with serving(Answers((503, b""))) as url, pytest.raises(RegistryAwayError, match="schema 99"):
        fetch(url, 99, rests.append)
    with pytest.raises(RegistryAwayError):
        fetch("http://127.0.0.1:1", 99, rests.append)

    assert found is not None
    assert (found.schema_id, found.name, failing.asked) == (99, "tick", ["/schemas/ids/99"] * 3)
    assert rests == [0.25, 0.5] * 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (200, b"no JSON"),
        (200, b"[1]"),
        (200, b'{"schema": "{"}'),
        (200, said('"string"')),
        (200, said(newer_tick(name="Elsewhere"))),
        (200, said(newer_tick(fields=[]))),
        (200, said(newer_tick(fields=[{"name": "price", "type": "nonsense"}]))),
        (200, said(newer_tick(doc="x" * 2_000_000))),
    ],
)
def test_what_is_no_schema_of_use_is_not_taken(status: int, body: bytes) -> None:
    with serving(Answers((status, body))) as url:
        assert fetch(url, 99) is None


def test_a_record_whose_schema_is_not_to_be_had_is_a_dead_letter_and_the_registry_is_not_asked_for_each(
    scene: Scene,
) -> None:
    away = Answers((503, b""))
    with serving(away) as url, running_sink(asking(scene, url)):
        for first in range(0, 30, 10):
            scene.send_bytes("ticks", *(written(99, number) for number in range(first, first + 10)))
            scene.wait_stored("ticks", first + 10)
        scene.send_bytes("ticks", codec(Tick).encode(tick(99)))
        wait_until(lambda: scene.count("ticks") == 1)

    assert len(away.asked) == remote.TRIES
    assert {letter.reason for letter in scene.dead_letters(30)} == {"unknown_schema"}
