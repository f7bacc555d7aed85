"""The written encoders against fastavro: equal bytes for all that a schema can hold, equal refusals otherwise."""

import io
import json
from types import SimpleNamespace
from typing import Any, NoReturn

import fastavro
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import NAMES, FastavroCodec, codec
from schemas.records import Bar, Event, Record, Stat, Tenant, Tick, Trade
from schemas.row_encoder import row_encoder
from tests.support.strategies import records

FLAT = [Tick, Trade, Event, Tenant]
NESTED = [Stat, Bar]
"""Flat but for a record that is."""
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
TIMES = st.integers(0, 4_102_444_800_000_000)
EDGES = [sign * (1 << bits) + off for sign in (1, -1) for bits in range(64) for off in (-1, 0, 1)]
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([edge for edge in EDGES if -(2**63) <= edge < 2**63])
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.sampled_from(
    ["", "é" * 40, "x" * 9000, "\0"]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "long": INT64,
    "int": st.integers(-(2**31), 2**31 - 1),
    "double": st.floats(allow_nan=True),
    "boolean": st.booleans(),
    "micros": TIMES | INT64,
}


def refuse(record: object) -> NoReturn:
    raise AssertionError(f"{record} was left to the plain encoder")


@st.composite
def flat_records(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema of any flat fields, and a record of it."""
    names = draw(
        st.lists(st.sampled_from(["exchange", "high", "low", "long", "join", "a", "b", "c", "d"]), unique=True)
    )
    fields, values = [], {}
    for name in names:
        kind, optional = draw(st.sampled_from(sorted(VALUES))), draw(st.booleans())
        plain = MICROS if kind == "micros" else kind
        fields.append({"name": name, "type": ["null", plain] if optional else plain})
        values[name] = draw(st.none() | VALUES[kind] if optional else VALUES[kind])
    return {"type": "record", "name": "Flat", "fields": fields}, values


def by_fastavro(schema: dict[str, Any], values: dict[str, Any]) -> bytes:
    plain = json.loads(json.dumps(schema).replace("logicalType", "kind"))
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(plain), values)
    return body.getvalue()


@given(flat_records())
def test_a_flat_record_of_any_schema_is_written_as_by_fastavro(record: tuple[dict[str, Any], dict[str, Any]]) -> None:
    schema, values = record

    written = row_encoder(schema, b"prefix", refuse)(SimpleNamespace(**values))

    assert written == b"prefix" + by_fastavro(schema, values)


@given(record=flat_records(), optional=st.booleans(), known=st.booleans())
def test_a_record_within_a_record_is_written_as_by_fastavro(
    *, record: tuple[dict[str, Any], dict[str, Any]], optional: bool, known: bool
) -> None:
    inner, values = record
    kind = {**inner, "name": "Inner"}
    fields = [{"name": "long", "type": "long"}, {"name": "within", "type": ["null", kind] if optional else kind}]
    schema = {"type": "record", "name": "Outer", "fields": fields}
    within = values if known or not optional else None

    written = row_encoder(schema, b"", refuse)(
        SimpleNamespace(long=7, within=None if within is None else SimpleNamespace(**within))
    )

    assert written == by_fastavro(schema, {"long": 7, "within": within})


@pytest.mark.parametrize("kind", FLAT + NESTED)
@given(st.data())
def test_every_flat_record_is_written_as_by_fastavro(kind: type[Record], data: st.DataObject) -> None:
    schema, prefix = registry.current(NAMES[kind]), codec(kind).encode(data.draw(records(kind)))[:5]
    record = data.draw(records(kind))

    written = row_encoder(schema.json, prefix, refuse)(record)

    assert written == codec(kind).encode(record) == FastavroCodec(kind).encode(record)


@pytest.mark.parametrize("value", EDGES)
def test_a_long_at_each_power_of_two_is_written_or_refused_as_by_fastavro(value: int) -> None:
    schema = {"type": "record", "name": "Longs", "fields": [{"name": "long", "type": "long"}]}
    write = row_encoder(schema, b"", lambda record: by_fastavro(schema, vars(record)))
    within = -(2**63) <= value < 2**63

    assert outcome(write, SimpleNamespace(long=value)) == outcome(lambda _: by_fastavro(schema, {"long": value}), None)
    assert isinstance(outcome(write, SimpleNamespace(long=value)), bytes) is within


@pytest.mark.parametrize("kind", ["int", ["null", "int"]])
@pytest.mark.parametrize("value", [2**31, 2**31 - 1, -(2**31), -(2**31) - 1, 2**40, -(2**62)])
def test_an_int_at_the_edge_of_32_bits_is_written_or_refused_as_by_fastavro(kind: object, value: int) -> None:
    schema = {"type": "record", "name": "Ints", "fields": [{"name": "int", "type": kind}]}
    write = row_encoder(schema, b"", lambda record: by_fastavro(schema, vars(record)))

    assert outcome(write, SimpleNamespace(int=value)) == outcome(lambda _: by_fastavro(schema, {"int": value}), None)


def outcome(encode: Any, record: object) -> bytes | type[Exception]:
    try:
        encoded: bytes = encode(record)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be the other encoder's as well
        return type(error)
    return encoded


TICK = Tick(
    event_id="coinbase:BTC-USD:7", exchange="coinbase", product="BTC-USD", price=1.5, exchange_time=1, received_time=2
)


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": "\ud800"},
        {"exchange": "\ud800"},
        {"side": "\udfff"},
        {"event_id": None},
        {"product": None},
        {"product": 7},
        {"sequence": 2**63},
        {"sequence": -(2**63) - 1},
        {"sequence": "7"},
        {"price": None},
        {"price": "1.5"},
        {"size": "1.5"},
        {"exchange_time": None},
        {"exchange_time": 2**63},
        {"received_time": 1.5},
        {"price": 10**400},
    ],
)
def test_what_no_tick_can_hold_is_refused_or_written_as_by_fastavro(change: dict[str, Any]) -> None:
    record = msgspec.structs.replace(TICK, **change)

    assert outcome(codec(Tick).encode, record) == outcome(FastavroCodec(Tick).encode, record)


@pytest.mark.parametrize("change", [{"event_id": "\ud800"}, {"side": "\ud800"}, {"product": "\udfff"}])
def test_a_lone_surrogate_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnicodeEncodeError):
        codec(Tick).encode(msgspec.structs.replace(TICK, **change))


@given(st.data())
def test_any_of_a_ticks_optional_fields_may_be_missing(data: st.DataObject) -> None:
    optional = [
        name
        for name, info in zip(Tick.__struct_fields__, msgspec.structs.fields(Tick), strict=True)
        if not info.required
    ]
    whole = data.draw(records(Tick))
    missing = data.draw(st.sets(st.sampled_from(optional)))

    record = msgspec.structs.replace(whole, **dict.fromkeys(missing))

    assert codec(Tick).encode(record) == FastavroCodec(Tick).encode(record)


@example(["x" * 50] * 3)
@given(st.lists(TEXT, max_size=50))
def test_a_text_seen_before_is_written_as_at_first(texts: list[str]) -> None:
    schema = {"type": "record", "name": "Texts", "fields": [{"name": "exchange", "type": "string"}]}
    write = row_encoder(schema, b"", refuse)

    for text in [*texts, *texts]:
        assert write(SimpleNamespace(exchange=text)) == by_fastavro(schema, {"exchange": text})


def test_the_values_that_are_kept_are_bounded() -> None:
    schema = {"type": "record", "name": "Texts", "fields": [{"name": "exchange", "type": "string"}]}
    write = row_encoder(schema, b"", refuse)
    kept = write.__globals__["_texts"]  # type: ignore[attr-defined]  # a function of Python

    for number in range(10_000):
        write(SimpleNamespace(exchange=f"x-{number}"))
    write(SimpleNamespace(exchange="y" * 10_000))

    assert 0 < len(kept) <= 4096
    assert max(map(len, kept)) < 100


@pytest.mark.parametrize(
    "kind", [{"type": "array", "items": "long"}, ["long", "null"], ["null", "long", "string"], "bytes"]
)
def test_a_schema_that_is_not_flat_is_left_to_the_plain_encoder(kind: object) -> None:
    schema = {
        "type": "record",
        "name": "Nested",
        "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": kind}],
    }

    assert row_encoder(schema, b"", refuse) is refuse
