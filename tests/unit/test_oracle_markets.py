"""The engine on both sources of a product against the oracle: every window, bars, every kind of rule.

Records of both sources come in any interleaving, late, repeated, tied and far apart, at any scale of prices, and reach
the engine as rows or as columns, cut in any way, with the event clock running in between.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Alert, Bar, Stat, Tick, Trade
from streams.engine.cut import KeyBatch, cut
from streams.engine.fold import Folded, KeyState, advance, fold, new_state
from streams.engine.inputs import Columns, Table, row_of
from streams.engine.rules import ActiveRule, parse_rule
from tests.support.oracle import (
    SECOND,
    WINDOWS,
    Sourced,
    assert_alerts_equal,
    assert_bars_equal,
    assert_one_content_each,
    assert_stats_equal,
    bar_trades,
    by_key,
    final_bars,
    final_stats,
    frame_ticks,
    frame_trades,
    passing_stats,
    sourced,
    transitions,
)
from tests.support.rounds import Rounds

START = 1_618_660_790 * SECOND
"""Ten seconds before a whole hour, which a market soon crosses."""
MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
PAUSES = st.one_of(
    st.sampled_from(
        [0, 0, 1, SECOND, 5 * SECOND, MINUTE, MINUTE + SECOND, 301 * SECOND, 901 * SECOND, HOUR, 25 * HOUR]
    ),
    st.integers(1, 3 * SECOND),
    st.integers(1, 100_000),
)
STEADY = st.one_of(st.sampled_from([250_000, SECOND, SECOND, 2 * SECOND]), st.integers(1, 2 * SECOND))
MOVES = st.one_of(st.sampled_from([-2.0, -1.0, 0.0, 0.0, 0.5, 1.0, 2.0]), st.floats(-3, 3))
SCALES = st.sampled_from([(100.0, 1.0), (100.0, 1.0), (1e9, 1.0), (1e9, 2.0**-20), (1e-6, 1e-8), (1e12, 1e10)])
"""(level, size of a move) of prices."""
DELAYS = st.sampled_from([0, 0, 0, 0, 0, 0, 500_000, 3 * SECOND, 9 * SECOND, 15 * SECOND])


@dataclass(frozen=True)
class Market:
    """Records of both sources in the order in which they are read, and where they are split into batches."""

    records: list[Sourced]
    cuts: list[int]
    as_columns: list[bool]

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001 - the protocol of Hypothesis's printer
        lines = [
            f"{one.dataset}@{one.as_of.offset} {(one.time - START) / SECOND} s: {one.price!r} x {one.record.size!r}"
            f" {one.quotes or ''}"
            for one in self.records
        ]
        printer.text("\n".join([f"Market(cuts={self.cuts}, as_columns={self.as_columns})", *lines]))

    def batches(self) -> Iterator[tuple[str, list[Sourced], bool]]:
        """Yield (dataset, records, whether as columns)."""
        edges = [0, *sorted({cut % (len(self.records) + 1) for cut in self.cuts}), len(self.records)]
        for number, (start, end) in enumerate(pairwise(edges)):
            for dataset in ("ticks", "trades"):
                part = [record for record in self.records[start:end] if record.dataset == dataset]
                if part:
                    yield dataset, part, self.as_columns[number % len(self.as_columns)]


@st.composite
def markets(draw: st.DrawFn, *, pauses: st.SearchStrategy[int] = PAUSES, most: int = 40) -> Market:
    """Draw a market of trades and of ticks of the same product."""
    time, arrivals = START, []
    level, move = draw(SCALES)
    for number in range(draw(st.integers(1, most))):
        time += draw(pauses)
        price = max(level + draw(MOVES) * move, level / 1_000)
        record = _tick(draw, number, time, price) if draw(st.booleans()) else _trade(draw, number, time, price)
        arrives = time + draw(DELAYS)
        arrivals.append((arrives, record))
        if draw(st.integers(0, 9)) == 0:
            arrivals.append((arrives + draw(st.integers(0, 4 * SECOND)), record))
    arrivals.sort(key=lambda arrival: arrival[0])
    ordered = [record for _, record in arrivals]
    ticks = iter(sourced(record for record in ordered if isinstance(record, Tick)))
    trades = iter(sourced((r for r in ordered if isinstance(r, Trade)), topic_id="trades-topic"))
    records = [next(ticks) if isinstance(record, Tick) else next(trades) for record in ordered]
    cuts = draw(st.lists(st.integers(0, 80), max_size=6))
    return Market(records, cuts, draw(st.lists(st.booleans(), min_size=1, max_size=4)))


def _tick(draw: st.DrawFn, number: int, time: int, price: float) -> Tick:
    quoted = draw(st.booleans())
    return Tick(
        event_id=f"coinbase:BTC-USD:{number}",
        exchange="coinbase",
        product="BTC-USD",
        sequence=number,
        price=price,
        size=draw(st.none() | st.just(0.0) | st.floats(1e-8, 1e8)),
        side=draw(st.sampled_from([None, "buy", "sell"])),
        best_bid=price * draw(st.sampled_from([0.99, 0.999, 1.0])) if quoted else None,
        best_ask=price * 1.001 if quoted or draw(st.booleans()) else None,
        quote_time=draw(st.none() | st.just(time - 5_000)),
        exchange_time=time,
        received_time=time + 10_000,
    )


def _trade(draw: st.DrawFn, number: int, time: int, price: float) -> Trade:
    return Trade(
        event_id=f"coinbase:BTC-USD:t{number}",
        exchange="coinbase",
        product="BTC-USD",
        trade_id=number,
        price=price,
        size=draw(st.just(0.0) | st.floats(1e-8, 1e8)),
        side=draw(st.sampled_from(["buy", "sell"])),
        exchange_time=time,
        received_time=time + 10_000,
    )


def as_batch(records: Sequence[Sourced]) -> KeyBatch:
    """Return records as columns, the batch of one key."""
    rows = [row_of(record.record, record.as_of.offset, record.appended_at) for record in records]

    def floats(name: str) -> Any:
        return np.array([np.nan if getattr(row, name) is None else getattr(row, name) for row in rows], np.float64)

    def ints(name: str) -> Any:
        return np.array([getattr(row, name) for row in rows], np.int64)

    columns = Columns(
        *(ints(name) for name in ("offset", "appended_at", "time")),
        *(floats(name) for name in ("price", "size")),
        np.array([row.buy for row in rows], np.bool_),
        ints("identity"),
        *(floats(name) for name in ("bid", "ask")),
        ints("quote_time"),
    )
    record = records[0].record
    return cut(Table(columns, [(record.exchange, record.product)], [0, len(records)]))[0]


@dataclass
class Engine:
    """The two states of a product, and everything that came out of them."""

    basis: str
    rules: Sequence[ActiveRule] = ()
    exchange: str = "coinbase"
    product: str = "BTC-USD"
    states: dict[str, KeyState] = field(default_factory=dict)
    stats: list[Stat] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def rules_of(self, dataset: str) -> list[ActiveRule]:
        """Return the rules that live on a source."""
        kinds = {"spread"} if dataset == "ticks" else set()
        if dataset == self.basis:
            kinds |= {"price", "change", "volatility", "volume", "zscore", "no_data"}
        return [rule for rule in self.rules if rule.definition.condition.type in kinds]

    def read(self, market: Market, clocks: Sequence[int] = ()) -> "Engine":
        """Fold a market's batches; after batch n the clock of its source runs `clocks[n]` micros past the watermark."""
        for number, (dataset, records, as_columns) in enumerate(market.batches()):
            state = self.states.get(dataset) or new_state(
                self.exchange,
                self.product,
                dataset,
                topic_id=records[0].as_of.topic_id,
                prices=dataset == self.basis,
            )
            rows = [row_of(record.record, record.as_of.offset, record.appended_at) for record in records]
            batch = as_batch(records) if as_columns else rows
            self._take(dataset, fold(state, batch, self.rules_of(dataset)))
            if number < len(clocks):
                self.run_on(clocks[number], dataset)
        return self

    def run_on(self, micros: int, *datasets: str) -> "Engine":
        """Let the clock of sources run this far past their watermarks."""
        for dataset in datasets or tuple(self.states):
            state = self.states[dataset]
            self._take(dataset, advance(state, state.watermark + micros, self.rules_of(dataset)))
        return self

    def _take(self, dataset: str, folded: Folded) -> None:
        self.states[dataset] = folded.state
        self.stats += folded.stats
        self.bars += folded.bars
        self.alerts += folded.alerts


