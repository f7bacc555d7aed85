"""Kafka's record batches as blocks: the bytes of many records with where each lies, not an object for each. Pure.

A block is one batch of the format v2 (Kafka, "Message Format"), decompressed, or some neighbouring records of one.
`frame` finds the values of many blocks' records at once; `Block.record` reads one. What cannot be read is a record
without a value all the same, so that it is counted and the records beside it go on.
"""

import bisect
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c

from pulsestream.core.log import logger
from schemas.columns import PADDING, Bools, Ints, Octets, varints

BACKFILL_HEADER: Final = "ps-backfill"
"""Marks records of the past: they go to storage and bars, not into live statistics and alerts."""
UNREADABLE: Final = -1
"""Where a record begins that nobody can find."""
MICROS: Final = 1000
"""In a millisecond, which Kafka counts in."""

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH: Final = struct.Struct(">qi")
_CHECKED_FROM: Final = struct.calcsize(">qiibI")
_MAGIC: Final = 2
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_DECODE: Final[dict[int, Callable[[bytes], bytes]]] = {
    0: bytes,
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}
_TWO: Final = struct.Struct("<H")
_CONTINUED: Final = 0x80
_LONGEST: Final = 63
"""Bits that a varint may be shifted by."""
_log = logger(__name__)


class BlockRecord(Protocol):
    """A record by itself."""

    @property
    def offset(self) -> int:
        """The offset."""

    @property
    def timestamp(self) -> int:
        """The append time, milliseconds since 1970."""

    @property
    def key(self) -> bytes | None:
        """The key."""

    @property
    def value(self) -> bytes | None:
        """The framed record."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """The headers."""


class _Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Records of one batch, in offset order; its length is their number.

    `starts`: where in `payload` each begins, with its size; all UNREADABLE when the sizes make no sense. `timestamp` is
    the append time in milliseconds of all of them, or what their own are counted from if `has_own_times`.
    `next_offset` is that of what follows.
    """

    payload: bytes
    starts: Ints
    base_offset: int
    next_offset: int
    timestamp: int
    has_own_times: bool

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def offset(self) -> int:
        """The offset of the last record, or of those after it that are no more."""
        return self.next_offset - 1

    @property
    def first_offset(self) -> int:
        """The offset of the first record."""
        return self._offset(0)

    @property
    def may_hold_backfill(self) -> bool:
        """Whether any record may carry BACKFILL_HEADER: its name occurs among the bytes."""
        return BACKFILL_HEADER.encode() in self.payload

    def records(self) -> Iterator[BlockRecord]:
        """Read all records; those that cannot be read have an empty value."""
        read = 0
        try:
            for record in DefaultRecordBatch(self._header() + self.payload):
                yield record
                read += 1
        except Exception:  # noqa: BLE001 - whatever the library raises at one record, those after it are read
            yield from (self.record(place) for place in range(read, len(self)))

    def record(self, place: int) -> BlockRecord:
        """Read one record; one that cannot be read has an empty value."""
        try:
            return self._record(self.starts[place].item())
        except (ValueError, IndexError):
            return _Record(self._offset(place), self.timestamp, None, b"", [])

    def since(self, offset: int) -> Self:
        """Return the records at this offset and after it."""
        if offset <= self.base_offset:
            return self
        first = bisect.bisect_left(range(len(self)), offset, key=self._offset)
        return self._from(first) if first else self

    def split(self, count: int) -> tuple[Self, Self | None]:
        """Return the first `count` records, and the others if there are any."""
        if len(self) <= count:
            return self, None
        cut, next_offset = max(self.starts[count].item(), 0), self._offset(count)
        first = replace(self, payload=self.payload[:cut], starts=self.starts[:count], next_offset=next_offset)
        return first, self._from(count)

    def _from(self, place: int) -> Self:
        left = self.starts[place:]
        cut = max(left[0].item(), 0) if len(left) else len(self.payload)
        return replace(self, payload=self.payload[cut:], starts=np.where(left < 0, UNREADABLE, left - cut))

    def _header(self) -> bytes:
        """Return the header of these records as a batch that is not compressed."""
        attributes = 0 if self.has_own_times else _APPEND_TIME
        span = self.next_offset - self.base_offset - 1
        return _HEADER.pack(
            self.base_offset, 0, 0, _MAGIC, 0, attributes, span, self.timestamp, self.timestamp, -1, -1, -1, len(self)
        )

    def _record(self, start: int) -> BlockRecord:
        payload = self.payload
        size, begin = _varint(payload, _known(start))
        at = _varint(payload, begin)[1]  # the attributes mean nothing yet
        delta, at = _varint(payload, at)
        offset, at = _varint(payload, at)
        key, at = _bytes(payload, at)
        value, at = _bytes(payload, at)
        count, at = _varint(payload, at)
        headers = []
        for _ in range(count):
            name, at = _bytes(payload, at)
            content, at = _bytes(payload, at)
            headers.append(((name or b"").decode(errors="replace"), content))
        if at != begin + size:
            raise ValueError("the record ends elsewhere than its size says")
        timestamp = self.timestamp + delta if self.has_own_times else self.timestamp
        return _Record(self.base_offset + offset, timestamp, key, value, headers)

    def _offset(self, place: int) -> int:
        try:
            at = _varint(self.payload, _known(self.starts[place].item()))[1]
            at = _varint(self.payload, _varint(self.payload, at)[1])[1]
            offset = self.base_offset + _varint(self.payload, at)[0]
        except (ValueError, IndexError):
            offset = self.base_offset + place
        return min(max(offset, self.base_offset), self.next_offset - 1)


