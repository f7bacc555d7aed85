"""The formulas: one statistic of one window from panes.

A statistic at `at` covers records with at - window <= exchange_time < at. It is a function of the records before
`at` alone, whatever the order or batches they arrived in.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Stat
from streams.engine.exact import SHIFT, mean, rounded
from streams.engine.panes import NOTHING, ClosedPanes, Totals

YEAR_SECONDS: Final = 365 * 86_400
MIN_RETURNS: Final = 10
"""Below it neither volatility nor stddev_log_return is given."""
HALVED: Final = -0.5
DOUBLED: Final = 1.0
"""Relative changes between which log1p keeps its precision."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window: its name in records, its length, and the step of the clock grid of its returns (seconds)."""

    name: str
    seconds: int
    grid: int


WINDOWS: Final = (Window("1m", 60, 1), Window("5m", 300, 5))


@dataclass(frozen=True, slots=True)
class History:
    """The closed panes of a key; `first_time` is its earliest record, micros."""

    exchange: str
    product: str
    closed: ClosedPanes
    first_time: int


def price_stat(history: History, window: Window, at: int, revision: int) -> Stat:
    """Return the statistic of basis `ticks` at second `at`; some record must lie before it."""
    start, end = _bounds(history, window, at)
    panes = history.closed.panes
    newest = panes[end - 1]
    base = panes[start - 1] if start else None
    sums = _difference(newest.totals, base.totals if base else NOTHING)
    reference = base.candle.close if base else panes[0].candle.open
    opened, high, low, close = _candle(history.closed, start, end)
    change = None if close is None else close - reference
    covered = _covered(history, window, at)
    volatility, stddev_log_return = _returns(_grid_closes(history, window, at, start, end), reference, covered, window)
    return Stat(
        event_id=_event_id(history, window, at, "ticks"),
        exchange=history.exchange,
        product=history.product,
        window=window.name,
        at=at * MICROS_PER_SECOND,
        basis="ticks",
        count=sums.count,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=rounded(sums.sizes),
        quote_volume=sums.turnover / (1 << 2 * SHIFT),
        buy_volume=rounded(sums.buys),
        vwap=sums.turnover / (sums.sizes << SHIFT) if sums.sizes else None,
        mean=mean(sums.prices, sums.count) if sums.count else None,
        stddev=_stddev(sums),
        coverage_seconds=covered / MICROS_PER_SECOND,
        reference_price=reference,
        change=change,
        change_pct=_percent(change, reference),
        volatility=volatility,
        stddev_log_return=stddev_log_return,
        range_position=_range_position(close, high, low),
        as_of=newest.as_of,
        revision=revision,
    )


def quote_stat(history: History, window: Window, at: int, revision: int) -> Stat:
    """Return the statistic of basis `quotes` at second `at`; some tick with both sides must lie before it."""
    start, end = _bounds(history, window, at)
    newest = history.closed.panes[end - 1]
    if newest.quote is None:
        raise ValueError(f"no quote of {history.exchange}:{history.product} lies before {at}")
    base = history.closed.panes[start - 1].totals if start else NOTHING
    count = newest.totals.quotes - base.quotes
    return Stat(
        event_id=_event_id(history, window, at, "quotes"),
        exchange=history.exchange,
        product=history.product,
        window=window.name,
        at=at * MICROS_PER_SECOND,
        basis="quotes",
        count=count,
        spread_mean=mean(newest.totals.spreads - base.spreads, count) if count else None,
        spread_bps=mean(newest.totals.spreads_bps - base.spreads_bps, count) if count else None,
        quote_age=(at * MICROS_PER_SECOND - newest.quote.at) / MICROS_PER_SECOND,
        coverage_seconds=_covered(history, window, at) / MICROS_PER_SECOND,
        as_of=newest.as_of,
        revision=revision,
    )


