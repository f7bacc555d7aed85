"""What the producer's tests share: settings, ticks, and topics read back whole."""

import asyncio
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from pulsestream.core import topics
from pulsestream.core.kafka import CompactedReader, client_config
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Feed, Tick, tick_id

BOUND = 60.0


def producer_settings(broker: EmbeddedKafka, **overrides: object) -> Settings:
    """What `pulsestream producer` would be given on this broker."""
    return broker.settings("ps-producer").model_copy(update=overrides)


def make_tick(product: str, sequence: int, received_time: int, exchange: str = "coinbase") -> Tick:
    return Tick(
        event_id=tick_id(exchange, product, sequence),
        exchange=exchange,
        product=product,
        sequence=sequence,
        price=100.5,
        exchange_time=received_time - 5_000,
        received_time=received_time,
    )


def read_topic(broker: EmbeddedKafka, topic: str) -> list[Message]:
    """Every record of a topic, partition by partition, up to the ends seen now."""
    consumer = Consumer(
        client_config(broker.settings(), "test-reader") | {"group.id": "test-reader", "enable.auto.commit": False}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=15).topics[topic].partitions
        spans = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=15) for number in partitions
        }
        left = sum(high - low for low, high in spans.values())
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        messages: list[Message] = []
        deadline = time.monotonic() + BOUND
        while len(messages) < left:
            assert time.monotonic() < deadline, f"{topic} stopped after {len(messages)} of {left} records"
            messages += consumer.consume(left - len(messages), 0.2)
        return messages
    finally:
        consumer.close()


def read_ticks(broker: EmbeddedKafka, tenant: str) -> list[Tick]:
    decode = codec(Tick).decode
    return [decode(message.value()) for message in read_topic(broker, topics.tenant_topic(tenant, "ticks"))]


def read_feeds(broker: EmbeddedKafka, exchange: str) -> dict[str, Feed]:
    """The newest record of each key of the feeds' ledger that concerns an exchange."""
    reader = CompactedReader(broker.settings(), topics.FEEDS, "test-feeds")
    try:
        decoded = {record.key: codec(Feed).decode(record.value) for record in reader.read_to_end()}
    finally:
        reader.close()
    return {key: feed for key, feed in decoded.items() if feed.exchange == exchange}


async def until(condition: Callable[[], bool], seconds: float = BOUND) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads and processes
            await asyncio.sleep(0.01)
