"""The formulas: one statistic of one window, or one bar, from rows of panes.

A statistic at `at` covers records with at - window <= exchange_time < at. It is a function of the records before
`at` alone, whatever the order or batches they arrived in.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import AsOf, Bar, Stat, bar_id
from streams.engine.forecast import Outlook
from streams.engine.inputs import Floats, Ints
from streams.engine.lines import Line, Window
from streams.engine.rows import (
    APPENDED_AT,
    AS_OF,
    BUY_VOLUME,
    CLOSE,
    COUNT,
    HIGH,
    LOW,
    OFFSET,
    OPEN,
    QUOTE_AT,
    QUOTE_VOLUME,
    QUOTES,
    SECOND,
    SPREAD,
    SPREAD_BPS,
    SUMS,
    VOLUME,
    Extent,
)

YEAR_SECONDS: Final = 365 * 86_400
MIN_RETURNS: Final = 10
"""Below it neither volatility nor stddev_log_return is given."""
HALVED: Final = -0.5
DOUBLED: Final = 1.0
"""Relative changes between which log1p keeps its precision."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose statistics these are, what they are made of, and the partition that the records come from."""

    exchange: str
    product: str
    basis: str
    topic_id: str
    partition: int

    def as_of(self, offset: int) -> AsOf:
        """Return the position of a record."""
        return AsOf(topic_id=self.topic_id, partition=self.partition, offset=offset)


@dataclass(frozen=True, slots=True)
class View:
    """The rows of a window at second `at`: [start, end) of an extent; `first_time` is the key's earliest record."""

    subject: Subject
    extent: Extent
    window: Window
    at: int
    start: int
    end: int
    first_time: int

    @classmethod
    def of(cls, subject: Subject, extent: Extent, window: Window, at: int, first_time: int) -> "View":
        """Return the view of a window; some row must begin before `at`."""
        end = extent.find(at)
        return cls(subject, extent, window, at, extent.find(at - window.seconds, end), end, first_time)

    @property
    def covered(self) -> int:
        """How much of the window lies after the key's first record, micros."""
        return min(self.window.seconds * MICROS_PER_SECOND, self.at * MICROS_PER_SECOND - self.first_time)

    @property
    def reference(self) -> float:
        """The last price before the window; where there is none, the window's first."""
        floats = self.extent.rows.floats
        before = self.start > self.extent.start
        return float(floats[CLOSE, self.start - 1] if before else floats[OPEN, self.start])

    def event_id(self, basis: str) -> str:
        """Return the statistic's id."""
        subject = self.subject
        return f"{subject.exchange}:{subject.product}:{self.window.name}:{self.at}:{basis}"


def price_stat(view: View, revision: int, outlook: Outlook | None = None) -> Stat:
    """Return the statistic of prices, with what is expected of the time after it."""
    subject, extent = view.subject, view.extent
    floats = extent.rows.floats[:, view.start : view.end]
    sums = np.add.reduce(floats[:SUMS], axis=1).tolist()
    count = int(sums[COUNT])
    opened = high = low = close = mean = stddev = change = None
    if count:
        opened, close = float(floats[OPEN, 0]), float(floats[CLOSE, -1])
        high, low = float(np.maximum.reduce(floats[HIGH])), float(np.minimum.reduce(floats[LOW]))
        moments = extent.moments(view.start, view.end)
        mean = opened + moments.mean
        stddev = math.sqrt(moments.m2 / (count - 1)) if count > 1 else None
    reference, covered = view.reference, view.covered
    change = None if close is None else close - reference
    volatility, stddev_log_return = _returns(grid_closes(view), reference, covered, view.window.grid)
    return Stat(
        event_id=view.event_id(subject.basis),
        exchange=subject.exchange,
        product=subject.product,
        window=view.window.name,
        at=view.at * MICROS_PER_SECOND,
        basis=subject.basis,
        count=count,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=sums[VOLUME],
        quote_volume=sums[QUOTE_VOLUME],
        buy_volume=sums[BUY_VOLUME],
        vwap=sums[QUOTE_VOLUME] / sums[VOLUME] if sums[VOLUME] else None,
        mean=mean,
        stddev=stddev,
        coverage_seconds=covered / MICROS_PER_SECOND,
        reference_price=reference,
        change=change,
        change_pct=percent(change, reference),
        volatility=volatility,
        stddev_log_return=stddev_log_return,
        range_position=_range_position(close, high, low),
        as_of=subject.as_of(int(extent.rows.ints[AS_OF, view.end - 1])),
        revision=revision,
        forecast_volatility=outlook.volatility if outlook else None,
        forecast_low=outlook.low if outlook else None,
        forecast_high=outlook.high if outlook else None,
    )


