"""Where frame to row is measured: a frame source, `pulsestream producer`, a broker, `pulsestream sink`, a database.

Each is a process of its own, as it is. Every moment is of the machine's one clock: the frame's is stamped into it when
it is written to the socket, the row's is when another session, which looks about every millisecond, sees the position
behind it committed. So a look's length counts as latency.
"""

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray
from pydantic import SecretStr

from benchmarks.peers.race import SpoiltError, cpu_seconds
from producers.source import SIMULATOR
from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin, client_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.roles import child_environment
from schemas.codec import codec
from schemas.columns import Ints
from schemas.migrate import migrate
from schemas.records import Subscription, Tick

RATE: Final = 10_000
PRODUCTS: Final = tuple(f"L{number:02}-USD" for number in range(100))
TENANT: Final = "bench-frames"
WARM_UP: Final = 10.0
"""Seconds of connecting, first metadata and first transactions, which are not counted."""
ENOUGH: Final = 0.98
"""Share of the rate that has to have come for a turn to count."""
_START: Final = 60.0
_LOOK: Final = 0.001
_TOPIC: Final = topics.tenant_topic(TENANT, "ticks")
_POSITIONS: Final = "SELECT partition, next_offset FROM sink_offsets WHERE topic = %s"


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of the frames of a turn, in milliseconds each: frame to row, and its parts."""

    frame_to_row: NDArray[np.float64]
    frame_to_receipt: NDArray[np.float64]
    receipt_to_append: NDArray[np.float64]
    append_to_row: NDArray[np.float64]
    per_second: float
    cpu: dict[str, float]
    """Processors that each process took."""


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """Yield the superuser's URL of a migrated database of its own."""
    name = f"bench_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            url = _as("", server, name)
            migrate(url)
            connection.execute("CHECKPOINT")
            yield url
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def prepare(broker: EmbeddedKafka) -> None:
    """Make the tenant's topic, and subscribe it to every product's ticks."""
    settings = broker.settings()
    Admin(settings).create([tenant_topic_spec(settings, TENANT, "ticks")])
    relay = Producer(client_config(settings, "bench-relay"))
    for product in PRODUCTS:
        wanted = Subscription(
            tenant=TENANT, exchange=SIMULATOR, product=product, datasets=["ticks"], since=wall_clock(), version=1
        )
        relay.produce(topics.SUBSCRIPTIONS, codec(Subscription).encode(wanted), f"{TENANT}:{SIMULATOR}:{product}")
    if relay.flush(_START):
        raise SpoiltError("the broker does not take subscriptions")


def turn(broker: EmbeddedKafka, database: str, folder: Path, seconds: float) -> Turn:
    """Return what `seconds` of frames at RATE came to, in a database that is empty; raises SpoiltError."""
    first = _ends(broker)
    _start_at(broker, database, first)
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(_running(folder / f"{name}.log", arguments, settings))
            for name, arguments, settings in _parts(broker, database, folder)
        }
        watch = stack.enter_context(_watching(database))
        _wait(watch, running, folder, lambda: watch.seen(sum(first.values()) + RATE))
        time.sleep(WARM_UP)
        began, cpu = wall_clock(), {name: cpu_seconds(each.pid) for name, each in running.items()}
        time.sleep(seconds)
        ended = wall_clock()
        spent = {name: (cpu_seconds(each.pid) - cpu[name]) / seconds for name, each in running.items()}
        process.stop(running["source"])
        process.stop(running["producer"], grace=30)
        _wait(watch, {"sink": running["sink"]}, folder, lambda: watch.seen(sum(_ends(broker).values())))
    return _turn(broker, first, watch, (began, ended), spent)


def _parts(broker: EmbeddedKafka, database: str, folder: Path) -> Iterator[tuple[str, list[str], Settings | None]]:
    port = process.free_port()
    cli = ["-m", "pulsestream.cli"]
    yield "source", ["-m", "benchmarks.peers.ticker_source", str(port), str(RATE)], None
    group, url = f"bench-{secrets.token_hex(4)}", SecretStr(_as("ps_sink", database))
    sink = {"sink_group": group, "database_url": url, "home": folder}
    yield "sink", [*cli, "sink"], broker.settings().model_copy(update=sink)
    exchange = {"exchange": SIMULATOR, "venue": "coinbase", "exchange_url": f"ws://127.0.0.1:{port}", "home": folder}
    yield "producer", [*cli, "producer"], broker.settings().model_copy(update=exchange)


@contextmanager
def _running(log: Path, arguments: list[str], settings: Settings | None) -> Iterator[subprocess.Popen[bytes]]:
    environment = None if settings is None else child_environment(settings)
    running = process.spawn([sys.executable, *arguments], log=log, env=environment or os.environ)
    try:
        yield running
    finally:
        process.stop(running)


