"""Back pressure: with a broker that stands still or is slow, the API refuses in time and its memory stays bounded."""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Event
from tests.support.api import EVENT
from tests.support.e2e import Installation, Tenant, eventually, installed, read_topic

BATCH = "/api/v1/ingestion/events/batch"
CLIENTS = 64
EVENTS = 1000
FILLING = "x" * 900
"""Makes a batch nearly as large as one may be."""
MEBIBYTE = 1024 * 1024
MOST = 320
"""Mebibytes that docs/ingestion.md states."""


@dataclass
class Told:
    """What clients were told, and the most memory that the API had meanwhile."""

    answers: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    slowest: float = 0.0
    resident: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: httpx.Response, ids: list[str], seconds: float) -> None:
        with self.lock:
            self.slowest = max(self.slowest, seconds)
            if answer.status_code == 202:
                self.answers["accepted"] += 1
                self.accepted.update(ids)
                return
            assert answer.status_code == 503, answer.text[:300]
            assert int(answer.headers["retry-after"]) >= 1
            self.answers[answer.json()["type"].rpartition(":")[2]] += 1


@pytest.fixture
def path(
    tmp_path_factory: pytest.TempPathFactory, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("pressure"), database_server, migrated_template) as running:
        running.start("relay", "api")
        yield running


def _batch(ids: list[str]) -> bytes:
    return json.dumps({"events": [EVENT | {"id": identifier, "data": FILLING} for identifier in ids]}).encode()


def _press(path: Installation, tenant: Tenant, requests: int) -> Told:
    """Let many clients send the largest batches at once, whatever they are answered."""
    told = Told()

    def client(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{path.api_port}", timeout=60, trust_env=False) as http:
            for request in range(requests):
                ids = [f"{number}-{request}-{event:03}" for event in range(EVENTS)]
                began = time.monotonic()
                answer = http.post(BATCH, content=_batch(ids), headers={"X-API-Key": tenant.key})
                told.note(answer, ids, time.monotonic() - began)

    with _watched(path, told), ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client, number) for number in range(CLIENTS)]:
            done.result()
    return told


@contextmanager
def _watched(path: Installation, told: Told) -> Iterator[None]:
    running = path["api"].running
    assert running is not None
    api, ended = psutil.Process(running.pid), threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            told.resident = max(told.resident, api.memory_info().rss / MEBIBYTE)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


@contextmanager
def _broker(path: Installation, stopped: float, running: float) -> Iterator[None]:
    """Let the broker stand still and run in turns; `running` 0: it only stands still."""
    broker = path.kafka._process
    assert broker is not None
    ended = threading.Event()

    def turns() -> None:
        while not ended.is_set():
            broker.send_signal(signal.SIGSTOP)
            ended.wait(stopped)
            if running:
                broker.send_signal(signal.SIGCONT)
                ended.wait(running)

    turning = threading.Thread(target=turns)
    turning.start()
    try:
        yield
    finally:
        ended.set()
        turning.join()
        broker.send_signal(signal.SIGCONT)


def _assert_accepted_are_there(path: Installation, tenant: Tenant, accepted: set[str]) -> None:
    arrived = read_topic(path.admin, tenant_topic(tenant.slug, "events"))
    ids = {codec(Event).decode(record.value).event_id.removeprefix("/desk/1:") for record in arrived}
    assert accepted <= ids, f"{len(accepted - ids)} accepted events are lost"


def test_a_broker_that_stands_still_makes_the_api_refuse_and_costs_no_memory_beyond_its_bound(
    path: Installation,
) -> None:
    tenant = path.register("still")
    eventually(lambda: _assert_taken(tenant))

    with _broker(path, stopped=600, running=0):
        told = _press(path, tenant, requests=3)

    print(told.answers, f"{told.resident:.0f} MiB, {told.slowest:.1f} s")  # noqa: T201 - what docs/ingestion.md says
    assert told.answers["overloaded"] > 0
    assert told.resident < MOST
    assert told.slowest < 30
    eventually(lambda: _assert_taken(tenant))
    _assert_accepted_are_there(path, tenant, told.accepted)


@pytest.mark.heavy
def test_a_slow_broker_slows_clients_and_loses_nothing(path: Installation) -> None:
    tenant = path.register("slow")
    eventually(lambda: _assert_taken(tenant))

    with _broker(path, stopped=0.45, running=0.05):
        told = _press(path, tenant, requests=3)

    print(told.answers, f"{told.resident:.0f} MiB, {told.slowest:.1f} s")  # noqa: T201 - what docs/ingestion.md says
    assert told.answers["accepted"] > 0
    assert told.resident < MOST
    assert told.slowest < 30
    _assert_accepted_are_there(path, tenant, told.accepted)


def _assert_taken(tenant: Tenant) -> None:
    answer = tenant.http.post("/api/v1/ingestion/events", json=EVENT, headers={"X-API-Key": tenant.key})
    assert answer.status_code == 202, answer.text
