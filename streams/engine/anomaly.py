"""How unusual the newest return of a window is: a robust z-score. Pure.

The score is |r - median| / (1.4826 x deviation). The deviation is the median absolute deviation (MAD), but not less
than the median size of the returns that are not 0. Without that floor a market of which most seconds, or a third of
the minutes, bring no other price has a deviation of nearly or exactly nothing, and every move is an anomaly; in a
market that always moves the floor changes little. docs/anomalies.md compares it with an EWMA of mean and variance, and
says which thresholds to use.
"""

from typing import Final

import numpy as np

from streams.engine.inputs import Floats

MAD_SCALE: Final = 1.4826
"""Makes the median absolute deviation of a normal distribution its standard deviation (Rousseeuw and Croux, 1993)."""
MIN_MOVES: Final = 5
"""Returns other than 0 below which a window says nothing of how large a return is usual."""


def score(returns: Floats, newest: float) -> float | None:
    """Return the score of `newest` among the returns of its window, which hold it.

    A return that is the median has score 0. Of any other there is none (None) with fewer than MIN_MOVES returns that
    are not 0.
    """
    middle = median(returns)
    distance = abs(newest - middle)
    if distance == 0:
        return 0.0
    sizes = np.abs(returns[returns != 0])
    if len(sizes) < MIN_MOVES:
        return None
    found = distance / (MAD_SCALE * max(median(np.abs(returns - middle)), median(sizes)))
    return found if np.isfinite(found) else None


def median(values: Floats) -> float:
    """Return the median of at least one value."""
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + ordered[high]) / 2
