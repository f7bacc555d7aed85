"""Blocks against aiokafka's own reader of record batches: the same records, whatever they hold."""

import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from streams.blocks import Block, FetchedBytes, RecordBatch, frame
from tests.support.batching import CODECS, Batch, Written, batch_bytes, batches, block_of, sealed

HEADER_BYTES = 61


def block(raw: bytes) -> Block:
    return RecordBatch(memoryview(raw)).block()


def fields(record: Any) -> tuple[Any, ...]:
    return (record.offset, record.timestamp, record.key, record.value, list(record.headers))


def by_library(raw: bytes) -> list[tuple[Any, ...]]:
    return [fields(record) for record in DefaultRecordBatch(raw)]


def by_columns(blocks: list[Block]) -> dict[tuple[int, int], tuple[int, int, bytes | None]]:
    """Offset, append time in micros, and value of the records that `frame` is certain of, by block and place."""
    frames = frame(blocks)
    rows = zip(
        frames.block.tolist(), frames.place.tolist(), frames.offset.tolist(), frames.appended_at.tolist(),
        frames.start.tolist(), frames.stop.tolist(), frames.certain.tolist(), strict=True,
    )  # fmt: skip
    return {
        (number, place): (offset, appended_at, None if stop < start else frames.octets.part(start, stop))
        for number, place, offset, appended_at, start, stop, certain in rows
        if certain
    }


@given(batches())
def test_a_block_holds_what_the_library_reads(batch: Batch) -> None:
    raw = batch_bytes(batch)
    made = block(raw)

    assert [fields(record) for record in made.records()] == by_library(raw)
    assert [fields(made.record(place)) for place in range(len(made))] == by_library(raw)
    assert made.next_offset == DefaultRecordBatch(raw).next_offset
    assert made.base_offset == batch.base_offset


@given(st.lists(batches(), max_size=4))
def test_columns_hold_the_values_of_many_blocks(made: list[Batch]) -> None:
    raws = [batch_bytes(batch) for batch in made]
    blocks = [block(raw) for raw in raws]

    found = by_columns(blocks)

    wanted = {
        (number, place): (record[0], record[1] * 1000, record[3])
        for number, raw in enumerate(raws)
        for place, record in enumerate(by_library(raw))
    }
    doubtful = {number for number, each in enumerate(blocks) if each.may_hold_backfill}
    assert found == {key: record for key, record in wanted.items() if key[0] not in doubtful}


@given(batches(min_size=1), st.integers(0, 7), st.integers(-1, 7))
def test_parts_of_a_block_hold_what_the_block_holds(batch: Batch, count: int, skipped: int) -> None:
    raw = batch_bytes(batch)
    whole = by_library(raw)
    start = batch.base_offset if skipped < 0 else whole[min(skipped, len(whole) - 1)][0]

    later = block(raw).since(start)
    first, rest = later.split(max(count, 1))
    parts = [first] if rest is None else [first, rest]

    assert [fields(record) for part in parts for record in part.records()] == [
        each for each in whole if each[0] >= start
    ]
    found = {value for part in parts for value in by_columns([part]).values()}
    assert found >= set(by_columns([later]).values())
    assert found <= {(record[0], record[1] * 1000, record[3]) for record in whole}
    assert len(first) <= max(count, 1)
    assert parts[-1].next_offset == block(raw).next_offset
    assert rest is None or first.next_offset == rest.first_offset == next(iter(rest.records())).offset


@given(batches(min_size=1).filter(lambda batch: batch.codec == "none"), st.data())
def test_a_damaged_block_gives_a_record_for_each_and_columns_only_what_rows_give(
    batch: Batch, data: st.DataObject
) -> None:
    raw = bytearray(batch_bytes(batch))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(HEADER_BYTES, len(raw) - 1))] = data.draw(st.integers(0, 255))
    made = block(bytes(raw))

    rows = list(made.records())

    assert len(rows) == len(batch.records)
    for (_, place), (offset, appended_at, value) in by_columns([made]).items():
        read = made.record(place)
        assert (read.offset, read.timestamp * 1000, read.value) == (offset, appended_at, value) or read.value == b""
    assert lies_within(made)


def lies_within(made: Block) -> bool:
    """Whether each value that columns find lies within its record."""
    frames, ends = frame([made]), [*made.starts[1:].tolist(), len(made.payload)]
    spans = zip(made.starts.tolist(), frames.start.tolist(), frames.stop.tolist(), ends, frames.certain, strict=True)
    return all(first < start <= max(start, stop) < end for first, start, stop, end, certain in spans if certain)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_what_cannot_be_decompressed_is_so_many_records_without_a_value(name: str) -> None:
    raw = bytearray(batch_bytes(Batch([Written(offset, value=b"v" * 100) for offset in range(3)], 7, name)))
    raw[HEADER_BYTES:] = b"\xff" * (len(raw) - HEADER_BYTES)
    made = block(sealed(raw))

    assert [(record.offset, record.value) for record in made.records()] == [(7, b""), (8, b""), (9, b"")]
    assert by_columns([made]) == {}
    assert made.next_offset == 10
    assert [len(part) for part in made.split(2) if part] == [2, 1]


def test_a_header_that_is_no_text_does_not_keep_the_other_records_from_being_read() -> None:
    raw = batch_bytes(Batch([Written(0, headers=[("name", b"content")]), Written(1)]))
    made = block(sealed(bytearray(raw.replace(b"name", b"\xff\xff\xff\xff"))))

    assert [record.value for record in made.records()] == [b"value", b"value"]


def test_only_a_block_in_which_the_name_occurs_may_hold_records_of_the_past() -> None:
    assert not block_of([b"value"]).may_hold_backfill
    marked = Batch([Written(0), Written(1, headers=[("ps-backfill", b"1")])], codec="lz4")

    assert block(batch_bytes(marked)).may_hold_backfill
    assert by_columns([block(batch_bytes(marked))]) == {}


@given(st.lists(batches(), max_size=3), st.integers(0, 200))
def test_a_fetch_ends_before_its_first_unfinished_batch(made: list[Batch], cut: int) -> None:
    raws = [batch_bytes(batch) for batch in made]
    fetched = FetchedBytes(b"".join(raws)[: max(sum(map(len, raws)) - cut, 0)])

    found = []
    while fetched.has_next():
        found.append(fetched.next_batch())

    whole = [number for number in range(len(raws)) if sum(map(len, raws[: number + 1])) <= fetched.size_in_bytes()]
    assert [batch.base_offset for batch in found] == [made[number].base_offset for number in whole]
    assert all(batch.validate_crc() for batch in found)


def test_a_changed_byte_shows_in_the_checksum() -> None:
    raw = bytearray(batch_bytes(Batch([Written(0)])))
    raw[-3] ^= 1

    assert not RecordBatch(memoryview(bytes(raw))).validate_crc()


def test_a_batch_of_an_old_format_is_refused() -> None:
    raw = bytearray(batch_bytes(Batch([Written(0)])))
    raw[16] = 1

    with pytest.raises(ValueError, match="format v1"):
        FetchedBytes(bytes(raw)).next_batch()


def test_a_control_batch_gives_its_records() -> None:
    marker = struct.pack(">hh", 0, 1)
    batch = RecordBatch(memoryview(batch_bytes(Batch([Written(0, key=marker)], control=True, producer_id=5))))

    assert batch.is_control_batch
    assert [record.key for record in batch] == [marker]
