"""What the sink's tests share: records to send, a sink in a thread or in a process, and waiting for a condition."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psycopg
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.kafka import Admin, client_config, producer_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.roles import child_environment
from schemas.codec import DATASET_RECORDS, codec
from schemas.errors import DecodeError
from schemas.records import Alert, AsOf, Bar, DeadLetter, Event, PricePoint, Record, Stat, Tick, Trade
from sinks.rows import Arrived
from sinks.taken import Taken
from sinks.writer import Sink
from tests.support.e2e import read_topic
from tests.support.ledger import Held, Ledger, assert_kept, within

START = 1_618_677_817_056_746
"""An event time in 2021, microseconds."""
Keyed = tuple[str, bytes | None]
ONCE: Final = frozenset({"ticks", "own-ticks", "events"})
"""Datasets whose every id is one row."""


def tick(number: int, product: str = "BTC-USD", exchange: str = "coinbase", **fields: object) -> Tick:
    at = START + number * 1000
    values = {"price": 100.5 + number, "size": 0.25, "side": "buy", "best_bid": 100.25, "best_ask": 101.0}
    values |= {"sequence": number, "exchange_time": at, "received_time": at + 5}
    identity = {"event_id": f"{exchange}:{product}:{number}", "exchange": exchange, "product": product}
    return Tick(**(identity | values | fields))


def trade(number: int, product: str = "BTC-USD", exchange: str = "coinbase", **fields: object) -> Trade:
    at = START + number * 1000
    identity = {"event_id": f"{exchange}:{product}:t{number}", "exchange": exchange, "product": product}
    values = {"trade_id": number, "price": 100.5 + number, "size": 0.25, "side": "sell", "sequence": number * 3}
    return Trade(**(identity | values | {"exchange_time": at, "received_time": at + 5} | fields))


def bar(number: int, offset: int | None = None, **fields: object) -> Bar:
    start = START // 60_000_000 * 60_000_000 + number * 60_000_000
    identity = {"event_id": f"coinbase:BTC-USD:1m:{start}:exchange", "exchange": "coinbase", "product": "BTC-USD"}
    values = {"period": "1m", "start": start, "open": 2.0, "high": 4.0, "low": 1.0, "close": 3.0, "volume": 0.5}
    as_of = None if offset is None else AsOf(topic_id="source", partition=0, offset=offset)
    more = {"complete": True, "revision": 0, "as_of": as_of, "origin": "exchange", "received_time": start + 60_000_000}
    return Bar(**(identity | values | more | fields))


def event(number: int, **fields: object) -> Event:
    at = START + number * 1000
    values = {"type": "order.filled", "source": "desk", "product": "BTC-USD", "data": '{"price": 1.5}'}
    return Event(**({"event_id": f"desk:{number}", "time": at, "received_time": at + 9} | values | fields))


def stat(number: int, offset: int, topic_id: str = "source", partition: int = 0, **fields: object) -> Stat:
    at = START // 1_000_000 * 1_000_000 + number * 1_000_000
    identity = {"event_id": f"coinbase:BTC-USD:1m:{at // 1_000_000}:ticks", "exchange": "coinbase"}
    values = {"product": "BTC-USD", "window": "1m", "at": at, "basis": "ticks", "count": offset, "close": 1.5}
    as_of = AsOf(topic_id=topic_id, partition=partition, offset=offset)
    return Stat(**(identity | values | {"as_of": as_of, "revision": 0} | fields))


def alert(number: int, **fields: object) -> Alert:
    at = START + number * 1000
    identity = {"alert_id": f"alert-{number}", "seq": number, "rule_id": "r1", "rule_name": "high", "rule_version": 1}
    values = {"exchange": "coinbase", "product": "BTC-USD", "state": "firing", "at": at, "reason": "price above 1"}
    points = [PricePoint(time=at, price=1.25)]
    more = {"severity": "warning", "labels": {"desk": "spot"}, "last_prices": points, "value": 1.25, "threshold": 1.0}
    return Alert(**(identity | values | more | fields))


def encoded(records: Iterable[Record]) -> list[Keyed]:
    """Return (key, value) of each record, keyed by its product."""
    return [(getattr(record, "product", None) or "", codec(type(record)).encode(record)) for record in records]


def taken(*records: Arrived) -> Taken:
    """Return records of one partition as the consumer takes them."""
    return Taken(
        records[0].topic,
        records[0].partition,
        [record.offset for record in records],
        [record.appended_at for record in records],
        [record.value for record in records],
        lambda place: (records[place].key, records[place].headers),
    )


def send(admin: Settings, topic: str, values: Sequence[Keyed], partition: int | None = None) -> list[tuple[int, int]]:
    """Send and return (partition, offset) of each, in order; fails when the broker did not take one."""
    placed: list[tuple[int, int]] = [(-1, -1)] * len(values)
    failed: list[str] = []
    producer = Producer(producer_config(admin, "test") | {"message.max.bytes": 2_000_000})

    def delivered(index: int) -> Callable[..., None]:
        def note(error: object, message: object) -> None:
            if error is not None:
                failed.append(str(error))
            placed[index] = (message.partition(), message.offset())  # type: ignore[attr-defined]

        return note

    for index, (key, value) in enumerate(values):
        to = {} if partition is None else {"partition": partition}
        while True:
            try:
                producer.produce(topic, value, key.encode(), on_delivery=delivered(index), **to)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed, failed[:3]
    return placed


@dataclass(frozen=True)
class Scene:
    """A tenant with topics, a database of its own, and the settings of a sink whose group is its own."""

    tenant: str
    admin: Settings
    settings: Settings
    url: str

    def topic(self, dataset: str) -> str:
        return tenant_topic(self.tenant, dataset)

    def make(self, *datasets: str) -> None:
        specs = [tenant_topic_spec(self.admin, self.tenant, dataset) for dataset in datasets]
        Admin(self.admin).create(specs)

    def send(self, dataset: str, records: Iterable[Record], partition: int | None = None) -> list[tuple[int, int]]:
        return send(self.admin, self.topic(dataset), encoded(records), partition)

    def send_bytes(self, dataset: str, *values: bytes | None) -> list[tuple[int, int]]:
        return send(self.admin, self.topic(dataset), [("BTC-USD", value) for value in values])

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table} WHERE tenant = %s", self.tenant)[0][0])

    def stored(self, dataset: str) -> int:
        """Return the sum of a topic's next offsets, in all its lives: how many of its records are dealt with."""
        return self.stored_of(self.topic(dataset))

    def stored_of(self, topic: str) -> int:
        summed = self.rows("SELECT coalesce(sum(next_offset), 0) FROM sink_offsets WHERE topic = %s", topic)
        return int(summed[0][0])

    def wait_stored(self, dataset: str, records: int, timeout: float = 60.0) -> None:
        wait_until(lambda: self.stored(dataset) >= records, timeout, f"{records} of {dataset} dealt with")

    def dead_letters(self, expected: int, timeout: float = 60.0) -> list[DeadLetter]:
        """Return what the dead-letter topic holds once it has `expected` refusals, or after `timeout` seconds.

        A sink that dies between acknowledgement and commit sends a dead letter again, which counts once.
        """
        config = {"group.id": "unused", "enable.auto.commit": False, "fetch.wait.max.ms": 20}
        consumer = Consumer(client_config(self.admin, "test") | config)
        try:
            consumer.assign([TopicPartition(self.topic("dlq"), number, 0) for number in range(self.admin.partitions)])
            found: list[DeadLetter] = []
            end = time.monotonic() + timeout
            while len({origin(letter) for letter in found}) < expected and time.monotonic() < end:
                found += [codec(DeadLetter).decode(message.value()) for message in consumer.consume(100, 0.05)]
            return sorted(found, key=origin)
        finally:
            consumer.close()

    def every_dead_letter(self) -> list[DeadLetter]:
        """Return what the dead-letter topic holds now: all, once positions moved, which letters come before."""
        return [codec(DeadLetter).decode(record.value) for record in read_topic(self.admin, self.topic("dlq"))]

    def delete_topics(self) -> None:
        """Delete the tenant's topics: the broker is shared, and the next test's sink reads every tenant."""
        names = [name for name in Admin(self.admin).topics() if name.startswith(f"ps.{self.tenant}.")]
        Admin(self.admin).delete(names)


