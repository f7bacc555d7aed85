import math
import statistics
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.records import Tick
from streams.engine.exact import exact, mean, rounded
from streams.engine.statistics import YEAR_SECONDS, log_returns
from tests.support.ticking import Run, folded, inputs, micros, tick

PRICES = st.floats(min_value=1e-6, max_value=1e15)
SIZES = st.floats(min_value=0, max_value=1e18)


def closed(*ticks: Tick, after: float = 400.0) -> Run:
    """Fold ticks and one that closes what came before `after` seconds."""
    return folded([*ticks, tick(after, 1.0, best_bid=1.0, best_ask=2.0)])


def test_a_window_is_described_by_its_records() -> None:
    run = closed(
        tick(0.1, 10.0, size=2.0, side="buy"),
        tick(0.2, 14.0, size=1.0, side="sell"),
        tick(0.3, 8.0, size=1.0, side="buy"),
        tick(0.4, 12.0),
    )

    stat = run.stat("1m", 1)

    assert (stat.count, stat.open, stat.high, stat.low, stat.close) == (4, 10.0, 14.0, 8.0, 12.0)
    assert (stat.volume, stat.buy_volume, stat.quote_volume, stat.vwap) == (4.0, 3.0, 42.0, 10.5)
    assert (stat.mean, stat.stddev) == (11.0, math.sqrt(20 / 3))
    assert (stat.reference_price, stat.change, stat.change_pct) == (10.0, 2.0, 20.0)
    assert stat.range_position == pytest.approx(2 / 3)
    assert (stat.at, stat.basis, stat.revision, stat.as_of.offset) == (micros(1), "ticks", 0, 3)


def test_what_cannot_be_said_is_null() -> None:
    stat = closed(tick(0.1, 10.0)).stat("1m", 1)

    assert (stat.volume, stat.quote_volume, stat.buy_volume, stat.vwap) == (0.0, 0.0, 0.0, None)
    assert (stat.stddev, stat.range_position, stat.volatility, stat.stddev_log_return) == (None, None, None, None)
    assert (stat.spread_mean, stat.spread_bps, stat.quote_age) == (None, None, None)


def test_a_record_on_the_edge_belongs_to_the_window_that_begins_there() -> None:
    run = closed(tick(0, 10.0), tick(60, 20.0))

    assert run.stat("1m", 1).count == 1
    assert run.stat("1m", 61).count == 1
    assert run.stat("5m", 61).count == 2


def test_an_empty_window_keeps_the_price_before_it() -> None:
    stat = closed(tick(0.5, 10.0, size=1.0)).stat("1m", 61)

    assert (stat.count, stat.open, stat.close, stat.mean, stat.change) == (0, None, None, None, None)
    assert (stat.volume, stat.reference_price, stat.coverage_seconds, stat.volatility) == (0.0, 10.0, 60.0, 0.0)
    assert stat.as_of.offset == 0


def test_the_reference_is_the_last_price_before_the_window() -> None:
    run = closed(tick(0.2, 10.0), tick(0.7, 11.0), tick(60.5, 12.0), tick(61.5, 15.0))

    assert run.stat("1m", 61).reference_price == 11.0
    assert run.stat("1m", 62).reference_price == 11.0
    assert run.stat("1m", 62).change == 4.0
    assert run.stat("5m", 62).reference_price == 10.0


def test_coverage_counts_from_the_keys_first_record() -> None:
    run = closed(tick(0.25, 10.0), tick(30.5, 10.0), tick(100.0, 10.0))

    assert run.stat("1m", 31).coverage_seconds == 30.75
    assert run.stat("1m", 101).coverage_seconds == 60.0
    assert run.stat("5m", 101).coverage_seconds == 100.75


def test_equal_times_are_ordered_by_offset() -> None:
    stat = closed(tick(0.5, 10.0, 3), tick(0.5, 20.0, 2), tick(0.5, 15.0, 1)).stat("1m", 1)

    assert (stat.open, stat.close) == (10.0, 15.0)


def test_open_and_close_go_by_time_where_records_of_a_pane_are_out_of_order() -> None:
    stat = closed(tick(0.5, 10.0), tick(0.9, 20.0), tick(0.1, 15.0), tick(0.6, 12.0)).stat("1m", 1)

    assert (stat.open, stat.close, stat.as_of.offset) == (15.0, 20.0, 3)