def assert_as_the_oracle(engine: Engine, records: Sequence[Sourced], *, ran_on: int | None) -> None:
    """Compare statistics and bars, source by source: each has its own clock."""
    assert_one_content_each(engine.stats)
    for dataset, state in engine.states.items():
        own = [record for record in records if record.dataset == dataset]
        until = None if ran_on is None else state.watermark + ran_on
        names = {"quotes", "ticks"} if dataset == "ticks" else {"trades"}
        found = [stat for stat in engine.stats if stat.basis in names]
        expected = final_stats(own, list(WINDOWS), basis=engine.basis, until=until, ended=False)
        allowed = passing_stats(own, list(WINDOWS), basis=engine.basis, until=until)
        assert_stats_equal(found, expected, allowed=allowed)
        bars = [bar for bar in engine.bars if bar.origin in names]
        assert_bars_equal(bars, final_bars(own, basis=engine.basis, until=until, ended=False), own)


@given(markets(), st.sampled_from(["ticks", "trades"]), st.lists(st.integers(0, 70 * SECOND), max_size=4))
def test_final_statistics_and_bars_of_both_sources_equal_the_oracle(
    market: Market, basis: str, clocks: list[int]
) -> None:
    engine = Engine(basis).read(market, clocks).run_on(400 * SECOND)

    assert_as_the_oracle(engine, market.records, ran_on=400 * SECOND)


