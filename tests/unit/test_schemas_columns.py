"""The column decoder against the plain row codec: where it is certain both give the same, and it is so of our records.

What it is not certain of is read by rows, so it may refuse anything but must never read what the row codec would not.
"""

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import NAMES, FastavroCodec, codec
from schemas.columns import ColumnDecoder, Decoded, Octets, are_plain, column_decoder, varints
from schemas.errors import DecodeError
from schemas.records import Bar, Event, Feed, Record, Rule, Stat, Tenant, Tick, Trade
from tests.support.strategies import records
from tests.support.valued import TICK, TRADE, damaged, laid

COLUMNAR: list[type[Record]] = [Tick, Trade, Event, Tenant, Stat, Bar, Feed, Rule]
UNREADABLE = "unreadable"


def decoder(kind: type[Record]) -> ColumnDecoder | None:
    schema = registry.current(NAMES[kind])
    return column_decoder(schema.json, struct.pack(">bI", 0, schema.schema_id))


def decoded(kind: type[Record], values: Sequence[bytes | None]) -> tuple[Octets, Decoded]:
    octets, starts, stops = laid(values)
    columns = decoder(kind)
    assert columns is not None
    return octets, columns.decode(octets, starts, stops)


def rows(octets: Octets, found: Decoded) -> list[dict[str, Any] | None]:
    """Return the records that the decoder is certain of, flattened; None for the others."""
    read: list[dict[str, Any] | None] = [{} if certain else None for certain in found.certain]
    for name, column in found.columns.items():
        for row in [row for row, fields in enumerate(read) if fields is not None]:
            value: Any = column.values[row].item()
            if column.sizes is not None:
                value = text(octets.part(value, value + int(column.sizes[row])))
            fields = read[row]
            assert fields is not None
            fields[name] = value if column.known[row] else None
    return [None if fields is None or UNREADABLE in fields.values() else fields for fields in read]


def text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return UNREADABLE


def flattened(record: Record, names: Sequence[str]) -> dict[str, Any]:
    return {name: inner(record, name.split(".")) for name in names}


def inner(record: Any, path: Sequence[str]) -> Any:
    for name in path:
        record = None if record is None else getattr(record, name)
    return record


def as_by_rows(kind: type[Record], values: Sequence[bytes | None]) -> list[bool]:
    """Check each value and return of which the decoder was certain."""
    octets, found = decoded(kind, values)
    read = rows(octets, found)
    for value, fields in zip(values, read, strict=True):
        if fields is not None:
            assert repr(fields) == repr(flattened(FastavroCodec(kind).decode(value), list(fields)))
    return [fields is not None for fields in read]


@pytest.mark.parametrize("kind", COLUMNAR)
@given(st.data())
def test_where_it_is_certain_columns_hold_what_the_plain_codec_gives(kind: type[Record], data: st.DataObject) -> None:
    values = [FastavroCodec(kind).encode(record) for record in data.draw(st.lists(records(kind), max_size=5))]

    assert len(as_by_rows(kind, values)) == len(values)


@pytest.mark.parametrize("kind", COLUMNAR)
@given(st.data())
def test_damaged_bytes_are_read_as_by_the_plain_codec_or_not_at_all(kind: type[Record], data: st.DataObject) -> None:
    written = data.draw(st.lists(records(kind).map(codec(kind).encode), min_size=1, max_size=4))

    assert as_by_rows(kind, [data.draw(st.just(value) | damaged(value)) for value in written])


@pytest.mark.parametrize("record", [TICK, TRADE])
def test_each_byte_of_a_record_counts(record: Tick | Trade) -> None:
    value = codec(type(record)).encode(record)
    changed = [
        value[:at] + bytes((octet,)) + value[at + 1 :]
        for at in range(len(value))
        for octet in (0, 1, 2, 3, 4, 0x7F, 0x80, 0x81, 0xFE, 0xFF, value[at] ^ 1, value[at] ^ 0x80)
    ]
    shortened = [value[:at] for at in range(len(value))]

    assert any(as_by_rows(type(record), changed))
    assert not any(as_by_rows(type(record), shortened))


