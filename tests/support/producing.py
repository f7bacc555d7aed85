"""What the producer's tests share: settings, ticks, and topics read back whole."""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from producers.frames import read_frames
from producers.venues.protocol import load
from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import CompactedReader, client_config
from pulsestream.core.settings import Settings, environment
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Feed, Subscription, Tick, Trade, tick_id
from tests.support.e2e import Service

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


def read_trades(broker: EmbeddedKafka, tenant: str) -> list[Trade]:
    decode = codec(Trade).decode
    return [decode(message.value()) for message in read_topic(broker, topics.tenant_topic(tenant, "trades"))]


def read_feeds(broker: EmbeddedKafka, exchange: str) -> dict[str, Feed]:
    """The newest record of each key of the feeds' ledger that concerns an exchange."""
    reader = CompactedReader(broker.settings(), topics.FEEDS, "test-feeds")
    try:
        newest = {record.key: record.value for record in reader.read_to_end()}
    finally:
        reader.close()
    decoded = {key: codec(Feed).decode(value) for key, value in newest.items() if value is not None}
    return {key: feed for key, feed in decoded.items() if feed.exchange == exchange}


async def until(condition: Callable[[], bool], seconds: float = BOUND) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads and processes
            await asyncio.sleep(0.01)


# ---- the producer and the exchange simulator as processes ----


def start_exchange(folder: Path, *arguments: str, port: int | None = None) -> tuple[Service, str]:
    """Start `pulsestream exchange`, all frames sent noted in `folder`; returns it and its URL."""
    chosen = port or process.free_port()
    sent = folder / f"sent-{secrets.token_hex(4)}-{{session}}.frames"
    command = [sys.executable, "-m", "pulsestream.cli", "exchange", *arguments, "--port", str(chosen)]
    service = Service("exchange", [*command, "--sent", str(sent)], environment({}), folder / "exchange.log")
    service.start()
    deadline = time.monotonic() + BOUND
    while process.port_is_free(chosen):
        service.assert_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return service, f"ws://127.0.0.1:{chosen}"


def start_producer(broker: EmbeddedKafka, folder: Path, url: str, exchange: str, **settings: object) -> Service:
    """Start `pulsestream producer`; it is not ready yet."""
    port = process.free_port()
    values: dict[str, object] = {
        "kafka_bootstrap": broker.bootstrap,
        "kafka_username": "ps-producer",
        "kafka_password": broker.password("ps-producer"),
        "exchange": exchange,
        "venue": "coinbase",
        "exchange_url": url,
        "ops_port": port,
    }
    command = [sys.executable, "-m", "pulsestream.cli", "producer"]
    service = Service("producer", command, environment(values | settings), folder / "producer.log", port)
    service.start()
    return service


def subscribe(
    broker: EmbeddedKafka,
    tenant: str,
    exchange: str,
    products: Iterable[str],
    *,
    datasets: Iterable[str] = ("ticks",),
    end: bool = False,
) -> None:
    """Write subscriptions as the relay does; `end` removes them."""
    producer = Producer(client_config(broker.settings(), "test-relay"))
    for product in products:
        record = Subscription(
            tenant=tenant, exchange=exchange, product=product, datasets=list(datasets), since=wall_clock(), version=1
        )
        value = None if end else codec(Subscription).encode(record)
        producer.produce(topics.SUBSCRIPTIONS, value, f"{tenant}:{exchange}:{product}")
    assert producer.flush(30) == 0


def sent_ticks(folder: Path, exchange: str) -> list[list[Tick]]:
    """The ticks that the simulator sent, session by session; received_time is the moment of sending."""
    protocol = load("coinbase", exchange).session()
    sessions = []
    for path in sorted(folder.glob("sent-*.frames"), key=lambda path: path.stat().st_mtime):
        outcomes = (outcome for frame in read_frames(path) for outcome in protocol.receive(frame.text, frame.received))
        sessions.append([outcome for outcome in outcomes if isinstance(outcome, Tick)])
    return sessions
