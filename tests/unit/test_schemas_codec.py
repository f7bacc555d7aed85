"""Records survive the wire exactly, other readers understand the bytes, and malformed bytes are refused whole."""

import io
import json
import struct

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import NAMES, codec, decode_any
from schemas.errors import DecodeError
from schemas.records import Record, Tick, event_id
from tests.support.strategies import records

any_record = st.sampled_from(sorted(NAMES, key=lambda kind: kind.__name__)).flatmap(records)


def example_tick(**changes: object) -> Tick:
    fields = {
        "event_id": "coinbase:BTC-USD:7",
        "exchange": "coinbase",
        "product": "BTC-USD",
        "sequence": 7,
        "price": 60000.01,
        "exchange_time": 1_618_677_817_056_746,
        "received_time": 1_618_677_817_129_330,
    }
    return msgspec.convert(fields | changes, Tick)


@given(any_record)
def test_a_record_survives_the_wire(record: Record) -> None:
    value = codec(type(record)).encode(record)

    assert codec(type(record)).decode(value) == record
    assert decode_any(value) == record


@given(any_record)
def test_the_body_is_plain_avro_of_the_released_schema(record: Record) -> None:
    value = codec(type(record)).encode(record)
    magic, schema_id = struct.unpack_from(">bI", value)
    schema = fastavro.parse_schema(json.loads(registry.by_id(schema_id).text.replace('"logicalType"', '"x-logical"')))

    body = io.BytesIO(value[5:])

    assert magic == 0
    assert fastavro.schemaless_reader(body, schema, None) == msgspec.to_builtins(record, builtin_types=(bytes,))
    assert body.read() == b""


def refusal(record_type: type[Record], value: bytes | None) -> str | None:
    """The code of the refusal, or None where the bytes are a record after all; anything else raised is a failure."""
    try:
        codec(record_type).decode(value)
    except DecodeError as error:
        return error.code
    return None


@given(st.none() | st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_code(value: bytes | None) -> None:
    for record_type in NAMES:
        assert refusal(record_type, value) in {None, "undecodable", "unknown_schema", "wrong_schema"}


@given(st.data())
def test_a_damaged_tick_is_refused_or_still_a_tick(data: st.DataObject) -> None:
    value = bytearray(codec(Tick).encode(example_tick()))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))

    assert refusal(Tick, bytes(value)) in {None, "undecodable", "unknown_schema", "wrong_schema"}


@pytest.mark.parametrize("cut", range(66))
def test_a_cut_tick_is_refused(cut: int) -> None:
    value = codec(Tick).encode(example_tick())
    assert cut < len(value)

    with pytest.raises(DecodeError):
        codec(Tick).decode(value[:cut])


def test_bytes_after_the_record_are_refused() -> None:
    with pytest.raises(DecodeError, match="1 bytes follow"):
        codec(Tick).decode(codec(Tick).encode(example_tick()) + b"\0")


def test_another_records_bytes_are_refused_by_name() -> None:
    value = codec(Tick).encode(example_tick())

    with pytest.raises(DecodeError, match="schema id 1 is tick, expected trade"):
        codec(next(kind for kind, name in NAMES.items() if name == "trade")).decode(value)


def test_an_unreleased_schema_id_is_refused() -> None:
    with pytest.raises(DecodeError, match="schema id 4096 was never released"):
        decode_any(struct.pack(">bI", 0, 4096) + b"x")


@given(st.text(), st.text(), st.text(), st.text())
def test_event_ids_of_different_sources_or_ids_differ(source: str, one: str, other_source: str, other: str) -> None:
    same = (source, one) == (other_source, other)

    assert (event_id(source, one) == event_id(other_source, other)) is same
