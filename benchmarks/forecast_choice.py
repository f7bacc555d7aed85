"""How the constants of the forecast were chosen: by what is best on the training parts, and on nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from benchmarks.forecast_scores import NORMAL, Judged, Market, qlike
from benchmarks.table import show
from streams.engine import forecast as chosen
from streams.engine.inputs import Floats, Ints

DECAYS: Final = (0.9, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995)
SHORT: Final = (5, 10, 15)
"""Minutes of HAR's shortest component."""
STEP: Final = 0.05
"""Between weights of HAR that are tried."""
_STUDENT_UNIT: Final = 2.776 / np.sqrt(2)
"""The quantile of Student's t with 4 degrees, scaled to variance 1."""


@dataclass(frozen=True, slots=True)
class Part:
    """A market, whose minutes before second `end` may be learnt from."""

    market: Market
    end: int

    def minutes(self, history: int) -> Ints:
        """Return the minutes with at least so many minutes of history."""
        return self.market.minutes(int(self.market.times[0]) + 60 * history, self.end)


def show_choices(parts: Sequence[Part]) -> None:
    """Print what was tried on the training parts."""
    _show_decays(parts)
    _show_weights(parts)
    _show_intervals(parts)


def _show_decays(parts: Sequence[Part]) -> None:
    rows = []
    for decay in DECAYS:
        scores = [
            np.mean([_loss(part, _ewma(part.market, decay), seconds, chosen.MIN_MINUTES) for part in parts])
            for seconds in chosen.HORIZONS
        ]
        rows.append((f"{decay}", *(f"{score:.3f}" for score in scores), f"{np.mean(scores):.3f}"))
    show("decay of EWMA: QLIKE on the training parts", ("decay", "1 m", "5 m", "15 m", "mean"), rows)


def _show_weights(parts: Sequence[Part]) -> None:
    rows = []
    for short in SHORT:
        cells = []
        for seconds in chosen.HORIZONS:
            score, weights = _best_weights(parts, short, seconds)
            cells.append(f"{score:.3f}  {' '.join(f'{weight:.2f}' for weight in weights)}")
        rows.append((f"{short} m, 1 h, 24 h", *cells))
    show("weights of HAR: least QLIKE on the training parts", ("components", "1 m", "5 m", "15 m"), rows)


def _best_weights(parts: Sequence[Part], short: int, seconds: int) -> tuple[float, tuple[float, ...]]:
    steps = np.arange(0, 1 + STEP / 2, STEP)
    tried = [(one, two, 1 - one - two) for one, two in product(steps, steps) if one + two <= 1]
    means = [(part, [_mean(part.market, back) for back in (short, 60, 1_440)]) for part in parts]
    scores = []
    for weights in tried:
        expected = [(part, _weighed(weights, of)) for part, of in means]
        scores.append(np.mean([_loss(part, variance, seconds, chosen.HAR_MINUTES) for part, variance in expected]))
    best = int(np.argmin(scores))
    return float(scores[best]), tried[best]


def _show_intervals(parts: Sequence[Part]) -> None:
    """Compare what may stand for the distribution of the residuals of HAR."""
    reaches: dict[str, Callable[[Floats], tuple[float, float]]] = {
        "normal": lambda _: (-NORMAL, NORMAL),
        "Student's t, 4 degrees": lambda _: (-_STUDENT_UNIT, _STUDENT_UNIT),
        "quantiles of past residuals": lambda past: tuple(np.quantile(past, (0.025, 0.975))),
        "quantile of their absolute values": lambda past: _both_sides(np.quantile(np.abs(past), chosen.LEVEL)),
    }
    rows = []
    for name, reach in reaches.items():
        cells = []
        for seconds in chosen.HORIZONS:
            judged = [_interval(part, seconds, reach) for part in parts]
            covered = " ".join(f"{one.coverage:.1f}" for one in judged)
            cells.append(f"{covered}  {np.mean([one.interval_score for one in judged]):.0f}")
        rows.append((name, *cells))
    show(
        "distribution of HAR's residuals on the training parts: coverage of each, % (nominal 95), mean score, bp",
        ("distribution", "1 m", "5 m", "15 m"),
        rows,
    )


def _interval(part: Part, seconds: int, reach: Callable[[Floats], tuple[float, float]]) -> Judged:
    market, ahead = part.market, seconds // 60
    weights = chosen.WEIGHTS[seconds]
    deviation = np.sqrt(ahead * _weighed(weights, [_mean(market, back) for back in chosen.COMPONENTS]))
    at = part.minutes(chosen.HAR_MINUTES)
    index = market.index(at)
    went = np.log(market.prices[ahead:] / market.prices[:-ahead])
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = went / deviation[: len(went)]
    pasts = (residuals[max(i - 1_440, 30) : i - ahead + 1] for i in index)
    ends = np.array([reach(past[np.isfinite(past)]) for past in pasts]) * deviation[index, None]
    return market.judged(at, seconds, deviation[index] ** 2, np.expm1(ends[:, 0]), np.expm1(ends[:, 1]))


def _loss(part: Part, variance: Floats, seconds: int, history: int) -> float:
    at = part.minutes(history)
    index = part.market.index(at)
    judged = part.market.normal(at, seconds, variance[index])
    return qlike(judged.variance, judged.realised) if variance[index].all() else np.inf


def _ewma(market: Market, decay: float) -> Floats:
    """Return the variance of a minute at each time."""
    total = weight = 0.0
    found = []
    for square in (market.returns**2).tolist():
        total, weight = decay * total + square, decay * weight + 1
        found.append(total / weight)
    return np.array(found)


def _mean(market: Market, back: int) -> Floats:
    """Return the mean square of the last `back` returns at each time; the first return is that of the second time."""
    counts = np.minimum(np.arange(len(market.sums)), back)
    past = market.sums[np.arange(len(market.sums)) - counts]
    found: Floats = (market.sums - past) / np.maximum(counts, 1)
    return found


def _weighed(weights: Sequence[float], means: Sequence[Floats]) -> Floats:
    """Return the weighted sum of HAR's components."""
    found: Floats = np.sum([weight * mean for weight, mean in zip(weights, means, strict=True)], axis=0)
    return found


def _both_sides(reach: float) -> tuple[float, float]:
    return -reach, reach