def end_offsets(admin: Settings, topic: str) -> int:
    """Return the sum of a topic's end offsets, 0 where it does not exist."""
    client = Admin(admin)
    counts = {name: info.partitions for name, info in client.describe([topic]).items()}
    return sum(sum(ends.values()) for ends in client.ends(counts).values())


def origin(letter: DeadLetter) -> tuple[str, int, int]:
    """Return where a dead letter's record was read."""
    return letter.topic, letter.partition, letter.offset


def wait_until(condition: Callable[[], object], timeout: float = 60.0, what: str = "") -> None:
    """Return once `condition()` is true; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what or condition}"
        time.sleep(0.05)


@contextmanager
def running_sink(settings: Settings, clock: Clock = wall_clock) -> Iterator[Sink]:
    """A sink in a thread of this process; what ends it early fails the test."""
    stop = threading.Event()
    failures: list[BaseException] = []
    sink = Sink(settings, clock)

    def work() -> None:
        try:
            sink.run(stop.is_set)
        except Exception as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    thread = threading.Thread(target=work, name="sink")
    thread.start()
    try:
        yield sink
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive(), "the sink does not stop"
        if failures:
            raise failures[0]


@contextmanager
def stopped(broker: EmbeddedKafka) -> Iterator[None]:
    """The broker's process does nothing in this block."""
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