class _Watch:
    """What a session saw of the sink's positions: partition, position, and the microsecond of the look's end."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._positions: dict[int, int] = {}
        self._looks: dict[int, list[tuple[int, int]]] = {}
        self.ending = threading.Event()

    def look(self) -> None:
        """Look until it is ending."""
        with psycopg.connect(self._database, autocommit=True) as connection:
            while not self.ending.is_set():
                held = connection.execute(_POSITIONS, (_TOPIC,), prepare=True).fetchall()
                now = wall_clock()
                for partition, position in held:
                    if self._positions.get(partition) != position:
                        self._positions[partition] = position
                        self._looks.setdefault(partition, []).append((position, now))
                time.sleep(_LOOK)

    def seen(self, records: int) -> bool:
        """Say whether so many records of the topic are dealt with."""
        return sum(self._positions.values()) >= records

    def stored_at(self, partition: int, offsets: Ints) -> Ints:
        """Return when records of a partition were first seen to be stored, in microseconds."""
        positions, moments = np.array(self._looks[partition], np.int64).T
        found: Ints = moments[np.searchsorted(positions, offsets, side="right")]
        return found


@contextmanager
def _watching(database: str) -> Iterator[_Watch]:
    watch = _Watch(database)
    thread = threading.Thread(target=watch.look, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.ending.set()
        thread.join()


def _wait(watch: _Watch, running: dict[str, subprocess.Popen[bytes]], folder: Path, enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START
    while not enough():
        ended = [name for name, each in running.items() if each.poll() is not None]
        late = time.monotonic() > deadline or watch.ending.is_set()
        for name in ended or (running if late else ()):
            raise SpoiltError(f"{name} stands still:\n{process.last_lines(folder / f'{name}.log', 20)}")
        time.sleep(0.05)


def _turn(
    broker: EmbeddedKafka, first: dict[int, int], watch: _Watch, span: tuple[int, int], cpu: dict[str, float]
) -> Turn:
    parts = []
    for partition, start in first.items():
        offsets, appended, ticks = _read(broker, partition, start)
        sent = np.array([tick.exchange_time for tick in ticks], np.int64)
        received = np.array([tick.received_time for tick in ticks], np.int64)
        stored = watch.stored_at(partition, offsets)
        chosen = (sent >= span[0]) & (sent < span[1])
        parts.append(np.stack((stored - sent, received - sent, appended - received, stored - appended))[:, chosen])
    whole, to_receipt, to_append, to_row = np.concatenate(parts, axis=1) / 1000
    per_second = len(whole) / (span[1] - span[0]) * 1e6
    if per_second < ENOUGH * RATE:
        raise SpoiltError(f"only {per_second:,.0f} frames a second came: the machine is too busy")
    return Turn(whole, to_receipt, to_append, to_row, per_second, cpu)


def _read(broker: EmbeddedKafka, partition: int, start: int) -> tuple[Ints, Ints, list[Tick]]:
    """Return offsets, append times in microseconds and ticks of a partition from an offset on."""
    decode = codec(Tick).decode
    consumer, end = _consumer(broker), _ends(broker)[partition]
    consumer.assign([TopicPartition(_TOPIC, partition, start)])
    offsets: list[int] = []
    appended: list[int] = []
    ticks = []
    try:
        while not offsets or offsets[-1] < end - 1:
            for message in consumer.consume(10_000, 1.0):
                offsets.append(message.offset() or 0)
                appended.append(message.timestamp()[1] * 1000)
                ticks.append(decode(message.value() or b""))
    finally:
        consumer.close()
    return np.array(offsets, np.int64), np.array(appended, np.int64), ticks


def _start_at(broker: EmbeddedKafka, database: str, positions: dict[int, int]) -> None:
    """Let a database hold these as its positions: what a turn before left is not this one's."""
    topic_id = Admin(broker.settings()).describe([_TOPIC])[_TOPIC].topic_id
    with psycopg.connect(database, autocommit=True) as connection:
        for partition, position in positions.items():
            connection.execute(
                "INSERT INTO sink_offsets (topic_id, partition, topic, next_offset) VALUES (%s, %s, %s, %s)",
                (topic_id, partition, _TOPIC, position),
            )


def _ends(broker: EmbeddedKafka) -> dict[int, int]:
    consumer = _consumer(broker)
    try:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(_TOPIC, partition), timeout=10)[1]
            for partition in range(broker.settings().partitions)
        }
    finally:
        consumer.close()


def _consumer(broker: EmbeddedKafka) -> Consumer:
    config = {"group.id": "bench-latency", "enable.auto.commit": False, "log_level": 2}
    return Consumer(client_config(broker.settings(), "bench-latency") | config)


def _as(role: str, server: str, database: str = "") -> str:
    parts = urlsplit(server)
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{role or login}@{host}", path=f"/{database}" if database else parts.path))
