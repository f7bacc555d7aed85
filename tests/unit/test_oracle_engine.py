"""The engine against the oracle: markets with late, repeated, tied and missing records, batched in any way."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Alert, Stat, Tick
from streams.engine.fold import KeyState, advance, fold, new_state
from streams.engine.inputs import Row, row_of
from streams.engine.rules import ActiveRule, parse_rule
from tests.support.oracle import (
    SECOND,
    Sourced,
    assert_alerts_equal,
    assert_one_content_each,
    assert_stats_equal,
    final_stats,
    passing_stats,
    sourced,
    transitions,
)

START = 1_618_660_800 * SECOND
PAUSES = st.one_of(
    st.sampled_from([0, 0, 1, SECOND, 5 * SECOND, 60 * SECOND, 61 * SECOND, 301 * SECOND]),
    st.integers(1, 3 * SECOND),
    st.integers(1, 100_000),
)
PRICES = st.one_of(st.sampled_from([98.0, 99.0, 99.5, 100.0, 100.5, 101.0]), st.floats(1e-8, 1e8))
RULES: dict[str, dict[str, Any]] = {
    "above": {"condition": {"type": "price", "above": 100}},
    "hysteresis": {"condition": {"type": "price", "below": 99.5, "clear": 100.5}, "for": "1s"},
    "held": {"condition": {"type": "price", "above": 99.5}, "for": "2s", "keep_firing_for": "1500ms"},
    "cooling": {"condition": {"type": "price", "above": 99, "clear": 98}, "keep_firing_for": "1s", "cooldown": "5s"},
    "crossing": {"condition": {"type": "price", "crosses": 100}, "cooldown": "2s"},
    "up": {"condition": {"type": "price", "crosses": 99.5, "direction": "up"}, "keep_firing_for": "1s"},
}


@dataclass(frozen=True)
class Market:
    """Records in offset order, and where they are split into batches."""

    records: list[Sourced]
    cuts: list[int]

    def batches(self) -> Iterator[list[Row]]:
        edges = [0, *sorted({cut % (len(self.records) + 1) for cut in self.cuts}), len(self.records)]
        for start, end in pairwise(edges):
            yield [row_of(record.record, record.as_of.offset, record.appended_at) for record in self.records[start:end]]


@st.composite
def markets(draw: st.DrawFn) -> Market:
    time, ticks = START, []
    for number in range(draw(st.integers(1, 40))):
        time += draw(PAUSES)
        ticks.append(_tick(number, time, draw(PRICES), draw))
    arrivals = sorted(_arrivals(ticks, draw), key=lambda arrival: arrival[0])
    records = sourced([tick for _, tick in arrivals])
    return Market(records, draw(st.lists(st.integers(0, 80), max_size=6)))


def _tick(number: int, time: int, price: float, draw: st.DrawFn) -> Tick:
    quoted = draw(st.booleans())
    return Tick(
        event_id=f"coinbase:BTC-USD:{number}",
        exchange="coinbase",
        product="BTC-USD",
        sequence=number,
        price=price,
        size=draw(st.none() | st.just(0.0) | st.floats(1e-8, 1e8)),
        side=draw(st.sampled_from([None, "buy", "sell"])),
        best_bid=price * 0.99 if quoted else None,
        best_ask=price * 1.01 if quoted or draw(st.booleans()) else None,
        exchange_time=time,
        received_time=time + 10_000,
    )


def _arrivals(ticks: Sequence[Tick], draw: st.DrawFn) -> Iterator[tuple[int, Tick]]:
    """Give (when it arrives, tick): some late, also beyond the grace, some twice."""
    for tick in ticks:
        delay = draw(st.sampled_from([0, 0, 0, 0, 0, 500_000, 3 * SECOND, 9 * SECOND, 15 * SECOND]))
        yield tick.exchange_time + delay, tick
        if draw(st.integers(0, 9)) == 0:
            yield tick.exchange_time + delay + draw(st.integers(0, 4 * SECOND)), tick


def run(
    batches: Iterable[Sequence[Row]], rules: Sequence[ActiveRule] = (), clocks: Sequence[int] = ()
) -> tuple[KeyState, list[Stat], list[Alert]]:
    """Fold the batches; after batch n the event clock has run `clocks[n]` microseconds past the watermark."""
    state, stats, alerts = new_state("coinbase", "BTC-USD", topic_id="topic"), [], []
    for number, batch in enumerate(batches):
        folded = fold(state, batch, rules)
        stats += folded.stats
        alerts += folded.alerts
        state = folded.state
        if number < len(clocks):
            told = advance(state, state.watermark + clocks[number], rules)
            stats += told.stats
            alerts += told.alerts
            state = told.state
    return state, stats, alerts


def active(name: str) -> ActiveRule:
    return ActiveRule("acme", name, 1, parse_rule(json.dumps(definition(name))), effective_at=0)


def definition(name: str) -> dict[str, Any]:
    return {"name": name, "product": "BTC-USD", **RULES[name]}


@given(markets(), st.lists(st.integers(0, 70 * SECOND), max_size=4))
def test_final_statistics_equal_the_oracle_however_batched_and_whatever_the_clock_closed(
    market: Market, clocks: list[int]
) -> None:
    state, stats, _ = run(market.batches(), clocks=clocks)
    until = state.watermark + 400 * SECOND
    stats += advance(state, until, ()).stats

    assert_one_content_each(stats)
    expected, allowed = final_stats(market.records, until=until), passing_stats(market.records, until=until)
    short = [stat for stat in stats if stat.window in {"1m", "5m"}]
    assert_stats_equal(short, expected, allowed=allowed)


@given(markets(), st.sampled_from(sorted(RULES)), st.integers(0, 10 * SECOND))
def test_alerts_equal_the_oracle_however_batched(market: Market, name: str, ran_on: int) -> None:
    rules = [active(name)]
    state, _, alerts = run(market.batches(), rules)
    until = state.watermark + ran_on
    alerts += advance(state, until, rules).alerts

    expected = transitions(definition(name), market.records, rule_id=name, until=until)

    assert_alerts_equal(alerts, expected)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_sees_only_what_was_appended_since_it_was_made(name: str) -> None:
    ticks = [
        Tick(
            event_id=f"coinbase:BTC-USD:{number}",
            exchange="coinbase",
            product="BTC-USD",
            sequence=number,
            price=98.0 + number % 4,
            exchange_time=START + number * 700_000,
            received_time=START + number * 700_000,
        )
        for number in range(60)
    ]
    records = sourced(ticks)
    made = ticks[25].received_time
    rule = ActiveRule("acme", name, 1, parse_rule(json.dumps(definition(name))), effective_at=made)

    _, _, alerts = run(Market(records, [10, 30, 31]).batches(), [rule])

    expected = transitions(definition(name), records, rule_id=name, effective_at=made)
    assert expected
    assert_alerts_equal(alerts, expected)
