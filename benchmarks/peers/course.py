"""Where the race takes place: a broker with the backlog, and for each turn fresh topics, state and a process."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from confluent_kafka import Message, Producer

from benchmarks.peers import backlog, ticks
from benchmarks.peers.environments import environment
from benchmarks.peers.job import Job
from benchmarks.peers.race import Mark, Span, SpoiltError, Turn, Watch, Windows, run
from benchmarks.peers.ticks import Closed, Oracle, WindowKey, ticks_before
from pulsestream.core.kafka import Admin, TopicSpec, producer_config
from pulsestream.core.layout import platform_topic_specs, tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.core.settings import environment as settings_environment
from pulsestream.core.topics import OUTPUT_DATASETS, SUBSCRIPTIONS, state_topic, tenant_topic
from pulsestream.local import process
from schemas import registry
from schemas.codec import codec
from schemas.records import Bar, Subscription

TENANT: Final = "bench"
SOURCE: Final = tenant_topic(TENANT, "ticks")
BARS: Final = tenant_topic(TENANT, "bars")
COMMIT: Final = 1.0
"""Seconds between two commits of state and positions, for everybody."""
WINDOW: Final = 60
_FLUSH: Final = 120.0
_GRACE: Final = 10.0
_MINUTE: Final = "1m"
_BAR: Final = codec(Bar)


class Program(Protocol):
    """A peer's program."""

    def command(self, orders: Path, *, install: bool) -> list[str]:
        """Return how to run it with its orders; installs what is missing, or raises UnavailableError."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who takes part: how the table names it, its program, and the seconds from one window to the next.

    `program` None is our whole worker, which needs no orders: its one-minute bars are the windows.
    """

    shown: str
    program: Program | None
    step: int = WINDOW


class Course:
    """One broker's topics for the race; `settings` are the administrator's, with one partition a topic."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._admin = Admin(settings)
        self._oracle = Oracle()
        self._turns = 0

    def lay(self, count: int) -> None:
        """Write the backlog."""
        specs = [tenant_topic_spec(self._settings, TENANT, dataset) for dataset in (*OUTPUT_DATASETS, "ticks")]
        self._admin.create(specs)
        producer = Producer(
            producer_config(self._settings, "bench-backlog")
            | {"linger.ms": 20, "batch.size": 1_000_000, "queue.buffering.max.messages": 500_000, "log_level": 2}
        )
        for name, value in _subscriptions():
            producer.produce(SUBSCRIPTIONS, value, name)
        producer.flush(_FLUSH)  # our worker takes prices from ticks only where it knows that there are no trades
        for key, value in backlog.encoded(count):
            while not _produced(producer, key, value):
                producer.poll(0.1)
        if producer.flush(_FLUSH):
            raise SpoiltError("the broker did not take the backlog")

    def turn(self, name: str, entrant: Entrant, span: Span, *, install: bool) -> Turn:
        """Let one peer read the backlog; raises UnavailableError, or SpoiltError when the turn does not count."""
        self._turns += 1
        job = self._job(f"bench-{name}-{self._turns}", entrant)
        Path(job.folder).mkdir(parents=True)
        command, variables = self._launch(job, entrant, install=install)
        self._admin.create(self._topics(job))
        windows = Windows(WINDOW)
        try:
            begin, end = self._watched(job, command, variables, windows, span)
        finally:
            self._clear(job)
        faults = windows.faults(self._oracle, entrant.step, end.until)
        if faults:
            raise SpoiltError(f"its windows are not the oracle's: {faults[0]}")
        return Turn(
            ticks_before(end.until) - ticks_before(begin.until),
            end.at - begin.at,
            end.cpu - begin.cpu,
            windows.ended_by(end.until),
        )

    def _job(self, name: str, entrant: Entrant) -> Job:
        ours = entrant.program is None
        return Job(
            bootstrap=self._settings.kafka_bootstrap,
            username=self._settings.kafka_username,
            password=self._settings.kafka_password.get_secret_value(),
            source=SOURCE,
            sink=BARS if ours else f"{name}-windows",
            name=name,
            folder=str(self._folder / name),
            size=WINDOW,
            step=entrant.step,
            commit=COMMIT,
            schema=registry.current("tick").text,
        )

    def _launch(self, job: Job, entrant: Entrant, *, install: bool) -> tuple[list[str], dict[str, str]]:
        if entrant.program is None:
            return [sys.executable, "-m", "pulsestream.cli", "stream"], settings_environment(self._worker(job))
        orders = Path(job.folder) / "orders.json"
        job.write(orders)
        return entrant.program.command(orders, install=install), environment()

    def _worker(self, job: Job) -> dict[str, object]:
        return {
            "kafka_bootstrap": job.bootstrap,
            "kafka_username": job.username,
            "kafka_password": job.password,
            "partitions": self._settings.partitions,
            "stream_app": job.name,
            "checkpoint_interval": job.commit,
            "home": job.folder,
        }

    def _topics(self, job: Job) -> list[TopicSpec]:
        """Return the output topic, and the topic that state of ours would go to."""
        app = self._settings.model_copy(update={"stream_app": job.name})
        state = [spec for spec in platform_topic_specs(app) if spec.name == state_topic(job.name)]
        output = TopicSpec(job.sink, 1, {"message.timestamp.type": "LogAppendTime"})
        return [*state, output]

    def _watched(
        self, job: Job, command: Sequence[str], variables: dict[str, str], windows: Windows, span: Span
    ) -> tuple[Mark, Mark]:
        log = Path(job.folder) / "log"
        watch = Watch(self._settings, job.sink, _bar if job.sink == BARS else _window)
        try:
            running = process.spawn(command, log=log, env=variables)
            try:
                return run(running, log, watch, windows, span)
            finally:
                process.stop(running, grace=_GRACE)
        finally:
            watch.close()

    def _clear(self, job: Job) -> None:
        """Delete what the turn left: topics that bear its name, and its folder."""
        self._admin.delete([topic for topic in self._admin.topics() if job.name in topic])
        shutil.rmtree(job.folder, ignore_errors=True)


def _subscriptions() -> Iterator[tuple[bytes, bytes]]:
    for product in ticks.PRODUCTS:
        said = Subscription(
            tenant=TENANT, exchange=ticks.EXCHANGE, product=product, datasets=["ticks"], since=0, version=1
        )
        yield f"{TENANT}:{ticks.EXCHANGE}:{product}".encode(), codec(Subscription).encode(said)


def _produced(producer: Producer, key: bytes, value: bytes) -> bool:
    try:
        producer.produce(SOURCE, value, key)
    except BufferError:
        return False
    producer.poll(0)
    return True


def _window(message: Message) -> tuple[WindowKey, Closed]:
    """Read a peer's record."""
    said = json.loads(message.value() or b"")
    key = said.pop("product"), said.pop("start")
    return key, Closed(**said)


def _bar(message: Message) -> tuple[WindowKey, Closed] | None:
    """Read a bar of the worker's; None for one of another period."""
    bar = _BAR.decode(message.value() or b"")
    if bar.period != _MINUTE:
        return None
    return (bar.product, bar.start), Closed(bar.trades, bar.open, bar.high, bar.low, bar.close, bar.volume)
