"""From a tick's produce() to its alert on the tenant's topic, at 10,000 ticks a second, and a bare record beside it.

Real time: a tick's event time is the moment it is produced, and an alert says at which tick's time it happened, so the
difference to the moment the alert is read is the latency. With each tick that fires goes a bare record, by the same
producer to a topic that the same consumer reads: what the clients and the broker take.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.peers.race import SpoiltError
from benchmarks.rounds import percentile
from benchmarks.streams_stand import EXCHANGE, Stand, offered
from pulsestream.core.kafka import TopicSpec, client_config, producer_config
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Alert, Tick

RATE: Final = 10_000
PRODUCTS: Final = tuple(f"A{number:02}-USD" for number in range(100))
TENANT: Final = "bench-alerts"
EVERY: Final = 51
"""Of so many ticks one fires, and the product's next one resolves; no divisor with the products in common."""
WARM_UP: Final = 5.0
"""Seconds that are not counted."""
BARE: Final = "bench-bare"
_ABOVE, _CLEAR, _HIGH, _LOW = 110.0, 105.0, 120.0, 100.0
_LAST: Final = 20.0
"""Seconds until the last alert is there, at most."""
_PAUSE: Final = 0.001


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds at the median and 99th percentile of alerts and of bare records; ticks a second as produced."""

    p50: float
    p99: float
    bare_p50: float
    bare_p99: float
    rate: float
    alerts: int

    @property
    def over_bare(self) -> float:
        """What the alert's p99 is above that of a bare record."""
        return self.p99 - self.bare_p99


@dataclass(slots=True)
class _Arrivals:
    """When things were read, minus when they were produced (seconds), with the moment of the latter (micros)."""

    alerts: list[tuple[int, float]] = field(default_factory=list)
    bare: list[tuple[int, float]] = field(default_factory=list)


def measure(broker: EmbeddedKafka, seconds: float, *, others: int = 0, partitions: int = 3) -> tuple[Latency, float]:
    """Return the latency over `seconds` beside `others` tenants' topics, and how many seconds those took to create."""
    with Stand.on(broker, partitions) as stand:
        began = time.monotonic()
        stand.tenants([*(f"other-{number:04}" for number in range(others)), TENANT])
        stand.write([(tenant_topic(TENANT, "bars"), b"", b"")])  # the broker makes topics one after the other
        created = time.monotonic() - began
        stand.subscribe((TENANT, product) for product in PRODUCTS)
        condition = {"type": "price", "above": _ABOVE, "clear": _CLEAR}
        stand.rule(TENANT, {"name": "spike", "product": "*", "exchange": EXCHANGE, "condition": condition})
        stand.topic(TopicSpec(BARE, 1, {}))
        with stand.workers(1), _reading(stand) as arrivals:
            begin, produced, sent = _produce(stand, WARM_UP + seconds)
            _wait(arrivals, sent)
    first = begin + int(WARM_UP * 1e6)
    return _latency(arrivals, first, produced / (WARM_UP + seconds)), created


def _produce(stand: Stand, seconds: float) -> tuple[int, int, int]:
    """Produce ticks evenly; return when that began (micros), how many there were, and how many fired."""
    producer = Producer(producer_config(stand.settings, "bench-alerts") | {"log_level": 2})
    source, encode = tenant_topic(TENANT, "ticks"), codec(Tick).encode
    keys = [product.encode() for product in PRODUCTS]
    began, number, fired = time.time_ns() // 1000, 0, 0
    due = 0
    while due < seconds * RATE:
        due = min(int((time.time_ns() // 1000 - began) * RATE / 1e6), int(seconds * RATE))
        for number in range(number, due):  # noqa: B020 - goes on where it stopped
            fires = number % EVERY == 0
            turn = number % len(PRODUCTS)
            value = encode(_tick(number, PRODUCTS[turn], _HIGH if fires else _LOW))
            _offer(producer, source, keys[turn], value)
            if fires:
                fired += 1
                _offer(producer, BARE, b"", time.time_ns().to_bytes(8, "big") + value)
        number = due
        producer.poll(0)
        time.sleep(_PAUSE)  # a poll that finds a report does not wait: it would take a whole core
    producer.flush(_LAST)
    return began, number, fired


def _offer(producer: Producer, topic: str, key: bytes, value: bytes) -> None:
    if not offered(producer, topic, key, value):
        raise SpoiltError(f"the broker does not take {RATE:,} ticks a second")


def _tick(number: int, product: str, price: float) -> Tick:
    now = time.time_ns() // 1000
    return Tick(
        event_id=f"{EXCHANGE}:{product}:{now}",
        exchange=EXCHANGE,
        product=product,
        sequence=now,
        trade_id=number,
        side="buy",
        price=price,
        size=0.5,
        best_bid=price - 0.01,
        best_bid_size=12.5,
        best_ask=price + 0.01,
        best_ask_size=0.4,
        volume_24h=94_381.0,
        exchange_time=now,
        received_time=now,
    )


@contextmanager
def _reading(stand: Stand) -> Iterator[_Arrivals]:
    """Read alerts and bare records in a thread beside."""
    arrivals, ending = _Arrivals(), threading.Event()
    consumer = Consumer(
        client_config(stand.settings, "bench-reader")
        | {"group.id": "bench-reader", "enable.auto.commit": False, "log_level": 2}
    )
    alerts = tenant_topic(TENANT, "alerts")
    partitions = [TopicPartition(alerts, number, OFFSET_BEGINNING) for number in range(stand.settings.partitions)]
    consumer.assign([*partitions, TopicPartition(BARE, 0, OFFSET_BEGINNING)])
    reader = threading.Thread(target=_read, args=(consumer, arrivals, ending), daemon=True)
    reader.start()
    try:
        yield arrivals
    finally:
        ending.set()
        reader.join()
        consumer.close()


def _read(consumer: Consumer, arrivals: _Arrivals, ending: threading.Event) -> None:
    decode = codec(Alert).decode
    while not ending.is_set():
        message = consumer.poll(0.1)
        now = time.time_ns()
        if message is None or message.error() is not None:
            continue
        value = message.value() or b""
        if message.topic() == BARE:
            produced = int.from_bytes(value[:8], "big")
            arrivals.bare.append((produced // 1000, (now - produced) / 1e9))
        else:
            at = decode(value).at
            arrivals.alerts.append((at, (now - at * 1000) / 1e9))


def _wait(arrivals: _Arrivals, fired: int) -> None:
    """Wait until every tick that fired has its two alerts and its bare record (the last resolutions may be missing)."""
    deadline = time.monotonic() + _LAST
    while len(arrivals.alerts) < 2 * fired - len(PRODUCTS) or len(arrivals.bare) < fired:
        if time.monotonic() > deadline:
            raise SpoiltError(f"{fired} ticks fired: {len(arrivals.alerts)} alerts, {len(arrivals.bare)} bare records")
        time.sleep(0.05)


def _latency(arrivals: _Arrivals, first: int, rate: float) -> Latency:
    alerts = [seconds * 1e3 for at, seconds in arrivals.alerts if at >= first]
    bare = [seconds * 1e3 for at, seconds in arrivals.bare if at >= first]
    return Latency(
        percentile(alerts, 0.5),
        percentile(alerts, 0.99),
        percentile(bare, 0.5),
        percentile(bare, 0.99),
        rate,
        len(alerts),
    )
