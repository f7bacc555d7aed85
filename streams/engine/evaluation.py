"""Records through the live engine, offline: a state for each source of a product, as a worker holds them.

Only the engine decides about statistics, bars and alerts; here is what a worker's shell does around it: which records
belong to which state, which rules apply, and the end of the source, where open panes close and timers beyond the last
record do not act.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from schemas.records import Alert, Bar, Stat
from streams.engine import divergence, fold
from streams.engine.cut import KeyBatch, cut
from streams.engine.divergence import DivergenceState, Priced
from streams.engine.fold import Folded, KeyState
from streams.engine.inputs import Columns, Row, Table
from streams.engine.lines import Line
from streams.engine.past import Bars, Past
from streams.engine.reading import Batch, Candles, Key
from streams.engine.rules import ActiveRule, RuleDefinition, applies, lives_on
from streams.engine.series import GRACE

Basis: TypeAlias = Literal["auto", "trades", "ticks"]
BarPrice: TypeAlias = Literal["close", "low", "high", "ohlc"]

PATH: Final = 4
"""Prices of a bar: open, high, low, close."""
TENANT: Final = "offline"
"""Whose the rules are; no record says it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where prices come from. `bar_price`: what price rules see of a bar. `traded`: products that have trades."""

    basis: Basis = "auto"
    bar_price: BarPrice = "close"
    traded: frozenset[tuple[str, str]] = frozenset()

    def has_prices(self, key: Key) -> bool:
        """Tell whether a product's prices live on this source of it."""
        if key.dataset == "own-ticks":
            return True
        trades = self.basis == "trades" or (self.basis == "auto" and (key.exchange, key.product) in self.traded)
        return trades is (key.dataset == "trades")


@dataclass(slots=True)
class Tally:
    """What was read: records, the event times of the first and the last (micros), and what the engine left out.

    `rules`: the ids of those rules that saw some of it.
    """

    records: int = 0
    first: int | None = None
    last: int = 0
    bars: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    rules: set[str] = field(default_factory=set)

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        records = batch.records
        times = records.time if isinstance(records, Columns) else np.array([row.time for row in records])
        self.records += len(records)
        self.first = int(times.min()) if self.first is None else min(self.first, int(times.min()))
        self.last = max(self.last, int(times.max()))
        self.bars |= batch.candles is not None

    def count(self, counts: Mapping[str, int]) -> None:
        """Count what the engine did with records."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def include(self, other: "Tally") -> None:
        """Count what was read elsewhere."""
        self.records += other.records
        self.first = min((time for time in (self.first, other.first) if time is not None), default=None)
        self.last = max(self.last, other.last)
        self.bars |= other.bars
        self.rules |= other.rules
        self.count(other.counts)


class RuleEvaluation:
    """What rules make of records: the states of all sources, of which nothing but alerts is asked."""

    def __init__(self, definitions: Sequence[RuleDefinition], choice: Choice) -> None:
        self.tally = Tally()
        self._choice = choice
        self._rules = [ActiveRule(TENANT, str(number), 1, one, 0) for number, one in enumerate(definitions)]
        self._states: dict[Key, KeyState] = {}
        self._pasts: dict[Key, Past] = {}
        self._divergences: dict[str, DivergenceState] = {}

    def take(self, batches: Sequence[Batch]) -> list[Alert]:
        """Evaluate what was read at once; return the transitions, for each source in the engine's order."""
        alerts = [alert for batch in batches for alert in self._take(batch)]
        return alerts + self._compared([batch for batch in batches if batch.key.dataset != "trades"])

    def _take(self, batch: Batch) -> list[Alert]:
        self.tally.add(batch)
        key, rules = batch.key, self._applying(batch.key)
        if not rules:
            return []
        self.tally.rules.update(rule.rule_id for rule in rules)
        if batch.candles is not None and isinstance(batch.records, Columns):
            past = self._pasts.setdefault(key, Past(key.exchange, key.product))
            return past.take(_bars(batch.records, batch.candles), seen_prices(batch, self._choice.bar_price), rules)
        state = self._states.get(key) or _new_state(key, prices=self._choice.has_prices(key))
        folded = fold.fold(state, _records(batch), rules, emitted=())
        self._states[key] = folded.state
        self.tally.count(folded.counts)
        return folded.alerts

    def _compared(self, batches: Sequence[Batch]) -> list[Alert]:
        """Let rules that compare exchanges read ticks, in the order in which the broker or the recorder got them."""
        alerts: list[Alert] = []
        for product in sorted({batch.key.product for batch in batches}):
            rules = [rule for rule in self._rules if rule.source == "product" and applies(rule, "", product)]
            if not rules:
                continue
            self.tally.rules.update(rule.rule_id for rule in rules)
            prices = sorted(
                (row.appended_at, row.offset, Priced(batch.key.exchange, row.time, row.price, row.appended_at))
                for batch in batches
                if batch.key.product == product
                for row in (batch.records.rows() if isinstance(batch.records, Columns) else batch.records)
            )
            state = self._divergences.get(product, DivergenceState(product))
            diverged = divergence.fold(state, [priced for _, _, priced in prices], rules)
            self._divergences[product] = diverged.state
            alerts += diverged.alerts
        return alerts

    def finish(self) -> list[Alert]:
        """End the source."""
        ended = [fold.end(state, self._applying(key), emitted=()).alerts for key, state in self._states.items()]
        ended += [past.end(self._applying(key)) for key, past in self._pasts.items()]
        return [alert for alerts in ended for alert in alerts]

    def _applying(self, key: Key) -> list[ActiveRule]:
        prices = self._choice.has_prices(key)
        return [
            rule
            for rule in self._rules
            if applies(rule, key.exchange, key.product) and lives_on(rule, key.dataset, prices=prices)
        ]


