"""What a value says about a condition.

`above: x` is true for a value > x and false again for a value <= clear; `below` is its mirror. A cross is true at the
record whose price lies on the other side of the threshold than the last price that lay on a side, and false again at
the next record. A price equal to the threshold lies on neither side; the first price that a rule version sees has none
before it.
"""

from typing import Final

from streams.engine.definitions import Crossing, Limit
from streams.engine.machine import Signal

ABOVE: Final = 1
BELOW: Final = -1
NEITHER: Final = 0
"""Sides of a threshold; NEITHER also stands for no price yet."""

_EVERY_SIGNAL: Final = Signal.TRUE | Signal.BETWEEN | Signal.CLEAR


def read(compared: Limit | Crossing, value: float, side: int) -> tuple[Signal, int]:
    """Return what `value` says, and the side to remember; `side` is the one remembered before."""
    if isinstance(compared, Limit):
        return signal(compared, value), side
    now = side_of(compared.threshold, value) or side
    crossed = side not in {now, NEITHER} and compared.direction in {"both", "up" if now == ABOVE else "down"}
    return (Signal.TRUE if crossed else Signal.CLEAR), now


def signal(limit: Limit, value: float) -> Signal:
    """Return what a value says of a limit."""
    if limit.above:
        return Signal.TRUE if value > limit.threshold else Signal.CLEAR if value <= limit.clear else Signal.BETWEEN
    return Signal.TRUE if value < limit.threshold else Signal.CLEAR if value >= limit.clear else Signal.BETWEEN


def possible(compared: Limit | Crossing, low: float, high: float, side: int) -> int:
    """Return a mask with at least the signals that values within [low, high] can give."""
    if isinstance(compared, Limit):
        above, threshold, clear = compared
        if not above:
            threshold, clear, low, high = -threshold, -clear, -high, -low
        true = 1 if high > threshold else 0
        between = 2 if clear < threshold and high > clear and low <= threshold else 0
        return true | between | (4 if low <= clear else 0)
    stays = (side == ABOVE and low >= compared.threshold) or (side == BELOW and high <= compared.threshold)
    return Signal.CLEAR if stays else _EVERY_SIGNAL


def side_of(threshold: float, price: float) -> int:
    """Return ABOVE, BELOW or, where they are equal, NEITHER."""
    return (price > threshold) - (price < threshold)
