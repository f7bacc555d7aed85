"""The written decoders against the plain one: equal records, equal refusals, for any bytes."""

import struct
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import NAMES, FastavroCodec, codec
from schemas.errors import DecodeError
from schemas.records import Event, Record, Tenant, Tick, Trade
from schemas.row_decoder import row_decoder
from tests.support.strategies import records

FLAT = [Tick, Trade, Event, Tenant]
TICK = Tick(
    event_id="coinbase:BTC-USD:7",
    exchange="coinbase",
    product="BTC-USD",
    sequence=93_393_879_800,
    trade_id=881_613,
    side="buy",
    price=60_000.5,
    size=0.1,
    best_bid=59_999.0,
    best_bid_size=1.0,
    best_ask=60_001.0,
    best_ask_size=2.0,
    open_24h=1.0,
    high_24h=2.0,
    low_24h=0.5,
    volume_24h=10.0,
    volume_30d=300.0,
    exchange_time=1_618_677_817_056_746,
    received_time=1_618_677_817_129_330,
)


def refuse(value: bytes | None) -> NoReturn:
    raise AssertionError(f"{value!r} was left to the plain decoder")


def written(kind: type[Record]) -> Any:
    """The written decoder by itself: what it leaves to the plain one is a failure."""
    schema = registry.current(NAMES[kind])
    return row_decoder(schema.json, struct.pack(">bI", 0, schema.schema_id), kind, refuse)


def outcome(decode: Any, value: bytes | None) -> Record | str:
    try:
        record: Record = decode(value)
    except DecodeError as error:
        return error.code
    return record


@pytest.mark.parametrize("kind", FLAT)
@given(st.data())
def test_every_flat_record_survives_as_with_the_plain_decoder(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(records(kind))
    value = FastavroCodec(kind).encode(record)

    assert codec(kind).decode(value) == FastavroCodec(kind).decode(value) == record


OPTIONAL = [info.name for info in msgspec.structs.fields(Tick) if not info.required]


@given(st.sets(st.sampled_from(OPTIONAL)), st.integers((1 << 48) + 1, (1 << 55) - 1), st.integers(-(2**40), 2**40))
@example(set(), (1 << 48) + 1, 0)
@example(set(OPTIONAL), (1 << 55) - 1, -1)
def test_a_tick_of_our_times_is_left_to_nobody(missing: set[str], time: int, sequence: int) -> None:
    tick = msgspec.structs.replace(TICK, sequence=sequence, exchange_time=time, received_time=time - 1)
    tick = msgspec.structs.replace(tick, **dict.fromkeys(missing))

    assert written(Tick)(codec(Tick).encode(tick)) == tick


@given(st.sampled_from(FLAT).flatmap(records), st.data())
def test_damaged_bytes_are_read_or_refused_as_by_the_plain_decoder(record: Record, data: st.DataObject) -> None:
    value = bytearray(codec(type(record)).encode(record))
    for _ in range(data.draw(st.integers(0, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(value[: data.draw(st.integers(0, len(value)))]) + data.draw(st.binary(max_size=2))

    assert repr(outcome(codec(type(record)).decode, damaged)) == repr(
        outcome(FastavroCodec(type(record)).decode, damaged)
    )


@given(st.data())
def test_a_tick_with_changed_bytes_is_read_or_refused_as_by_the_plain_decoder(data: st.DataObject) -> None:
    value = bytearray(codec(Tick).encode(TICK))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(5, len(value) - 1))] = data.draw(
            st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFF])
        )

    assert repr(outcome(codec(Tick).decode, bytes(value))) == repr(outcome(FastavroCodec(Tick).decode, bytes(value)))


@pytest.mark.parametrize("at", range(len(codec(Tick).encode(TICK))))
def test_each_byte_of_a_tick_counts(at: int) -> None:
    value = codec(Tick).encode(TICK)
    for byte in (0, 1, 2, 4, 0x7F, 0x80, 0xFE, 0xFF, value[at] ^ 1, value[at] ^ 0x80):
        changed = value[:at] + bytes((byte,)) + value[at + 1 :]

        assert repr(outcome(codec(Tick).decode, changed)) == repr(outcome(FastavroCodec(Tick).decode, changed))
        assert outcome(codec(Tick).decode, value[:at]) == outcome(FastavroCodec(Tick).decode, value[:at])


@pytest.mark.parametrize(
    "long", [b"\x80" * 9 + b"\x01", b"\xff" * 9 + b"\x01", b"\x80" * 10 + b"\x01", b"\x80" * 200 + b"\x01"]
)
def test_a_long_of_any_length_is_read_or_refused_as_by_the_plain_decoder(long: bytes) -> None:
    value = codec(Tick).encode(msgspec.structs.replace(TICK, sequence=5))
    changed = value.replace(b"\x0eBTC-USD\x02\x0a", b"\x0eBTC-USD\x02" + long, 1)

    assert changed != value
    assert repr(outcome(codec(Tick).decode, changed)) == repr(outcome(FastavroCodec(Tick).decode, changed))


@pytest.mark.parametrize("value", [None, b"", b"\0\0\0\0\1", b"\0\0\0\0\2" + bytes(100), b"\1\0\0\0\1" + bytes(100)])
def test_what_is_no_tick_is_refused_as_by_the_plain_decoder(value: bytes | None) -> None:
    assert isinstance(outcome(codec(Tick).decode, value), str)
    assert outcome(codec(Tick).decode, value) == outcome(FastavroCodec(Tick).decode, value)


def test_a_schema_that_is_not_flat_is_left_to_the_plain_decoder() -> None:
    schema = {"type": "record", "name": "Nested", "fields": [{"name": "a", "type": {"type": "array", "items": "long"}}]}

    assert row_decoder(schema, b"", Tick, refuse) is refuse
