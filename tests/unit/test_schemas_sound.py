"""The column validator against the one for records: what it finds sound, `check` finds sound, of the same product."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import registry
from schemas.codec import NAMES, codec
from schemas.columns import column_decoder
from schemas.records import Tick, Trade
from schemas.sound import are_buys, are_sound, by_product
from schemas.validate import check
from tests.support.valued import TICK, TRADE, changes, damaged, field_values, laid

Kind = type[Tick | Trade]
Source = int
DATASETS = {Tick: ["ticks", "own-ticks", "ticks"], Trade: ["trades", "trades", "trades"]}
"""Of three sources."""
OWN: dict[Kind, list[bool | None]] = {Tick: [False, True, False], Trade: [None, None, None]}


def judged(kind: Kind, values: Sequence[tuple[Source, bytes | None]]) -> dict[int, tuple[str, str] | None]:
    """Return the product of each record that columns find sound, None for the others, by place; in sorted order."""
    octets, starts, stops = laid([value for _, value in values])
    schema = registry.current(NAMES[kind])
    decoder = column_decoder(schema.json, struct.pack(">bI", 0, schema.schema_id))
    assert decoder is not None
    decoded = decoder.decode(octets, starts, stops)
    sources, own = np.array([source for source, _ in values]), OWN[kind]

    products = by_product(octets, decoded, np.flatnonzero(decoded.certain), sources, own)

    sound = are_sound(octets, decoded, products)
    assert [sources[place] for place in products.order] == np.repeat(
        products.sources, np.diff(products.bounds)
    ).tolist()
    names = [names for names, size in zip(products.names, np.diff(products.bounds), strict=True) for _ in range(size)]
    buys = are_buys(octets, decoded.columns["side"])
    return {
        place: (*name, buys[place]) if name and is_sound else None
        for place, name, is_sound in zip(products.order.tolist(), names, sound.tolist(), strict=True)
    }


def checked(kind: Kind, values: Sequence[tuple[Source, bytes | None]]) -> Iterator[bool]:
    """Compare with the validator for records and return which records were found sound."""
    found = judged(kind, values)
    for place, (source, value) in enumerate(values):
        if found.get(place) is not None:
            record = codec(kind).decode(value)
            assert check(record, DATASETS[kind][source]) is None
            assert found[place] == (record.exchange, record.product, record.side == "buy")
        yield found.get(place) is not None


NUMBERED = {"trade_id", "sequence"}
RECORDS: dict[Kind, Any] = {Tick: TICK, Trade: TRADE}
OF_OTHERS: dict[str, Any] = {"exchange": "x-mine", "product": "ETH/EUR", "event_id": "x-mine:ETH/EUR:1"}


@st.composite
def encoded(draw: st.DrawFn, kind: Kind) -> bytes | None:
    """The bytes of a record of one of two products: sound, with faulty fields, or damaged."""
    record = msgspec.structs.replace(RECORDS[kind], **draw(st.just({}) | st.just(OF_OTHERS)))
    changed = msgspec.structs.replace(record, **draw(st.just({}) | changes(kind)))
    try:
        value = codec(kind).encode(changed)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError, struct.error):
        return None
    return draw(st.just(value) | damaged(value))


@pytest.mark.parametrize("kind", [Tick, Trade])
@given(st.data())
def test_what_columns_find_sound_is_sound(kind: Kind, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.tuples(st.integers(0, 2), encoded(kind)), min_size=1, max_size=8))

    assert len(list(checked(kind, values))) == len(values)


@pytest.mark.parametrize("kind", [Tick, Trade])
@pytest.mark.parametrize("name", sorted({*Tick.__struct_fields__, *Trade.__struct_fields__}))
@given(st.data())
def test_a_record_with_one_field_changed_is_sound_only_where_the_check_says_so(
    kind: Kind, name: str, data: st.DataObject
) -> None:
    drawn = data.draw(field_values(name)) if name in kind.__struct_fields__ and name not in NUMBERED else None
    record = msgspec.structs.replace(RECORDS[kind], **({} if drawn is None else {name: drawn}))
    try:
        value = codec(kind).encode(record)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError, struct.error):
        return

    list(checked(kind, [(0, value), (0, codec(kind).encode(RECORDS[kind]))]))


@given(st.lists(st.tuples(st.sampled_from([0, 2]), st.sampled_from("AB"), st.sampled_from("CD"))))
@example([(0, "AC", "D"), (0, "A", "CD"), (2, "A", "CD"), (0, "AC", "D")])
def test_records_are_sorted_by_source_and_product_and_all_are_sound(drawn: list[tuple[int, str, str]]) -> None:
    values = [
        (
            source,
            codec(Trade).encode(
                msgspec.structs.replace(
                    TRADE, exchange=first.lower(), product=second, event_id=f"{first.lower()}:{second}:{first}"
                )
            ),
        )
        for source, first, second in drawn
    ]

    found = judged(Trade, values)

    sources = [values[place][0] for place in found]
    groups = [(values[place][0], found[place]) for place in found]
    assert None not in found.values()
    assert len(found) == len(values)
    assert sources == sorted(sources)
    assert sum(one != other for one, other in itertools.pairwise(groups)) == max(len(set(groups)) - 1, 0)
    for group in set(groups):
        places = [place for place, each in zip(found, groups, strict=True) if each == group]
        assert places == sorted(places)


@pytest.mark.parametrize(
    ("kind", "source", "fields"),
    [(Tick, 0, {}), (Trade, 0, {}), (Tick, 1, OF_OTHERS), (Trade, 0, OF_OTHERS), (Tick, 0, {"side": None})],
)
def test_sound_records_are_found_sound(kind: Kind, source: int, fields: dict[str, Any]) -> None:
    record = msgspec.structs.replace(RECORDS[kind], **fields)

    assert list(checked(kind, [(source, codec(kind).encode(record))] * 3)) == [True] * 3


@pytest.mark.parametrize(("source", "fields"), [(1, {}), (0, OF_OTHERS)])
def test_a_tick_of_anothers_exchange_is_not_sound(source: int, fields: dict[str, Any]) -> None:
    tick = msgspec.structs.replace(TICK, **fields)

    assert list(checked(Tick, [(source, codec(Tick).encode(tick))])) == [False]


def test_products_that_fall_together_by_their_hash_are_left_to_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.sound._MULTIPLIERS", np.zeros(8, np.uint64))
    other = msgspec.structs.replace(TRADE, product="ETH-USD", event_id="coinbase:ETH-USD:t1")
    values = [(source, codec(Trade).encode(trade)) for source, trade in [(0, TRADE), (0, other), (1, TRADE)]]

    assert list(checked(Trade, values)) == [False, False, True]


def test_names_that_are_too_long_to_compare_are_left_to_rows() -> None:
    long = msgspec.structs.replace(TRADE, product="A" * 60, event_id="coinbase:AAA:1")

    assert list(checked(Trade, [(0, codec(Trade).encode(trade)) for trade in (long, TRADE)])) == [False, True]
