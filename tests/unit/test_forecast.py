"""What the forecast promises: a function of the day before, equal to its definition, whole at its edges."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.forecast_scores import Market
from benchmarks.markets import DAY, Bars, constant_volatility, garch, recorded
from streams.engine.forecast import (
    COMPONENTS,
    DECAY,
    HAR_MINUTES,
    HORIZONS,
    LEVEL,
    MIN_MINUTES,
    MIN_RESIDUALS,
    STUDENT,
    WEIGHTS,
    Forecast,
    forecast,
)

AT = 20 * DAY

Closes = dict[int, float]


def walk(minutes: int, seed: int = 1, at: int = AT) -> Closes:
    """Closes of a market with a pane in each minute before `at`, so calm that half returns are half log returns."""
    bars = garch(2, seed, volatility=0.02)
    return {at - 60 * (minutes - number): price for number, price in enumerate(bars.close[:minutes].tolist())}


def told(closes: Closes, at: int = AT) -> Forecast | None:
    return forecast(np.array(sorted(closes), np.int64), np.array([closes[key] for key in sorted(closes)]), at)


def known(closes: Closes, at: int = AT) -> Forecast:
    found = told(closes, at)
    assert found is not None
    return found


def by_definition(closes: Closes, at: int) -> list[tuple[float, float, float]]:
    """(volatility, low, high) by horizon: the plain definition, a minute after the other."""
    first = min(second for second in closes if at - DAY <= second < at)
    prices: list[float] = []
    for second in range(first, at, 60):
        prices.append(closes.get(second, prices[-1] if prices else math.nan))
    squares = [math.log(after / before) ** 2 for before, after in pairwise(prices)]
    return [_outlook(seconds // 60, WEIGHTS[seconds], prices, squares) for seconds in HORIZONS]


def _outlook(
    ahead: int, weights: tuple[float, float, float], prices: list[float], squares: list[float]
) -> tuple[float, float, float]:
    def har(count: int) -> float:
        parts = [squares[max(count - back, 0) : count] for back in COMPONENTS]
        return sum(w * math.fsum(part) / len(part) for w, part in zip(weights, parts, strict=True))

    reach = STUDENT * math.sqrt(ahead)
    if len(prices) < HAR_MINUTES:
        decays = [DECAY**age for age in range(len(squares))][::-1]
        variance = math.fsum(d * s for d, s in zip(decays, squares, strict=True)) / math.fsum(decays)
    else:
        variance = har(len(squares))
        missed = [
            abs(math.log(prices[i + ahead] / prices[i])) / math.sqrt(har(i))
            for i in range(MIN_MINUTES, len(prices) - ahead)
            if any(squares[:i])
        ]
        if len(missed) >= MIN_RESIDUALS:
            reach = sorted(missed)[math.ceil((len(missed) + 1) * LEVEL) - 1]
    width = reach * math.sqrt(variance)
    return math.sqrt(variance * 365 * 1_440), prices[-1] * math.exp(-width), prices[-1] * math.exp(width)


def figures(found: Forecast) -> list[tuple[float, float, float]]:
    return [(one.volatility, one.low, one.high) for one in found.outlooks]


# ---- the definition ----


@given(st.integers(MIN_MINUTES, 1_500), st.integers(0, 5), st.sampled_from([1.0, 0.7, 0.05]), st.integers(0, 2**32 - 1))
def test_it_is_what_the_definition_says(minutes: int, seed: int, kept: float, chance: int) -> None:
    held = np.random.default_rng(chance).random(minutes) < kept
    held[[0, -1]] = True
    closes = {second: price for (second, price), one in zip(walk(minutes, seed).items(), held, strict=True) if one}
    expected = by_definition(closes, AT)

    found = told(closes)

    assert found is not None or expected[0][0] == 0 or AT - max(min(closes), AT - DAY) < 60 * MIN_MINUTES
    if found is not None:
        assert np.allclose(figures(found), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(("minutes", "method"), [(HAR_MINUTES - 1, "ewma"), (HAR_MINUTES, "har"), (1_440, "har")])
def test_har_takes_over_where_history_suffices(minutes: int, method: str) -> None:
    assert known(walk(minutes)).method == method


def test_outlooks_come_in_the_order_of_the_horizons() -> None:
    assert [one.seconds for one in known(walk(600)).outlooks] == list(HORIZONS) == [60, 300, 900]


def test_a_price_that_first_moved_of_late_has_students_interval() -> None:
    closes = dict.fromkeys(walk(700), 100.0) | {AT - 60 * back: 100.0 + back % 3 / 1_000 for back in range(1, 60)}

    assert np.allclose(figures(known(closes)), by_definition(closes, AT), rtol=1e-7, atol=0)


# ---- what it may see ----


@given(st.integers(0, 1_600), st.floats(0.5, 2.0), st.sets(st.integers(1, 2_880), max_size=3))
def test_no_forecast_changes_with_the_future(ahead: int, factor: float, missing: set[int]) -> None:
    closes = {second: price for second, price in walk(2_880).items() if (AT - second) // 60 not in missing}
    at = AT - 60 * (1_600 - ahead)
    changed = {second: price * (factor if second >= at else 1) for second, price in closes.items()}
    without = {second: price for second, price in closes.items() if second < at}

    assert told(closes, at) == told(changed, at) == told(without, at)


def test_nothing_older_than_a_day_counts() -> None:
    closes = walk(2_000)
    changed = {second: price * (2 if second < AT - DAY else 1) for second, price in closes.items()}

    assert told(changed) == told(closes)


def test_the_youngest_and_the_oldest_minute_of_the_day_count() -> None:
    closes = walk(2_000)

    for second in (AT - 60, AT - DAY):
        assert told(closes | {second: closes[second] * 1.01}) != told(closes)


def test_equal_histories_have_equal_bits() -> None:
    closes = walk(1_440)
    seconds, prices = np.array(sorted(closes)), np.array([closes[key] for key in sorted(closes)])
    strided = np.repeat(prices, 3)[::3]

    assert forecast(seconds, prices, AT) == forecast(seconds.copy(), strided, AT)


# ---- edges ----


@pytest.mark.parametrize(
    "closes",
    [
        {},
        {AT: 1.0},
        {AT - DAY - 60: 1.0},
        dict(list(walk(MIN_MINUTES).items())[1:]),
        dict.fromkeys(walk(1_440), 100.0),
        {AT - DAY: 100.0},
    ],
    ids=["nothing", "the future", "too old", "a minute too few", "no move", "one pane"],
)
def test_without_history_or_moves_there_is_none(closes: Closes) -> None:
    assert told(closes) is None


def test_history_of_the_least_length_is_enough() -> None:
    assert known(walk(MIN_MINUTES)).method == "ewma"


@given(st.lists(st.floats(1e-300, 1e15), min_size=40, max_size=1_440))
def test_any_prices_give_an_interval_above_nothing_around_the_last(prices: list[float]) -> None:
    closes = {AT - 60 * (len(prices) - number): price for number, price in enumerate(prices)}

    found = told(closes)

    assert found is not None or len(set(prices)) == 1
    for one in found.outlooks if found else ():
        assert math.isfinite(one.volatility)
        assert 0 < one.low <= prices[-1] <= one.high < math.inf


# ---- how good it is ----


@pytest.mark.parametrize("make", [constant_volatility, garch])
def test_intervals_hold_what_they_say_on_markets_that_are_made_up(make: type[Bars]) -> None:
    market = Market(make(9, 3))  # type: ignore[call-arg] # both take days and a seed

    for judged in market.ours(market.minutes(DAY, 9 * DAY, 7)):
        assert 93.0 <= judged.coverage <= 97.0


@pytest.mark.parametrize("product", ["btcusd", "ethusd"])
def test_intervals_hold_what_they_say_on_recorded_days_and_beat_the_baseline_on_the_last(
    shared_data: Path, product: str
) -> None:
    market = Market(recorded(shared_data / "coinbase", product, "minute", ("20170903", "20170904")))
    first, last = market.minutes(3_600, DAY, 3), market.minutes(DAY, 2 * DAY, 3)

    assert all(92.0 <= judged.coverage <= 98.0 for at in (first, last) for judged in market.ours(at))
    for ours, baseline in zip(market.ours(last), market.baseline(last), strict=True):
        assert ours.qlike < baseline.qlike
        assert ours.interval_score < baseline.interval_score
