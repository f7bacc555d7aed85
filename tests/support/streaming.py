"""Streams workers as real processes on a real broker, ticks for them, and what must have come out.

The expected outputs are one uninterrupted, single-threaded run of the engine over the topics as read back; that run
is held against the brute-force oracle elsewhere.
"""

import json
import random
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import httpx
from confluent_kafka import KafkaError, Message, Producer

from pulsestream.core.kafka import Admin, producer_config
from pulsestream.core.layout import platform_topic_specs, tenant_topic_spec
from pulsestream.core.settings import Settings, environment
from pulsestream.core.topics import FEEDS, RULES, SUBSCRIPTIONS, TENANTS, state_topic, tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.process import free_port
from schemas.codec import codec
from schemas.records import Alert, Bar, Feed, Rule, Stat, Subscription, Tenant, Tick, Trade
from streams.engine import fold as engine
from streams.engine.inputs import row_of
from streams.engine.rules import ActiveRule, applies, parse_rule
from tests.support.e2e import Service, eventually, read_topic, records_of
from tests.support.oracle import Sourced, by_key, newest

DATASETS: Final = ("stats", "bars", "alerts", "dlq", "ticks", "trades")
_MICROS: Final = 1_000_000

PRICE_RULES: Final = {
    "level": {"name": "level", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"},
    "edge": {"name": "edge", "product": "*", "condition": {"type": "price", "crosses": 101.6}},
    "slow": {
        "name": "slow",
        "product": ["P0-USD", "P3-USD"],
        "condition": {"type": "price", "below": 101},
        "keep_firing_for": "3s",
        "cooldown": "5s",
    },
}
"""Rules over prices, with timers, by name."""


@dataclass(slots=True)
class Streams:
    """An application id of its own with its workers, and one tenant with topics."""

    broker: EmbeddedKafka
    folder: Path
    tenant: str
    app: str = field(default_factory=lambda: f"pulsestream-{secrets.token_hex(4)}")
    workers: list[Service] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)

    @property
    def exchange(self) -> str:
        """An exchange of the tenant's own, so that its feed can be told connected or not."""
        return f"sim-{self.tenant}"

    @property
    def admin(self) -> Settings:
        """The admin's settings."""
        return self.broker.settings().model_copy(update={"stream_app": self.app})

    def prepare(self, *datasets: str, tenant: str | None = None) -> None:
        """Make the state topic and a tenant's topics; the tenant gets the ticks of P0-USD to P9-USD."""
        admin = self.admin
        specs = [spec for spec in platform_topic_specs(admin) if spec.name == state_topic(self.app)]
        specs += [tenant_topic_spec(admin, tenant or self.tenant, dataset) for dataset in datasets or DATASETS]
        self.topics += Admin(admin).create(specs)
        self.subscribe(*(f"P{number}-USD" for number in range(10)), datasets=["ticks"], tenant=tenant)

    def subscribe(self, *products: str, datasets: Sequence[str], tenant: str | None = None) -> None:
        """Publish a tenant's subscriptions to products of the exchange."""
        owner, version = tenant or self.tenant, time.time_ns()
        said = [
            Subscription(
                tenant=owner,
                exchange=self.exchange,
                product=product,
                datasets=[*datasets],
                since=version // 1000,
                version=version,
            )
            for product in products
        ]
        keyed = [(f"{owner}:{self.exchange}:{one.product}", codec(Subscription).encode(one), {}) for one in said]
        self.send_bytes(SUBSCRIPTIONS, keyed)

    def start(self, **overrides: object) -> Service:
        """Start a worker and wait until it is ready."""
        worker = self.launch(**overrides)
        worker.wait_ready()
        return worker

    def start_parked(self) -> Service:
        """Start a worker and wait until it is ready and shows a parked tenant."""
        worker = self.launch()

        def waits() -> None:
            worker.assert_alive()
            try:
                said = httpx.get(f"http://127.0.0.1:{worker.ops_port}/readyz", timeout=5, trust_env=False).json()
            except httpx.TransportError as error:
                raise AssertionError(repr(error)) from error
            assert said["problems"] == {}
            assert said["details"].keys() == {"parked"}

        eventually(waits)
        return worker

    def launch_dying(self, moment: str, checkpoint: int) -> Service:
        """Start a worker that kills itself at a moment (`dying_worker`) of one of its checkpoints."""
        return self._launch(["tests.support.dying_worker", moment, str(checkpoint)])

    def launch(self, *options: str, **overrides: object) -> Service:
        """Start a worker with options of the command line; it is not ready yet."""
        return self._launch(["pulsestream.cli"], options, **overrides)

    def _launch(self, program: Sequence[str], options: Sequence[str] = (), **overrides: object) -> Service:
        port = free_port()
        given: dict[str, object] = {
            "home": self.folder,
            "kafka_bootstrap": self.broker.bootstrap,
            "kafka_username": "ps-stream",
            "kafka_password": self.broker.password("ps-stream"),
            "stream_app": self.app,
            "ops_port": port,
            "checkpoint_interval": 0.2,
            **overrides,
        }
        number = len(self.workers)
        command = [sys.executable, "-m", *program, "stream", *options]
        worker = Service(f"worker {number}", command, environment(given), self.folder / f"worker-{number}.log", port)
        worker.start()
        self.workers.append(worker)
        return worker

    def send(self, records: Iterable[Tick | Trade], *, tenant: str | None = None, dataset: str = "ticks") -> None:
        """Append records of one dataset as a producer does."""
        topic = tenant_topic(tenant or self.tenant, dataset)
        self.send_bytes(topic, [(record.product, encoded(record), {}) for record in records])

    def send_bytes(self, topic: str, records: Iterable[tuple[str, bytes | None, Mapping[str, bytes]]]) -> None:
        """Append records as they are: key, value, headers; returns when the broker has them."""
        with _delivering(self.admin) as producer:
            for key, value, headers in records:
                producer.produce(topic, value, key.encode(), headers=[*headers.items()])
                producer.poll(0)

    def put_rule(self, rule_id: str, definition: Mapping[str, Any], *, version: int = 1, **fields: object) -> None:
        """Publish a version of a rule of the tenant."""
        rule = Rule(
            **{  # type: ignore[arg-type] # the fields are the record's own
                "rule_id": rule_id,
                "tenant": self.tenant,
                "name": definition["name"],
                "enabled": True,
                "deleted": False,
                "definition": json.dumps(definition),
                "created_at": time.time_ns() // 1000,
                "version": version,
                **fields,
            }
        )
        self.send_bytes(RULES, [(rule_id, codec(Rule).encode(rule), {})])

    def put_tenant(self, tenant: str, shard: int) -> None:
        """Publish a tenant's record with its shard."""
        version = time.time_ns()
        record = Tenant(
            tenant=tenant, name=tenant, tier="free", status="active", shard=shard, created_at=0, version=version
        )
        self.send_bytes(TENANTS, [(tenant, codec(Tenant).encode(record), {})])

    def delete_topics(self, tenant: str) -> None:
        """Delete a tenant's topics."""
        Admin(self.admin).delete([tenant_topic(tenant, dataset) for dataset in DATASETS])

    def end_tenant(self, tenant: str) -> None:
        """Publish that a tenant is no more."""
        self.send_bytes(TENANTS, [(tenant, None, {})])

    def put_feed(self, exchange: str, state: str) -> None:
        """Publish the state of every connection to an exchange."""
        now = time.time_ns()
        feed = Feed(exchange=exchange, state=state, at=now // 1000, version=now)
        shards = range(self.admin.feed_shards)
        self.send_bytes(FEEDS, [(f"conn:{exchange}:{shard}", codec(Feed).encode(feed), {}) for shard in shards])

    def stats(self, tenant: str | None = None) -> list[Stat]:
        """Return every statistic on the tenant's topic."""
        return records_of(self.admin, tenant or self.tenant, "stats", Stat)

    def alerts(self, tenant: str | None = None) -> list[Alert]:
        """Return every alert on the tenant's topic."""
        return records_of(self.admin, tenant or self.tenant, "alerts", Alert)

    def ticks(self, tenant: str | None = None, dataset: str = "ticks") -> list[Sourced]:
        """Return the ticks as they stand on the topic."""
        topic = tenant_topic(tenant or self.tenant, dataset)
        return [
            Sourced(codec(Tick).decode(arrived.value), arrived.as_of, arrived.appended_at)
            for arrived in read_topic(self.admin, topic)
        ]

    def trades(self, tenant: str | None = None) -> list[Sourced]:
        """Return the trades as they stand on the topic."""
        return [
            Sourced(codec(Trade).decode(arrived.value), arrived.as_of, arrived.appended_at, "trades")
            for arrived in read_topic(self.admin, tenant_topic(tenant or self.tenant, "trades"))
        ]

    def bars(self, tenant: str | None = None) -> list[Bar]:
        """Return every bar on the tenant's topic."""
        return records_of(self.admin, tenant or self.tenant, "bars", Bar)

    def rules(self) -> list[ActiveRule]:
        """Return the tenant's rule versions as the rules topic tells them, in order."""
        versions: list[ActiveRule] = []
        for arrived in read_topic(self.admin, RULES):
            rule = codec(Rule).decode(arrived.value)
            if rule.tenant == self.tenant:
                at = arrived.appended_at
                definition = parse_rule(rule.definition)
                versions.append(ActiveRule(rule.tenant, rule.rule_id, rule.version, definition, at))
        return versions

    def end(self) -> None:
        """Kill whatever still runs, and delete the topics: the next test's worker would read them all."""
        for worker in self.workers:
            if worker.running is not None and worker.running.poll() is None:
                worker.running.kill()
                worker.running.wait()
        Admin(self.admin).delete(set(self.topics))

    def logs(self) -> str:
        """Return what the workers wrote."""
        return "\n".join(f"== {worker.name}\n{worker.log.read_text()}" for worker in self.workers)


def encoded(record: Tick | Trade) -> bytes:
    """Return the framed bytes of a record."""
    return codec(Trade).encode(record) if isinstance(record, Trade) else codec(Tick).encode(record)


class Feeding:
    """Sends records at a rate from a thread of its own, from entering until all are sent or `enough` is called.

    Leaving waits for that.
    """

    def __init__(self, streams: Streams, records: Iterable[Tick | Trade], per_second: int) -> None:
        self._streams = streams
        self._records = records
        self._rate = per_second
        self._errors: list[BaseException] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feeding")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        assert not self._errors, self._errors

    def enough(self) -> None:
        """Send no more: the test has done what it wanted to do meanwhile."""
        self._enough.set()

    @property
    def over(self) -> bool:
        """Whether no more is sent."""
        return not self._thread.is_alive()

    def _work(self) -> None:
        begun = time.monotonic()
        ticks, trades = (tenant_topic(self._streams.tenant, dataset) for dataset in ("ticks", "trades"))
        try:
            with _delivering(self._streams.admin) as producer:
                for number, record in enumerate(self._records, 1):
                    topic = trades if isinstance(record, Trade) else ticks
                    producer.produce(topic, encoded(record), record.product.encode())
                    producer.poll(0)
                    if self._enough.wait(max(0.0, begun + number / self._rate - time.monotonic())):
                        return
        except Exception as error:  # noqa: BLE001 - shown by the thread that waits
            self._errors.append(error)


@contextmanager
def streams_on(broker: EmbeddedKafka, folder: Path, tenant: str) -> Iterator[Streams]:
    """Give a `Streams` whose workers are ended afterwards."""
    streams = Streams(broker, folder, tenant)
    try:
        yield streams
    finally:
        streams.end()


@contextmanager
def _delivering(settings: Settings) -> Iterator[Producer]:
    failures: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error.str())

    config = producer_config(settings, "test") | {"queue.buffering.max.messages": 1_000_000, "linger.ms": 5}
    producer = Producer({**config, "on_delivery": delivered})
    yield producer
    left = producer.flush(60)
    assert left == 0, f"{left} records were not delivered"
    assert not failures, failures[0]


