"""One state partition on a real broker: fenced, whole or not at all, and read back as written."""

import secrets
from collections.abc import Iterator

import pytest

from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings
from pulsestream.core.topics import state_topic
from pulsestream.local.kafka import EmbeddedKafka
from streams.checkpoint import StatePartition
from streams.errors import FencedError, StateError
from tests.support.e2e import read_topic


@pytest.fixture
def settings(broker: EmbeddedKafka) -> Settings:
    app = f"pulsestream-{secrets.token_hex(4)}"
    admin = broker.settings().model_copy(update={"stream_app": app})
    Admin(admin).create([spec for spec in platform_topic_specs(admin) if spec.name == state_topic(app)])
    return broker.settings("ps-stream").model_copy(update={"stream_app": app})


@pytest.fixture
def partition(settings: Settings) -> Iterator[StatePartition]:
    owned = StatePartition(settings, 1)
    owned.take_over()
    yield owned
    owned.close()


def taken_over(settings: Settings) -> dict[str, bytes]:
    successor = StatePartition(settings, 1)
    try:
        return successor.take_over()
    finally:
        successor.close()


def test_what_was_committed_is_read_back_by_the_next_owner(settings: Settings, partition: StatePartition) -> None:
    partition.commit({"kept": b"1", "changed": b"old", "removed": b"1"})
    partition.commit({"changed": b"new", "removed": None})

    assert taken_over(settings) == {"kept": b"1", "changed": b"new"}


def test_a_partition_never_written_is_empty(settings: Settings) -> None:
    assert taken_over(settings) == {}


def test_a_former_owner_is_fenced_and_nothing_that_it_writes_shows(
    settings: Settings, partition: StatePartition
) -> None:
    partition.commit({"position": b"10"})
    successor = StatePartition(settings, 1)
    assert successor.take_over() == {"position": b"10"}
    successor.commit({"position": b"20"})

    with pytest.raises(FencedError, match="another worker has taken"):
        partition.commit({"position": b"11", "stale": b"1"})
    with pytest.raises(StateError):
        partition.commit({"stale": b"2"})

    successor.close()
    assert taken_over(settings) == {"position": b"20"}


def test_a_checkpoint_cut_short_is_not_seen_at_all(settings: Settings, partition: StatePartition) -> None:
    partition.commit({"state": b"old", "position": b"10"})
    producer = partition._producer
    producer.begin_transaction()
    producer.produce(state_topic(settings.stream_app), b"new", b"state", 1)
    producer.flush(10)  # on the broker, but the position is not, and the owner is gone

    assert taken_over(settings) == {"state": b"old", "position": b"10"}


def test_other_partitions_are_left_alone(settings: Settings, partition: StatePartition) -> None:
    other = StatePartition(settings, 2)
    other.take_over()

    partition.commit({"mine": b"1"})
    other.commit({"theirs": b"1"})

    other.close()
    assert taken_over(settings) == {"mine": b"1"}


def test_many_entries_are_one_checkpoint(settings: Settings, partition: StatePartition) -> None:
    entries = {f"key-{number}": secrets.token_bytes(200) for number in range(20_000)}

    partition.commit(dict(entries))

    assert taken_over(settings) == entries


def test_without_rights_on_the_topic_the_error_says_so(broker: EmbeddedKafka, settings: Settings) -> None:
    stranger = broker.settings("ps-producer").model_copy(update={"stream_app": settings.stream_app})

    with pytest.raises(StateError, match="authorization"):
        StatePartition(stranger, 1).take_over()


def test_the_topic_holds_only_named_entries(broker: EmbeddedKafka, settings: Settings) -> None:
    owned = StatePartition(settings, 0)
    owned.take_over()

    owned.commit({"a": b"1"})

    owned.close()
    arrived = read_topic(broker.settings(), state_topic(settings.stream_app))
    assert [(record.key, record.value) for record in arrived] == [(b"a", b"1")]
