"""How each topic should exist: partitions and configuration, from the settings alone.

Retention counts from the broker's append time (`message.timestamp.type=LogAppendTime`): replayed history carries old
event times, which would otherwise let the broker delete it within minutes.
"""

from typing import Final

from pulsestream.core.kafka import TopicSpec
from pulsestream.core.settings import Settings
from pulsestream.core.topics import (
    AUDIT_HEADS,
    CONTROL_TOPICS,
    FEED_SHARDS,
    FEEDS,
    shard_app,
    state_topic,
    tenant_topic,
)

MAX_MESSAGE_BYTES: Final = 1_048_576
"""Of a record on a data topic."""
DEAD_LETTER_ROOM: Final = 65_536
"""A dead letter carries a whole record and its reason, so its topic takes this much more."""

_HOUR_MS: Final = 3_600_000


def tenant_topic_spec(settings: Settings, tenant: str, dataset: str) -> TopicSpec:
    """Return how a tenant's topic should exist; raises InvalidNameError."""
    room = DEAD_LETTER_ROOM if dataset == "dlq" else 0
    return TopicSpec(
        tenant_topic(tenant, dataset),
        settings.partitions,
        _common(settings)
        | {
            "cleanup.policy": "delete",
            "retention.ms": str(settings.retention_hours * _HOUR_MS),
            "max.message.bytes": str(MAX_MESSAGE_BYTES + room),
        },
    )


def platform_topic_specs(settings: Settings) -> list[TopicSpec]:
    """Return control topics and ends of audits (one partition each), feed shards, and a state topic for each shard."""
    compacted = _common(settings) | {"cleanup.policy": "compact"}
    control = [TopicSpec(name, 1, compacted | _often_cleaned(name)) for name in (*CONTROL_TOPICS, AUDIT_HEADS)]
    state = compacted | {"min.cleanable.dirty.ratio": "0.2", "segment.bytes": str(64 * 1024 * 1024)}
    shards = TopicSpec(FEED_SHARDS, settings.feed_shards, _common(settings) | {"cleanup.policy": "delete"})
    apps = [shard_app(settings.stream_app, shard) for shard in range(settings.stream_shards)]
    return [*control, shards, *(TopicSpec(state_topic(app), settings.partitions, state) for app in apps)]


def _often_cleaned(topic: str) -> dict[str, str]:
    """Keep the feeds' ledger short: a feed writes its state each second, and every reader starts at the beginning."""
    return {"segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"} if topic == FEEDS else {}


def _common(settings: Settings) -> dict[str, str]:
    return {
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(settings.min_insync_replicas),
        "compression.type": "producer",
    }
