"""A control topic as a table: whole at the start, current afterwards, never going back to a lower version."""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from pulsestream.core.errors import OutageError
from pulsestream.core.kafka import Admin, TopicSpec, producer_config
from pulsestream.core.settings import Settings
from schemas.codec import codec
from schemas.control import ControlTable
from schemas.records import Subscription


@pytest.fixture
def topic(service_settings: Callable[..., Settings]) -> Iterator[str]:
    admin = Admin(service_settings("admin"))
    name = f"ps._platform.test-{secrets.token_hex(4)}.v1"
    admin.create([TopicSpec(name, 1, {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"})])
    yield name
    admin.delete([name])


def subscription(version: int, product: str = "BTC-USD") -> Subscription:
    return Subscription(
        tenant="acme", exchange="coinbase", product=product, datasets=["ticks"], since=1, version=version
    )


def publish(settings: Settings, topic: str, *records: tuple[str, bytes | None]) -> None:
    producer = Producer(producer_config(settings, "test"))
    for key, value in records:
        producer.produce(topic, key=key, value=value)
    assert producer.flush(15) == 0


def encoded(record: Subscription) -> bytes:
    return codec(Subscription).encode(record)


def table(settings: Settings, topic: str) -> ControlTable[Subscription]:
    return ControlTable(settings, topic, Subscription, "test-control")


def test_load_returns_everything_up_to_the_end(service_settings: Callable[..., Settings], topic: str) -> None:
    settings = service_settings("admin")
    publish(settings, topic, *[(f"k{number}", encoded(subscription(number))) for number in range(1, 1201)])

    held = table(settings, topic)
    changes = held.load()

    assert len(changes) == len(held.records) == 1200
    assert abs(changes[-1].appended_at / 1e6 - time.time()) < 60
    held.close()


def test_an_empty_topic_loads_at_once(service_settings: Callable[..., Settings], topic: str) -> None:
    held = table(service_settings("admin"), topic)

    assert held.load() == []
    held.close()


class Electing:
    """A consumer that answers, for its first questions, as the library does of a topic that was made just now."""

    def __init__(self, consumer: Consumer, code: int, questions: int = 2) -> None:
        self._consumer, self._code, self.left = consumer, code, questions

    def get_watermark_offsets(self, *asked: Any, **how: Any) -> tuple[int, int]:
        if self.left:
            self.left -= 1
            raise KafkaException(KafkaError(self._code))
        return self._consumer.get_watermark_offsets(*asked, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


@pytest.mark.parametrize("code", [KafkaError.LEADER_NOT_AVAILABLE, KafkaError._UNKNOWN_PARTITION])
def test_a_partition_that_nobody_leads_yet_is_waited_for(
    service_settings: Callable[..., Settings], topic: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    settings = service_settings("admin")
    publish(settings, topic, ("a", encoded(subscription(1))))
    held = table(settings, topic)
    electing = Electing(held._reader._consumer, code)
    monkeypatch.setattr(held._reader, "_consumer", electing)

    assert [change.key for change in held.load()] == ["a"]
    assert electing.left == 0
    held.close()


def test_a_lower_version_and_a_malformed_record_change_nothing(
    service_settings: Callable[..., Settings], topic: str
) -> None:
    settings = service_settings("admin")
    publish(settings, topic, ("k", encoded(subscription(5))), ("k", encoded(subscription(4))), ("k", b"\xffnonsense"))

    held = table(settings, topic)
    held.load()

    assert held.records["k"].version == 5
    held.close()


def test_a_change_and_a_deletion_arrive_while_it_follows(service_settings: Callable[..., Settings], topic: str) -> None:
    settings = service_settings("admin")
    held = table(settings, topic)
    held.load()

    publish(settings, topic, ("k", encoded(subscription(1))), ("k", None))
    changes = []
    deadline = time.monotonic() + 20
    while len(changes) < 2 and time.monotonic() < deadline:
        changes += held.refresh(0.5)

    assert [change.record is None for change in changes] == [False, True]
    assert held.records == {}
    held.close()


def test_a_topic_that_cannot_be_read_is_an_outage(service_settings: Callable[..., Settings]) -> None:
    held = table(service_settings("admin"), "ps._platform.absent.v1")

    with pytest.raises(OutageError, match=r"ps\._platform\.absent\.v1"):
        held.load()
    held.close()