class StatEvaluation:
    """The statistics and bars of records: the states of all sources. `lines`: what is to be emitted."""

    def __init__(self, choice: Choice, lines: frozenset[str]) -> None:
        self._choice = choice
        self._lines = lines
        self._states: dict[Key, KeyState] = {}

    def take(self, batch: Batch) -> list[Stat | Bar]:
        """Fold a batch; return what is emitted, statistics before bars."""
        key = batch.key
        state = self._states.get(key) or _new_state(key, prices=self._choice.has_prices(key))
        return self._emitted(key, fold.fold(state, _records(batch), (), emitted=self._wanted(state)))

    def finish(self) -> list[Stat | Bar]:
        """End the source: open panes close."""
        ended = [self._emitted(key, fold.end(s, (), emitted=self._wanted(s))) for key, s in self._states.items()]
        return [one for emitted in ended for one in emitted]

    def settled(self, key: Key) -> int:
        """Return the event time, micros, before which no record can change anything that was said of a source."""
        return self._states[key].watermark - GRACE

    def _emitted(self, key: Key, folded: Folded) -> list[Stat | Bar]:
        self._states[key] = folded.state
        return [*folded.stats, *folded.bars]

    def _wanted(self, state: KeyState) -> tuple[Line, ...]:
        return tuple(line for line in state.lines if line.label in self._lines)


def seen_prices(batch: Batch, bar_price: BarPrice) -> Columns:
    """Return bars as the prices that rules over prices see of them.

    `ohlc` is four records of one time: open, low and high (the high first in a bar that fell), close.
    """
    records, candles = batch.records, batch.candles
    if candles is None or not isinstance(records, Columns):
        raise ValueError("only bars have more than one price")
    if bar_price != "ohlc":
        return replace(records, price={"low": candles.low, "high": candles.high, "close": records.price}[bar_price])
    rose = records.price >= candles.open
    first, second = np.where(rose, [candles.low, candles.high], [candles.high, candles.low])
    prices = np.stack([candles.open, first, second, records.price], axis=1).ravel()
    repeated = {name.name: np.repeat(getattr(records, name.name), PATH) for name in fields(records)}
    steps = np.tile(np.arange(PATH), len(records))
    return Columns(**repeated | {"price": prices, "identity": repeated["identity"] * PATH + steps})


def _new_state(key: Key, *, prices: bool) -> KeyState:
    return fold.new_state(key.exchange, key.product, key.dataset, prices=prices)


def _bars(records: Columns, candles: Candles) -> Bars:
    return Bars(records, candles.open, candles.high, candles.low)


def _records(batch: Batch) -> KeyBatch | list[Row]:
    """Return records as the engine folds them; panes of bars have the bars' own open, high and low."""
    records, candles = batch.records, batch.candles
    if not isinstance(records, Columns):
        return records
    [columns] = cut(Table(records, [(batch.key.exchange, batch.key.product)], [0, len(records)]))
    if candles is not None:
        prices = zip(candles.open.tolist(), candles.high.tolist(), candles.low.tolist(), strict=True)
        panes = zip(columns.panes, prices, strict=True)
        columns.panes = [msgspec.structs.replace(p, open=o, high=h, low=low) for p, (o, h, low) in panes]
    return columns
