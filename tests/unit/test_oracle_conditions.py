"""The oracle's rules over windows, quotes and silence: transitions worked out by hand, values by a second way."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from schemas.records import Alert, Tick
from tests.support.oracle import SECOND, Sourced, sourced, transitions

START = 1_618_660_800
"""A whole hour in seconds; the tests count from it."""


def tick(
    seconds: float, price: float = 100.0, *, size: float = 1.0, spread: float | None = None, number: int = 0
) -> Tick:
    at = START * SECOND + round(seconds * SECOND)
    return Tick(
        event_id=f"coinbase:BTC-USD:{round(seconds * 1_000)}-{number}",
        exchange="coinbase",
        product="BTC-USD",
        price=price,
        size=size,
        best_bid=None if spread is None else price - spread / 2,
        best_ask=None if spread is None else price + spread / 2,
        exchange_time=at,
        received_time=at,
    )


def alerts(
    condition: dict[str, Any], records: Sequence[Sourced], until: float | None = None, **fields: Any
) -> list[Alert]:
    rule = {"name": "r", "product": "BTC-USD", "condition": condition} | {
        name.removesuffix("_"): value for name, value in fields.items()
    }
    return transitions(rule, records, until=None if until is None else round((START + until) * SECOND))


def states(
    condition: dict[str, Any], ticks: Sequence[Tick], until: float | None = None, **fields: Any
) -> list[tuple[str, float]]:
    found = alerts(condition, sourced(ticks), until, **fields)
    return [(alert.state, (alert.at - START * SECOND) / SECOND) for alert in found]


CHANGE = {"type": "change", "window": "1m", "below_pct": -2}


def test_a_change_is_judged_where_a_pane_closes_and_where_the_oldest_leaves() -> None:
    assert states(CHANGE, [tick(0.5, 100), tick(5.2, 97)], until=200) == [("firing", 6), ("resolved", 66)]


def test_what_closed_is_known_by_a_later_record_or_by_the_clock_two_seconds_after_it() -> None:
    ticks = [tick(0.5, 100), tick(5.2, 97)]

    assert states(CHANGE, ticks) == []
    assert states(CHANGE, ticks, until=7.9) == []
    assert states(CHANGE, ticks, until=8) == [("firing", 6)]
    assert states(CHANGE, [*ticks, tick(6, 97)]) == [("firing", 6)]


def test_a_change_that_leaves_the_window_by_its_oldest_pane_resolves_while_prices_go_on() -> None:
    steady = [tick(second + 0.5, 97) for second in range(6, 80)]

    found = states(CHANGE, [tick(0.5, 100), tick(5.2, 97), *steady])

    # up to 64 the price before the window, 100, is the reference: it is that of the pane that ended at 1
    assert found == [("firing", 6), ("resolved", 66)]


def test_timers_of_a_rule_over_windows_are_exact_and_come_before_the_window_of_their_instant() -> None:
    ticks = [tick(0.5, 100), tick(5.2, 97), tick(15.7, 100)]

    assert states(CHANGE, ticks, until=30, for_="10s") == [("pending", 6), ("firing", 16), ("resolved", 16)]
    assert states(CHANGE, ticks, until=30, for_="10100ms") == [("pending", 6), ("inactive", 16)]


def test_by_the_clock_the_timers_of_a_rule_over_windows_act_two_seconds_later() -> None:
    ticks = [tick(0.5, 100), tick(5.2, 97)]

    assert states(CHANGE, ticks, until=10.4, for_="2500ms") == [("pending", 6)]
    assert states(CHANGE, ticks, until=10.5, for_="2500ms") == [("pending", 6), ("firing", 8.5)]


def test_a_late_record_counts_in_windows_evaluated_after_it_and_reopens_none() -> None:
    ticks = [tick(0.5, 100), tick(5.5, 100), tick(4.5, 90, number=1), tick(7.5, 90)]

    assert states(CHANGE, ticks, until=20) == [("firing", 8)]
    assert states(CHANGE, [*ticks[:2], tick(5.6, 90), tick(4.5, 100, number=1)], until=20) == [("firing", 6)]


def test_a_rule_sees_windows_that_close_after_it_began_whatever_is_in_them() -> None:
    ticks = [tick(0.5, 100), tick(5.2, 97), tick(8.2, 97)]
    rule = {"name": "r", "product": "*", "condition": CHANGE}

    found = transitions(rule, sourced(ticks), effective_at=ticks[2].received_time)

    assert [(alert.state, alert.at // SECOND - START) for alert in found] == [("firing", 6)]
    assert not transitions(rule, sourced(ticks), effective_at=ticks[2].received_time + 1)


def test_a_volatility_is_the_statistics() -> None:
    prices = [100 * (1.001 if second % 2 else 1.0) for second in range(30)]
    ticks = [tick(second, price) for second, price in enumerate(prices)]

    found = alerts({"type": "volatility", "window": "1m", "above": 1}, sourced(ticks))

    assert [alert.at / SECOND - START for alert in found] == [10]  # the tenth return ends there; the first is 0
    expected = math.log(1.001) * math.sqrt(365 * 86_400 * 9 / 10)
    assert found[0].value == pytest.approx(expected, rel=1e-9)


def test_a_volume_is_compared_with_the_mean_of_the_windows_in_a_baseline_seen_whole() -> None:
    condition = {"type": "volume", "window": "1m", "above_ratio": 5, "baseline": "5m"}
    steady = [tick(second, size=0.1) for second in range(0, 420, 10)]

    found = alerts(condition, sourced([*steady, tick(425.5, size=30.0), tick(430.5), tick(500.5)]))

    # the minute before 426 holds 6 x 0.1 + 30 less what left; the five before it 30 x 0.1
    assert [(alert.state, alert.at / SECOND - START) for alert in found] == [("firing", 426), ("resolved", 486)]
    assert found[0].value == pytest.approx((5 * 0.1 + 30.0) / (3.0 / 5), rel=1e-9)
    early = alerts(condition, sourced([*steady[:30], tick(301.5, size=30.0), tick(303)]))
    assert early == []


def test_a_rule_whose_baseline_exceeds_fifteen_minutes_is_evaluated_at_whole_minutes() -> None:
    condition = {"type": "volume", "window": "1m", "above_ratio": 5, "baseline": "1h"}
    steady = [tick(second, size=0.1) for second in range(0, 3_900, 10)]

    found = states(condition, [*steady, tick(3_905.5, size=90.0), tick(3_961), tick(4_090)])

    assert found == [("firing", 3_960), ("resolved", 4_020)]


def test_a_zscore_is_that_of_numpy_over_the_seconds_returns() -> None:
    generator = np.random.default_rng(7)
    prices = 100 * np.exp(np.cumsum(generator.normal(0, 1e-4, 120)))
    prices[100:] *= 1.01
    ticks = [tick(second + 0.5, float(price)) for second, price in enumerate(prices)]

    found = alerts({"type": "zscore", "window": "15m", "above": 6}, sourced(ticks))

    returns = np.array([0.0, *np.diff(np.log(prices[:101]))])
    usual = max(np.median(np.abs(returns - np.median(returns))), np.median(np.abs(returns[returns != 0])))
    score = abs(returns[-1] - np.median(returns)) / (1.4826 * usual)
    assert [(alert.state, alert.at / SECOND - START) for alert in found] == [("firing", 101), ("resolved", 102)]
    assert found[0].value == pytest.approx(float(score), rel=1e-6)


def test_a_spread_is_judged_at_each_tick_with_both_sides() -> None:
    condition = {"type": "spread", "above_bps": 20}
    ticks = [tick(1, spread=0.1), tick(2.5, spread=0.3), tick(3), tick(4, spread=0.2), tick(5)]

    found = alerts(condition, sourced(ticks))

    assert [(alert.state, alert.at / SECOND - START) for alert in found] == [("firing", 2.5), ("resolved", 4)]
    assert found[0].value == pytest.approx(30)


def test_silence_is_told_at_its_exact_time_and_ends_with_the_next_record() -> None:
    condition = {"type": "no_data", "after": "60s"}

    assert states(condition, [tick(0.5), tick(60.4), tick(130), tick(131)]) == [("firing", 120.4), ("resolved", 130)]
    assert states(condition, [tick(0.5)], until=60.4) == []
    assert states(condition, [tick(0.5)], until=70, for_="5s") == [("pending", 60.5), ("firing", 65.5)]
    assert states(condition, [tick(0.5), tick(60.5)]) == [("firing", 60.5), ("resolved", 60.5)]
