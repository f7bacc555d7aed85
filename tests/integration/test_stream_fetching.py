"""Our fetcher on a real broker: what librdkafka and aiokafka write, in every codec, is read as aiokafka reads it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Producer

from pulsestream.core.kafka import producer_config
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from streams.fetching import hand_on_blocks
from tests.support.batching import CODECS, Written

RECORDS = [
    Written(number, key=None if number % 7 == 0 else b"k%d" % number, value=value, headers=headers)
    for number, (value, headers) in enumerate(
        [(b"value %d" % number * (number % 50), [("ce_id", b"%d" % number)] * (number % 3)) for number in range(500)]
        + [(None, []), (b"", [("empty", None)]), (b"x" * 200_000, []), (b"y", [])]
    )
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("writer", ["librdkafka", "aiokafka"])
def test_what_a_producer_writes_is_read_as_the_library_reads_it(
    broker: EmbeddedKafka, tenant: str, make_topics: Any, writer: str, codec: str
) -> None:
    [topic] = make_topics(tenant, "ticks")
    settings = broker.settings()

    if writer == "librdkafka":
        write(settings, topic, codec)
    else:
        asyncio.run(write_by_aiokafka(settings, topic, codec))

    ours, library = asyncio.run(read(settings, topic, ours=True)), asyncio.run(read(settings, topic, ours=False))
    assert ours == library
    assert [value for _, _, _, value, _ in ours] == [record.value for record in RECORDS]


def write(settings: Settings, topic: str, codec: str) -> None:
    producer = Producer(producer_config(settings, "test") | {"compression.type": codec, "linger.ms": 50})
    for record in RECORDS:
        producer.produce(topic, record.value, record.key, partition=0, headers=record.headers)
    assert producer.flush(30) == 0


async def write_by_aiokafka(settings: Settings, topic: str, codec: str) -> None:
    producer = AIOKafkaProducer(**client(settings), compression_type=None if codec == "none" else codec, linger_ms=50)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, record.value, record.key, partition=0, headers=record.headers)
            for record in RECORDS
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def read(settings: Settings, topic: str, *, ours: bool) -> list[tuple[Any, ...]]:
    """Return offset, append time, key, value and headers of all records, read in pieces from the first one."""
    consumer = AIOKafkaConsumer(**client(settings), isolation_level="read_committed", max_poll_records=70)
    await consumer.start()
    try:
        if ours:
            hand_on_blocks(consumer._fetcher)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        records: list[Any] = []
        while len(records) < len(RECORDS):
            fetched = (await consumer.getmany(timeout_ms=1000)).get(partition)
            records += pieces(fetched) if fetched else []
    finally:
        await consumer.stop()
    return [(each.offset, each.timestamp, each.key, each.value, list(each.headers)) for each in records]


def pieces(fetched: Any) -> Sequence[Any]:
    assert 0 < len(fetched) <= 70
    return [record for block in fetched.blocks for record in block.records()] if hasattr(fetched, "blocks") else fetched


def client(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security,
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": settings.kafka_username,
        "sasl_plain_password": settings.kafka_password.get_secret_value(),
    }