class RecordBatch:
    """One batch as the broker sends it. Its names are those that aiokafka's fetcher asks for.

    Iterating gives the batch's block; of a control batch, its records.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        (
            self.base_offset, _, _, self.magic, self._crc, self._attributes, last_delta,
            self._first_time, self._max_time, self.producer_id, _, _, self._count,
        ) = _HEADER.unpack_from(buffer)  # fmt: skip
        self.next_offset = self.base_offset + last_delta + 1
        self.is_transactional = bool(self._attributes & _TRANSACTIONAL)
        self.is_control_batch = bool(self._attributes & _CONTROL)
        self._items: Iterator[Block | BlockRecord] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block | BlockRecord:
        if self._items is None:
            block = self.block()
            self._items = block.records() if self.is_control_batch else iter([block] if len(block) else [])
        return next(self._items)

    def validate_crc(self) -> bool:
        """Say whether the bytes are those that the producer wrote."""
        return bool(calc_crc32c(self._buffer[_CHECKED_FROM:]) == self._crc)

    def block(self) -> Block:
        """Return the records."""
        payload = self._payload()
        has_own_times = not self._attributes & _APPEND_TIME
        timestamp = self._first_time if has_own_times else self._max_time
        count = min(self._count, self.next_offset - self.base_offset)
        return Block(payload, _walk(payload, count), self.base_offset, self.next_offset, timestamp, has_own_times)

    def _payload(self) -> bytes:
        decode = _DECODE.get(self._attributes & _CODEC) if self._count else None
        try:
            return bytes(decode(bytes(self._buffer[_HEADER.size :]))) if decode else b""
        except Exception as error:  # noqa: BLE001 - whatever a codec raises: one tenant's bytes must not stop the others
            _log.warning("a batch cannot be decompressed", base_offset=self.base_offset, reason=repr(error))
            return b""


class FetchedBytes:
    """The batches of a fetch, one behind the other. Its names are those that aiokafka's fetcher asks for."""

    def __init__(self, fetched: bytes) -> None:
        self._buffer = memoryview(fetched)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Return the bytes of the fetch, an unfinished batch at its end included."""
        return len(self._buffer)

    def has_next(self) -> bool:
        """Say whether another batch is there whole."""
        return self._at + _HEADER.size <= len(self._buffer) and self._end() <= len(self._buffer)

    def next_batch(self) -> RecordBatch:
        """Return the next batch; raises ValueError for one of a format before v2, which no broker of today sends."""
        start, self._at = self._at, self._end()
        batch = RecordBatch(self._buffer[start : self._at])
        if batch.magic != _MAGIC:
            raise ValueError(f"record batch at offset {batch.base_offset} has format v{batch.magic}, v2 is needed")
        return batch

    def _end(self) -> int:
        return self._at + _LENGTH.size + int(_LENGTH.unpack_from(self._buffer, self._at)[1])


# ---- many records at once ----


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Where the values of many records lie; a stop before its start is a null value.

    `block` and `place` say which record it is. Where it is not `certain`, the other columns mean nothing.
    """

    octets: Octets
    block: Ints
    place: Ints
    offset: Ints
    appended_at: Ints
    start: Ints
    stop: Ints
    certain: Bools


