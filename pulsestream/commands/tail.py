"""Print a tenant's records as they arrive: read without a consumer group, so that looking changes nothing."""

import json
from collections.abc import Iterator
from typing import TextIO

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from pulsestream.core.errors import UsageError
from pulsestream.core.kafka import ADMIN_TIMEOUT, QUIET, BrokerError, client_config, reason
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from schemas.codec import decode_any
from schemas.errors import DecodeError
from schemas.render import to_json


def tail(settings: Settings, tenant: str, dataset: str, *, limit: int, beginning: bool, out: TextIO) -> None:
    """Write one JSON object a line to `out`, for ever or until `limit` records (0: no limit).

    A record that cannot be decoded is a line too, with its position and the reason. Raises UsageError for a name that
    cannot be or a topic that does not exist, BrokerError when the broker is away.
    """
    topic = tenant_topic(tenant, dataset)
    consumer = Consumer(
        client_config(settings, "tail")
        | QUIET
        | {"group.id": "tail-unused", "enable.auto.commit": False, "fetch.wait.max.ms": 50}
    )
    try:
        start = OFFSET_BEGINNING if beginning else OFFSET_END
        consumer.assign([TopicPartition(topic, number, start) for number in _partitions(consumer, topic)])
        for count, line in enumerate(_lines(consumer), 1):
            out.write(line + "\n")
            out.flush()
            if count == limit:
                return
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    try:
        found = consumer.list_topics(topic, timeout=ADMIN_TIMEOUT).topics[topic]
    except KafkaException as error:
        raise BrokerError(f"cannot look up topic {topic}: {reason(error)}; is `pulsestream up` running?") from error
    if found.error is not None:
        raise UsageError(
            f"topic {topic} is not there: {found.error.str()}. A tenant's topics are made at its first subscription "
            "or event"
        )
    return sorted(found.partitions)


def _lines(consumer: Consumer) -> Iterator[str]:
    while True:
        for message in consumer.consume(500, 0.5):
            failure = message.error()
            if failure is not None:
                if failure.retriable():
                    continue
                raise BrokerError(f"cannot read: {failure.str()}")
            yield _line(message.partition(), message.offset(), message.value())


def _line(partition: int | None, offset: int | None, value: bytes | None) -> str:
    try:
        shown: dict[str, object] = to_json(decode_any(value))
    except DecodeError as error:
        shown = {"undecodable": str(error), "partition": partition, "offset": offset}
    return json.dumps(shown, ensure_ascii=False)