def quote_stat(view: View, revision: int) -> Stat:
    """Return the statistic of quotes; some record with both sides must lie before `at`."""
    subject, rows = view.subject, view.extent.rows
    sums = np.add.reduce(rows.floats[:SUMS, view.start : view.end], axis=1).tolist()
    newest = rows.ints[:, view.end - 1]
    count = int(sums[QUOTES])
    return Stat(
        event_id=view.event_id("quotes"),
        exchange=subject.exchange,
        product=subject.product,
        window=view.window.name,
        at=view.at * MICROS_PER_SECOND,
        basis="quotes",
        count=count,
        spread_mean=sums[SPREAD] / count if count else None,
        spread_bps=sums[SPREAD_BPS] / count if count else None,
        quote_age=(view.at * MICROS_PER_SECOND - int(newest[QUOTE_AT])) / MICROS_PER_SECOND,
        coverage_seconds=view.covered / MICROS_PER_SECOND,
        as_of=subject.as_of(int(newest[AS_OF])),
        revision=revision,
    )


def bar_of(subject: Subject, extent: Extent, line: Line, end: int, *, first_time: int, revision: int) -> Bar | None:
    """Return the bar whose period ends at second `end`; None where no record lies in it.

    Its `as_of` is the last record of the period, and `received_time` when the broker appended that: so a bar that is
    computed again is the same. Complete: the key's first record is not within the period.
    """
    stop = extent.find(end)
    start = extent.find(end - line.seconds, stop)
    if start == stop:
        return None
    floats, ints = extent.rows.floats[:, start:stop], extent.rows.ints[:, start:stop]
    sums = np.add.reduce(floats[:SUMS], axis=1).tolist()
    begin = (end - line.seconds) * MICROS_PER_SECOND
    last = int(ints[OFFSET].argmax())
    return Bar(
        event_id=bar_id(subject.exchange, subject.product, line.name, begin, subject.basis),
        exchange=subject.exchange,
        product=subject.product,
        period=line.name,
        start=begin,
        open=float(floats[OPEN, 0]),
        high=float(np.maximum.reduce(floats[HIGH])),
        low=float(np.minimum.reduce(floats[LOW])),
        close=float(floats[CLOSE, -1]),
        volume=sums[VOLUME],
        quote_volume=sums[QUOTE_VOLUME],
        vwap=sums[QUOTE_VOLUME] / sums[VOLUME] if sums[VOLUME] else None,
        trades=int(sums[COUNT]) if subject.basis == "trades" else None,
        buy_volume=sums[BUY_VOLUME],
        complete=first_time <= begin,
        revision=revision,
        as_of=subject.as_of(int(ints[OFFSET, last])),
        origin=subject.basis,
        received_time=int(ints[APPENDED_AT, last]),
    )


def log_returns(prices: Floats) -> Floats:
    """Return ln(price / price before) to full precision.

    Of prices that nearly agree, the difference is exact, the quotient is not: so log1p of the relative change.
    """
    before, after = prices[:-1], prices[1:]
    with np.errstate(over="ignore"):
        changes = (after - before) / before
    near = (changes > HALVED) & (changes < DOUBLED)
    if near.all():
        return np.log1p(changes)
    return np.where(near, np.log1p(np.where(near, changes, 0.0)), np.log(after) - np.log(before))


def grid_closes(view: View) -> Floats:
    """Return the last price before each grid point of the window, where a row lies between it and the window's start.

    The grid ends at `at`, in steps of `window.grid` seconds.
    """
    rows, window = view.extent.rows, view.window
    closes = rows.floats[CLOSE, view.start : view.end]
    if window.grid == window.pane:
        return closes
    seconds: Ints = rows.ints[SECOND, view.start : view.end]
    points = np.arange(view.at - window.seconds + window.grid, view.at + 1, window.grid)
    ends = seconds.searchsorted(points)
    return closes[ends[ends > 0] - 1]


def percent(change: float | None, reference: float) -> float | None:
    """Return 100 x change / reference; null also where that is beyond a double (a reference of nearly nothing)."""
    ratio = math.inf if change is None else 100 * change / reference
    return ratio if math.isfinite(ratio) else None


def _range_position(close: float | None, high: float | None, low: float | None) -> float | None:
    if close is None or high is None or low is None or high == low:
        return None
    return (close - low) / (high - low)


def _returns(closes: Floats, reference: float, covered: int, grid: int) -> tuple[float | None, float | None]:
    """Return (annualised realised volatility, sample stddev) of the grid's log returns over `covered` micros.

    The grid has a point every `grid` seconds after the first covered instant; where no record lies between two points,
    the previous price stands and the return is 0.
    """
    count = -(-covered // (grid * MICROS_PER_SECOND))
    if count < MIN_RETURNS:
        return None, None
    moves = log_returns(np.concatenate(((reference,), closes)))
    squares = float(np.add.reduce(moves * moves))
    average = float(np.add.reduce(moves)) / count
    deviations = moves - average
    spread = float(np.add.reduce(deviations * deviations)) + (count - len(moves)) * average**2
    volatility = math.sqrt(squares * YEAR_SECONDS / (covered / MICROS_PER_SECOND))
    return volatility, math.sqrt(spread / (count - 1))
