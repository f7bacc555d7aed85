"""The stand of the ingestion benchmark: broker, database, the API and its rivals as processes, the load in another.

Where there are two processors or more, every server has the first one to itself, and the load has the last one, which
broker and database share with it: so no rival waits for another's work.
"""

import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import psutil
from confluent_kafka import Consumer, TopicPartition

from api.ingestion.app import BATCH, SINGLE
from benchmarks.broker import running_broker
from benchmarks.peers import noop_api, pydantic_api
from benchmarks.peers.http_load import Job, Load
from pulsestream.core.kafka import Admin, client_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import environment
from pulsestream.core.topics import tenant_topic
from pulsestream.local import process
from pulsestream.local.database import EmbeddedDatabase
from pulsestream.local.kafka import EmbeddedKafka
from schemas.migrate import migrate

TENANT: Final = "bench-ingest"
PEER: Final = "bench-peer"
"""The tenant to whose topic of events the pydantic route writes."""
START: Final = 60.0
FREE: Final = "free.requests=1000000000, free.events=1000000000"
"""Limits that are counted and never reached."""
CLI: Final = (sys.executable, "-m", "pulsestream.cli")
_LOAD: Final = "benchmarks.peers.http_load"
_MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `path` and `events` say what it is asked."""

    name: str
    port: int
    path: str
    events: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that it has used."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def resident_mib(self) -> float:
        """Return its resident memory."""
        return float(psutil.Process(self.pid).memory_info().rss) / _MEBIBYTE


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: the load's account, and the CPU of server and broker, each in processors."""

    load: Load
    server_cpu: float
    broker_cpu: float

    @property
    def micros(self) -> float:
        """CPU microseconds of the server for one request."""
        return self.server_cpu / self.load.rate * 1e6


