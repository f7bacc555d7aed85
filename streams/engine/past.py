"""Bars of the past, a long stretch at once: what `fold` and `end` say of them about alerts, in a fraction of the time.

For the backtest. Bars come in order, none late and none twice, one a pane: so the rows of their panes are made by
columns, and a rule looks only where it may change (`sweep`). The evaluation, its rows of minutes and its formulas are
those of the live engine; the tests hold this against `fold`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert
from streams.engine.alerts import AlertBook, AlertFold, over_windows
from streams.engine.inputs import Columns, Floats
from streams.engine.lines import MINUTE_PANES
from streams.engine.measures import LOOKBACK_MINUTES
from streams.engine.rows import CLOSE, COUNT, HIGH, LOW, MEAN, OPEN, QUOTE_VOLUME, SECOND, VOLUME, Rows, Span
from streams.engine.rules import ActiveRule
from streams.engine.series import Series, SeriesFold
from streams.engine.statistics import Subject

KEPT: Final = LOOKBACK_MINUTES + 2 * MINUTE_PANES
"""Seconds of panes that a later stretch may ask for."""


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Bars as records at their ends less 1 us, ascending, each in a second of its own, and their own extremes."""

    records: Columns
    open: Floats
    high: Floats
    low: Floats


class Past:
    """One product's bars, stretch after stretch."""

    def __init__(self, exchange: str, product: str) -> None:
        self._names = exchange, product
        self._of_prices = AlertBook()
        self._of_windows = AlertBook()
        self._watermark = 0
        self._first_time = 0
        self._rows = Rows(0)

    def take(self, bars: Bars, prices: Columns, rules: Sequence[ActiveRule]) -> list[Alert]:
        """Evaluate a stretch that follows those before; `prices` is what rules over single prices see of it.

        The alerts of rules over windows come after the others, and without the prices that led to them.
        """
        evaluation = self._evaluation(self._of_prices)
        evaluation.records(prices, [rule for rule in rules if rule.measure is None])
        self._of_prices, alerts = evaluation.finish(), evaluation.alerts
        if over_windows(rules):
            alerts += self._over_windows(bars, [rule for rule in rules if rule.measure is not None])
        self._watermark = int(bars.records.time[-1])
        return alerts

    def end(self, rules: Sequence[ActiveRule]) -> list[Alert]:
        """End the source, as `fold.end` does."""
        if not self._watermark or not over_windows(rules):
            return []
        evaluation = self._evaluation(self._of_windows)
        second = self._watermark // MICROS_PER_SECOND + 1
        minute = -(-second // MINUTE_PANES) * MINUTE_PANES
        evaluation.end(self._panes(rules), second, minute, rules)
        return evaluation.alerts

    def _over_windows(self, bars: Bars, rules: Sequence[ActiveRule]) -> list[Alert]:
        records = bars.records
        self._append(bars)
        evaluation, panes = self._evaluation(self._of_windows), self._panes(rules)
        second, appended_at = int(records.time[-1]) // MICROS_PER_SECOND, int(records.appended_at[-1])
        evaluation.windows(panes, second, rules, appended_at, panes.stretch())
        evaluation.records(records.part(len(records) - 1, len(records)), rules)
        self._of_windows = evaluation.finish()
        return evaluation.alerts

    def _evaluation(self, book: AlertBook) -> AlertFold:
        return AlertFold(book, *self._names, watermark=self._watermark)

    def _append(self, bars: Bars) -> None:
        """Add the rows of these bars to those that may still be asked for."""
        records = bars.records
        self._first_time = self._first_time or int(records.time[0])
        kept = int(self._rows.ints[SECOND].searchsorted(self._watermark // MICROS_PER_SECOND - KEPT))
        old = self._rows.ints.shape[1] - kept
        rows = Rows(old + len(records))
        rows.floats[:, :old], rows.ints[:, :old] = self._rows.floats[:, kept:], self._rows.ints[:, kept:]
        rows.ints[SECOND, old:] = records.time // MICROS_PER_SECOND
        for column, values in (
            (COUNT, 1.0),
            (VOLUME, np.nan_to_num(records.size)),
            (QUOTE_VOLUME, np.nan_to_num(records.price * records.size)),
            (OPEN, bars.open),
            (HIGH, bars.high),
            (LOW, bars.low),
            (CLOSE, records.price),
            (MEAN, records.price - bars.open),
        ):
            rows.floats[column, old:] = values
        self._rows = rows

    def _panes(self, rules: Sequence[ActiveRule]) -> SeriesFold:
        """Return the rows as panes that are all closed, those of whole minutes included where a rule asks for them."""
        count = self._rows.ints.shape[1]
        minute = (int(self._rows.ints[SECOND, count - 1]) // MINUTE_PANES + 1) * MINUTE_PANES
        series = Series(Span(self._rows, 0, count), until=minute, first_time=self._first_time)
        panes = SeriesFold(series, Subject(*self._names, "trades", "", 0), ())
        if any(rule.measure is not None and rule.measure.by_minute for rule in rules):
            panes.condense(minute)
        return panes
