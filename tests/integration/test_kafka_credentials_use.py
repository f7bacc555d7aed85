"""Tenants' own Kafka clients at work: what they are given runs, too much is held up, and garbage harms nobody else."""

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka import KafkaError

from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Event, Tick
from tests.support.api import EVENT, installation, problem
from tests.support.e2e import Installation, Tenant, eventually
from tests.support.logins import PATH, Login, login, make, open_login, send
from tests.support.rounds import Rounds
from tests.support.sinking import event, tick

pytestmark = pytest.mark.heavy
LIMITS = "free.requests=100000, free.events=100000, free.kafka_produce=50000, free.kafka_credentials=2"
READER = """
import java.io.*; import java.time.Duration; import java.util.*;
import org.apache.kafka.clients.consumer.*; import org.apache.kafka.common.serialization.*;
public class Reader {
    public static void main(String[] given) throws Exception {
        Properties settings = new Properties();
        settings.load(new FileReader(given[0]));
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(given[1]));
            while (true) for (var record : consumer.poll(Duration.ofSeconds(1)))
                { System.out.println(record.topic()); System.out.flush(); }
        }
    }
}
"""


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("use")
    names = ("relay", "api", "sink", "stream")
    with installation(folder, broker, database_server, migrated_template, *names, limits=LIMITS) as started:
        yield started


@pytest.fixture(scope="module")
def own(running: Installation) -> Login:
    return open_login(running.register("own"))


@pytest.fixture(scope="module")
def other(running: Installation) -> Login:
    return unthrottled(running, "other")


def unthrottled(running: Installation, name: str) -> Login:
    tenant = running.register(name)
    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE tenants SET tier = 'pro' WHERE tenant = %s", (tenant.slug,))
    return open_login(tenant)


# ---- what is given to clients runs ----


def reads_event(command: list[str], own: Login, cwd: Path) -> None:
    """Run a client until it has said the name of the events topic."""
    own.tenant.call("POST", "/api/v1/ingestion/events", json=EVENT | {"id": secrets.token_hex(4)})
    said = cwd / "said"
    with said.open("wb") as out:
        client = subprocess.Popen(command, stdout=out, stderr=out, cwd=cwd)
        try:
            eventually(lambda: _assert_said(said, own.topic("events")), timeout=40, every=0.1)
        finally:
            client.kill()
            client.wait()


def _assert_said(said: Path, word: str) -> None:
    text = said.read_text("utf-8", "replace")
    assert word in text, text


def test_the_python_program_reads(own: Login, tmp_path: Path) -> None:
    program = tmp_path / "read.py"
    program.write_text(own.made["clients"]["python"], "utf-8")

    reads_event([sys.executable, str(program)], own, tmp_path)


def kcat_logs_in() -> bool:
    """Return whether there is a kcat whose librdkafka does SCRAM as Kafka 4 demands it: from 2.6.1 on."""
    if shutil.which("kcat") is None:
        return False
    said = subprocess.run(["kcat", "-V"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"librdkafka (\d+)\.(\d+)\.(\d+)", said)
    return found is not None and tuple(map(int, found.groups())) >= (2, 6, 1)


@pytest.mark.skipif(not kcat_logs_in(), reason="there is no kcat with librdkafka 2.6.1 or later")
def test_the_kcat_command_reads(own: Login, tmp_path: Path) -> None:
    reads_event(["sh", "-c", "exec " + own.made["clients"]["kcat"]], own, tmp_path)


def test_the_java_properties_read(own: Login, broker: EmbeddedKafka, tmp_path: Path, rounds: Rounds) -> None:
    if not rounds(0, 1):
        pytest.skip("compiles and starts a Java client: only with --thorough")
    assert broker._runtime is not None
    java = broker._runtime.java
    if not java.resolve().with_name("javac").exists():
        pytest.skip("this Java cannot compile")
    (tmp_path / "client.properties").write_text(own.made["clients"]["java"], "utf-8")
    (tmp_path / "Reader.java").write_text(READER, "utf-8")

    classes = broker._runtime.class_path
    command = [str(java), "-cp", classes, "Reader.java", "client.properties", own.topic("events")]
    reads_event(command, own, tmp_path)


# ---- quotas ----


def test_who_writes_too_much_is_held_up_and_others_are_not(own: Login, other: Login) -> None:
    held_up: dict[str, list[float]] = {own.user: [], other.user: []}
    for one in (own, other):
        producer = one.producer(throttle_cb=lambda told, user=one.user: held_up[user].append(told.throttle_time))
        for _ in range(20):  # 2,000,000 bytes, unless it is told to slow down
            producer.produce(one.topic("own-ticks"), os.urandom(100_000))
            producer.flush(30)
            if held_up[one.user]:
                break

    assert max(held_up[own.user], default=0) > 0
    assert held_up[other.user] == []


# ---- garbage ----


def foreign_tick() -> bytes:
    return codec(Tick).encode(tick(1))  # of an exchange that is the platform's


def own_tick(**fields: Any) -> bytes:
    return codec(Tick).encode(msgspec.structs.replace(tick(1), exchange="x-own", **fields))


GARBAGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "bytes": ("events", lambda: os.urandom(50)),
    "nothing": ("events", lambda: b""),
    "unknown schema": ("events", lambda: b"\0\0\0\x7f\xff?"),
    "cut off": ("events", lambda: codec(Event).encode(event(1))[:20]),
    "almost too large": ("events", lambda: b"\0" * 1_048_000),
    "bytes as ticks": ("own-ticks", lambda: os.urandom(50)),
    "ticks of the platform": ("own-ticks", foreign_tick),
    "no number": ("own-ticks", lambda: own_tick(price=float("nan"))),
    "an event as a tick": ("own-ticks", lambda: codec(Event).encode(event(1))),
}


