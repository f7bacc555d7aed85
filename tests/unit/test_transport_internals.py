"""What the batch transport relies on inside faust-streaming and aiokafka: a change there has to be looked at.

Each entry is a method that is overridden, or whose behaviour an override counts on, with a digest of its source.
After an upgrade: read the difference, adapt `streams/transport.py`, `fetching.py` or `sessions.py`, and write the new
digest here.
"""

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import aiokafka
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher as AioFetcher
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import BaseCoordinator, GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState, TopicPartitionState
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.protocol.fetch import FetchRequest
from faust.app.base import App
from faust.events import Event
from faust.serializers.schemas import Schema
from faust.tables.recovery import Recovery
from faust.transport import conductor, consumer
from faust.transport.drivers import aiokafka as driver
from mode.utils.queues import FlowControlQueue

from streams import fetching, sessions, transport

RELIED_ON: dict[Callable[..., Any], str] = {
    # replaced
    Schema.compile: "d46eec5ce3195b2c",
    conductor.Conductor._update_tp_index: "e8e3ac9025ef44f7",
    driver.AIOKafkaConsumerThread._create_worker_consumer: "c2701bfc3e6f6cad",
    driver.AIOKafkaConsumerThread.subscribe: "74f90b8c8cbc6384",
    driver.AIOKafkaConsumerThread.commit: "d31c8558ba25310c",
    driver.AIOKafkaConsumerThread.verify_event_path: "b983e7735f647cb3",
    driver.Consumer._new_consumer_thread: "0870ec53dea75083",
    driver.Consumer._to_message: "7c24f6511b2fcef7",
    consumer.Consumer.on_buffer_full: "c8961679e0bcdce5",
    consumer.Consumer.perform_seek: "0e8c130ff4b0afd8",
    consumer.Consumer.on_partitions_revoked: "d04b7ae72c6fc206",
    consumer.Consumer.on_partitions_assigned: "29ce96596f05a18c",
    consumer.Consumer._new_offset: "1d2c7ea89a7ad4f1",
    consumer.Consumer._commit_offsets: "1a69799041188441",
    consumer.Consumer._filter_tps_with_pending_acks: "f6f9239774234e7e",
    consumer.ThreadDelegateConsumer._getmany: "f9d47aa9010b5ff2",
    consumer.ThreadDelegateConsumer.__init__: "7072ae80eac1ff62",
    consumer.ThreadDelegateConsumer.highwater: "f52cb0d26a713c3a",
    driver.Consumer.verify_event_path: "a17e8f0610e1abcb",
    driver.Transport.__init__: "a06006f6ae8ed716",
    AbstractPartitionAssignor: "4089452a02208fc4",
    driver.AIOKafkaConsumerThread.on_start: "38b4e8bd1e10723a",
    FetchResult.getall: "3e717e30de5068d5",
    PartitionRecords._consumer_record: "e668541600b047ab",
    AioFetcher.fetched_records: "be4348896b9b66af",
    AioFetcher._proc_fetch_request: "59bf948fff47eed5",
    FetchRequest.build: "952ef0f41192efc3",
    # counted on
    consumer.Consumer.getmany: "4b168d84882a70d6",
    consumer.Consumer._wait_next_records: "6218e1969a636b3f",
    consumer.Consumer._drain_messages: "44a2500309e83c63",
    consumer.Consumer.ack: "5fcf41cf45153475",
    consumer.Consumer._commit_tps: "a20e230b05ae8b15",
    consumer.Consumer.pause_partitions: "27a1c94bdacd54de",
    consumer.Consumer.resume_partitions: "afe6b7c02a41d63c",
    consumer.Consumer._should_commit: "5ce941793947ad42",
    driver.AIOKafkaConsumerThread._fetch_records: "39a2c6c79fc1455a",
    driver.ConsumerRebalanceListener.on_partitions_revoked: "348c3aec879faf80",
    driver.ConsumerRebalanceListener.on_partitions_assigned: "1c1f8406ad3698a6",
    App._on_partitions_revoked: "d5c895bbe57dc73a",
    App._on_partitions_assigned: "de932b7927db85b3",
    App._stop_consumer: "55854a5de12c3f52",
    Recovery._resume_streams: "d986a6710c1aca98",
    Event.ack: "2d29a6eda87c4ce5",
    FlowControlQueue.clear: "fa9a86f6b097c90f",
    BaseCoordinator._handle_metadata_update: "b2832b6d82bea7c4",
    GroupCoordinator._on_join_prepare: "4d9524afc0ee2c2f",
    GroupCoordinator._perform_assignment: "a5cf61fa97320199",
    GroupCoordinator.ensure_active_group: "33c84c1a93012e81",
    FetchRequest.__init__: "f31b6b74cc94dae4",
    FetchResult.check_assignment: "b5340df67e3f330f",
    FetchResult._update_position: "83fb1473bf10027b",
    PartitionRecords.__init__: "8ec1c2ae6ea1af87",
    PartitionRecords._unpack_records: "b803e6d46480732c",
    PartitionRecords._contains_abort_marker: "17e9ad2322ef4e0a",
    aiokafka.AIOKafkaConsumer.start: "2f1ba70443327538",
    AioFetcher._get_actions_per_node: "1dab2cf937d165d0",
    SubscriptionState.subscribe_from_pattern: "f97a661f4ce69331",
    SubscriptionState.subscribe_pattern: "773df5f2e808a15a",
    AIOKafkaClient.send: "246b277687d7b687",
    AIOKafkaClient.set_topics: "9f9b55d6d8997834",
    TopicPartitionState.seek: "c20b56d7ba7b2872",
    AIOKafkaClient.force_metadata_update: "cb7befef21c8f3f9",
}