OPTIONAL = [info.name for info in msgspec.structs.fields(Tick) if not info.required]


@given(st.lists(st.sets(st.sampled_from(OPTIONAL)), min_size=1, max_size=6), st.integers(-(2**55), 2**55 - 1))
def test_it_is_certain_of_our_ticks_whatever_they_are_without(missing: list[set[str]], number: int) -> None:
    ticks = [msgspec.structs.replace(TICK, **{"sequence": number} | dict.fromkeys(names)) for names in missing]

    assert all(as_by_rows(Tick, [codec(Tick).encode(tick) for tick in ticks]))


@pytest.mark.parametrize("kind", COLUMNAR)
@given(st.data())
def test_it_is_certain_of_records_with_numbers_and_texts_of_usual_sizes(
    kind: type[Record], data: st.DataObject
) -> None:
    made = data.draw(st.lists(records(kind).map(usual), max_size=5))

    assert all(as_by_rows(kind, [codec(kind).encode(record) for record in made]))


def usual(value: Any) -> Any:
    """Return a record, or one of its fields, with numbers of at most 8 bytes and texts of at most 63."""
    if isinstance(value, Record):
        return type(value)(**{name: usual(getattr(value, name)) for name in value.__struct_fields__})
    if isinstance(value, int) and not isinstance(value, bool):
        return value >> 8
    return value[:15] if isinstance(value, str) else value


@pytest.mark.parametrize("value", [None, b"", b"\0\0\0\0\1", b"\0\0\0\0\2" + bytes(100), b"\1\0\0\0\1" + bytes(100)])
def test_of_what_is_no_tick_it_is_not_certain(value: bytes | None) -> None:
    assert as_by_rows(Tick, [codec(Tick).encode(TICK), value]) == [True, False]


def test_a_number_that_is_not_one_is_left_to_the_row_codec() -> None:
    tick = msgspec.structs.replace(TICK, best_bid=float("nan"))

    assert as_by_rows(Tick, [codec(Tick).encode(tick)]) == [False]


@pytest.mark.parametrize("name", sorted(set(NAMES.values()) - {NAMES[kind] for kind in COLUMNAR}))
def test_a_schema_with_lists_or_maps_is_left_to_the_row_codec(name: str) -> None:
    kind = next(kind for kind, stem in NAMES.items() if stem == name)

    assert decoder(kind) is None


@given(st.lists(st.integers(-(2**55), 2**55 - 1) | st.integers(-70, 70), min_size=1))
def test_varints_are_read_as_avro_writes_them(numbers: list[int]) -> None:
    written = [zigzag(number) for number in numbers]
    words = np.array([int.from_bytes(octets.ljust(8, b"\xff"), "little") for octets in written], np.uint64)

    found, sizes, ended = varints(words)

    assert found.tolist() == numbers
    assert sizes.tolist() == [len(octets) for octets in written]
    assert ended.all()


def zigzag(number: int) -> bytes:
    rest, octets = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        octets.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*octets, rest])


@given(st.lists(st.binary(max_size=63) | st.text("aB ~\x7f\x1f", max_size=63).map(str.encode), min_size=1))
def test_a_text_is_plain_when_all_of_it_is_printable_ascii(texts: list[bytes]) -> None:
    octets, sizes = Octets(texts), np.array([len(each) for each in texts])
    at = np.cumsum(sizes) - sizes

    assert are_plain(octets.texts(at, sizes), sizes).tolist() == [
        all(0x20 <= octet < 0x7F for octet in each) for each in texts
    ]


def test_what_the_row_codec_refuses_is_never_certain() -> None:
    value = codec(Tick).encode(TICK)

    with pytest.raises(DecodeError):
        codec(Tick).decode(value + b"\0")
    assert as_by_rows(Tick, [value + b"\0", value]) == [False, True]
