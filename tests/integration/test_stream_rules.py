"""A rule and the records right behind it, on a real broker: append times decide, not what arrives first."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pulsestream.core.kafka import producer_config
from pulsestream.core.topics import RULES, tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Rule, Tick
from tests.support.e2e import eventually
from tests.support.streaming import Streams, make_tick, streams_on


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        made.prepare()
        made.put_feed(made.exchange, "disconnected")
        yield made


def test_a_record_that_follows_a_rule_at_once_is_judged_by_it(streams: Streams) -> None:
    streams.start()
    products = [f"P{number}-USD" for number in range(10)]

    producer = Producer(producer_config(streams.admin, "test") | {"linger.ms": 0})
    for product in products:
        definition = {"name": product, "product": product, "condition": {"type": "price", "above": 50}}
        rule = Rule(
            rule_id=f"{streams.tenant}-{product}",
            tenant=streams.tenant,
            name=product,
            enabled=True,
            deleted=False,
            definition=json.dumps(definition),
            created_at=time.time_ns() // 1000,
            version=1,
        )
        producer.produce(RULES, codec(Rule).encode(rule), rule.rule_id.encode())
        assert producer.flush(30) == 0  # the record is appended after the rule, and at once
        tick = make_tick(streams.exchange, product, 1, 100.0, at=time.time_ns() // 1000)
        producer.produce(tenant_topic(streams.tenant, "ticks"), codec(Tick).encode(tick), product.encode())
    assert producer.flush(30) == 0

    def told() -> None:
        assert sorted(alert.product for alert in streams.alerts() if alert.state == "firing") == products

    eventually(told)