def test_the_versions_are_those_that_the_overrides_were_written_for() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka").split(".")[:2] == ["0", "14"]


@pytest.mark.parametrize("method", RELIED_ON, ids=lambda method: method.__qualname__)
def test_what_is_relied_on_is_as_it_was_read(method: Callable[..., Any]) -> None:
    digest = hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:16]

    assert digest == RELIED_ON[method], f"{method.__qualname__} has changed: read it anew, see this file's docstring"


DERIVED = [
    (transport.BatchSchema, Schema),
    (transport.BatchConductor, conductor.Conductor),
    (transport.BatchConsumerThread, driver.AIOKafkaConsumerThread),
    (transport.BatchConsumer, driver.Consumer),
    (transport.BatchTransport, driver.Transport),
    (fetching.PartitionBlocks, PartitionRecords),
    (fetching.BlockResult, FetchResult),
    (fetching.BlockFetcher, AioFetcher),
    (sessions.SessionRequest, FetchRequest),
]


def overridden(ours: type, library: type) -> list[str]:
    return [name for name in vars(ours) if name in dir(library) and inspect.isfunction(getattr(ours, name))]


@pytest.mark.parametrize(("ours", "library"), DERIVED)
def test_an_override_takes_the_arguments_of_what_it_overrides(ours: type, library: type) -> None:
    names = set(overridden(ours, library)) - {"__init__", "compile"}

    for name in names:
        wanted = inspect.signature(getattr(library, name)).parameters
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(wanted), name


@pytest.mark.parametrize(("ours", "library"), DERIVED)
def test_every_method_that_is_overridden_is_pinned(ours: type, library: type) -> None:
    names = overridden(ours, library)

    assert names
    assert [name for name in names if getattr(library, name) not in RELIED_ON] == []


def test_no_other_class_of_the_libraries_is_derived_from() -> None:
    derived = {
        name
        for module in (transport, fetching, sessions)
        for name, found in vars(module).items()
        if inspect.isclass(found) and found.__module__ == module.__name__ and found.__base__ is not object
    }

    assert derived == {ours.__name__ for ours, _ in DERIVED} | {"Owner", "Sought"}


def test_the_consumer_has_the_attributes_that_are_set_before_it_starts() -> None:
    source = inspect.getsource(aiokafka.AIOKafkaConsumer.__init__)

    for name in ("_fetch_max_wait_ms", "_partition_assignment_strategy", "_isolation_level"):
        assert f"self.{name} = " in source
    started = inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    for name in ("self._fetch_max_wait_ms", "self._partition_assignment_strategy", "self._isolation_level"):
        assert name in started


def test_the_fetcher_makes_and_asks_for_the_classes_that_are_replaced_by_their_names() -> None:
    asked = set(AioFetcher._proc_fetch_request.__code__.co_names) | set(AioFetcher.fetched_records.__code__.co_names)
    replaced = {"MemoryRecords", "PartitionRecords", "FetchResult"}

    assert replaced <= asked
    for method in (fetching.BlockFetcher._proc_fetch_request, fetching.BlockFetcher._fetched_records):
        assert {method.__globals__[name].__module__.split(".")[0] for name in replaced} == {"streams"}