def market(
    seed: int,
    count: int,
    *,
    exchange: str = "coinbase",
    products: int = 5,
    start: int | None = None,
    step: int = 10_000,
) -> list[Tick]:
    """Return ticks of a random walk: now and then late, repeated, or without quotes. Times are in microseconds."""
    chance = random.Random(seed)
    begin = start if start is not None else time.time_ns() // 1000 - count * step
    prices = {f"P{number}-USD": 100.0 + number for number in range(products)}
    ticks: list[Tick] = []
    for number in range(count):
        product = f"P{number % products}-USD"
        prices[product] = max(1.0, prices[product] + chance.choice((-0.25, 0.0, 0.25)))
        late = chance.choice((0, 3, 12)) * _MICROS if chance.random() < 0.02 else 0
        quoted, size = chance.random() < 0.9, chance.choice((0.5, 1.0, 2.25))
        at = begin + number * step - late
        ticks.append(make_tick(exchange, product, number + 1, prices[product], at=at, size=size, quoted=quoted))
        if chance.random() < 0.01:
            ticks.append(ticks[-1])
    return ticks


def with_trades(ticks: Iterable[Tick], seed: int) -> Iterator[Tick | Trade]:
    """Yield ticks as a cascade of trades brings them about: one or more trades at the price, then the tick."""
    chance, number = random.Random(seed), 0
    for tick in ticks:
        for _ in range(chance.choice((1, 1, 2, 3))):
            number += 1
            yield make_trade(tick, number, size=chance.choice((0.25, 0.5, 1.5)))
        yield tick