# ---- volatility ----


def test_volatility_of_a_constant_growth_is_its_rate_annualised() -> None:
    run = closed(*[tick(second + 0.5, math.exp(0.001 * second)) for second in range(100)])

    stat = run.stat("1m", 100)

    assert stat.volatility == pytest.approx(0.001 * math.sqrt(YEAR_SECONDS), rel=1e-12)
    assert stat.stddev_log_return == pytest.approx(0.0, abs=1e-15)


def test_volatility_needs_ten_returns() -> None:
    run = closed(*[tick(second + 0.5, 10.0 + second) for second in range(12)])

    assert run.stat("1m", 9).volatility is None
    assert run.stat("1m", 10).volatility is not None
    assert run.stat("5m", 12).volatility is None


def test_the_first_return_starts_at_the_first_record() -> None:
    stat = closed(*[tick(second + 0.5, 2.0**second) for second in range(12)]).stat("1m", 12)

    # 12 points of the grid follow the first record; the first return, from its own price, is 0
    squares = 11 * math.log(2) ** 2
    assert stat.volatility == pytest.approx(math.sqrt(squares * YEAR_SECONDS / 11.5), rel=1e-12)
    assert stat.stddev_log_return == pytest.approx(statistics.stdev([0.0, *[math.log(2)] * 11]), rel=1e-12)


def test_five_minutes_are_seen_every_five_seconds_counted_back_from_the_end() -> None:
    run = closed(tick(0, 10.0), tick(302.5, 20.0), tick(303.5, 10.0), tick(306.0, 10.0), tick(307.5, 10.0))
    move = math.log(2) ** 2 * YEAR_SECONDS / 300

    assert run.stat("5m", 303).volatility == pytest.approx(math.sqrt(move), rel=1e-12)  # up before the point 303
    assert run.stat("5m", 307).volatility == 0.0  # up and down between the points 302 and 307
    assert run.stat("5m", 308).volatility == pytest.approx(math.sqrt(2 * move), rel=1e-12)  # the point 303 between


@given(st.floats(1e-3, 1e12), st.one_of(st.floats(1e-3, 1e3), st.floats(0.999, 1.001)), st.booleans())
def test_a_log_return_is_precise_near_and_far(before: float, factor: float, far: bool) -> None:  # noqa: FBT001 (drawn)
    after = before * factor
    assume(after != before)
    ratio = Fraction(after) / Fraction(before)
    x = ratio - 1
    series = sum((-1) ** (n + 1) * x**n / n for n in range(1, 9)) if abs(x) < Fraction(1, 500) else math.log(ratio)

    got = log_returns(np.array([before, after, *([after * 1e30] if far else [])]))

    assert got[0] == pytest.approx(float(series), rel=1e-13)


def test_a_price_that_stays_returns_nothing() -> None:
    assert log_returns(np.array([5.0, 5.0, 5.0])).tolist() == [0.0, 0.0]
    assert log_returns(np.array([5.0])).tolist() == []


# ---- quotes ----


def test_spreads_come_from_ticks_with_both_sides() -> None:
    run = closed(
        tick(0.1, 10.0, best_bid=9.0, best_ask=11.0),
        tick(0.2, 10.0, best_bid=9.0),
        tick(0.3, 10.0, best_bid=9.5, best_ask=10.5, quote_time=micros(0.25)),
    )

    stat = run.stat("1m", 1, "quotes")

    assert (stat.count, stat.spread_mean) == (2, 1.5)
    assert stat.spread_bps == pytest.approx((2 / 10 + 1 / 10) / 2 * 10_000)
    assert stat.quote_age == 0.75
    assert (stat.open, stat.volume, stat.mean, stat.coverage_seconds) == (None, None, None, 0.9)


@pytest.mark.parametrize("batches", [[[0, 1]], [[0], [1]]])
def test_of_quotes_at_one_time_the_last_in_offset_order_counts(batches: list[list[int]]) -> None:
    records = inputs(
        [tick(0.5, 10.0, n, best_bid=9.0, best_ask=11.0, quote_time=micros(0.1 + 0.1 * n)) for n in range(2)]
    )
    run = Run()
    for batch in batches:
        run.fold([records[index] for index in batch])

    assert run.advance(micros(3)).stat("1m", 1, "quotes").quote_age == 0.8


