"""The value of a condition over a window, from closed panes, and the seconds at which it may change.

Seconds are event time since 1970; a window of length W at second `at` covers the records of [at - W, at). No value
(None) is neither true nor clear: it changes nothing. Windows of up to 15 m are evaluated at whole seconds; where the
window or the baseline is longer, at whole minutes.
"""

import math
from typing import Final, Literal, NamedTuple

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from streams.engine.anomaly import score
from streams.engine.definitions import (
    SECONDS_UP_TO,
    WINDOW_SECONDS,
    Change,
    Condition,
    Volatility,
    Volume,
    ZScore,
)
from streams.engine.inputs import Floats
from streams.engine.statistics import MIN_RETURNS, YEAR_SECONDS, log_returns
from streams.engine.view import PaneRows, Panes

LOOKBACK_SECONDS: Final = 1_200
"""How far back panes of 1 s are asked for: a window of 5 m after a baseline of 15 m."""
LOOKBACK_MINUTES: Final = 90_000
"""How far back, in seconds, panes of 1 m are asked for: a window of 1 h after a baseline of 24 h."""
GRIDS: Final = {60: 1, 300: 5, 900: 5, 3_600: 60, 86_400: 300}
"""By seconds of a window: the step of the clock grid of its log returns."""
_MINUTE: Final = 60


class Measure(NamedTuple):
    """What is measured over which window (seconds and name); `baseline` is 0 where there is none."""

    kind: Literal["change", "volatility", "volume", "zscore"]
    window: str
    seconds: int
    baseline: int = 0

    @property
    def by_minute(self) -> bool:
        """Whether it is evaluated at whole minutes only."""
        return max(self.seconds, self.baseline) > SECONDS_UP_TO


def measure_of(condition: Condition) -> Measure | None:
    """Return the measure of a condition over a window."""
    if not isinstance(condition, Change | Volatility | Volume | ZScore):
        return None
    baseline = WINDOW_SECONDS[condition.baseline] if isinstance(condition, Volume) else 0
    return Measure(condition.type, condition.window, WINDOW_SECONDS[condition.window], baseline)


def value_at(measure: Measure, panes: Panes, at: int) -> float | None:
    """Return the value at second `at`; None: there is none."""
    if measure.kind == "volume":
        return _volume_ratio(panes, at, measure.seconds, measure.baseline)
    rows = panes.rows(measure.seconds, at)
    before = panes.reference(at - measure.seconds)
    reference = before if before is not None else float(rows.open[0]) if len(rows) else None
    if reference is None:
        return None
    if measure.kind == "change":
        return _change(rows, reference)
    covered = min(measure.seconds * MICROS_PER_SECOND, at * MICROS_PER_SECOND - panes.first_time)
    if measure.kind == "volatility":
        return _volatility(_grid_closes(rows, measure.seconds, at), reference, covered, GRIDS[measure.seconds])
    step = _MINUTE if measure.by_minute else 1
    return _zscore(rows, reference, at, -(-covered // (step * MICROS_PER_SECOND)), step)


def instants(measure: Measure, panes: Panes, after: int, until: int) -> list[int]:
    """Return the seconds in (after, until], ascending, at which a pane enters or leaves what is measured."""
    if until <= after:
        return []
    seconds, baseline = measure.seconds, measure.baseline
    if seconds <= SECONDS_UP_TO < baseline:
        entering = panes.instants(seconds, after // _MINUTE * _MINUTE, until // _MINUTE * _MINUTE)
        found = {-(-second // _MINUTE) * _MINUTE for second in entering}
    else:
        found = set(panes.instants(seconds, after, until))
        if not baseline:
            return sorted(found)
    return sorted(
        found.union(second + seconds for second in panes.instants(baseline, after - seconds, until - seconds))
    )


def next_instant(measure: Measure, panes: Panes, after: int) -> int | None:
    """Return the first second after `after` at which a pane enters or leaves; None: only a record brings one."""
    horizon, farthest = _MINUTE if measure.by_minute else 1, measure.seconds + measure.baseline + 2 * _MINUTE
    while True:
        found = instants(measure, panes, after, after + horizon)
        if found:
            return found[0]
        if horizon >= farthest:
            return None
        horizon = min(8 * horizon, farthest)


def _change(rows: PaneRows, reference: float) -> float | None:
    """Return the change in per cent; where no record lies in the window the price stands: 0."""
    percent = 100 * (float(rows.close[-1]) - reference) / reference if len(rows) else 0.0
    return percent if math.isfinite(percent) else None


def _volatility(closes: Floats, reference: float, covered: int, grid: int) -> float | None:
    """Return the annualised realised volatility, as stat.v1 gives it; None under MIN_RETURNS returns."""
    if -(-covered // (grid * MICROS_PER_SECOND)) < MIN_RETURNS:
        return None
    moves = log_returns(np.concatenate(((reference,), closes)))
    squares = float((moves * moves).sum())
    return math.sqrt(squares * YEAR_SECONDS / (covered / MICROS_PER_SECOND))


def _volume_ratio(panes: Panes, at: int, seconds: int, baseline: int) -> float | None:
    """Return the window's volume / the mean volume of the windows in the baseline before it.

    None while less than window and baseline have been observed, and where the baseline has no volume.
    """
    if at * MICROS_PER_SECOND - panes.first_time < (seconds + baseline) * MICROS_PER_SECOND:
        return None
    before = float(panes.rows(baseline, at - seconds).volume.sum())
    if before <= 0:
        return None
    ratio = float(panes.rows(seconds, at).volume.sum()) / (before / (baseline // seconds))
    return ratio if math.isfinite(ratio) else None


def _zscore(rows: PaneRows, reference: float, at: int, count: int, step: int) -> float | None:
    """Return the score (`anomaly.score`) of the last of the log returns of a clock grid of `step` seconds.

    A step without records has return 0, as in the statistics. None under MIN_RETURNS returns.
    """
    if count < MIN_RETURNS:
        return None
    returns = np.zeros(count)
    moves = log_returns(np.concatenate(((reference,), rows.close)))
    returns[: len(moves)] = moves
    return score(returns, float(moves[-1]) if len(rows) and int(rows.second[-1]) == at - step else 0.0)


def _grid_closes(rows: PaneRows, seconds: int, at: int) -> Floats:
    """Return the last price before each point of the window's grid that has a pane before it in the window."""
    step = GRIDS[seconds]
    if step == (1 if seconds <= SECONDS_UP_TO else _MINUTE):
        return rows.close
    points = np.arange(at - seconds + step, at + 1, step)
    ends = rows.second.searchsorted(points)
    return rows.close[ends[ends > 0] - 1]
