"""The robust z-score: equal to its definition, without a unit, and deaf to other anomalies."""

import math
from statistics import median as plain_median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine.anomaly import MIN_MOVES, median, score

SIZES = st.floats(1e-9, 0.5)
RETURNS = st.lists(
    st.sampled_from([0.0, 1e-4, -1e-4, 3e-4, 0.02]) | SIZES | SIZES.map(float.__neg__), min_size=1, max_size=60
)


def by_definition(returns: list[float], newest: float) -> float | None:
    middle = plain_median(returns)
    distance = abs(newest - middle)
    moves = [abs(one) for one in returns if one != 0]
    if distance == 0:
        return 0.0
    if len(moves) < MIN_MOVES:
        return None
    found = distance / (1.4826 * max(plain_median(abs(one - middle) for one in returns), plain_median(moves)))
    return found if math.isfinite(found) else None


@given(RETURNS)
def test_it_is_what_the_definition_says(returns: list[float]) -> None:
    assert score(np.array(returns), returns[-1]) == by_definition(returns, returns[-1])


@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_a_median_is_that_of_the_standard_library(values: list[float]) -> None:
    assert median(np.array(values)) == plain_median(values)


@given(RETURNS, st.integers(-20, 20))
def test_it_does_not_depend_on_the_unit_of_returns(returns: list[float], power: int) -> None:
    scaled = np.array(returns) * 2.0**power

    assert score(scaled, float(scaled[-1])) == score(np.array(returns), returns[-1])


def test_a_market_that_mostly_stands_still_has_a_score_all_the_same() -> None:
    returns = np.zeros(900)
    returns[:40] = np.where(np.arange(40) % 2, 1e-4, -1e-4)

    usual, unusual = score(returns, 1e-4), score(returns, 3e-3)

    assert usual == pytest.approx(1 / 1.4826)
    assert unusual == pytest.approx(30 / 1.4826)


def test_other_anomalies_of_the_window_hide_none() -> None:
    returns = np.random.default_rng(1).normal(0, 1e-4, 900)
    disturbed = returns.copy()
    disturbed[100:110] = 0.05

    alone, among = score(returns, 0.05), score(disturbed, 0.05)

    assert alone is not None
    assert among is not None
    assert among > 0.95 * alone


def test_without_moves_nothing_is_known_of_one() -> None:
    returns = np.zeros(60)
    returns[: MIN_MOVES - 1] = 1e-4

    assert score(returns, 0.0) == 0.0
    assert score(returns, 1e-4) is None