def test_garbage_becomes_dead_letters_of_its_tenant_and_the_others_rows_flow(
    running: Installation,
) -> None:
    own, other = unthrottled(running, "messy"), unthrottled(running, "tidy")
    pids = {name: running[name].running.pid for name in ("sink", "stream", "relay", "api")}  # type: ignore[union-attr] # they run
    producer = own.producer(**{"message.max.bytes": 3_000_000})
    for dataset, value in GARBAGE.values():
        assert send(producer, own.topic(dataset), value(), key=b"\xff") is None
    mark = secrets.token_hex(4)
    assert send(other.producer(), other.topic("own-ticks"), own_tick(event_id=f"x-own:BTC-USD:{mark}")) is None

    def flowed() -> None:
        rows = other.tenant.call("GET", "/api/v1/ticks")["rows"]
        assert mark in str(rows)
        letters = own.tenant.call("GET", "/api/v1/dead-letters", params={"limit": 100})["dead_letters"]
        kinds = [letter["topic"].split(".")[2] for letter in letters]
        expected = [dataset for dataset, _ in GARBAGE.values()]
        assert kinds.count("events") >= expected.count("events")
        assert kinds.count("own-ticks") >= expected.count("own-ticks")

    eventually(flowed, timeout=30)
    assert other.tenant.call("GET", "/api/v1/dead-letters")["dead_letters"] == []
    assert own.tenant.call("GET", "/api/v1/ticks")["rows"] == []
    for name, pid in pids.items():
        running[name].assert_alive()
        assert running[name].running.pid == pid  # type: ignore[union-attr] # likewise


def test_a_record_beyond_the_topics_size_is_refused_by_the_broker(own: Login) -> None:
    producer = own.producer(**{"message.max.bytes": 3_000_000})

    error = send(producer, own.topic("events"), os.urandom(1_100_000))

    assert error is not None
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE


# ---- what the API refuses ----


def ask(tenant: Tenant, body: dict[str, Any], key: str | None = None) -> Any:
    return tenant.http.post(PATH, headers={"X-API-Key": key or tenant.key}, json=body)


def test_a_tier_says_how_many_there_are_and_an_overlap_counts_both(running: Installation) -> None:
    tenant = running.register("many")
    first, _ = make(tenant), make(tenant)

    refused = problem(ask(tenant, {"name": "third"}), 403, "quota-exceeded")
    rotated = tenant.http.post(f"{PATH}/{first.id}/rotate", headers={"X-API-Key": tenant.key}, json={})
    problem(rotated, 403, "quota-exceeded")
    at_once = tenant.call("POST", f"{PATH}/{first.id}/rotate", json={"overlap_seconds": 0})

    assert (refused["quota"], refused["limit"]) == ("kafka_credentials", 2)
    assert tenant.call("GET", "/api/v1/tenant")["quotas"]["kafka_credentials"] == {"limit": 2, "use": 2}
    listed = tenant.call("GET", PATH)["credentials"]
    assert at_once["id"] == listed[0]["id"]
    assert len(listed) == 2
    assert len(tenant.call("GET", PATH, params={"ended": True})["credentials"]) == 3


def test_pages_follow_each_other(running: Installation) -> None:
    tenant = running.register("pages")
    made = [make(tenant).id, make(tenant).id]

    first = tenant.call("GET", PATH, params={"limit": 1})
    second = tenant.call("GET", PATH, params={"limit": 1, "cursor": first["next_cursor"]})

    assert [page["credentials"][0]["id"] for page in (first, second)] == made[::-1]
    assert second["next_cursor"] is None
    problem(
        tenant.http.get(
            PATH, headers={"X-API-Key": tenant.key}, params={"ended": True, "cursor": first["next_cursor"]}
        ),
        400,
        "invalid-cursor",
    )


def test_a_key_that_ends_gives_no_login_that_lasts_longer(running: Installation) -> None:
    tenant = running.register("lent")
    body = {"name": "lent", "role": "admin", "expires_at": "2099-01-01T00:00:00Z"}
    key = tenant.call("POST", "/api/v1/keys", json=body)["api_key"]

    problem(ask(tenant, {"name": "for ever"}, key), 403, "forbidden")
    problem(ask(tenant, {"name": "longer", "expires_at": "2100-01-01T00:00:00Z"}, key), 403, "forbidden")
    problem(ask(tenant, {"name": "past", "expires_at": "2020-01-01T00:00:00Z"}, key), 422, "invalid-body")
    problem(ask(tenant, {"name": "no time", "expires_at": "soon"}, key), 422, "invalid-body")
    problem(ask(tenant, {"name": "a\x07b"}, key), 422, "invalid-body")
    assert ask(tenant, {"name": "as long", "expires_at": "2099-01-01T00:00:00Z"}, key).status_code == 201


def test_what_has_ended_is_not_rotated(running: Installation) -> None:
    tenant = running.register("over")
    made = make(tenant)
    tenant.call("DELETE", f"{PATH}/{made.id}", expect=204)
    tenant.call("DELETE", f"{PATH}/{made.id}", expect=204)

    again = tenant.http.post(f"{PATH}/{made.id}/rotate", headers={"X-API-Key": tenant.key}, json={})

    problem(again, 409, "kafka-credential-ended")
    assert not login(tenant, made.made).can_log_in()
    assert replace(made).user == made.user
