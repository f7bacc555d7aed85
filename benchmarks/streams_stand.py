"""A stand for our worker alone: an application of its own on the benchmark's broker, tenants, load, what it costs."""

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Final, Self

import httpx
from confluent_kafka import KafkaError, Message, Producer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.peers.race import SpoiltError, cpu_seconds
from benchmarks.resident import peak_mib
from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin, TopicSpec, producer_config
from pulsestream.core.layout import platform_topic_specs, tenant_topic_spec
from pulsestream.core.settings import environment
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Rule, Subscription

EXCHANGE: Final = "coinbase"
START: Final = 180.0
"""Seconds until a worker is ready, at most."""
STALL: Final = 60.0
"""Seconds without a record folded after which a run is given up."""
DATASETS: Final = ("stats", "bars", "alerts", "ticks")
"""Topics that each tenant gets, outputs first."""
_FLUSH: Final = 120.0
_AT_ONCE: Final = 200
_LOOK: Final = 0.1
_GONE: Final = 120.0
_PATIENT: Final = {"topic.metadata.propagation.max.ms": 120_000}
"""How long a topic may be unknown after it was created: the broker makes hundreds one after the other."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A running `pulsestream stream`."""

    running: Popen[bytes]
    metrics: str
    log: Path

    def figures(self) -> Mapping[str, float]:
        """Return the sums of its metrics by name; raises httpx.TransportError while it does not listen."""
        return metrics(self.metrics)

    def folded(self) -> float:
        """Return how many records it has folded or left out."""
        figures = self.figures()
        return figures.get("pulsestream_stream_records_total", 0.0) + figures.get(
            "pulsestream_stream_skipped_total", 0.0
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """Records folded by all workers together, the seconds it took, their CPU seconds, and the most memory of one."""

    records: float
    seconds: float
    cpu: float
    peak_mib: float

    @property
    def micros(self) -> float:
        """CPU microseconds a record."""
        return self.cpu / self.records * 1e6


class Stand:
    """An application id with its state topic; `partitions` of every topic."""

    def __init__(self, broker: EmbeddedKafka, partitions: int, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self.app = f"pulsestream-{secrets.token_hex(4)}"
        self.settings = broker.settings().model_copy(update={"stream_app": self.app, "partitions": partitions})
        self._admin = Admin(self.settings)
        self._made = [topics.state_topic(self.app)]
        self._rules: list[str] = []
        self._admin.create([spec for spec in platform_topic_specs(self.settings) if spec.name in self._made])

    @classmethod
    @contextmanager
    def on(cls, broker: EmbeddedKafka, partitions: int) -> Iterator[Self]:
        """Yield a stand, and delete its topics afterwards."""
        with tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-", ignore_cleanup_errors=True) as folder:
            stand = cls(broker, partitions, Path(folder))
            try:
                yield stand
            finally:
                stand.clear()

    def clear(self) -> None:
        """Delete rules, and topics of its application and tenants; returns when they are gone: the names come again."""
        self.write((topics.RULES, rule_id.encode(), None) for rule_id in self._rules)
        for start in range(0, len(self._made), _AT_ONCE):
            self._admin.delete(self._made[start : start + _AT_ONCE])
        deadline = time.monotonic() + _GONE
        while self._admin.topics().keys() & set(self._made) and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def tenants(self, names: Sequence[str]) -> None:
        """Create the topics of tenants."""
        specs = [tenant_topic_spec(self.settings, name, dataset) for name in names for dataset in DATASETS]
        for start in range(0, len(specs), _AT_ONCE):
            self._made += self._admin.create(specs[start : start + _AT_ONCE])

    def topic(self, spec: TopicSpec) -> None:
        """Create a topic beside theirs."""
        self._made += self._admin.create([spec])

    def subscribe(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Say that tenants get the ticks of products."""
        encode = codec(Subscription).encode
        self._control(
            topics.SUBSCRIPTIONS,
            (
                (
                    f"{tenant}:{EXCHANGE}:{product}",
                    encode(
                        Subscription(
                            tenant=tenant,
                            exchange=EXCHANGE,
                            product=product,
                            datasets=["ticks"],
                            since=wall_clock(),
                            version=1,
                        )
                    ),
                )
                for tenant, product in wanted
            ),
        )

    def rule(self, tenant: str, definition: Mapping[str, object]) -> None:
        """Put a rule in force."""
        self.rules(tenant, [definition])

    def rules(self, tenant: str, definitions: Iterable[Mapping[str, object]]) -> None:
        """Put rules in force."""
        made = {secrets.token_hex(8): definition for definition in definitions}
        self._rules += made
        self._control(topics.RULES, ((rule_id, _rule(rule_id, tenant, made[rule_id])) for rule_id in made))

    def write(self, records: Iterable[tuple[str, bytes, bytes | None]]) -> int:
        """Append records: topic, key, value; returns how many. SpoiltError when the broker did not take one."""
        failures: list[str] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error.str())

        config = producer_config(self.settings, "bench-load") | {"linger.ms": 20, "log_level": 2}
        producer = Producer({**config, "queue.buffering.max.messages": 500_000, **_PATIENT, "on_delivery": delivered})
        count = 0
        for topic, key, value in records:
            while not offered(producer, topic, key, value):
                producer.poll(0.05)
            count += 1
        if producer.flush(_FLUSH) or failures:
            reason = failures[0] if failures else "it took too long"
            raise SpoiltError(f"the broker did not take {len(failures):,} records of the load: {reason}")
        return count

    @contextmanager
    def workers(self, count: int, **overrides: object) -> Iterator[list[Worker]]:
        """Yield workers that share all partitions."""
        started: list[Worker] = []
        try:
            started.extend(self._start(number, overrides) for number in range(count))
            self._wait_shared(started)
            yield started
        finally:
            for worker in started:
                process.stop(worker.running)
                worker.log.unlink(missing_ok=True)

    def _start(self, number: int, overrides: Mapping[str, object]) -> Worker:
        port, log = process.free_port(), self._folder / f"{number}.log"
        variables = environment(self._variables(port, number, overrides))
        running = process.spawn([sys.executable, "-m", "pulsestream.cli", "stream"], log=log, env=variables)
        return Worker(running, f"http://127.0.0.1:{port}/metrics", log)

    def cost(self, workers: Sequence[Worker], records: int) -> Cost:
        """Return what the rest of a backlog of `records` costs, from now until all of it is folded."""
        return self.cost_of(workers, lambda: records)

    def cost_of(self, workers: Sequence[Worker], load: Callable[[], int]) -> Cost:
        """Return what it costs to fold all that `load` says there is, from now on; `load` may produce it."""
        first, before, began = _folded(workers), _spent(workers), time.monotonic()
        records, newest, moved = load(), first, time.monotonic()
        while newest < records:
            time.sleep(_LOOK)
            now, folded = time.monotonic(), _folded(workers)
            moved, newest = (now if folded > newest else moved), folded
            if now - moved > STALL:
                raise SpoiltError(f"{records - folded:,.0f} of {records:,} records were not folded")
        most = max(peak_mib(worker.running.pid) for worker in workers)
        return Cost(records - first, time.monotonic() - began, _spent(workers) - before, most)

    def _variables(self, port: int, number: int, overrides: Mapping[str, object]) -> dict[str, object]:
        return {
            "home": self._folder / str(number),
            "kafka_bootstrap": self._broker.bootstrap,
            "kafka_username": "ps-stream",
            "kafka_password": self._broker.password("ps-stream"),
            "stream_app": self.app,
            "partitions": self.settings.partitions,
            "ops_port": port,
            **overrides,
        }

    def _wait_shared(self, workers: Sequence[Worker]) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and all(worker.running.poll() is None for worker in workers):
            with suppress(httpx.TransportError):  # it does not listen yet
                owned = [worker.figures().get("pulsestream_stream_partitions", 0.0) for worker in workers]
                if all(owned) and sum(owned) == self.settings.partitions:
                    return
            time.sleep(0.05)
        raise SpoiltError(f"the workers did not share the partitions:\n{process.last_lines(workers[0].log, 20)}")

    def _control(self, topic: str, records: Iterable[tuple[str, bytes]]) -> None:
        self.write((topic, key.encode(), value) for key, value in records)


def _rule(rule_id: str, tenant: str, definition: Mapping[str, object]) -> bytes:
    rule = Rule(
        rule_id=rule_id,
        tenant=tenant,
        name=str(definition["name"]),
        enabled=True,
        deleted=False,
        definition=json.dumps(definition),
        created_at=wall_clock(),
        version=1,
    )
    return codec(Rule).encode(rule)


def metrics(url: str) -> Mapping[str, float]:
    """Return the sums of a process's metrics by name; raises httpx.TransportError while it does not listen."""
    text = httpx.get(url, timeout=10, trust_env=False).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def offered(producer: Producer, topic: str, key: bytes, value: bytes | None) -> bool:
    """Hand a record to a producer; False when its buffer is full."""
    try:
        producer.produce(topic, value, key)
    except BufferError:
        return False
    producer.poll(0)
    return True


def _folded(workers: Sequence[Worker]) -> float:
    return sum(worker.folded() for worker in workers)


def _spent(workers: Sequence[Worker]) -> float:
    return sum(cpu_seconds(worker.running.pid) for worker in workers)