def test_without_quotes_there_is_no_statistic_of_quotes() -> None:
    run = folded([tick(0.1, 10.0), tick(5, 10.0)])

    assert {stat.basis for stat in run.stats} == {"ticks"}


def test_an_empty_window_of_quotes_says_how_old_the_last_quote_is() -> None:
    run = closed(tick(0.5, 10.0, best_bid=9.0, best_ask=11.0), tick(30.5, 10.0))

    stat = run.stat("1m", 61, "quotes")

    assert (stat.count, stat.spread_mean, stat.spread_bps, stat.quote_age) == (0, None, None, 60.5)
    assert f"{stat.event_id.removesuffix('quotes')}ticks" not in run.final


# ---- numbers ----


def test_prices_at_the_ends_of_the_scale_give_no_infinities() -> None:
    run = closed(*[tick(n * 1.5, price, size=1e18) for n, price in enumerate([5e-324, 1e15, 5e-324, 1e15] * 5)])

    for stat in run.stats:
        assert all(math.isfinite(value) for value in msgspec.structs.astuple(stat) if isinstance(value, float))
    assert run.stat("1m", 29).change_pct is None


@given(st.lists(PRICES, min_size=2, max_size=30), st.lists(SIZES, min_size=30, max_size=30))
def test_sums_are_rounded_once(prices: list[float], sizes: list[float]) -> None:
    stat = closed(*[tick(n / 100, p, size=s) for n, (p, s) in enumerate(zip(prices, sizes, strict=False))]).stat(
        "1m", 1
    )

    exact_prices = [Fraction(price) for price in prices]
    average = sum(exact_prices) / len(prices)
    variance = sum((price - average) ** 2 for price in exact_prices) / (len(prices) - 1)
    turnover = sum(Fraction(p) * Fraction(s) for p, s in zip(prices, sizes, strict=False))
    volume = sum(Fraction(s) for s in sizes[: len(prices)])
    # sizes below 2**-128 are cut
    assert stat.mean == pytest.approx(float(average), rel=1e-15)
    assert stat.stddev == pytest.approx(math.sqrt(variance), rel=1e-15)
    assert stat.volume == pytest.approx(float(volume), rel=1e-15, abs=1e-37)
    assert stat.quote_volume == pytest.approx(float(turnover), rel=1e-15, abs=1e-20)


def test_small_moves_far_from_zero_keep_their_precision() -> None:
    prices = [1e9 + step * 1e-6 for step in (0, 1, 2, 3, 1, 0, 2)]
    average = sum(map(Fraction, prices)) / len(prices)
    variance = sum((Fraction(price) - average) ** 2 for price in prices) / (len(prices) - 1)

    stat = closed(*[tick(n * 7.3, price) for n, price in enumerate(prices)]).stat("1m", 44)

    assert stat.stddev == pytest.approx(math.sqrt(variance), rel=1e-14)
    assert stat.mean == pytest.approx(float(average), rel=1e-15)


def test_a_window_far_into_a_long_life_is_as_exact_as_the_first() -> None:
    early = [tick(n * 0.9, 1e15 - n, size=1e18) for n in range(1_000)]
    late = [tick(2_000 + n / 10, 0.1 + n / 1_000, size=0.3) for n in range(9)]

    stat = folded([*early, *late, tick(2_050, 1.0)]).stat("1m", 2_001)

    assert stat.mean == pytest.approx(float(sum(Fraction(t.price) for t in late) / 9), rel=1e-15)
    assert stat.volume == pytest.approx(2.7, rel=1e-15)


@given(st.lists(st.floats(-1e18, 1e18).filter(lambda x: x == 0 or abs(x) > 1e-38), min_size=1, max_size=50))
def test_exact_forms_add_up_without_rounding(values: list[float]) -> None:
    total = sum(exact(value) for value in values)

    assert rounded(total) == float(sum(map(Fraction, values)))
    assert mean(total, len(values)) == float(sum(map(Fraction, values)) / len(values))
