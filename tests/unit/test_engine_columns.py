"""Records as columns against the same records as rows: what a fold makes of both is identical, bit for bit."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine import fold as engine
from streams.engine.cut import KeyBatch, cut, exact_sums, two_product
from streams.engine.exact import SCALE
from streams.engine.inputs import Columns, Row, Table
from streams.engine.panes import pane_of
from tests.support.ticking import EXCHANGE, PRODUCT, START, rule

MICROS = 1_000_000
NUMBERS = st.one_of(
    st.floats(1e-3, 1e6),
    st.floats(2.0**-119, 1e15),
    st.sampled_from([0.1, 2.0**-120, 1e15, 61_234.56]),
)


@st.composite
def rows(draw: st.DrawFn, *, tidy: bool = False) -> list[Row]:
    """Draw a key's records in offset order; not tidy: also late, repeated, or with ids that go back."""
    time, identity, taken = START * MICROS, 1_000, list[Row]()
    for number in range(draw(st.integers(1, 40))):
        time += draw(st.sampled_from([0, 1, 250_000, MICROS, 7 * MICROS, 70 * MICROS, 1_000 * MICROS]))
        identity += draw(st.integers(1, 3))
        back = 0 if tidy else draw(st.sampled_from([0, 0, 0, 0, MICROS, 8 * MICROS, 30 * MICROS]))
        quoted = draw(st.booleans())
        price = draw(NUMBERS)
        taken.append(
            Row(
                number,
                time + 5,
                time - back,
                price,
                draw(st.none() | st.just(0.0) | NUMBERS),
                draw(st.booleans()),
                identity if tidy or draw(st.integers(0, 8)) else identity - 4,
                draw(NUMBERS) if quoted else None,
                draw(NUMBERS) if quoted or draw(st.booleans()) else None,
                time - back - draw(st.integers(0, 2_000)),
            )
        )
    return taken


def columns(records: list[Row]) -> Columns:
    """Return rows as columns."""
    unknown = math.nan
    return Columns(
        np.array([row.offset for row in records], np.int64),
        np.array([row.appended_at for row in records], np.int64),
        np.array([row.time for row in records], np.int64),
        np.array([row.price for row in records]),
        np.array([unknown if row.size is None else row.size for row in records]),
        np.array([row.buy for row in records], np.bool_),
        np.array([row.identity for row in records], np.int64),
        np.array([unknown if row.bid is None else row.bid for row in records]),
        np.array([unknown if row.ask is None else row.ask for row in records]),
        np.array([row.quote_time for row in records], np.int64),
    )


def batch(records: list[Row]) -> KeyBatch:
    """Return rows as the batch of one key."""
    return cut(Table(columns(records), [(EXCHANGE, PRODUCT)], [0, len(records)]))[0]


def test_columns_give_back_their_rows() -> None:
    records = [Row(1, 2, 3, 4.0, None, True, 5, None, 6.0, 7), Row(8, 9, 10, 11.0, 0.0, False, 12, 13.0, None, 14)]

    assert columns(records).rows() == records
    assert columns(records).part(1, 2).rows() == records[1:]


@given(rows(tidy=True))
def test_the_panes_of_columns_are_those_of_rows(records: list[Row]) -> None:
    found = batch(records)

    assert found.tidy
    assert [pane_of(records[a].time // MICROS, records[a:b]) for a, b in pairwise(found.bounds)] == found.panes


@given(st.lists(st.booleans().flatmap(lambda tidy: rows(tidy=tidy)), min_size=1, max_size=3), st.booleans())
def test_folding_columns_is_folding_rows(batches: list[list[Row]], with_clock: bool) -> None:  # noqa: FBT001 (drawn)
    rules = [rule({"above": 100.0}, for_="1s"), rule({"crosses": 5_000.0}, "r2")]
    one = other = engine.new_state(EXCHANGE, PRODUCT)
    for records in batches:
        by_rows, by_columns = engine.fold(one, records, rules), engine.fold(other, batch(records), rules)

        assert (by_columns.stats, by_columns.bars) == (by_rows.stats, by_rows.bars)
        assert (by_columns.alerts, by_columns.counts) == (by_rows.alerts, by_rows.counts)
        assert by_columns.state == by_rows.state
        one, other = by_rows.state, by_columns.state
        if with_clock:
            one = engine.advance(one, one.watermark + 3 * MICROS, rules).state
            other = engine.advance(other, other.watermark + 3 * MICROS, rules).state


@given(st.lists(st.tuples(rows(), rows()), min_size=1, max_size=4))
def test_the_keys_of_a_table_do_not_touch_each_other(pairs: list[tuple[list[Row], list[Row]]]) -> None:
    parts = [records for pair in pairs for records in pair]
    bounds = [0, *np.cumsum([len(records) for records in parts]).tolist()]
    keys = [(EXCHANGE, f"P{number}") for number in range(len(parts))]

    found = cut(Table(columns([row for records in parts for row in records]), keys, bounds))

    for records, name, each in zip(parts, keys, found, strict=True):
        alone = batch(records)
        assert (each.exchange, each.product) == name
        assert (each.tidy, each.bounds, each.panes) == (alone.tidy, alone.bounds, alone.panes)
        assert each.rows() == records


def test_an_empty_table_holds_no_batch() -> None:
    assert cut(Table(columns([]), [], [0])) == []


@pytest.mark.parametrize("spoiled", [{"price": 2.0**-121}, {"bid": 1e-300, "ask": 1.0}, {"size": 5e-324}])
def test_numbers_too_small_for_slices_are_left_to_rows(spoiled: dict[str, float]) -> None:
    fields = {"price": 1.0, "size": 1.0, "bid": 1.0, "ask": 1.0} | spoiled
    row = Row(0, 0, MICROS, fields["price"], fields["size"], False, 1, fields["bid"], fields["ask"], MICROS)

    assert not batch([row]).tidy


# ---- sums ----


@given(st.lists(st.one_of(NUMBERS, NUMBERS.map(float.__neg__), st.just(0.0)), min_size=1, max_size=60), st.data())
def test_sums_of_segments_are_exact(values: list[float], data: st.DataObject) -> None:
    starts = sorted({0, *data.draw(st.lists(st.integers(0, len(values) - 1), max_size=5))})

    found = exact_sums(np.array(values), np.array(starts))

    parts = [values[a:b] for a, b in pairwise([*starts, len(values)])]
    assert found == [sum(int(Fraction(value) * int(SCALE)) for value in part) for part in parts]


@given(NUMBERS, NUMBERS)
def test_a_product_in_two_doubles_is_exact(a: float, b: float) -> None:
    high, low = two_product(np.array([a]), np.array([b]))

    assert Fraction(float(high[0])) + Fraction(float(low[0])) == Fraction(a) * Fraction(b)
