"""Where the sink is measured: a backlog of ticks on a broker, a fresh database for each turn, and whoever fills it.

Everybody's rows go into the table `ticks` of a migrated database: a hypertable where TimescaleDB is there, with its two
indexes and row level security, under the server's own settings for WAL and fsync.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from pydantic import SecretStr

from benchmarks.peers import backlog, debezium_sink
from benchmarks.peers.debezium_sink import Running
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.race import SpoiltError, cpu_seconds
from benchmarks.peers.ticks import PRODUCTS
from benchmarks.resident import peak_mib
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin, client_config, producer_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from pulsestream.local import process
from pulsestream.local.database import EmbeddedDatabase
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.roles import child_environment
from schemas.migrate import migrate
from sinks.column_rows import copy_stream
from sinks.copy_binary import HEADER, TRAILER
from sinks.intake import take_in
from sinks.tables import TICKS
from sinks.taken import Taken

SERVER: Final = "PULSESTREAM_TEST_DATABASE_URL"
"""Names a server's superuser, as for the tests; without it the embedded PostgreSQL is used."""
PLAIN: Final = "bench"
REPEATED: Final = "bench-repeated"
"""Tenants: one whose ticks come once, and one with a hundredth of them twice."""
BEHIND: Final = 30_000
"""Records after which a tick comes again."""
EVERY: Final = 100
START: Final = 120.0
"""Seconds until a connector's first row, at most."""
_STORED: Final = "SELECT coalesce(sum(next_offset), 0) FROM sink_offsets WHERE topic = %s"
_LOOK: Final = 0.02
_STALL: Final = 60.0
_CHUNK: Final = 20_000
_TIMED: Final = re.compile(r"^Time: ([\d.]+) ms", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Filled:
    """What a turn measured: rows, seconds, CPU seconds and memory of the process that brought them, where known."""

    rows: int
    seconds: float
    cpu: float | None = None
    peak_mib: float | None = None

    @property
    def per_second(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Span:
    """What a turn of a slow one takes after its first row: seconds of warm-up, and seconds that count."""

    warm_up: float
    seconds: float


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the URL of a database server's superuser."""
    given = os.environ.get(SERVER)
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-", ignore_cleanup_errors=True) as home:
        server = EmbeddedDatabase(Path(home) / "database")
        try:
            server.start()
            yield server.url()
        finally:
            server.stop()


class Stand:
    """A broker with the backlog of `count` ticks, a database server, and a file with the same rows for psql."""

    def __init__(self, broker: EmbeddedKafka, server: str, folder: Path, count: int) -> None:
        self._broker, self._server, self._folder, self._count = broker, server, folder, count
        self._admin = Admin(broker.settings())
        self._turns = 0
        self._template = f"bench_{secrets.token_hex(4)}"
        self._execute(f"CREATE DATABASE {self._template}")
        migrate(self.url("postgres", self._template))
        [extensions] = self._ask(self._template, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")
        self.is_hypertable = bool(extensions)
        self._execute(f"ALTER DATABASE {self._template} ALLOW_CONNECTIONS false")  # else it cannot be copied
        self._execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._template}'")
        self._file = folder / "ticks.copy"

    def lay(self) -> None:
        """Write the backlog, and the file."""
        settings = self._broker.settings()
        specs = [tenant_topic_spec(settings, tenant, "ticks") for tenant in (PLAIN, REPEATED)]
        self._admin.create(specs)
        self._produce(tenant_topic(PLAIN, "ticks"), backlog.encoded(self._count))
        self._produce(tenant_topic(REPEATED, "ticks"), repeated(backlog.encoded(self._count)))
        with self._file.open("wb") as file:
            file.write(HEADER)
            for taken in self._read(tenant_topic(PLAIN, "ticks")):
                file.write(copy_stream(take_in(taken, wall_clock()).rows[TICKS.name])[len(HEADER) : -len(TRAILER)])
            file.write(TRAILER)

    def close(self) -> None:
        """Drop what was made on the server."""
        self._execute(f"DROP DATABASE IF EXISTS {self._template} WITH (FORCE)")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the name of a fresh database, on a server that has nothing left to write."""
        self._turns += 1
        name = f"{self._template}_{self._turns}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        self._execute("CHECKPOINT")
        try:
            yield name
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, role: str, database: str) -> str:
        """Return the URL of a role, which logs in without a password."""
        parts = urlsplit(self._server)
        login, _, host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login if role == 'postgres' else role}@{host}", path=f"/{database}"))

    def psql(self, database: str) -> Filled:
        """Copy the file with psql; raises UnavailableError without it."""
        program = shutil.which("psql")
        if program is None:
            raise UnavailableError("psql is not installed")
        columns = ", ".join(f'"{name}"' for name in TICKS.columns)
        copy = f"\\copy ticks ({columns}) FROM '{self._file}' WITH (FORMAT binary)"
        command = [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", "\\timing on", "-c", copy]
        said = subprocess.run(
            [*command, self.url("ps_sink", database)], capture_output=True, text=True, check=False, timeout=600
        )
        timed = _TIMED.search(said.stdout)
        if said.returncode or timed is None:
            raise SpoiltError(f"psql failed: {said.stderr[-400:] or said.stdout[-400:]}")
        return Filled(self._count, float(timed[1]) / 1000)

    def sink(self, database: str, tenant: str) -> Filled:
        """Let `pulsestream sink` store a tenant's topic: from its first commit on, so start-up is left out."""
        topic, other = (tenant_topic(each, "ticks") for each in (tenant, REPEATED if tenant == PLAIN else PLAIN))
        self._pass_over(database, other)
        settings = self._settings(database)
        log = self._folder / f"sink-{self._turns}.log"
        command = [sys.executable, "-m", "pulsestream.cli", "sink"]
        running = process.spawn(command, log=log, env=child_environment(settings))
        try:
            return self._watched(database, topic, running, log)
        finally:
            process.stop(running)

    def debezium(self, database: str, span: Span, *, install: bool) -> Filled:
        """Let the Debezium sink store the topic whose ticks come once, for a span that begins with its first row."""
        topic, url = tenant_topic(PLAIN, "ticks"), self.url("ps_sink", database)
        home = self._folder / f"debezium-{self._turns}"
        with (
            debezium_sink.running(self._broker.settings(), topic, PLAIN, url, home, install=install) as running,
            psycopg.connect(self.url("postgres", database), autocommit=True) as connection,
        ):
            held = _Held(connection, running)
            held.wait(lambda rows: rows > 0, START)
            time.sleep(span.warm_up)
            first = held.look()
            held.wait(lambda rows: rows >= self._count, span.seconds)
            last = held.look()
        if last.rows == first.rows:
            raise SpoiltError(f"the connector stands still:\n{process.last_lines(running.log, 20)}")
        return Filled(last.rows - first.rows, last.seconds - first.seconds, (last.cpu or 0) - (first.cpu or 0))

    def fingerprint(self, database: str, rows: int | None = None) -> tuple[int, int]:
        """Return how many ticks a database holds, and a sum over all their fields but the tenant and the append time.

        `rows`: only so many of the first of one product, which whoever reads a topic has stored first.
        """
        part = "" if rows is None else f"WHERE product = '{PRODUCTS[0]}' ORDER BY exchange_time LIMIT {rows}"
        each = f"SELECT (to_jsonb(ticks) - 'tenant' - 'appended_at')::text AS told FROM ticks {part}"
        count, summed = self._ask(database, f"SELECT count(*), sum(hashtext(told)::bigint) FROM ({each}) AS each")
        return int(count), int(summed)

    def end(self, topic: str) -> int:
        """Return how many records a topic holds."""
        return sum(high for _, high in self._ends(topic).items())

    def _watched(self, database: str, topic: str, running: subprocess.Popen[bytes], log: Path) -> Filled:
        end = self.end(topic)
        first: tuple[int, float, float] | None = None
        newest, seen = time.monotonic(), 0
        with psycopg.connect(self.url("postgres", database), autocommit=True) as connection:
            while True:
                held = connection.execute(_STORED, [topic]).fetchone()
                stored, now = int(held[0]) if held else 0, time.monotonic()
                if stored > seen:
                    newest, seen = now, stored
                    first = first or (stored, now, cpu_seconds(running.pid))
                if stored >= end and first is not None:
                    rows = (end - first[0]) * self._count // end  # one an id
                    return Filled(rows, now - first[1], cpu_seconds(running.pid) - first[2], peak_mib(running.pid))
                if running.poll() is not None or now - newest > _STALL:
                    raise SpoiltError(f"the sink stands still:\n{process.last_lines(log, 20)}")
                time.sleep(_LOOK)

    def _settings(self, database: str) -> Settings:
        settings = self._broker.settings()
        return settings.model_copy(
            update={
                "sink_group": f"bench-{secrets.token_hex(4)}",
                "database_url": SecretStr(self.url("ps_sink", database)),
                "home": self._folder,
            }
        )

    def _pass_over(self, database: str, topic: str) -> None:
        """Let a database hold a topic's end as its position."""
        topic_id = self._admin.describe([topic])[topic].topic_id
        with psycopg.connect(self.url("postgres", database), autocommit=True) as connection:
            for partition, end in self._ends(topic).items():
                connection.execute(
                    "INSERT INTO sink_offsets (topic_id, partition, topic, next_offset) VALUES (%s, %s, %s, %s)",
                    [topic_id, partition, topic, end],
                )

    def _ends(self, topic: str) -> dict[int, int]:
        consumer = self._consumer()
        try:
            partitions = range(self._broker.settings().partitions)
            return {
                each: consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in partitions
            }
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        config = {"group.id": "bench-stand", "enable.auto.commit": False, "log_level": 2}
        return Consumer(client_config(self._broker.settings(), "bench-stand") | config)

    def _produce(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        producer = Producer(
            producer_config(self._broker.settings(), "bench-backlog")
            | {"linger.ms": 20, "batch.size": 1_000_000, "queue.buffering.max.messages": 500_000, "log_level": 2}
        )
        for key, value in records:
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if producer.flush(120):
            raise SpoiltError("the broker did not take the backlog")

    def _read(self, topic: str) -> Iterator[list[Taken]]:
        """Yield a topic's records, of all partitions, as the sink takes them."""
        ends, consumer = self._ends(topic), self._consumer()
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        left = sum(ends.values())
        try:
            while left:
                messages = consumer.consume(_CHUNK, 1.0)
                left -= len(messages)
                found: dict[int, list[tuple[int, int, bytes | None]]] = {}
                for message in messages:
                    told = (message.offset() or 0, message.timestamp()[1] * 1000, message.value())
                    found.setdefault(message.partition() or 0, []).append(told)
                if found:
                    yield [_taken(topic, partition, told) for partition, told in found.items()]
        finally:
            consumer.close()

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement)

    def _ask(self, database: str, query: str) -> tuple[int, ...]:
        with psycopg.connect(self.url("postgres", database), autocommit=True) as connection:
            found = connection.execute(query).fetchone()
            return tuple(found) if found else ()


class _Held:
    """Looks at the rows that a running connector has stored."""

    def __init__(self, connection: psycopg.Connection, running: Running) -> None:
        self._connection, self._running = connection, running

    def look(self) -> Filled:
        """Return the rows that are there, the clock in seconds, and the connector's CPU seconds."""
        found = self._connection.execute("SELECT count(*) FROM ticks").fetchone()
        return Filled(int(found[0]) if found else 0, time.monotonic(), cpu_seconds(self._running.connect.pid))

    def wait(self, enough: Callable[[int], bool], timeout: float) -> None:
        """Return when there are enough of them, or after so many seconds; raises SpoiltError when it has died."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and not enough(self.look().rows):
            if self._running.connect.poll() is not None:
                raise SpoiltError(f"the connector died:\n{process.last_lines(self._running.log, 20)}")
            time.sleep(max(min(1.0, end - time.monotonic()), 0.0))


def repeated(records: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield records, and after each EVERY of them one that came BEHIND before."""
    past: deque[tuple[bytes, bytes]] = deque(maxlen=BEHIND)
    for number, record in enumerate(records, start=1):
        if number % EVERY == 0 and len(past) == BEHIND:
            yield past[0]
        past.append(record)
        yield record


def _taken(topic: str, partition: int, told: list[tuple[int, int, bytes | None]]) -> Taken:
    offsets, times, values = zip(*told, strict=True)
    return Taken(topic, partition, offsets, times, values, lambda _: (None, ()))
