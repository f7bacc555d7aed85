"""What our fetcher makes of a fetch against what aiokafka makes of it: the same records and the same positions."""

import asyncio
import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from streams.blocks import FetchedBytes
from streams.fetching import SHARE, BlockFetcher, BlockResult, PartitionBlocks
from tests.support.batching import Batch, Written, batch_bytes

TICKS = TopicPartition("ps.acme.ticks.v1", 0)
ABORT, COMMIT = struct.pack(">hh", 0, 0), struct.pack(">hh", 0, 1)
Aborted = list[tuple[int, int]]


class Position:
    """A partition's place in the subscription."""

    def __init__(self, position: int) -> None:
        self.position, self.paused = position, False

    def consumed_to(self, position: int) -> None:
        self.position = position


class Reading:
    """A fetched partition, by the library's classes or by ours."""

    def __init__(self, raw: bytes, offset: int, aborted: Aborted, *, ours: bool) -> None:
        self.state = Position(offset)
        assignment = SimpleNamespace(active=True, state_value=lambda _: self.state)
        kinds: tuple[Any, Any, Any] = (FetchedBytes, PartitionBlocks, BlockResult)
        fetched, records, result = kinds if ours else (MemoryRecords, PartitionRecords, FetchResult)
        made = records(TICKS, fetched(raw), aborted, offset, None, None, True, READ_COMMITTED)
        self._result = result(TICKS, assignment=assignment, partition_records=made, backoff=0)

    def take(self, count: int | None) -> list[tuple[int, bytes | None]]:
        """Return offset and value of the next records."""
        got: Any = self._result.getall(count)
        records = [record for block in got.blocks for record in block.records()] if hasattr(got, "blocks") else got
        assert len(got) == len(records)
        return [(record.offset, record.value) for record in records]

    @property
    def has_more(self) -> bool:
        return bool(self._result.has_more())


@st.composite
def fetches(draw: st.DrawFn) -> tuple[bytes, int, Aborted]:
    """Batches of a partition: plain, of transactions that end either way, compacted; and an offset to begin at."""
    raws, offset, aborted, open_since = [], draw(st.integers(0, 3)), [], dict[int, int]()
    first = offset
    for _ in range(draw(st.integers(1, 6))):
        producer, kind = draw(st.integers(1, 2)), draw(st.sampled_from(["plain", "transaction", "end"]))
        fields: dict[str, Any] = {"base_offset": offset, "removed": draw(st.integers(0, 2))}
        written = [Written(place, value=b"%d" % draw(st.integers(0, 99))) for place in range(draw(st.integers(0, 4)))]
        if kind == "transaction":
            fields |= {"producer_id": producer, "transactional": True}
            open_since.setdefault(producer, offset)
        elif kind == "end":
            began, key = open_since.pop(producer, None), draw(st.sampled_from([ABORT, COMMIT]))
            written = [Written(0, key=key, value=b"\0" * 6)]
            fields = {"base_offset": offset, "producer_id": producer, "transactional": True, "control": True}
            if key == ABORT and began is not None:
                aborted.append((producer, began))
        raws.append(batch_bytes(Batch(written, **fields)))
        offset += len(written) + fields.get("removed", 0)
    return b"".join(raws), draw(st.integers(first, max(offset, first))), aborted


@given(fetches(), st.none() | st.integers(1, 5))
def test_the_same_records_are_handed_on_and_the_position_goes_the_same_way(
    fetched: tuple[bytes, int, Aborted], count: int | None
) -> None:
    ours, library = Reading(*fetched, ours=True), Reading(*fetched, ours=False)

    while library.has_more:
        assert ours.take(count) == library.take(count)
        assert ours.has_more == library.has_more
        if not library.has_more:
            assert ours.state.position == library.state.position


def test_after_a_part_of_a_batch_the_position_is_that_of_the_next_record() -> None:
    raw = batch_bytes(Batch([Written(0), Written(5), Written(6)], base_offset=10))
    reading = Reading(raw, 10, [], ours=True)

    assert [offset for offset, _ in reading.take(1)] == [10]
    assert reading.state.position == 15
    assert [offset for offset, _ in reading.take(5)] == [15, 16]
    assert reading.state.position == 17


def test_a_part_that_is_still_to_be_handed_on_is_dropped_after_a_seek() -> None:
    reading = Reading(batch_bytes(Batch([Written(0), Written(1)])), 0, [], ours=True)
    reading.take(1)

    reading.state.position = 0

    assert reading.take(1) == []
    assert not reading.has_more


def test_a_batch_with_a_wrong_checksum_is_refused_and_those_before_it_are_not() -> None:
    good, bad = batch_bytes(Batch([Written(0)])), bytearray(batch_bytes(Batch([Written(0)], base_offset=1)))
    bad[-1] ^= 1
    reading = Reading(good + bytes(bad), 0, [], ours=True)

    assert reading.take(1) == [(0, b"value")]
    with pytest.raises(CorruptRecordException):
        reading.take(1)


# ---- fair turns ----


class Turns:
    """A fetcher with what was fetched of some partitions, without a broker."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.fetcher: Any = object.__new__(BlockFetcher)
        self.fetcher._subscriptions = SimpleNamespace(reassignment_in_progress=False)
        self.fetcher._notify = lambda _: None
        self.fetcher._wait_consume_future = None
        self.fetcher._records = {}
        for number, size in enumerate(sizes):
            tp = TopicPartition(f"ps.t{number}.ticks.v1", 0)
            raw = batch_bytes(Batch([Written(place) for place in range(size)]))
            made = PartitionBlocks(tp, FetchedBytes(raw), [], 0, None, None, True, READ_COMMITTED)
            state = Position(0)
            assignment = SimpleNamespace(active=True, state_value=lambda _, state=state: state)
            self.fetcher._records[tp] = BlockResult(tp, assignment=assignment, partition_records=made, backoff=0)

    def take(self, count: int) -> dict[str, int]:
        """Return how many records of each topic a turn hands on."""
        drained = asyncio.run(self.fetcher.fetched_records(None, 0, count))
        return {tp.topic.split(".")[1]: len(records) for tp, records in drained.items()}


def test_a_backlog_does_not_keep_a_quiet_topic_waiting_for_more_than_its_share_of_a_turn() -> None:
    turns = Turns([3 * SHARE, 5, 7])

    assert turns.take(2 * SHARE) == {"t0": SHARE, "t1": 5, "t2": 7}


def test_what_is_left_of_a_backlog_comes_last_in_the_next_turn() -> None:
    turns = Turns([4 * SHARE, 4 * SHARE, 4 * SHARE])

    got = [turns.take(2 * SHARE) for _ in range(3)]

    assert got == [{"t0": SHARE, "t1": SHARE}, {"t2": SHARE, "t0": SHARE}, {"t1": SHARE, "t2": SHARE}]


def test_a_topic_alone_has_the_whole_turn() -> None:
    assert Turns([4 * SHARE]).take(3 * SHARE) == {"t0": 3 * SHARE}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 40))
def test_in_turns_everything_is_handed_on_once(sizes: list[int], count: int) -> None:
    turns, total = Turns(sizes), dict.fromkeys(range(len(sizes)), 0)

    while turns.fetcher._records:
        for name, records in turns.take(count).items():
            total[int(name[1:])] += records

    assert list(total.values()) == sizes
