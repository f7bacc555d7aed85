"""The whole path as real processes, for tests: started as an operator would, killed by pid, logs kept in a folder.

Each process is `python -m pulsestream.cli COMMAND` with the user and role of its service; the exchange server stands
in for the market. `Installation` starts them; `Tenant` is a client with an API key; the rest reads back what the
processes left on the topics and in the database.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import httpx
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from psycopg.rows import dict_row

from pulsestream.core.kafka import Admin, client_config
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings, environment
from pulsestream.core.topics import tenant_topic
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import DATASET_RECORDS, codec
from schemas.records import AsOf, Record
from tests.support.databases import NamedDatabase, execute
from tests.support.oracle import Sourced

R = TypeVar("R", bound=Record)
SERVICES: Final = ("relay", "api", "stream", "sink", "notifier", "producer")
ROLES: Final = {"relay": "ps_relay", "api": "ps_api", "sink": "ps_sink", "notifier": "ps_notifier"}
_TICK_TOPICS: Final = dict.fromkeys(("stats", "alerts", "dlq", "ticks"), "active")
_LOG_LINES: Final = 40
_FEED_SHARDS: Final = 1
"""One connection gets all products, so that it misses no frame of a recording, which begins with the first one."""


class DatabaseUrl(Protocol):
    """A migrated database, as the fixture gives it."""

    def url(self, role: str = "postgres") -> str: ...


def eventually(check: Callable[[], None], *, timeout: float = 60.0, every: float = 0.25) -> None:
    """Repeat `check` until it raises no AssertionError; raises the last one after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(every)


