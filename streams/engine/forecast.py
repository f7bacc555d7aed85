"""Forecasts of volatility and price for the next 1, 5 and 15 minutes, from a day of closes. Pure, without a state.

Squared returns of a clock grid of 1 minute, previous-price filled, are weighed into a variance: with 8 hours of history
or more as HAR-RV does (Corsi, "A Simple Approximate Long-Memory Model of Realized Volatility", 2009; components of
5 minutes, 1 hour and the day, weights that sum to 1 and so serve every product), with less as EWMA (J.P. Morgan and
Reuters, "RiskMetrics Technical Document", 1996). The interval lies around the last price: the 95 % quantile of what
the same rule would have missed before (filtered historical simulation), or with less history Student's t.

`python -m benchmarks forecast` chose weights, decay and quantile on training parts; docs/forecasts.md judges them.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from streams.engine.inputs import Floats, Ints

HORIZONS: Final = (60, 300, 900)
"""Seconds ahead."""
HISTORY_SECONDS: Final = 86_400
MIN_MINUTES: Final = 30
"""History below which nothing is forecast."""
HAR_MINUTES: Final = 480
"""History from which on HAR and measured quantiles are used."""
DECAY: Final = 0.995
"""Of the EWMA, per minute."""
COMPONENTS: Final = (5, 60, HISTORY_SECONDS // 60)
"""Minutes that the means of HAR go back."""
WEIGHTS: Final = {60: (0.3, 0.45, 0.25), 300: (0.15, 0.45, 0.4), 900: (0.1, 0.45, 0.45)}
"""Of the components, by horizon."""
LEVEL: Final = 0.95
"""Nominal share of prices that the interval holds."""
STUDENT: Final = 2.776
"""The 97.5 % quantile of Student's t with 4 degrees of freedom."""
MIN_RESIDUALS: Final = 100
"""Past residuals below which their quantile is not trusted: Student's stands in."""

_MINUTE: Final = 60
_YEAR_MINUTES: Final = 365 * 1_440
_WIDEST: Final = 0.95
"""Bound of half a change: an interval ends at a price above 0."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of the time from `at` to `at` + seconds; volatility is annualised as in stat.v1."""

    seconds: int
    volatility: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The outlook of each of HORIZONS, in that order, and the method that gave it."""

    method: Literal["har", "ewma"]
    outlooks: tuple[Outlook, ...]


def forecast(minutes: Ints, closes: Floats, at: int) -> Forecast | None:
    """Return the forecast at second `at`, a whole minute, from the closed panes of 1 minute before it.

    `minutes` are the seconds at which panes with records begin, ascending; `closes` their last prices. Only those in
    [at - HISTORY_SECONDS, at) count, and nothing but they. None under MIN_MINUTES of history, and where no price in
    it differs from the one before. Equal arguments give equal bits on every machine: nothing is used but the four
    operations and square roots, in a fixed order.
    """
    first, end = minutes.searchsorted((at - HISTORY_SECONDS, at))
    if first == end or at - minutes[first] < MIN_MINUTES * _MINUTE:
        return None
    prices = _filled(minutes[first:end], closes[first:end], at)
    moves = half_returns(prices, 1)
    squares = moves * moves
    sums = np.concatenate(((0.0,), squares.cumsum()))
    if sums[-1] == 0:
        return None
    if len(prices) >= HAR_MINUTES:
        means = components(sums)
        return Forecast("har", tuple(_har_outlook(seconds, prices, means) for seconds in HORIZONS))
    variance, last = ewma(squares.tolist()), float(prices[-1])
    return Forecast("ewma", tuple(_outlook(seconds, last, variance, STUDENT * STUDENT) for seconds in HORIZONS))


def half_returns(prices: Floats, minutes: int) -> Floats:
    """Return (after - before) / (after + before) of prices that many minutes apart.

    That is half the log return up to a share of a twelfth of its square, by operations that every machine rounds alike.
    """
    before, after = prices[:-minutes], prices[minutes:]
    return (after - before) / (after + before)


def ewma(squares: list[float]) -> float:
    """Return the exponentially weighted mean, the last value weighing most; the weights sum to 1."""
    total = weight = 0.0
    for square in squares:
        total = DECAY * total + square
        weight = DECAY * weight + 1
    return total / weight


def components(sums: Floats) -> tuple[Floats, ...]:
    """Return for each of COMPONENTS its mean at each minute from the first return on, given running sums from 0.

    A component that goes back beyond the beginning is the mean since then.
    """
    known = sums[1:] / np.arange(1, len(sums))
    return tuple(
        np.concatenate((known[: back - 1], (sums[back:] - sums[:-back]) / back)) if back < len(sums) else known
        for back in COMPONENTS
    )


def har(seconds: int, means: tuple[Floats, ...]) -> Floats:
    """Return the mean square that HAR expects of each minute ahead, from components; a horizon has its own weights."""
    short, middle, long = WEIGHTS[seconds]
    return short * means[0] + middle * means[1] + long * means[2]


def _filled(minutes: Ints, closes: Floats, at: int) -> Floats:
    """Return the last price at the end of each minute from the first pane's to the one that ends at `at`."""
    first = int(minutes[0])
    if len(closes) == (at - first) // _MINUTE:
        return closes
    return closes[minutes.searchsorted(np.arange(first, at, _MINUTE), "right") - 1]


def _har_outlook(seconds: int, prices: Floats, means: tuple[Floats, ...]) -> Outlook:
    """Return the outlook from HAR, and from how far prices went in the past in units of what HAR expected then."""
    ahead = seconds // _MINUTE
    expected = har(seconds, means)
    variance, last = float(expected[-1]), float(prices[-1])
    start = max(MIN_MINUTES, int((expected > 0).argmax()) + 1)
    went = half_returns(prices[start:], ahead)
    if len(went) < MIN_RESIDUALS:
        return _outlook(seconds, last, variance, STUDENT * STUDENT)
    ratios = went * went / expected[start - 1 : -ahead]
    rank = math.ceil((len(ratios) + 1) * LEVEL) - 1
    return _outlook(seconds, last, variance, float(np.partition(ratios, rank)[rank]) / ahead)


def _outlook(seconds: int, price: float, variance: float, width: float) -> Outlook:
    """Return the outlook from the mean square of half returns expected of a minute.

    `width` is the square of how many standard deviations the interval reaches to either side.
    """
    reach = min(math.sqrt(width * variance * (seconds // _MINUTE)), _WIDEST)
    volatility = 2 * math.sqrt(variance * _YEAR_MINUTES)
    return Outlook(seconds, volatility, price * (1 - reach) / (1 + reach), price * (1 + reach) / (1 - reach))
