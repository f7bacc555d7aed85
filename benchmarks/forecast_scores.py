"""How forecasts of volatility and of prices are judged, and the baseline that they are judged against.

- QLIKE: mean of ln(forecast variance) + realised / forecast (Patton, 2011: its order of forecasts is that by the true
  variance, however noisy the realised one); less is better
- RMSE of volatility: sqrt(forecast) against sqrt(realised), annualised
- interval score (Gneiting and Raftery, 2007; twice the mean of the pinball losses of both ends, times 2 / 5 %): width
  plus 40 times what the price lies outside; in basis points of the price
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.markets import Bars, filled
from streams.engine.forecast import HORIZONS, forecast
from streams.engine.inputs import Bools, Floats, Ints

MINUTES_A_YEAR: Final = 365 * 1_440
NORMAL: Final = 1.96
"""97.5 % quantile of the normal distribution."""
MISSED: Final = 40
"""2 / (1 - 0.95)."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Forecasts for one horizon at some minutes, with what came: variances are annualised, changes are of the price."""

    at: Ints
    variance: Floats
    low: Floats
    high: Floats
    realised: Floats
    change: Floats

    def part(self, chosen: Bools) -> "Judged":
        """Return the forecasts of chosen minutes."""
        return Judged(*(getattr(self, name)[chosen] for name in self.__slots__))

    @property
    def coverage(self) -> float:
        """Per cent of the changes that lie in their interval."""
        return 100 * float(np.mean((self.low <= self.change) & (self.change <= self.high)))

    @property
    def width(self) -> float:
        """Mean width of the intervals, basis points."""
        return 10_000 * float(np.mean(self.high - self.low))

    @property
    def interval_score(self) -> float:
        """Mean interval score, basis points."""
        outside = np.maximum(self.low - self.change, 0) + np.maximum(self.change - self.high, 0)
        return 10_000 * float(np.mean(self.high - self.low + MISSED * outside))

    @property
    def qlike(self) -> float:
        """Mean QLIKE."""
        return qlike(self.variance, self.realised)

    @property
    def rmse(self) -> float:
        """Root mean square error of the annualised volatility."""
        return float(np.sqrt(np.mean((np.sqrt(self.variance) - np.sqrt(self.realised)) ** 2)))


class Market:
    """A market on a grid of 1 minute, previous-price filled: `times`, `prices`, and log returns up to each time."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.times, self.prices = filled(bars, 60, (int(bars.second[-1]) // 60 + 1) * 60)
        self.returns = np.diff(np.log(self.prices), prepend=np.log(self.prices[0]))
        self.sums = np.cumsum(self.returns**2)

    def ours(self, at: Ints, history: int | None = None) -> list[Judged]:
        """Return what `forecast` says at each time, a list by horizon; `history`: seconds that it is shown."""
        found = np.empty((3, len(HORIZONS), len(at)))
        for number, moment in enumerate(at.tolist()):
            shown = 0 if history is None else int(self.bars.second.searchsorted(moment - history))
            made = forecast(self.bars.second[shown:], self.bars.close[shown:], moment)
            if made is None:
                raise ValueError(f"no forecast at {moment}")
            found[:, :, number] = np.transpose([(one.volatility, one.low, one.high) for one in made.outlooks])
        price = self.prices[self.index(at)]
        return [
            self.judged(at, seconds, volatility**2, low / price - 1, high / price - 1)
            for seconds, volatility, low, high in zip(HORIZONS, *found, strict=True)
        ]

    def baseline(self, at: Ints, history: int | None = None) -> list[Judged]:
        """Return a random walk whose volatility is that of all history so far: normal, around the last price."""
        index = self.index(at)
        start = np.zeros_like(index) if history is None else index - history // 60 + 1
        return [self.normal(at, seconds, self._mean(start, index)) for seconds in HORIZONS]

    def normal(self, at: Ints, seconds: int, variance: Floats, reach: float = NORMAL) -> Judged:
        """Return an interval of `reach` standard deviations to either side, from variances of a minute."""
        deviation = reach * np.sqrt(variance * (seconds // 60))
        return self.judged(at, seconds, variance * MINUTES_A_YEAR, np.expm1(-deviation), np.expm1(deviation))

    def judged(self, at: Ints, seconds: int, variance: Floats, low: Floats, high: Floats) -> Judged:
        """Return forecasts beside what came in the time that follows each `at`."""
        index = self.index(at)
        later = index + seconds // 60
        realised = self._mean(index, later) * MINUTES_A_YEAR
        return Judged(at, variance, low, high, realised, self.prices[later] / self.prices[index] - 1)

    def minutes(self, start: int, end: int, every: int = 1) -> Ints:
        """Return every n-th whole minute in [start, end) after which the longest horizon is known."""
        last = int(self.times[-1]) - HORIZONS[-1]
        return np.arange(start, min(end, last + 1), 60 * every)

    def index(self, at: Ints) -> Ints:
        """Return where times lie on the grid."""
        return (at - int(self.times[0])) // 60

    def _mean(self, after: Ints, until: Ints) -> Floats:
        """Return the mean square of the returns of (after, until]."""
        mean: Floats = (self.sums[until] - self.sums[after]) / (until - after)
        return mean


def qlike(variance: Floats, realised: Floats) -> float:
    """Return the mean QLIKE of forecast variances."""
    return float(np.mean(np.log(variance) + realised / variance))