@dataclass(slots=True)
class Service:
    """One process of ours, which can be ended and started again."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    ops_port: int = 0
    running: subprocess.Popen[bytes] | None = None
    kills: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        self.running = process.spawn(self.command, log=self.log, env=self.env)

    def kill(self) -> None:
        """End the process as kill -9 does."""
        assert self.running is not None, f"{self.name} was never started"
        assert self.running.poll() is None, f"{self.name} had ended by itself:\n{process.last_lines(self.log, 40)}"
        self.running.kill()
        self.running.wait()
        self.kills.append(time.time())

    def stop(self) -> int:
        """Ask the process to end and return its exit code."""
        return 0 if self.running is None else process.stop(self.running, grace=20)

    def assert_alive(self) -> None:
        """Fail with the log's end where the process has ended."""
        code = None if self.running is None else self.running.poll()
        assert code is None, f"{self.name} ended with {code}:\n{process.last_lines(self.log, _LOG_LINES)}"

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until /readyz says yes; a process that ends meanwhile fails at once."""
        deadline = time.monotonic() + timeout
        said = "nothing"
        while time.monotonic() < deadline:
            assert self.running is not None
            if self.running.poll() is not None:
                break
            try:
                answer = httpx.get(f"http://127.0.0.1:{self.ops_port}/readyz", timeout=5, trust_env=False)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                if answer.status_code == httpx.codes.OK:
                    return
                said = answer.text
            time.sleep(0.1)
        raise AssertionError(f"{self.name} is not ready: {said}\n{process.last_lines(self.log, _LOG_LINES)}")

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        text = httpx.get(f"http://127.0.0.1:{self.ops_port}/metrics", timeout=5, trust_env=False).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@dataclass(slots=True)
class Installation:
    """A broker, a database and our processes on them, all in `folder`."""

    folder: Path
    kafka: EmbeddedKafka
    database: DatabaseUrl
    exchange_port: int = field(default_factory=process.free_port)
    api_port: int = field(default_factory=process.free_port)
    services: dict[str, Service] = field(default_factory=dict)
    clients: list[httpx.Client] = field(default_factory=list)

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    @property
    def admin(self) -> Settings:
        """Settings of the broker's superuser."""
        return self.kafka.settings()

    def start(self, *names: str, **settings: object) -> None:
        """Start these services, all at once, and return when each is ready; `settings` are added to all of them."""
        for name in names:
            self.services[name] = self._service(name, settings)
            self.services[name].start()
        for name in names:
            self.services[name].wait_ready()

    def serve_exchange(self, frames: Path, *, speed: float, sent: Path | None = None) -> Service:
        """Start the exchange server on a recording; its market waits for the first subscription."""
        command = ["exchange", "--frames", str(frames), "--speed", str(speed), "--port", str(self.exchange_port)]
        command += [] if sent is None else ["--sent", str(sent)]
        service = self._command("exchange", command, {})
        self.services["exchange"] = service
        service.start()
        self._wait_for_port(service)
        return service

    def serve_market(self, *, seed: int, rate: float, products: Sequence[str]) -> Service:
        """Start the exchange server on an endless market."""
        command = ["exchange", "--synthetic", str(seed), "--rate", str(rate), "--port", str(self.exchange_port)]
        service = self._command("exchange", [*command, "--products", ",".join(products)], {})
        self.services["exchange"] = service
        service.start()
        self._wait_for_port(service)
        return service

    def record_market(
        self, path: Path, *, seed: int, seconds: float, rate: float, products: Sequence[str] = ()
    ) -> None:
        """Write a recording of a simulated market, as an operator would."""
        command = [sys.executable, "-m", "pulsestream.cli", "exchange", "--synthetic", str(seed), "--write", str(path)]
        command += ["--seconds", str(seconds), "--rate", str(rate), "--products", ",".join(products)]
        subprocess.run(command, check=True, env=environment({}), timeout=60)

    def register(self, name: str) -> "Tenant":
        """Register a tenant under a new slug that begins with `name`."""
        http = httpx.Client(base_url=f"http://127.0.0.1:{self.api_port}", timeout=30, trust_env=False)
        slug = f"{name}-{secrets.token_hex(3)}"
        answer = http.post("/api/v1/auth/register/tenant", json={"tenant": slug, "name": name})
        assert answer.status_code == httpx.codes.CREATED, answer.text
        self.clients.append(http)
        return Tenant(slug, answer.json()["api_key"], http)

    def wait_for_topics(self, tenant: "Tenant") -> None:
        """Wait until every topic that the tenant's subscriptions ask for exists."""

        def active() -> None:
            topics = tenant.call("GET", "/api/v1/subscriptions")["topics"]
            assert {topic["dataset"]: topic["status"] for topic in topics}.items() >= _TICK_TOPICS.items(), topics

        with logs_shown(self):
            eventually(active)

    @contextmanager
    def rules_loaded(self, count: int) -> Iterator[None]:
        """Wait, after the block has made `count` rules, until the worker evaluates that many more than before."""
        before = self["stream"].metric("pulsestream_stream_rules")
        yield

        def loaded() -> None:
            now = self["stream"].metric("pulsestream_stream_rules")
            assert now >= before + count, f"the worker evaluates {now} rules, {before} before {count} were made"

        with logs_shown(self):
            eventually(loaded)

    def stop(self, *names: str) -> dict[str, int]:
        """Stop these services in this order (default: all, from the feed on) and return their exit codes."""
        order = names or [name for name in ("producer", "exchange", *SERVICES[:-1]) if name in self.services]
        return {name: self.services.pop(name).stop() for name in order}

    def logs(self) -> str:
        """Return the end of each process's log."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"==== {file.name}\n{process.last_lines(file, _LOG_LINES)}" for file in files)

    def _service(self, name: str, extra: Mapping[str, object]) -> Service:
        user, role = f"ps-{name}", ROLES.get(name)
        own: dict[str, object] = {
            "home": self.folder / "home",
            "kafka_bootstrap": self.kafka.bootstrap,
            "kafka_username": user,
            "kafka_password": self.kafka.password(user),
            "database_url": self.database.url(role) if role else "",
            "key_pepper": "pepper-of-the-tests",
            "api_port": self.api_port,
            "ops_port": process.free_port(),
            "exchange_url": f"ws://127.0.0.1:{self.exchange_port}",
            "feed_shards": _FEED_SHARDS,
            "limits": "off",
            "registrations_per_address": 1_000_000,
            "registrations_per_hour": 1_000_000,
        }
        return self._command(name, [name], {**own, **extra})

    def _command(self, name: str, arguments: Sequence[str], settings: Mapping[str, object]) -> Service:
        command = [sys.executable, "-m", "pulsestream.cli", *arguments]
        port = int(str(settings.get("ops_port", 0)))
        return Service(name, command, environment(settings), self.folder / f"{name}.log", port)

    def _wait_for_port(self, service: Service) -> None:
        def listens() -> None:
            service.assert_alive()
            assert not process.port_is_free(self.exchange_port), f"{service.name} does not listen"

        eventually(listens)


@contextmanager
def installed(folder: Path, server_url: str, template: str) -> Iterator[Installation]:
    """Give an installation with a broker of its own and a copy of the migrated `template` database; stop it after.

    Whatever still runs is stopped, and has to end cleanly.
    """
    name = f"ps_path_{secrets.token_hex(6)}"
    kafka = EmbeddedKafka(folder / "kafka")
    kafka.start()
    try:
        layout = kafka.settings().model_copy(update={"feed_shards": _FEED_SHARDS})
        Admin(layout).create(platform_topic_specs(layout))
        execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
        path = Installation(folder, kafka, NamedDatabase(server_url, name))
        try:
            yield path
            with logs_shown(path):
                codes = path.stop()
                assert set(codes.values()) <= {0}, f"not every process ended cleanly: {codes}"
        finally:
            path.stop()
            for client in path.clients:
                client.close()
            execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        kafka.kill()  # nobody needs it again, and a clean stop takes seconds
        shutil.rmtree(kafka.home)


@contextmanager
def stop_broker(installation: Installation, how: str) -> Iterator[None]:
    """The broker is away in this block: `killed` (-9, and started again after), or `stopped`, which says nothing."""
    pid = installation.kafka.pid
    assert pid is not None
    if how == "killed":
        installation.kafka.kill()
    else:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if how == "killed":
            installation.kafka.start()
        else:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def logs_shown(installation: Installation) -> Iterator[None]:
    """Print the ends of all logs where the block fails."""
    try:
        yield
    except BaseException:
        print(installation.logs())  # noqa: T201 - pytest shows it with the failure
        raise


# ---- a client over HTTP ----


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's client: its slug and its API key."""

    slug: str
    key: str
    http: httpx.Client

    def call(self, method: str, path: str, *, expect: int | tuple[int, ...] = (), **request: Any) -> Any:
        """Make a request with the key and return the JSON answer; any status but the expected ones fails."""
        answer = self.http.request(method, path, headers={"X-API-Key": self.key}, **request)
        wanted = (expect,) if isinstance(expect, int) else expect or (200, 201, 202)
        assert answer.status_code in wanted, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def subscribe(self, exchange: str, products: Sequence[str]) -> None:
        """Set what the tenant gets."""
        wanted = [{"exchange": exchange, "product": product} for product in products]
        self.call("PUT", "/api/v1/subscriptions", json={"subscriptions": wanted})

    def create_rule(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Create a rule and return it as the API shows it."""
        answer: dict[str, Any] = self.call("POST", "/api/v1/rules", json=definition)
        return answer

    def search(self, **query: Any) -> dict[str, Any]:
        """Return one page of a search."""
        answer: dict[str, Any] = self.call("GET", "/api/v1/ingestion/events/search", params=query)
        return answer

    def walk(self, **query: Any) -> list[dict[str, Any]]:
        """Return every row of a search, page after page."""
        page = self.search(**query)
        rows = list(page["rows"])
        while page.get("next_cursor"):
            page = self.search(**query, cursor=page["next_cursor"])
            rows += page["rows"]
        return rows


# ---- what the processes left ----


@dataclass(frozen=True, slots=True)
class Arrived:
    """A record on a topic: where, when the broker appended it (microseconds), with what key and headers."""

    topic: str
    as_of: AsOf
    appended_at: int
    key: bytes | None
    headers: dict[str, bytes | None]
    value: bytes | None


_PASSING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
    }
)


def read_topic(settings: Settings, name: str) -> list[Arrived]:
    """Return every record that a topic holds now, each partition in offset order; none where it does not exist."""
    return list(each_record(settings, name))


def each_record(settings: Settings, name: str) -> Iterator[Arrived]:
    """Yield what `read_topic` returns: for a topic that is too large to be kept."""
    info = Admin(settings).describe([name]).get(name)
    if info is None:
        return
    consumer = Consumer(
        client_config(settings, "reader")
        | {"group.id": "reader-unused", "enable.auto.commit": False, "isolation.level": "read_committed"}
        | {"fetch.wait.max.ms": 20, "fetch.queue.backoff.ms": 5}
    )
    try:
        # The ends are asked for before anything is fetched: behind a fetch the question waits.
        ends = {number: _end(consumer, TopicPartition(name, number)) for number in range(info.partitions)}
        consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number, end in ends.items() if end])
        for message in _until(consumer, name, ends):
            yield _arrived(message, info.topic_id)
    finally:
        consumer.close()


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    deadline = time.monotonic() + 30
    while True:
        try:
            return int(consumer.get_watermark_offsets(partition, timeout=15)[1])
        except KafkaException as error:  # a partition of a topic just made has no leader for a moment
            if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise


def _until(consumer: Consumer, name: str, ends: Mapping[int, int]) -> Iterator[Message]:
    deadline = time.monotonic() + 30
    while any(_position(consumer, name, number) < end for number, end in ends.items()):
        assert time.monotonic() < deadline, f"{name} was not read to its end {ends}: nothing came for 30 s"
        messages = consumer.consume(1000, 0.02)
        if messages:
            deadline = time.monotonic() + 30
        for message in messages:
            error = message.error()
            assert error is None or error.code() in _PASSING, error
            if error is None and (message.offset() or 0) < ends[message.partition() or 0]:
                yield message


def _position(consumer: Consumer, name: str, number: int) -> int:
    return max(0, int(consumer.position([TopicPartition(name, number)])[0].offset))


def _arrived(message: Message, topic_id: str) -> Arrived:
    place = AsOf(topic_id=topic_id, partition=message.partition() or 0, offset=message.offset() or 0)
    headers = dict(message.headers() or [])
    appended_at = message.timestamp()[1] * 1000
    key, value = message.key(), message.value()
    assert not isinstance(key, str)
    assert not isinstance(value, str)
    return Arrived(message.topic() or "", place, appended_at, key, headers, value)  # type: ignore[arg-type] # headers are bytes


def records_of(settings: Settings, tenant: str, dataset: str, record_type: type[R]) -> list[R]:
    """Return the decoded records of a tenant's dataset, in offset order by partition."""
    assert DATASET_RECORDS[dataset] is record_type
    return [codec(record_type).decode(arrived.value) for arrived in read_topic(settings, tenant_topic(tenant, dataset))]


def sourced_ticks(settings: Settings, tenant: str) -> list[Sourced]:
    """Return a tenant's ticks as they stand in their topic, as the oracle takes them."""
    return _sourced(settings, tenant, "ticks")


def sourced_records(settings: Settings, tenant: str) -> list[Sourced]:
    """Return a tenant's ticks and trades as they stand in their topics, as the oracle takes them."""
    return [*_sourced(settings, tenant, "ticks"), *_sourced(settings, tenant, "trades")]


def _sourced(settings: Settings, tenant: str, dataset: str) -> list[Sourced]:
    decode = codec(DATASET_RECORDS[dataset]).decode
    return [
        Sourced(decode(found.value), found.as_of, found.appended_at, dataset, "ps-backfill" in found.headers)  # type: ignore[arg-type] # a Tick or a Trade
        for found in read_topic(settings, tenant_topic(tenant, dataset))
    ]


def rows(database: DatabaseUrl, query: str, **parameters: object) -> list[dict[str, Any]]:
    """Return what a query finds, as the superuser: row level security hides nothing."""
    with psycopg.connect(database.url(), row_factory=dict_row) as connection:
        return connection.execute(query, parameters).fetchall()
