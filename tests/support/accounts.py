"""What a run of the streams left on its topics, held against the oracle and against the offsets of its sources."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from pulsestream.core.kafka import client_config
from pulsestream.core.settings import Settings
from pulsestream.core.topics import RULES, state_topic, tenant_topic
from schemas.codec import codec
from schemas.records import Alert, Bar, Rule, Stat
from streams.entries import sort
from tests.support.e2e import read_topic
from tests.support.oracle import (
    WINDOWS,
    Sourced,
    applies,
    assert_alerts_equal,
    assert_bars_equal,
    assert_one_content_each,
    assert_stats_equal,
    by_key,
    final_bars,
    final_stats,
    passing_stats,
    transitions,
)
from tests.support.streaming import Streams


def rule_records(streams: Streams, tenant: str) -> list[tuple[Rule, int]]:
    """Return the versions of a tenant's rules, each with its append time (microseconds)."""
    told = [(codec(Rule).decode(one.value), one.appended_at) for one in read_topic(streams.admin, RULES)]
    return [(rule, at) for rule, at in told if rule.tenant == tenant]


@dataclass(frozen=True, slots=True)
class Truth:
    """What the oracle says of a tenant's records: final statistics, those that may be there besides, bars, alerts."""

    records: Sequence[Sourced]
    stats: Mapping[str, Stat]
    allowed: Mapping[str, Stat]
    bars: Mapping[str, Bar]
    alerts: Sequence[Alert]


def truth_of(streams: Streams, *, basis: str = "ticks", tenant: str | None = None) -> Truth:
    """Ask the oracle about the tenant's topics, its rules of one version each, and a clock that stood still."""
    records = [*streams.ticks(tenant), *streams.trades(tenant)]
    stats, allowed, bars, alerts = {}, {}, {}, []
    for (exchange, product), own in by_key(records).items():
        stats |= final_stats(own, list(WINDOWS), basis=basis, ended=False)
        allowed |= passing_stats(own, list(WINDOWS), basis=basis)
        bars |= final_bars(own, basis=basis, ended=False)
        for rule, at in rule_records(streams, tenant or streams.tenant):
            definition = json.loads(rule.definition)
            if applies(definition, exchange, product):
                named = {"rule_id": rule.rule_id, "version": rule.version, "effective_at": at}
                alerts += transitions(definition, own, basis=basis, **named)
    return Truth(records, stats, allowed, bars, alerts)


def assert_true(streams: Streams, truth: Truth, tenant: str | None = None) -> None:
    """Assert that a tenant's statistics, bars and alerts are the oracle's, each id and position with one content."""
    found = streams.stats(tenant)
    assert_one_content_each(found)
    assert_stats_equal(found, truth.stats, allowed=truth.allowed)
    assert_bars_equal(streams.bars(tenant), truth.bars, truth.records)
    assert_alerts_equal(streams.alerts(tenant), truth.alerts)


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
    folded = positions(streams.admin, streams.app)
    apart = {place: (folded.get(place, 0), end) for place, end in ends.items() if folded.get(place, 0) != end}
    assert apart == {}, f"(folded up to, end) of source partitions: {apart}"


def positions(admin: Settings, app: str) -> dict[tuple[str, int], int]:
    """Return the next offset of each source partition (topic, partition) as the state topic of an application says."""
    entries: dict[int, dict[str, bytes]] = {}
    for one in read_topic(admin, state_topic(app)):
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
