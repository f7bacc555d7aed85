"""Where a condition over a window can change over a long stretch of closed panes, by columns: for the past only.

At each second bounds of the value are worked out from running totals, for all seconds at once; only where the bounds
let a signal change a rule the value itself is asked for (`measures.value_at`). So a sweep finds exactly what looking at
every second would, in a small part of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pulsestream.core.clock import MICROS_PER_SECOND
from streams.engine.anomaly import MAD_SCALE, MIN_MOVES
from streams.engine.definitions import SECONDS_UP_TO, Limit
from streams.engine.inputs import Bools, Floats, Ints
from streams.engine.lines import MINUTE_PANES, SECOND_PANES
from streams.engine.machine import Signal
from streams.engine.measures import GRIDS, Measure
from streams.engine.statistics import MIN_RETURNS, YEAR_SECONDS
from streams.engine.view import PaneRows

Signals: TypeAlias = NDArray[np.uint8]
SLACK: Final = 1e-9
"""Relative error allowed for logarithms and quotients, far above what they have."""
DENSE: Final = 128
"""Seconds for each pane up to which their places are looked up."""
LEVELS: Final = 16
"""Sizes between which the median size of moves is looked for."""
_EPSILON: Final = 2.0**-52


class Bounds(NamedTuple):
    """Of each second: at least `low`, at most `high`; both NaN where there is surely no value."""

    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Closed panes of 1 s and of 1 m over all that a sweep may ask for; `first_time` as in view.Panes."""

    seconds: PaneRows
    minutes: PaneRows
    first_time: int

    def bounds(self, measure: Measure, at: Ints) -> Bounds:
        """Return bounds of a measure at these seconds."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if measure.kind == "change":
                return _change(self._rows(measure), measure.seconds, at)
            observed = at * MICROS_PER_SECOND - self.first_time
            if measure.kind == "volume":
                return _volume(self.seconds, measure, at, observed)
            if measure.kind == "volatility":
                return _volatility(self._rows(measure), measure.seconds, at, observed)
            return _zscore(self._rows(measure), measure.seconds, at, observed)

    def instants(self, measure: Measure, after: int, until: int) -> Ints:
        """Return the seconds in (after, until], ascending, at which a measure may change (`measures.instants`)."""
        seconds, baseline = measure.seconds, measure.baseline
        after = max(after, int(self.seconds.second[0]))
        changes = np.zeros(max(until - after, 0) + 1, np.bool_)
        if seconds <= SECONDS_UP_TO < baseline:
            begin, end = after // MINUTE_PANES * MINUTE_PANES, until // MINUTE_PANES * MINUTE_PANES
            for found in self._changes(seconds, begin, end):
                changes[-(-found // MINUTE_PANES) * MINUTE_PANES - after] = True
        else:
            for found in self._changes(seconds, after, until):
                changes[found - after] = True
        if baseline:
            for found in self._changes(baseline, after - seconds, until - seconds):
                changes[found + seconds - after] = True
        return np.flatnonzero(changes) + after

    def _changes(self, seconds: int, after: int, until: int) -> Iterator[Ints]:
        """Give when panes close, and when they leave a window of that length, in (after, until]."""
        rows, step = (self.seconds, SECOND_PANES) if seconds <= SECONDS_UP_TO else (self.minutes, MINUTE_PANES)
        for delay in (step, step + seconds):
            start, end = rows.second.searchsorted([after - delay + 1, until - delay + 1])
            yield rows.second[start:end] + delay

    def sweep(self, measure: Measure, limit: Limit, at: Ints) -> "Sweep":
        """Return where a rule may change, of the seconds `at`."""
        return Sweep(at, possible_signals(limit, self.bounds(measure, at)))

    def _rows(self, measure: Measure) -> PaneRows:
        return self.minutes if measure.by_minute else self.seconds


class Sweep:
    """The signals that each second may give to a rule, searched by index."""

    def __init__(self, seconds: Ints, signals: Signals) -> None:
        self._seconds = seconds
        self._signals = signals
        self._found: dict[int, NDArray[np.intp]] = {}

    def next(self, start: int, mask: int, due: int | None) -> int:
        """Return the index of the first second, from `start` on, that may give a signal in `mask` or reaches `due`.

        `due` in micros; len where there is none.
        """
        found = self._found.get(mask)
        if found is None:
            found = self._found[mask] = np.flatnonzero(self._signals & mask)
        place = int(found.searchsorted(start))
        telling = int(found[place]) if place < len(found) else len(self._seconds)
        if due is None:
            return telling
        return min(telling, max(start, int(self._seconds.searchsorted(-(-due // MICROS_PER_SECOND)))))

    def last_valued(self, start: int, stop: int) -> Iterator[int]:
        """Give the indices in [start, stop) at which there may be a value, the last one first."""
        return reversed((np.flatnonzero(self._signals[start:stop]) + start).tolist())


def possible_signals(limit: Limit, bounds: Bounds) -> Signals:
    """Return, for each second, a mask with at least the signals that its value can give; 0: there is no value."""
    low, high, threshold, clear = bounds.low, bounds.high, limit.threshold, limit.clear
    if not limit.above:
        low, high, threshold, clear = -high, -low, -threshold, -clear
    signals = (high > threshold).view(np.uint8) * np.uint8(Signal.TRUE)
    signals |= (low <= clear).view(np.uint8) * np.uint8(Signal.CLEAR)
    if clear < threshold:
        signals |= ((high > clear) & (low <= threshold)).view(np.uint8) * np.uint8(Signal.BETWEEN)
    return signals


def _change(rows: PaneRows, seconds: int, at: Ints) -> Bounds:
    """Return the value itself: it takes one division."""
    end, start = _places(rows, at), _places(rows, at - seconds)
    held = end > start
    closes = np.concatenate(((np.nan,), rows.close))
    opens = np.concatenate((rows.open, (np.nan,)))
    reference = np.where(start > 0, closes[start], np.where(held, opens[start], np.nan))
    change = np.where(held, 100 * (closes[end] - reference) / reference, 0 * reference)
    change[~np.isfinite(change)] = np.nan
    return Bounds(change, change)


def _volume(rows: PaneRows, measure: Measure, at: Ints, observed: Ints) -> Bounds:
    end, start = _places(rows, at), _places(rows, at - measure.seconds)
    begin = _places(rows, at - measure.seconds - measure.baseline)
    total, error = _running(rows.volume)
    inside, before = total[end] - total[start], total[start] - total[begin]
    windows = measure.baseline // measure.seconds
    low = np.maximum(inside - error, 0) / ((before + error) / windows) * (1 - SLACK)
    high = np.where(before > error, (inside + error) / ((before - error) / windows) * (1 + SLACK), np.inf)
    unobserved = observed < (measure.seconds + measure.baseline) * MICROS_PER_SECOND
    return _without(unobserved, Bounds(np.where(before > error, low, -np.inf), high))


def _volatility(rows: PaneRows, seconds: int, at: Ints, observed: Ints) -> Bounds:
    """Return bounds from running totals of squared returns, one for each phase of the grid."""
    step = GRIDS[seconds]
    covered = np.minimum(observed, seconds * MICROS_PER_SECOND)
    low, high = np.zeros(len(at)), np.zeros(len(at))
    for phase in range(step):
        chosen = at % step == phase
        if chosen.any():
            low[chosen], high[chosen] = _of_phase(rows, seconds, step, at[chosen])
    scale = YEAR_SECONDS / (covered / MICROS_PER_SECOND)
    bounds = Bounds(np.sqrt(low * scale) * (1 - SLACK), np.sqrt(high * scale) * (1 + SLACK))
    return _without(-(-covered // (step * MICROS_PER_SECOND)) < MIN_RETURNS, bounds)


def _of_phase(rows: PaneRows, seconds: int, step: int, at: Ints) -> tuple[Floats, Floats]:
    """Return bounds of the sums of squared returns; before the first record the price is what that one opened with."""
    begin = int(at[0]) - seconds
    places = _places(rows, np.arange(begin, int(at[-1]) + 1, step))
    moves = _moves(np.where(places > 0, rows.close[places - 1], rows.open[0]))
    total, error = _running(moves * moves)
    if not np.isfinite(error):
        return np.zeros(len(at)), np.full(len(at), np.inf)
    last = (at - begin) // step + 1
    squares = total[last] - total[last - seconds // step]
    return np.maximum(squares - error, 0), squares + error


def _zscore(rows: PaneRows, seconds: int, at: Ints, observed: Ints) -> Bounds:
    """Return bounds from the median size S of the moves that are not 0, which lies between two levels.

    Whatever returns are 0 beside them, the median M of all has |M| <= S, and their MAD is at most 2 S. So the score of
    a return r, |r - M| / (1.4826 max(MAD, S)), lies from (|r| - S) / (1.4826 x 2 S) to (|r| + S) / (1.4826 S).
    """
    step = SECOND_PANES if seconds <= SECONDS_UP_TO else MINUTE_PANES
    end, start = _places(rows, at), _places(rows, at - seconds)
    moves = np.abs(_moves(np.concatenate((rows.open[:1], rows.close)))[1:])
    newest = np.where((end > 0) & (rows.second[end - 1] == at - step), moves[end - 1], 0.0)
    moved = moves > 0
    count = _counted(moved, start, end)
    low, high = np.zeros(len(at)), np.full(len(at), np.inf)
    for level in np.geomspace(*_extremes(moves[moved]), LEVELS):
        below = _counted(moved & (moves <= level), start, end)
        low = np.where(below <= (count - 1) // 2, level, low)
        high = np.where((below > count // 2) & np.isinf(high), level, high)
    least = np.fmax(np.maximum(newest / high - 1, 0) / (2 * MAD_SCALE) * (1 - SLACK), -np.inf)
    most = np.fmin((newest / low + 1) / MAD_SCALE * (1 + SLACK), np.inf)
    few = count < MIN_MOVES
    least, most = np.where(few, 0.0, least), np.where(few, 0.0, most)
    returns = -(-np.minimum(observed, seconds * MICROS_PER_SECOND) // (step * MICROS_PER_SECOND))
    return _without((returns < MIN_RETURNS) | (few & (newest > 0)), Bounds(least, most))


def _places(rows: PaneRows, at: Ints) -> Ints:
    """Return how many panes begin before each second: a search, or where panes are dense a look-up."""
    second = rows.second
    if not len(second) or second[-1] - second[0] > DENSE * len(second):
        return second.searchsorted(at)
    before = np.zeros(second[-1] - second[0] + 2, np.int32)
    before[second - second[0] + 1] = 1
    np.cumsum(before, out=before)
    places: Ints = before[np.clip(at - second[0], 0, len(before) - 1)]
    return places


def _moves(prices: Floats) -> Floats:
    """Return each price's log return since the one before it; of the first, 0."""
    return np.log1p(np.diff(prices, prepend=prices[:1]) / np.concatenate((prices[:1], prices[:-1])))


def _counted(chosen: Bools, start: Ints, end: Ints) -> Ints:
    """Return how many are chosen from each start to before each end."""
    total = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum(chosen, dtype=np.int32, out=total[1:])
    counts: Ints = total[end] - total[start]
    return counts


def _extremes(sizes: Floats) -> tuple[float, float]:
    return (float(sizes.min()), float(sizes.max())) if len(sizes) else (1.0, 1.0)


def _running(values: Floats) -> tuple[Floats, float]:
    """Return the running totals of numbers that are not negative, from 0 on, and a bound of a difference's error."""
    total = np.concatenate(((0.0,), np.cumsum(values)))
    return total, float(total[-1]) * len(total) * 4 * _EPSILON


def _without(missing: Bools, bounds: Bounds) -> Bounds:
    return Bounds(np.where(missing, np.nan, bounds.low), np.where(missing, np.nan, bounds.high))
