"""Bars of the past, a long stretch at once, against the live engine's fold: the same transitions."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert
from streams.engine import fold
from streams.engine.conditions import signal
from streams.engine.cut import KeyBatch, cut
from streams.engine.definitions import Limit
from streams.engine.inputs import Columns, Table
from streams.engine.measures import instants, value_at
from streams.engine.past import Bars, Past
from streams.engine.rules import ActiveRule, RuleDefinition
from streams.engine.sweep import possible_signals

START = 1_475_798_400
"""2016-10-07T00:00:00Z in seconds."""
CONDITIONS: list[dict[str, Any]] = [
    {"type": "price", "above": 100.5, "clear": 100.0},
    {"type": "price", "crosses": 100},
    {"type": "change", "window": "1m", "above_pct": 0.5, "clear_pct": 0.2},
    {"type": "change", "window": "15m", "below_pct": -1},
    {"type": "change", "window": "1h", "above_pct": 0.8},
    {"type": "change", "window": "24h", "below_pct": 0.0},
    {"type": "volatility", "window": "1m", "above": 5.0, "clear": 3.0},
    {"type": "volatility", "window": "5m", "above": 4.0},
    {"type": "volatility", "window": "15m", "below": 2.0},
    {"type": "volatility", "window": "1h", "above": 2.0},
    {"type": "volume", "window": "1m", "baseline": "5m", "above_ratio": 2, "clear_ratio": 1},
    {"type": "volume", "window": "5m", "baseline": "15m", "above_ratio": 1.5},
    {"type": "volume", "window": "1m", "baseline": "1h", "above_ratio": 3},
    {"type": "volume", "window": "1h", "baseline": "24h", "above_ratio": 1},
    {"type": "zscore", "window": "1m", "above": 1.5, "clear": 0.5},
    {"type": "zscore", "window": "5m", "above": 3},
    {"type": "zscore", "window": "1h", "above": 2},
]
HOLDS: list[dict[str, Any]] = [
    {},
    {"for": "5s"},
    {"for": "90s", "keep_firing_for": "30s", "cooldown": "2m"},
    {"keep_firing_for": "1500ms", "cooldown": "10s"},
]


def rule(number: int, condition: dict[str, Any], holds: dict[str, Any]) -> ActiveRule:
    definition = RuleDefinition.model_validate({"name": f"r{number}", "product": "*", "condition": condition} | holds)
    return ActiveRule("t", str(number), 1, definition, 0)


EVERY_RULE = [
    rule(number * len(HOLDS) + place, condition, holds)
    for number, condition in enumerate(CONDITIONS)
    for place, holds in enumerate(HOLDS)
]


def bars_of(seconds: Sequence[int], prices: Sequence[float], sizes: Sequence[float]) -> Bars:
    """Return bars whose open is the price before, so that nothing rests on open and close being equal."""
    count = len(seconds)
    time = (np.array(seconds, np.int64) + 1) * MICROS_PER_SECOND - 1
    close, unknown = np.array(prices, np.float64), np.full(count, np.nan)
    opened = np.concatenate((close[:1] * 1.001, close[:-1]))
    size, nobody, never = np.array(sizes, np.float64), np.zeros(count, np.bool_), np.zeros(count, np.int64)
    records = Columns(np.arange(count), time, time, close, size, nobody, time, unknown, unknown, never)
    return Bars(records, opened, np.maximum(opened, close), np.minimum(opened, close))


def part(bars: Bars, start: int, stop: int) -> Bars:
    return Bars(bars.records.part(start, stop), bars.open[start:stop], bars.high[start:stop], bars.low[start:stop])


def told(alerts: Sequence[Alert]) -> list[tuple[Any, ...]]:
    """Return what a backtest tells of alerts, in an order of its own."""
    return sorted((a.at, int(a.rule_id), a.seq, a.state, str(a.value), a.reason, a.alert_id) for a in alerts)


def of_the_fold(bars: Bars, rules: Sequence[ActiveRule]) -> list[Alert]:
    """Return what the live engine says of bars, record by record."""
    state, alerts = fold.new_state("coinbase", "BTC-USD", "trades"), []
    for index in range(len(bars.records)):
        folded = fold.fold(state, batch(part(bars, index, index + 1)), rules, emitted=())
        state, alerts = folded.state, [*alerts, *folded.alerts]
    return [*alerts, *fold.end(state, rules, emitted=()).alerts]


def batch(bars: Bars) -> KeyBatch:
    [made] = cut(Table(bars.records, [("coinbase", "BTC-USD")], [0, len(bars.records)]))
    prices = zip(bars.open.tolist(), bars.high.tolist(), bars.low.tolist(), strict=True)
    made.panes = [replace(pane, open=o, high=h, low=low) for pane, (o, h, low) in zip(made.panes, prices, strict=True)]
    return made


def of_the_past(bars: Bars, rules: Sequence[ActiveRule], cuts: Sequence[int] = ()) -> list[Alert]:
    past, alerts = Past("coinbase", "BTC-USD"), []
    edges = [0, *sorted({cut % (len(bars.records) + 1) for cut in cuts}), len(bars.records)]
    for start, stop in pairwise(dict.fromkeys(edges)):
        some = part(bars, start, stop)
        alerts += past.take(some, some.records, rules)
    return [*alerts, *past.end(rules)]


@st.composite
def markets(draw: st.DrawFn) -> Bars:
    """Draw up to two hundred bars, some dense, some after silences of up to a day."""
    gaps = draw(
        st.lists(
            st.sampled_from([1, 1, 1, 1, 2, 3, 5, 30, 59, 60, 61, 299, 301, 900, 3_600, 90_000]),
            min_size=1, max_size=200,
        )
    )  # fmt: skip
    begin = START + draw(st.integers(0, 120))
    seconds = (begin + np.cumsum([0, *gaps[1:]])).tolist()
    count = len(seconds)
    steps = draw(st.lists(st.sampled_from([-0.9, -0.2, 0.0, 0.0, 0.1, 0.8]), min_size=count, max_size=count))
    prices = np.round(100 + np.cumsum(steps), 2).clip(1)
    sizes = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.5, 40.0]), min_size=count, max_size=count))
    return bars_of(seconds, prices.tolist(), sizes)


@given(markets(), st.lists(st.integers(0, 200), max_size=3), st.lists(st.sampled_from(EVERY_RULE), max_size=12))
def test_a_stretch_gives_the_transitions_of_the_fold(bars: Bars, cuts: list[int], rules: list[ActiveRule]) -> None:
    rules = list({rule.rule_id: rule for rule in rules}.values())

    assert told(of_the_past(bars, rules, cuts)) == told(of_the_fold(bars, rules))


def test_what_leaves_a_window_in_a_silence_of_days_is_seen_by_the_next_stretch() -> None:
    seconds = [*range(START, START + 300), START + 2 * 86_400]
    bars = bars_of(seconds, [100.0] * 200 + [101.0] * 101, [1.0] * 301)
    rules = [rule(0, {"type": "change", "window": "5m", "above_pct": 0.5}, {})]

    transitions = told(of_the_past(bars, rules, [300]))

    assert transitions == told(of_the_fold(bars, rules))
    assert [state for _, _, _, state, *_ in transitions] == ["firing", "resolved"]


@given(markets(), st.sampled_from([rule for rule in EVERY_RULE if rule.measure is not None]))
def test_a_sweep_looks_at_every_instant_and_bounds_each_value(bars: Bars, rule: ActiveRule) -> None:
    past = Past("coinbase", "BTC-USD")
    past.take(bars, bars.records, [rule])
    panes, measure, limit = past._panes([rule]), rule.measure, rule.compared
    assert measure is not None
    assert isinstance(limit, Limit)
    seconds = instants(measure, panes, START - 1, int(bars.records.time[-1]) // MICROS_PER_SECOND)

    found = panes.stretch().instants(measure, START - 1, int(bars.records.time[-1]) // MICROS_PER_SECOND)
    bounds = panes.stretch().bounds(measure, found)

    assert found.tolist() == seconds
    for index, second in enumerate(seconds):
        value = value_at(measure, panes, second)
        if value is not None:
            assert bounds.low[index] <= value <= bounds.high[index]
            assert possible_signals(limit, bounds)[index] & signal(limit, value)


def test_a_day_of_recorded_bars_gives_the_transitions_of_the_fold(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "ethusd-minute-20170904-trade.csv"
    with path.open() as file:
        rows = [[float(cell) for cell in row] for row in csv.reader(file)]
    times, _, _, _, closes, volumes = zip(*rows, strict=True)
    bars = bars_of([START + int(time) // 1_000 + 59 for time in times], closes, volumes)
    rules = EVERY_RULE[1 :: len(HOLDS)]

    transitions = told(of_the_past(bars, rules, [700]))

    assert transitions == told(of_the_fold(bars, rules))
    assert len({rule_id for _, rule_id, *_ in transitions}) > 8