@dataclass(slots=True)
class Stand:
    """Everything that runs, and the cases by name."""

    broker: EmbeddedKafka
    folder: Path
    database: EmbeddedDatabase
    others: Mapping[str, object] = field(default_factory=dict)
    pepper: str = field(default_factory=lambda: secrets.token_hex(16))
    key: str = ""
    cases: dict[str, Server] = field(default_factory=dict)

    def settings(self, service: str) -> dict[str, object]:
        """Return the settings of one of our services."""
        user = f"ps-{service}"
        return {
            "kafka_bootstrap": self.broker.bootstrap,
            "kafka_username": user,
            "kafka_password": self.broker.password(user),
            "database_url": self.database.url(f"ps_{service}"),
            "key_pepper": self.pepper,
            "log_level": "warning",
            "limits": FREE,
            **self.others,
        }

    def turn(self, case: str, connections: int, seconds: float, warm_up: float) -> Turn:
        """Put load on a case; raises AssertionError when an answer is not the one of success."""
        server = self.cases[case]
        job = Job(server.port, server.path, self.key, server.events, connections, seconds, warm_up)
        before = server.cpu_seconds(), self._broker_cpu()
        load = _loaded(job)
        cpu, broker = server.cpu_seconds() - before[0], self._broker_cpu() - before[1]
        wanted = {"202"} if server.events and case != "noop POST" else {"200", "202"}
        if not wanted.issuperset(load.statuses):
            raise AssertionError(f"{case} answered {load.statuses}: not every request succeeded")
        ran = load.sent_in_all / load.rate
        return Turn(load, cpu / ran, broker / ran)

    def ceiling(self, connections: int, seconds: float) -> dict[int, Load]:
        """Return what the load can do at most, against answers that were made beforehand: for 1 and for 100 events."""
        with process_on(0, [sys.executable, "-m", _LOAD, "respond", str(port := process.free_port())], self.folder):
            await_port(port)
            return {
                events: _loaded(Job(port, SINGLE, self.key, events, connections, seconds, 0.5)) for events in (1, 100)
            }

    def stored(self, tenant: str) -> int:
        """Return how many events stand in a tenant's topic."""
        topic = tenant_topic(tenant, "events")
        settings = self.broker.settings()
        consumer = Consumer(client_config(settings, "counter") | {"group.id": "counter-unused", "log_level": 0})
        try:
            partitions = range(Admin(settings).describe([topic])[topic].partitions)
            ends = (consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=15) for number in partitions)
            return sum(int(end) for _, end in ends)
        finally:
            consumer.close()

    def _broker_cpu(self) -> float:
        times = psutil.Process(self.broker.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def stand() -> Iterator[Stand]:
    """Start everything, and end it afterwards; raises SystemExit where there is no epoll."""
    with bare_stand() as made, ExitStack() as stack:
        stack.enter_context(served_api(made))
        with process_on(-1, [*CLI, "relay"], made.folder, made.settings("relay")):
            made.key = register(made.cases["single"].port, TENANT)
            send_one(made.cases["single"].port, made.key)
        for name, server in _rivals(made, stack).items():
            made.cases[name] = server
        yield made


@contextmanager
def bare_stand(partitions: int = 3, **settings: object) -> Iterator[Stand]:
    """Start broker and database, and end them; `settings` are added to all of ours. Raises SystemExit likewise."""
    if not hasattr(select, "epoll"):
        raise SystemExit("the load generator of this benchmark needs epoll: run it on Linux")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-")))
        pin(-1)
        broker = stack.enter_context(running_broker(partitions))
        database = EmbeddedDatabase(folder / "database")
        database.start()
        stack.callback(database.stop)
        migrate(database.url())
        yield Stand(broker, folder, database, settings | {"partitions": partitions})


@contextmanager
def served_api(made: Stand) -> Iterator[Server]:
    """Run the API as it is, as cases `single` and `batch`; yields the first of them."""
    port = process.free_port()
    with process_on(0, [*CLI, "api"], made.folder, made.settings("api") | {"api_port": port}) as pid:
        await_port(port)
        made.cases["single"] = Server("api", port, SINGLE, 1, pid)
        made.cases["batch"] = Server("api", port, BATCH, 100, pid)
        yield made.cases["single"]


def pin(processor: int) -> None:
    """Keep this thread, and what it starts, to one processor where there are several; -1 is the last one."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {processor % (os.cpu_count() or 1)})


@contextmanager
def process_on(
    processor: int, command: list[str], folder: Path, settings: Mapping[str, object] | None = None
) -> Iterator[int]:
    """Run a command on one processor, and end it afterwards; yields its process id."""
    log = folder / f"{secrets.token_hex(4)}.log"
    pin(processor)
    try:
        running = process.spawn(command, log=log, env=environment(settings or {}))
    finally:
        pin(-1)
    try:
        yield running.pid
    finally:
        process.stop(running)


def register(port: int, tenant: str) -> str:
    """Register a tenant, and return its key."""
    body = {"tenant": tenant, "name": "Bench"}
    answer = httpx.post(f"http://127.0.0.1:{port}/api/v1/auth/register/tenant", json=body, timeout=30, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["api_key"])


def send_one(port: int, key: str) -> None:
    """Send an event until it is taken: the tenant's topics are made for it."""
    event: dict[str, Any] = {"type": "first", "source": "bench", "data": None}
    deadline = time.monotonic() + START
    url, headers = f"http://127.0.0.1:{port}{SINGLE}", {"X-API-Key": key}
    while httpx.post(url, json=event, headers=headers, timeout=30, trust_env=False).status_code != 202:
        if time.monotonic() > deadline:
            raise TimeoutError("the API takes no event")


def _rivals(made: Stand, stack: ExitStack) -> dict[str, Server]:
    settings = made.broker.settings()
    Admin(settings).create([tenant_topic_spec(settings, PEER, "events")])
    access = {
        "kafka_bootstrap": settings.kafka_bootstrap,
        "kafka_username": settings.kafka_username,
        "kafka_password": settings.kafka_password.get_secret_value(),
    }
    noop, peer = process.free_port(), process.free_port()
    module = [sys.executable, "-m"]
    noop_pid = stack.enter_context(process_on(0, [*module, noop_api.__name__, str(noop)], made.folder))
    topic = tenant_topic(PEER, "events")
    peer_pid = stack.enter_context(
        process_on(0, [*module, pydantic_api.__name__, str(peer), topic], made.folder, access)
    )
    await_port(noop)
    await_port(peer)
    return {
        "noop GET": Server("noop", noop, noop_api.PATH, 0, noop_pid),
        "noop POST": Server("noop", noop, noop_api.PATH, 1, noop_pid),
        "pydantic": Server("pydantic", peer, pydantic_api.PATH, 100, peer_pid),
    }


def _loaded(job: Job) -> Load:
    command = [sys.executable, "-m", _LOAD, msgspec.json.encode(job).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=job.seconds + job.warm_up + 60)
    if done.returncode != 0:
        raise RuntimeError(f"the load ended with {done.stderr.strip().splitlines()[-1:]}")
    return msgspec.json.decode(done.stdout, type=Load)


def await_port(port: int) -> None:
    """Wait until something listens on a port; raises TimeoutError."""
    deadline = time.monotonic() + START
    while process.port_is_free(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.05)