class Load:
    """Sends what `make(number)` gives for 0, 1, 2 … at a steady rate, from `with` to the end of its block.

    `make` returns (dataset, key, value) triples. After the block, `numbers` have been made and all of it was
    acknowledged by the broker; `sent` counts the records by dataset, and those that may be stored or refused once each
    stand in the `ledger`.
    """

    def __init__(
        self,
        scene: Scene,
        make: Callable[[int], Sequence[tuple[str, str, bytes | None]]],
        rate: int,
        ledger: Ledger | None = None,
    ) -> None:
        self.numbers = 0
        self.sent: Counter[str] = Counter()
        self.ledger = ledger or Ledger()
        self._scene = scene
        self._make = make
        self._rate = rate
        self._stop = threading.Event()
        self._failures: list[str] = []
        self._thread = threading.Thread(target=self._work, name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._failures, self._failures[:3]

    def _work(self) -> None:
        producer = Producer(producer_config(self._scene.admin, "test-load"))
        began = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * self._rate)
            while self.numbers < due:
                for dataset, key, value in self._make(self.numbers):
                    self._send(producer, dataset, key, value)
                self.numbers += 1
            producer.poll(0.01)
        if producer.flush(60):
            self._failures.append("not everything was acknowledged")

    def _send(self, producer: Producer, dataset: str, key: str, value: bytes | None) -> None:
        name = self._noted(dataset, key, value)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failures.append(error.str())
            elif name is not None:
                self.ledger.accept(name, (message.topic() or "", message.partition() or 0, message.offset() or 0))

        producer.produce(self._scene.topic(dataset), value, key.encode(), on_delivery=delivered)
        producer.poll(0)
        self.sent[dataset] += 1

    def _noted(self, dataset: str, key: str, value: bytes | None) -> str | None:
        """Write what is sent into the ledger; a statistic, which a newer one may replace, has no entry."""
        if dataset not in ONCE:
            return None
        try:
            name = codec(DATASET_RECORDS[dataset]).decode(value).event_id  # type: ignore[attr-defined] # each has one
        except DecodeError:
            name = f"bad record {self.sent.total()}"
        self.ledger.send(name, key)
        return str(name)


def held(scene: Scene, ledger: Ledger) -> Held:
    """Return what database and dead-letter topic hold, once the sink has dealt with all that was sent."""
    found = [
        (name, (table, at))
        for table in ("ticks", "events")
        for name, at in scene.rows(
            f"SELECT event_id, (extract(epoch FROM appended_at) * 1000000)::bigint FROM {table} WHERE tenant = %s",
            scene.tenant,
        )
    ]
    gaps = scene.rows("SELECT topic, partition, from_offset, to_offset FROM sink_gaps")
    told = within(ledger, [(topic, partition, start, end) for topic, partition, start, end in gaps])
    rows = Counter(name for name, _ in found)
    letters = {ledger.placed.get(origin(letter), f"record at {origin(letter)}") for letter in scene.every_dead_letter()}
    return Held(rows, letters, told, dict(found))


def assert_ledger_kept(scene: Scene, load: Load) -> None:
    """Wait until a sink, which must run, has dealt with all that was sent, and compare with what was acknowledged."""
    for dataset, count in load.sent.items():
        scene.wait_stored(dataset, count)
    assert_kept(load.ledger, held(scene, load.ledger))


class SinkProcess:
    """`pulsestream sink` as a child process."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pulsestream.cli", "sink"],
            env=child_environment(settings),
            stderr=self._log,
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)
        self._log.close()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; return the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.kill()
            self._log.close()