def log_returns(prices: Sequence[float]) -> list[float]:
    """Return ln(price / price before) to full precision, without those that are 0.

    Of prices that nearly agree, the difference is exact, the quotient is not: so log1p of the relative change.
    """
    pairs = [(before, after) for before, after in pairwise(prices) if before != after]
    changes = [(after - before) / before for before, after in pairs]
    if not changes or (min(changes) > HALVED and max(changes) < DOUBLED):
        return [*map(math.log1p, changes)]
    return [
        math.log1p(change) if HALVED < change < DOUBLED else math.log(after) - math.log(before)
        for change, (before, after) in zip(changes, pairs, strict=True)
    ]


def _event_id(history: History, window: Window, at: int, basis: str) -> str:
    return f"{history.exchange}:{history.product}:{window.name}:{at}:{basis}"


def _covered(history: History, window: Window, at: int) -> int:
    """Return how much of the window lies after the key's first record, micros."""
    return min(window.seconds * MICROS_PER_SECOND, at * MICROS_PER_SECOND - history.first_time)


def _bounds(history: History, window: Window, at: int) -> tuple[int, int]:
    """Return the slice of panes with at - window <= second < at."""
    end = bisect_left(history.closed.seconds, at)
    return bisect_left(history.closed.seconds, at - window.seconds, 0, end), end


def _difference(newer: Totals, older: Totals) -> Totals:
    return Totals(
        newer.count - older.count,
        newer.prices - older.prices,
        newer.squares - older.squares,
        newer.sizes - older.sizes,
        newer.turnover - older.turnover,
        newer.buys - older.buys,
    )


def _candle(closed: ClosedPanes, start: int, end: int) -> tuple[float | None, float | None, float | None, float | None]:
    """Return open, high, low and close of a slice of panes."""
    if start == end:
        return None, None, None, None
    return (
        closed.panes[start].candle.open,
        max(closed.highs[start:end]),
        min(closed.lows[start:end]),
        closed.closes[end - 1],
    )


def _stddev(sums: Totals) -> float | None:
    """Sample standard deviation from exact sums: the variance is a rational number, rounded once."""
    count = sums.count
    if count < 2:  # noqa: PLR2004 (a sample's deviation needs two)
        return None
    return math.sqrt((count * sums.squares - sums.prices**2) / (count * (count - 1) << 2 * SHIFT))


def _percent(change: float | None, reference: float) -> float | None:
    """Return 100 x change / reference; null also where that is beyond a double (a reference of nearly nothing)."""
    percent = math.inf if change is None else 100 * change / reference
    return percent if math.isfinite(percent) else None


def _range_position(close: float | None, high: float | None, low: float | None) -> float | None:
    if close is None or high is None or low is None or high == low:
        return None
    return (close - low) / (high - low)


def _grid_closes(history: History, window: Window, at: int, start: int, end: int) -> list[float]:
    """Return the last price before each grid point, at least where panes lie between it and the point before."""
    seconds, closes = history.closed.seconds, history.closed.closes
    if window.grid == 1:
        return closes[start:end]
    points = range(at - window.seconds + window.grid, at + 1, window.grid)
    ends = [bisect_left(seconds, point, start, end) for point in points]
    return [closes[index - 1] for index in ends if index > start]


def _returns(
    closes: Sequence[float], reference: float, covered: int, window: Window
) -> tuple[float | None, float | None]:
    """Return (annualised realised volatility, sample stddev) of the grid's log returns over `covered` micros.

    The grid ends at the statistic's time and has a point every `window.grid` seconds after the first covered
    instant; where no record lies between two points, the previous price stands and the return is 0.
    """
    count = -(-covered // (window.grid * MICROS_PER_SECOND))
    if count < MIN_RETURNS:
        return None, None
    moves = log_returns([reference, *closes])
    average = math.fsum(moves) / count
    volatility = math.sqrt(math.fsum([r * r for r in moves]) * YEAR_SECONDS / (covered / MICROS_PER_SECOND))
    deviations = math.fsum([(r - average) ** 2 for r in moves]) + (count - len(moves)) * average**2
    return volatility, math.sqrt(deviations / (count - 1))
