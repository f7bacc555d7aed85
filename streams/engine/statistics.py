"""The formulas: one statistic of one window from panes.

A statistic at `at` covers records with at - window <= exchange_time < at. It is a function of the records before
`at` alone, whatever the order or batches they arrived in.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Stat
from streams.engine.exact import SHIFT, mean, rounded
from streams.engine.panes import NOTHING, Pane, Totals

YEAR_SECONDS: Final = 365 * 86_400
MIN_RETURNS: Final = 10
"""Below it neither volatility nor stddev_log_return is given."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window: its name in records, its length, and the step of the clock grid of its returns (seconds)."""

    name: str
    seconds: int
    grid: int


WINDOWS: Final = (Window("1m", 60, 1), Window("5m", 300, 5))


@dataclass(frozen=True, slots=True)
class History:
    """The panes of a key, ascending, and their seconds; `first_time` is the key's earliest record, micros."""

    exchange: str
    product: str
    panes: Sequence[Pane]
    seconds: Sequence[int]
    first_time: int


def price_stat(history: History, window: Window, at: int, revision: int) -> Stat:
    """Return the statistic of basis `ticks` at second `at`; some record must lie before it."""
    start, end = _bounds(history, window, at)
    newest = history.panes[end - 1]
    base = history.panes[start - 1] if start else None
    segment = history.panes[start:end]
    sums = _difference(newest.totals, base.totals if base else NOTHING)
    reference = base.candle.close if base else segment[0].candle.open
    opened, high, low, close = _candle(segment)
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
        change_pct=None if change is None else 100 * change / reference,
        volatility=volatility,
        stddev_log_return=stddev_log_return,
        range_position=_range_position(close, high, low),
        as_of=newest.as_of,
        revision=revision,
    )


def quote_stat(history: History, window: Window, at: int, revision: int) -> Stat:
    """Return the statistic of basis `quotes` at second `at`; some tick with both sides must lie before it."""
    start, end = _bounds(history, window, at)
    newest = history.panes[end - 1]
    if newest.quote is None:
        raise ValueError(f"no quote of {history.exchange}:{history.product} lies before {at}")
    base = history.panes[start - 1].totals if start else NOTHING
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


def log_return(before: float, after: float) -> float:
    """Return ln(after / before) of two prices to full precision, also where they nearly agree."""
    relative = (after - before) / before
    return math.log1p(relative) if -0.5 < relative < 1.0 else math.log(after) - math.log(before)  # noqa: PLR2004 (where log1p keeps its precision)


def _event_id(history: History, window: Window, at: int, basis: str) -> str:
    return f"{history.exchange}:{history.product}:{window.name}:{at}:{basis}"


def _covered(history: History, window: Window, at: int) -> int:
    """Return how much of the window lies after the key's first record, micros."""
    return min(window.seconds * MICROS_PER_SECOND, at * MICROS_PER_SECOND - history.first_time)


def _bounds(history: History, window: Window, at: int) -> tuple[int, int]:
    """Return the slice of panes with at - window <= second < at."""
    end = bisect_left(history.seconds, at)
    return bisect_left(history.seconds, at - window.seconds, 0, end), end


def _difference(newer: Totals, older: Totals) -> Totals:
    return Totals(
        newer.count - older.count,
        newer.prices - older.prices,
        newer.squares - older.squares,
        newer.sizes - older.sizes,
        newer.turnover - older.turnover,
        newer.buys - older.buys,
    )


def _candle(segment: Sequence[Pane]) -> tuple[float | None, float | None, float | None, float | None]:
    if not segment:
        return None, None, None, None
    candles = [pane.candle for pane in segment]
    high, low = max([candle.high for candle in candles]), min([candle.low for candle in candles])
    return candles[0].open, high, low, candles[-1].close


def _stddev(sums: Totals) -> float | None:
    """Sample standard deviation from exact sums: the variance is a rational number, rounded once."""
    count = sums.count
    if count < 2:  # noqa: PLR2004 (a sample's deviation needs two)
        return None
    return math.sqrt((count * sums.squares - sums.prices**2) / (count * (count - 1) << 2 * SHIFT))


def _range_position(close: float | None, high: float | None, low: float | None) -> float | None:
    if close is None or high is None or low is None or high == low:
        return None
    return (close - low) / (high - low)


def _grid_closes(history: History, window: Window, at: int, start: int, end: int) -> list[float]:
    """Return the last price before each grid point, only where panes lie between it and the point before."""
    panes = history.panes
    if window.grid == 1:
        return [pane.candle.close for pane in panes[start:end]]
    points = range(at - window.seconds + window.grid, at + 1, window.grid)
    ends = [bisect_left(history.seconds, point, start, end) for point in points]
    return [panes[index - 1].candle.close for index in ends if index > start]


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
    moves = []
    before = reference
    for close in closes:
        if close != before:
            moves.append(log_return(before, close))
            before = close
    average = math.fsum(moves) / count
    volatility = math.sqrt(math.fsum([r * r for r in moves]) * YEAR_SECONDS / (covered / MICROS_PER_SECOND))
    deviations = math.fsum([(r - average) ** 2 for r in moves]) + (count - len(moves)) * average**2
    return volatility, math.sqrt(deviations / (count - 1))
