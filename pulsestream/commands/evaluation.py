"""Records through the live engine, offline: a state for each source of a product, as a worker holds them.

Only the engine decides about statistics and alerts; here is what a worker's shell does around it: which records belong
to which state, which rules apply, and what happens at the end of the source, where open panes close and timers beyond
the last record do not act.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from pulsestream.commands.reading import Batch, Key
from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert, Stat
from streams.engine import fold
from streams.engine.cut import KeyBatch, cut
from streams.engine.fold import NO_ALERTS, Folded, KeyState
from streams.engine.inputs import Columns, Row, Table
from streams.engine.rules import ActiveRule, RuleDefinition, applies
from streams.engine.series import CLOCK_SLACK, GRACE

Basis: TypeAlias = Literal["auto", "trades", "ticks"]
BarPrice: TypeAlias = Literal["close", "low", "high", "ohlc"]

OF_PRICES: Final = frozenset({"price"})
"""The types of conditions that look at each record's price."""
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
    """What was read: records, the event times of the first and the last (micros), and what the engine left out."""

    records: int = 0
    first: int | None = None
    last: int = 0
    bars: bool = False
    counts: dict[str, int] = field(default_factory=dict)

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


@dataclass(slots=True)
class Output:
    """What the engine gave, in its order."""

    stats: list[Stat] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def add(self, folded: Folded) -> None:
        """Take what a fold gave."""
        self.stats += folded.stats
        self.alerts += folded.alerts


class Evaluation:
    """The states of all keys, and the rules."""

    def __init__(self, definitions: Sequence[RuleDefinition], choice: Choice) -> None:
        self.tally = Tally()
        self._choice = choice
        self._rules = [ActiveRule(TENANT, str(number), 1, one, 0) for number, one in enumerate(definitions)]
        self._states: dict[tuple[Key, bool], KeyState] = {}

    def take(self, batch: Batch) -> Output:
        """Fold a batch."""
        self.tally.add(batch)
        output = Output()
        if not self._choice.has_prices(batch.key):
            return output
        rules = [rule for rule in self._rules if applies(rule, batch.key.exchange, batch.key.product)]
        apart = batch.candles is not None and self._choice.bar_price != "close"
        if apart:
            at_prices = [rule for rule in rules if rule.definition.condition.type in OF_PRICES]
            rules = [rule for rule in rules if rule.definition.condition.type not in OF_PRICES]
            output.alerts += self._fold(
                batch.key, seen_prices(batch, self._choice.bar_price), at_prices, apart=True
            ).alerts
        folded = self._fold(batch.key, batch.records, rules, apart=False)
        self.tally.count(folded.counts)
        output.add(folded)
        return output

    def finish(self) -> Output:
        """End the source: open panes close."""
        output = Output()
        for (_, apart), state in self._states.items():
            if not apart:
                output.add(_closed(state))
        return output

    def settled(self, key: Key) -> int:
        """Return the event time, micros, before which no record can change anything that was said of a source."""
        state = self._states.get((key, False))
        return 0 if state is None else state.watermark - GRACE

    def _fold(self, key: Key, records: Columns | list[Row], rules: list[ActiveRule], *, apart: bool) -> Folded:
        """Fold records; `apart`: into the state that only rules over prices see."""
        state = self._states.get((key, apart)) or fold.new_state(key.exchange, key.product, key.dataset)
        folded = fold.fold(state, _batch(key, records) if isinstance(records, Columns) else records, rules)
        self._states[key, apart] = folded.state
        return folded


def seen_prices(batch: Batch, bar_price: BarPrice) -> Columns:
    """Return bars as the prices that rules over prices see of them.

    `ohlc` is four records of one time: open, then low and high, the nearer one of a bar that rose or fell first, close.
    """
    records, candles = batch.records, batch.candles
    if candles is None or not isinstance(records, Columns):
        raise ValueError("only bars have more than one price")
    if bar_price != "ohlc":
        return replace(records, price={"low": candles.low, "high": candles.high, "close": records.price}[bar_price])
    rose = records.price >= candles.open
    first, second = np.where(rose, [candles.low, candles.high], [candles.high, candles.low])
    prices = np.stack([candles.open, first, second, records.price], axis=1).ravel()
    each = len(records)
    repeated = {name.name: np.repeat(getattr(records, name.name), PATH) for name in fields(records)}
    steps = np.tile(np.arange(PATH), each)
    return Columns(**repeated | {"price": prices, "identity": repeated["identity"] * PATH + steps})


def _batch(key: Key, records: Columns) -> KeyBatch:
    [batch] = cut(Table(records, [(key.exchange, key.product)], [0, len(records)]))
    return batch


def _closed(state: KeyState) -> Folded:
    """Close the open pane at its end: timers beyond the last record, and windows beyond it, do nothing."""
    end = (state.watermark // MICROS_PER_SECOND + 1) * MICROS_PER_SECOND
    return fold.advance(replace(state, book=NO_ALERTS), end + CLOCK_SLACK, [])