def frame(blocks: Sequence[Block]) -> Frames:
    """Find the values of all records of blocks; a record that may be of the past is not certain."""
    octets = Octets(block.payload for block in blocks)
    counts = np.array([len(block) for block in blocks], np.int64)
    block = np.repeat(np.arange(len(blocks)), counts)
    starts = np.concatenate([each.starts for each in blocks]) if blocks else np.empty(0, np.int64)
    at = np.maximum(starts, 0) + _before([len(each.payload) for each in blocks])[block]
    fields = _Fields(octets, at, (starts >= 0) & ~_each(blocks, block, lambda each: each.may_hold_backfill, np.bool_))
    delta, offset, start, stop = fields.read()
    offset += _each(blocks, block, lambda each: each.base_offset)
    time = delta * _each(blocks, block, lambda each: each.has_own_times)
    time += _each(blocks, block, lambda each: each.timestamp)
    place = np.arange(len(starts)) - _before(counts)[block]
    return Frames(octets, block, place, offset, time * MICROS, start, stop, fields.certain)


class _Fields:
    """The fields of many records, read one after the other. No cursor goes beyond its record's end."""

    def __init__(self, octets: Octets, at: Ints, certain: Bools) -> None:
        self.certain = certain
        self._octets = octets
        self._at = at
        self._end = np.full(len(at), len(octets.bytes) - PADDING)

    def read(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the deltas of time and offset, and where the value begins and ends."""
        size = self._number()
        self._end = np.minimum(self._at + size, self._end)
        self.certain &= self._octets.bytes[self._at] < _CONTINUED
        self._at = self._at + 1
        delta, offset = self._number(), self._number()
        self._pass_over(self._number())
        size = self._number()
        start = self._at
        self._pass_over(size)
        return delta, offset, start, start + np.maximum(size, -1)

    def _number(self) -> Ints:
        numbers, sizes, ended = varints(self._octets.words(self._at))
        self.certain &= ended
        self._at = self._at + sizes
        return numbers

    def _pass_over(self, sizes: Ints) -> None:
        sizes = np.maximum(sizes, 0)
        self.certain &= sizes < self._end - self._at
        self._at = np.maximum(np.minimum(self._at + sizes, self._end), 0)


def _each(
    blocks: Sequence[Block], block: Ints, of: Callable[[Block], int], kind: type[np.int64 | np.bool_] = np.int64
) -> Any:  # an array of that kind
    """Return of each record what is `of` its block."""
    return np.array([of(each) for each in blocks], kind)[block]


def _before(sizes: Sequence[int] | Ints) -> Ints:
    """Return what lies before each of many, one behind the other."""
    counted = np.asarray(sizes, np.int64)
    return np.cumsum(counted) - counted


# ---- one at a time ----


def _walk(payload: bytes, count: int) -> Ints:
    """Return where each of `count` records begins; UNREADABLE for all of them when their sizes do not fill the payload.

    The one loop over records that columns need: a step is looked up by two bytes, since most sizes have as many.
    """
    starts: list[int] = []
    at, steps, two, append = 0, _steps(), _TWO.unpack_from, starts.append
    try:
        for _ in range(count):
            append(at)
            at += steps[two(payload, at)[0]] or _step(payload, at)
    except (struct.error, IndexError, ValueError):
        at = UNREADABLE
    return np.array(starts, np.int64) if at == len(payload) else np.full(max(count, 0), UNREADABLE)


@cache
def _steps() -> list[int]:
    """Return by a record's first two bytes how far it is to the next one; 0 where they do not say it."""
    one = [1 + (octet >> 1) if octet % 2 == 0 and octet < _CONTINUED else 0 for octet in range(256)]
    return [
        2 + ((more << 7 | octet & 0x7F) >> 1) if octet % 2 == 0 and octet >= _CONTINUED > more else one[octet]
        for more in range(256)
        for octet in range(256)
    ]


def _step(payload: bytes, at: int) -> int:
    size, begin = _varint(payload, at)
    if size < 0:
        raise ValueError("a record of a negative size")
    return begin + size - at


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    while shift <= _LONGEST:
        octet = payload[at]
        at += 1
        number |= (octet & 0x7F) << shift
        if octet < _CONTINUED:
            return number >> 1 ^ -(number & 1), at
        shift += 7
    raise ValueError("a number of more than ten bytes")


def _bytes(payload: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(payload, at)
    if size < 0:
        return None, at
    if at + size > len(payload):
        raise IndexError("bytes beyond the end")
    return payload[at : at + size], at + size


def _known(start: int) -> int:
    if start == UNREADABLE:
        raise ValueError("nobody knows where the record begins")
    return start
