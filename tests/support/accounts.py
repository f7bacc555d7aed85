"""What a run of the streams left on its topics, held against the oracle and against the offsets of its sources."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from pulsestream.core.kafka import client_config
from pulsestream.core.topics import RULES, state_topic, tenant_topic
from schemas.codec import codec
from schemas.records import Rule
from streams.entries import sort
from tests.support.e2e import read_topic
from tests.support.oracle import (
    Sourced,
    applies,
    assert_alerts_equal,
    assert_one_content_each,
    assert_stats_equal,
    by_key,
    final_stats,
    passing_stats,
    transitions,
)
from tests.support.streaming import Streams


def rule_records(streams: Streams) -> list[tuple[Rule, int]]:
    """Return the versions of the tenant's rules, each with its append time (microseconds)."""
    told = [(codec(Rule).decode(one.value), one.appended_at) for one in read_topic(streams.admin, RULES)]
    return [(rule, at) for rule, at in told if rule.tenant == streams.tenant]


def assert_as_the_oracle(streams: Streams, records: Sequence[Sourced], *, windows: Sequence[str]) -> None:
    """Assert that statistics and alerts are the oracle's, for rules of one version and a clock that stood still."""
    keys = by_key(records)
    stats, allowed = {}, {}
    for own in keys.values():
        stats |= final_stats(own, windows, ended=False)
        allowed |= passing_stats(own, windows)
    found = streams.stats()
    assert_one_content_each(found)
    assert_stats_equal(found, stats, allowed=allowed)
    assert_alerts_equal(streams.alerts(), _alerts(streams, keys))


def _alerts(streams: Streams, keys: Mapping[tuple[str, str], list[Sourced]]) -> list[Any]:
    alerts = []
    for rule, at in rule_records(streams):
        definition = json.loads(rule.definition)
        for (exchange, product), own in keys.items():
            if applies(definition, exchange, product):
                alerts += transitions(definition, own, rule_id=rule.rule_id, version=rule.version, effective_at=at)
    return alerts


def assert_every_offset_accounted_for(streams: Streams, *datasets: str) -> None:
    """Assert that the checkpointed positions stand at the end of every source partition of the tenant."""
    config = client_config(streams.admin, "accounts") | {"group.id": "accounts", "enable.auto.commit": False}
    consumer = Consumer(config)
    try:
        ends = {
            (topic, partition): consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
            for topic in (tenant_topic(streams.tenant, dataset) for dataset in datasets)
            for partition in range(streams.admin.partitions)
        }
    finally:
        consumer.close()
    folded = positions(streams)
    apart = {place: (folded.get(place, 0), end) for place, end in ends.items() if folded.get(place, 0) != end}
    assert apart == {}, f"(folded up to, end) of source partitions: {apart}"


def positions(streams: Streams) -> dict[tuple[str, int], int]:
    """Return the next offset of each source partition (topic, partition) as the state topic says."""
    entries: dict[int, dict[str, bytes]] = {}
    for one in read_topic(streams.admin, state_topic(streams.app)):
        held = entries.setdefault(one.as_of.partition, {})
        name = (one.key or b"").decode()
        if one.value is None:
            held.pop(name, None)
        else:
            held[name] = one.value
    return {
        (topic, partition): position.next_offset
        for partition, held in entries.items()
        for topic, position in sort(held).positions.items()
    }
