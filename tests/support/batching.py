"""Record batches as a broker sends them, built by aiokafka's writer."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import strategies as st

from streams.blocks import Block, RecordBatch

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
APPEND_TIME = 0x08
_BASE = struct.Struct(">q")
_CRC, _ATTRIBUTES, _MAX_TIME, _LAST_DELTA = 17, 21, 35, 23


@dataclass(frozen=True)
class Written:
    """A record as it is written; its offset and time count from those of its batch."""

    offset: int
    time: int = 0
    key: bytes | None = b"BTC-USD"
    value: bytes | None = b"value"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What a batch is made of; `appended_at`: its append time in milliseconds, None when records have their own."""

    records: Sequence[Written]
    base_offset: int = 0
    codec: str = "none"
    time: int = 1_700_000_000_000
    appended_at: int | None = 1_700_000_000_500
    producer_id: int = -1
    transactional: bool = False
    control: bool = False
    #: Offsets at the end whose records a compaction has removed.
    removed: int = 0


def batch_bytes(batch: Batch) -> bytes:
    """Return the bytes of a batch."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[batch.codec],
        is_transactional=int(batch.transactional),
        producer_id=batch.producer_id,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for record in batch.records:
        builder.append(record.offset, batch.time + record.time, record.key, record.value, headers=record.headers)
    return _as_the_broker_does(bytearray(builder.build()), batch)


def _as_the_broker_does(built: bytearray, batch: Batch) -> bytes:
    attributes = struct.unpack_from(">h", built, _ATTRIBUTES)[0]
    attributes |= APPEND_TIME if batch.appended_at is not None else 0
    attributes |= 0x20 if batch.control else 0
    last_delta = max([record.offset for record in batch.records], default=-1) + batch.removed
    _BASE.pack_into(built, 0, batch.base_offset)
    struct.pack_into(">h", built, _ATTRIBUTES, attributes)
    struct.pack_into(">i", built, _LAST_DELTA, last_delta)
    if batch.appended_at is not None:
        struct.pack_into(">q", built, _MAX_TIME, batch.appended_at)
    return sealed(built)


def sealed(built: bytearray) -> bytes:
    """Return a batch with the checksum of what it holds now."""
    struct.pack_into(">I", built, _CRC, calc_crc32c(memoryview(built)[_ATTRIBUTES:]))
    return bytes(built)


def block_of(values: Sequence[bytes | None], **fields: Any) -> Block:
    """Return the block of a batch of these values."""
    written = [Written(offset, value=value) for offset, value in enumerate(values)]
    return RecordBatch(memoryview(batch_bytes(Batch(written, **fields)))).block()


def block_from(records: Sequence[Written], codec: str = "none") -> Block:
    """Return a block of records with offsets and times of their own, in milliseconds since 1970."""
    first = records[0].offset
    counted = [replace(record, offset=record.offset - first) for record in records]
    return RecordBatch(memoryview(batch_bytes(Batch(counted, first, codec, time=0, appended_at=None)))).block()


_BYTES = st.none() | st.binary(max_size=20) | st.integers(60, 9000).map(lambda size: b"x" * size)
_HEADERS = st.lists(
    st.tuples(st.text(max_size=8) | st.just("ps-backfill"), st.none() | st.binary(max_size=9)), max_size=3
)


@st.composite
def batches(draw: st.DrawFn, *, min_size: int = 0) -> Batch:
    """Draw a batch: any codec, keys, values and headers, offsets left out as by a compaction, times of either kind."""
    gaps = draw(st.lists(st.integers(1, 3) | st.integers(1, 1000), min_size=min_size, max_size=6))
    offsets = [sum(gaps[: number + 1]) - 1 for number in range(len(gaps))]
    written = [
        Written(offset, draw(st.integers(-(10**6), 10**6)), draw(_BYTES), draw(_BYTES), draw(_HEADERS))
        for offset in offsets
    ]
    return Batch(
        written,
        base_offset=draw(st.integers(0, 2**40)),
        codec=draw(st.sampled_from(sorted(CODECS))) if written else "none",
        appended_at=draw(st.none() | st.integers(0, 2**42)),
        removed=draw(st.integers(0, 2)),
    )
