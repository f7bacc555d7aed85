"""How long a hot tenant's backlog delays the alerts of a quiet one on the same partitions.

One worker; the hot tenant's topic holds a backlog that takes it far longer than the measurement, the quiet tenant's
gets a tick every 50 ms, each of which makes an alert. The same without the backlog beside it, in turn.
"""

import itertools
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.choice import Figures
from benchmarks.peers.race import SpoiltError
from benchmarks.rounds import percentile
from benchmarks.streams_cost import Load
from benchmarks.streams_stand import EXCHANGE, Stand, offered
from benchmarks.table import show
from pulsestream.core.kafka import client_config, producer_config
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Alert, Tick

PARTS: Final = ("fairness",)
QUIET: Final = "quiet"
PRODUCT: Final = "Q-USD"
EVERY: Final = 0.05
"""Seconds between two ticks of the quiet tenant."""
PARTITIONS: Final = 3
WARM_UP: Final = 2.0
"""Seconds of ticks that are not counted: the producer connects during the first ones."""
_BACKLOG: Final = 1_500_000
_QUICK_BACKLOG: Final = 150_000
_LAST: Final = 60.0


@dataclass(frozen=True, slots=True)
class Delay:
    """Milliseconds from a quiet tenant's tick to its alert; records of the backlog folded meanwhile."""

    p50: float
    p99: float
    longest: float
    beside: float


def run(broker: EmbeddedKafka, parts: Collection[str], rounds: int | None, *, quick: bool) -> Figures:
    """Measure if it is among the parts, print a table, and return the figures."""
    if not set(PARTS) & set(parts):
        return {}
    seconds, backlog = (3.0, _QUICK_BACKLOG) if quick else (20.0, _BACKLOG)
    alone: list[Delay] = []
    hot: list[Delay] = []
    try:
        for _ in range(rounds or (1 if quick else 3)):
            alone.append(_measure(broker, 0, seconds))
            hot.append(_measure(broker, backlog, seconds))
    except SpoiltError as error:
        return {"hot_tenant_delay_p99_ms": None, "hot_tenant_delay_p99_ms_reason": str(error)}
    rows = [_row("alone", one) for one in alone] + [_row("beside a backlog", one) for one in hot]
    columns = ("quiet tenant", "p50, ms", "p99, ms", "longest, ms", "records folded beside it")
    show("a quiet tenant's tick to its alert", columns, rows)
    return {
        "hot_tenant_delay_p99_ms": median(one.p99 for one in hot),
        "hot_tenant_over_alone_p99_ms": median(one.p99 - other.p99 for one, other in zip(hot, alone, strict=True)),
    }


def _row(name: str, one: Delay) -> tuple[str, ...]:
    return name, f"{one.p50:.1f}", f"{one.p99:.1f}", f"{one.longest:.1f}", f"{one.beside:,.0f}"


def _measure(broker: EmbeddedKafka, backlog: int, seconds: float) -> Delay:
    load = Load(backlog, 100.0)
    with Stand.on(broker, PARTITIONS) as stand:
        stand.tenants([QUIET, *load.names])
        stand.subscribe([(QUIET, PRODUCT), *load.subscriptions()])
        condition = {"type": "price", "above": 110, "clear": 110}
        stand.rule(QUIET, {"name": "toggle", "product": "*", "exchange": EXCHANGE, "condition": condition})
        stand.write(load.ticks())
        with _reading(stand) as arrived, stand.workers(1) as workers:
            before = workers[0].folded()
            sent = _toggle(stand, WARM_UP + seconds)
            beside = workers[0].folded() - before - len(sent)
            _wait(arrived, sent)
    if backlog and beside > backlog - len(sent):
        raise SpoiltError("the backlog was folded before the measurement ended")
    delays = [(arrived[at] - at) / 1e3 for at in sent if at >= sent[0] + WARM_UP * 1e6]
    return Delay(percentile(delays, 0.5), percentile(delays, 0.99), max(delays), beside)


def _toggle(stand: Stand, seconds: float) -> list[int]:
    """Send ticks, each over the threshold or under it in turn; return their times (micros)."""
    producer = Producer(producer_config(stand.settings, "bench-quiet") | {"linger.ms": 0, "log_level": 2})
    encode, began, sent = codec(Tick).encode, time.monotonic(), []
    for number in itertools.count():
        due = began + number * EVERY
        if due > began + seconds:
            break
        time.sleep(max(0.0, due - time.monotonic()))
        at = time.time_ns() // 1000
        tick = Tick(
            event_id=f"{EXCHANGE}:{PRODUCT}:{at}",
            exchange=EXCHANGE,
            product=PRODUCT,
            sequence=at,
            price=120.0 if number % 2 == 0 else 100.0,
            exchange_time=at,
            received_time=at,
        )
        if not offered(producer, tenant_topic(QUIET, "ticks"), PRODUCT.encode(), encode(tick)):
            raise SpoiltError("the broker does not take the quiet tenant's ticks")
        sent.append(at)
    producer.flush(_LAST)
    return sent


@contextmanager
def _reading(stand: Stand) -> Iterator[dict[int, int]]:
    """Read the quiet tenant's alerts in a thread beside: when each arrived, by the time of its tick (micros)."""
    arrived: dict[int, int] = {}
    ending = threading.Event()
    consumer = Consumer(
        client_config(stand.settings, "bench-reader")
        | {"group.id": "bench-reader", "enable.auto.commit": False, "log_level": 2}
    )
    topic = tenant_topic(QUIET, "alerts")
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])

    def read() -> None:
        decode = codec(Alert).decode
        while not ending.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                arrived.setdefault(decode(message.value() or b"").at, time.time_ns() // 1000)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield arrived
    finally:
        ending.set()
        reader.join()
        consumer.close()


def _wait(arrived: dict[int, int], sent: list[int]) -> None:
    deadline = time.monotonic() + _LAST
    while not arrived.keys() >= set(sent):
        if time.monotonic() > deadline:
            raise SpoiltError(f"{len(set(sent) - arrived.keys())} of {len(sent)} alerts did not come")
        time.sleep(0.05)