def make_trade(tick: Tick, number: int, *, size: float = 1.0) -> Trade:
    """Return the `number`th trade of the tick's product, at its price, 1 ms before it."""
    return Trade(
        event_id=f"{tick.exchange}:{tick.product}:t{number}",
        exchange=tick.exchange,
        product=tick.product,
        trade_id=number,
        price=tick.price,
        size=size,
        side="buy" if number % 3 else "sell",
        exchange_time=tick.exchange_time - 1_000,
        received_time=tick.received_time,
    )


def make_tick(
    exchange: str, product: str, number: int, price: float, *, at: int, size: float = 1.0, quoted: bool = True
) -> Tick:
    """Return one tick, the `number`th of its product, of event time `at` in microseconds."""
    return Tick(
        event_id=f"{exchange}:{product}:{number}",
        exchange=exchange,
        product=product,
        sequence=number,
        side="buy" if number % 3 else "sell",
        price=price,
        size=size,
        best_bid=price - 0.5 if quoted else None,
        best_ask=price + 0.5 if quoted else None,
        exchange_time=at,
        received_time=at + 5_000,
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """What one run of the engine gives: final statistics and alerts, and the statistics that the clock may add."""

    stats: dict[str, Stat]
    alerts: list[Alert]
    by_clock: dict[str, Stat]


def engine_run(records: Iterable[Sourced], rules: Sequence[ActiveRule] = ()) -> Expected:
    """Fold records of all keys, each key in one go, and then let its clock run a day."""
    stats: list[Stat] = []
    alerts: list[Alert] = []
    later: list[Stat] = []
    for (exchange, product), own in by_key(records).items():
        applying = [rule for rule in rules if applies(rule, exchange, product)]
        inputs = [row_of(record.record, record.as_of.offset, record.appended_at) for record in own]
        as_of = own[0].as_of
        state = engine.new_state(exchange, product, topic_id=as_of.topic_id, partition=as_of.partition)
        folded = engine.fold(state, inputs, applying)
        stats += folded.stats
        alerts += folded.alerts
        later += engine.advance(folded.state, folded.state.watermark + 86_400 * _MICROS, ()).stats
    return Expected(newest(stats), alerts, newest([*stats, *later]))


def assert_stats_are(actual: Sequence[Stat], expected: Expected) -> None:
    """The greatest as_of of each statistic is the engine's; beside those only the clock's may be there."""
    found = newest(actual)
    missing = sorted(expected.stats.keys() - found.keys())
    assert not missing, f"{len(missing)} of {len(expected.stats)} statistics are missing: {missing[:5]}"
    strange = sorted(found.keys() - expected.by_clock.keys())
    assert not strange, f"{len(strange)} statistics should not be there: {strange[:5]}"
    wrong = [name for name in found if _content(found[name]) != _content(expected.by_clock[name])]
    wrong = [name for name in wrong if _content(found[name]) != _content(expected.stats.get(name, found[name]))]
    assert not wrong, f"{len(wrong)} statistics differ: {found[wrong[0]]} is not {expected.by_clock[wrong[0]]}"


def assert_alerts_are(actual: Sequence[Alert], expected: Sequence[Alert]) -> None:
    """The same alerts, each with one content however often it was sent."""
    once = {alert.alert_id: alert for alert in actual}
    torn = [alert for alert in actual if once[alert.alert_id] != alert]
    assert not torn, f"two contents of one alert_id: {torn[0]} and {once[torn[0].alert_id]}"
    wanted = {alert.alert_id: alert for alert in expected}
    missing, strange = wanted.keys() - once.keys(), once.keys() - wanted.keys()
    assert not missing, f"{len(missing)} of {len(wanted)} alerts are missing: {sorted(missing)[:5]}"
    assert not strange, f"{len(strange)} alerts should not be there: {sorted(strange)[:5]}"
    assert once == wanted


def _content(stat: Stat) -> dict[str, Any]:
    fields = {name: getattr(stat, name) for name in stat.__struct_fields__}
    del fields["revision"]  # counts what was published, which a clock may have done earlier
    return fields
