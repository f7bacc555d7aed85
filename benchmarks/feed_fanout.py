"""What one tenant more costs the publisher: a tick for many tenants, against bare produce() calls of the same record.

Time is the CPU of the calling thread, delivery reports included on both sides: the publisher keeps account of each
copy, the bare producer counts it. The record is encoded once whoever gets it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from benchmarks.feed_codec import EXCHANGE, RECEIVED, ticker_frames
from producers.ledger import Scope
from producers.publisher import Limits, Publisher
from producers.venues.protocol import load
from pulsestream.core.headers import cloud_event
from pulsestream.core.kafka import Admin, producer_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Tick

_BATCH: Final = 100
"""Topics that one request creates."""
_WAIT: Final = 60.0
_FEW: Final = 1


@dataclass(frozen=True, slots=True)
class Fanout:
    """CPU seconds of one copy more through the publisher, and of a bare produce() call; and their ratio."""

    tenants: int
    copy: float
    bare: float
    ratio: float


def measure(broker: EmbeddedKafka, tenants: int, ticks: int, rounds: int) -> Fanout:
    """Publish `ticks` ticks to one and to all tenants, and produce them bare, in turn."""
    names = [f"bench-{number:04}" for number in range(tenants)]
    _create_topics(broker, names)
    return asyncio.run(_measure(broker, names, _ticks(ticks), rounds))


async def _measure(broker: EmbeddedKafka, tenants: list[str], ticks: list[Tick], rounds: int) -> Fanout:
    few, many = (_publisher(broker, names, ticks) for names in (tenants[:_FEW], tenants))
    bare = _bare(broker, tenants)
    copies, bares = [], []
    for number in range(rounds + 1):
        one, every, produced = (
            await _published(few, ticks),
            await _published(many, ticks),
            _produced(bare, tenants, ticks),
        )
        if number:  # the first round warms up connections and metadata
            copies.append((every - one) / len(ticks) / (len(tenants) - _FEW))
            bares.append(produced / len(ticks) / len(tenants))
    ratio = median(copy / produce for copy, produce in zip(copies, bares, strict=True))
    return Fanout(len(tenants), median(copies), median(bares), ratio)


def _create_topics(broker: EmbeddedKafka, tenants: list[str]) -> None:
    settings = broker.settings().model_copy(update={"partitions": 1})
    specs = [tenant_topic_spec(settings, tenant, "ticks") for tenant in tenants]
    for start in range(0, len(specs), _BATCH):
        Admin(settings).create(specs[start : start + _BATCH])


def _ticks(count: int) -> list[Tick]:
    session = load(EXCHANGE).session()
    outcomes = (outcome for frame in ticker_frames(count) for outcome in session.receive(frame, RECEIVED))
    return [outcome for outcome in outcomes if isinstance(outcome, Tick)]


def _publisher(broker: EmbeddedKafka, tenants: list[str], ticks: list[Tick]) -> Publisher:
    publisher = Publisher(broker.settings("ps-producer"), _NoLedger(), Limits(records=len(tenants) * len(ticks) + 1))
    publisher.route({"ticks": {tick.product: tenants for tick in ticks}})
    return publisher


class _NoLedger:
    """Takes no interval: a loss would spoil the figures, so it ends the run."""

    def open(self, scope: Scope, opened: int, cause: str) -> None:  # noqa: ARG002 - the protocol's
        raise AssertionError(f"records were lost: {cause}")

    def close(self, scope: Scope, closed: int) -> None:
        """There is nothing to close."""


async def _published(publisher: Publisher, ticks: list[Tick]) -> float:
    """Return the thread's CPU seconds for publishing ticks until all are acknowledged."""
    before = publisher.account.acknowledged
    with _thread_seconds() as seconds:
        for tick in ticks:
            await publisher.publish(tick)
        if not await publisher.drain(_WAIT):
            raise AssertionError(f"{publisher.account.acknowledged - before} records were acknowledged in {_WAIT:g} s")
    return seconds()


def _bare(broker: EmbeddedKafka, tenants: list[str]) -> Producer:
    settings = broker.settings("ps-producer")
    quiet_room = {"log_level": 2, "queue.buffering.max.messages": 10_000_000, "queue.buffering.max.kbytes": 1024 * 1024}
    producer = Producer({**producer_config(settings, "ps-bare"), **quiet_room})
    producer.list_topics(tenant_topic(tenants[0], "ticks"), timeout=_WAIT)
    return producer


def _produced(producer: Producer, tenants: list[str], ticks: list[Tick]) -> float:
    """Return the thread's CPU seconds for the same records by produce() alone, all reports served."""
    topics, reported, encode = [tenant_topic(tenant, "ticks") for tenant in tenants], [0], codec(Tick).encode

    def report(error: KafkaError | None, _: Message) -> None:
        reported[0] += error is None

    with _thread_seconds() as seconds:
        for tick in ticks:
            value, key = encode(tick), tick.product.encode()
            headers: list[tuple[str, str | bytes | None]] = [
                *cloud_event(tick.event_id, "pulsestream.tick.v1", f"/{EXCHANGE}", tick.exchange_time)
            ]
            for topic in topics:
                producer.produce(topic, value, key, headers=headers, on_delivery=report)
            producer.poll(0)
        producer.flush(_WAIT)
    if reported[0] != len(ticks) * len(topics):
        raise AssertionError(f"{reported[0]} of {len(ticks) * len(topics)} bare records were acknowledged")
    return seconds()


@contextmanager
def _thread_seconds() -> Iterator[Callable[[], float]]:
    began, ended = time.thread_time(), list[float]()
    yield lambda: ended[0] - began
    ended.append(time.thread_time())