@settings(max_examples=60)
@given(markets(pauses=STEADY, most=120), st.sampled_from(["ticks", "trades"]))
def test_a_steady_market_equals_the_oracle_where_records_alone_close_panes(market: Market, basis: str) -> None:
    engine = Engine(basis).read(market)

    assert_as_the_oracle(engine, market.records, ran_on=None)


# ---- rules ----

CONDITIONS: dict[str, dict[str, Any]] = {
    "level": {"type": "price", "above": 100, "clear": 99.5},
    "edge": {"type": "price", "crosses": 100},
    "fall": {"type": "change", "window": "1m", "below_pct": -1},
    "rise": {"type": "change", "window": "5m", "above_pct": 1.5, "clear_pct": 0.5},
    "rise of an hour": {"type": "change", "window": "1h", "above_pct": 1},
    "restless": {"type": "volatility", "window": "1m", "above": 20},
    "calm": {"type": "volatility", "window": "5m", "below": 10, "clear": 15},
    "restless hour": {"type": "volatility", "window": "1h", "above": 3},
    "busy": {"type": "volume", "window": "1m", "above_ratio": 1.5, "baseline": "5m"},
    "busy hour": {"type": "volume", "window": "1m", "above_ratio": 1.5, "baseline": "1h"},
    "odd": {"type": "zscore", "window": "1m", "above": 2.5, "clear": 1},
    "odd in fifteen": {"type": "zscore", "window": "15m", "above": 3},
    "wide": {"type": "spread", "above_bps": 50, "clear_bps": 20},
}
TIMES: dict[str, dict[str, str]] = {
    "at once": {},
    "held": {"for": "2s", "keep_firing_for": "1500ms"},
    "cooling": {"keep_firing_for": "1s", "cooldown": "5s"},
    "long": {"for": "65s", "cooldown": "2m"},
}


@pytest.mark.parametrize("name", sorted(CONDITIONS))
@settings(max_examples=20)
@given(
    market=st.one_of(markets(pauses=STEADY, most=90), markets()),
    times=st.sampled_from(sorted(TIMES)),
    basis=st.sampled_from(["ticks", "trades"]),
    ran_on=st.integers(0, 70 * SECOND),
)
def test_rules_of_every_kind_equal_the_oracle(market: Market, name: str, times: str, basis: str, ran_on: int) -> None:
    rule = {"name": name, "product": "BTC-USD", "condition": CONDITIONS[name], **TIMES[times]}
    engine = Engine(basis, [ActiveRule("acme", name, 1, parse_rule(json.dumps(rule)), effective_at=0)])

    engine.read(market).run_on(ran_on)

    dataset = "ticks" if name == "wide" else basis
    state = engine.states.get(dataset)
    until = None if state is None else state.watermark + ran_on
    assert_alerts_equal(engine.alerts, transitions(rule, market.records, rule_id=name, until=until, basis=basis))


# ---- recordings ----


def test_a_recording_of_both_sources_equals_the_oracle(shared_data: Path) -> None:
    path = shared_data / "coinbase" / "2021-04-17.frames"
    records = [*sourced(frame_ticks(path)), *sourced(frame_trades(path), topic_id="trades-topic")]

    for basis in ("ticks", "trades"):
        for (exchange, product), own in by_key(records).items():
            engine = Engine(basis, exchange=exchange, product=product)
            engine.read(Market(own, list(range(0, 80, 7)), [True, False])).run_on(2 * HOUR)
            assert_as_the_oracle(engine, own, ran_on=2 * HOUR)


@pytest.mark.parametrize("name", ["btcusd-minute-20170904-trade.csv", "btcusd-second-20161007-trade.csv"])
def test_a_recorded_day_of_bars_equals_the_oracle(shared_data: Path, rounds: Rounds, name: str) -> None:
    trades = bar_trades(shared_data / "coinbase" / name)[: rounds(300, 100_000)]
    records = sourced(trades, topic_id="trades-topic")

    engine = Engine("trades").read(Market(records, list(range(0, len(records), 97)), [True, False]))

    assert_as_the_oracle(engine, records, ran_on=None)
