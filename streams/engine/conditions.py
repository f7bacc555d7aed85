"""What a price says about a condition, and the same in words.

`above: x` is true for a price > x and false again for a price <= clear; `below` is its mirror. A cross is true at the
record whose price lies on the other side of the threshold than the last price that lay on a side, and false again at
the next record. A price equal to the threshold lies on neither side; the first price that a rule version sees has none
before it.
"""

from typing import Final

from streams.engine.machine import Holds, Signal, State
from streams.engine.rules import Condition, PriceCross, PriceLevel, format_duration

ABOVE: Final = 1
BELOW: Final = -1
NEITHER: Final = 0
"""Sides of a threshold; NEITHER also stands for no price yet."""

_EVERY_SIGNAL: Final = Signal.TRUE | Signal.BETWEEN | Signal.CLEAR


def read(condition: Condition, price: float, side: int) -> tuple[Signal, int]:
    """Return what `price` says, and the side to remember; `side` is the one remembered before."""
    if isinstance(condition, PriceLevel):
        return _level(condition, price), side
    now = side_of(condition.crosses, price) or side
    crossed = side not in {now, NEITHER} and condition.direction in {"both", "up" if now == ABOVE else "down"}
    return (Signal.TRUE if crossed else Signal.CLEAR), now


def possible(condition: Condition, low: float, high: float, side: int) -> int:
    """Return a mask with at least the signals that prices within [low, high] can give."""
    if isinstance(condition, PriceLevel):
        threshold, clear = _levels(condition)
        if condition.above is None:
            threshold, clear, low, high = -threshold, -clear, -high, -low
        true = Signal.TRUE if high > threshold else 0
        between = Signal.BETWEEN if clear < threshold and high > clear and low <= threshold else 0
        return true | between | (Signal.CLEAR if low <= clear else 0)
    stays = (side == ABOVE and low >= condition.crosses) or (side == BELOW and high <= condition.crosses)
    return Signal.CLEAR if stays else _EVERY_SIGNAL


def side_of(threshold: float, price: float) -> int:
    """Return ABOVE, BELOW or, where they are equal, NEITHER."""
    return (price > threshold) - (price < threshold)


def threshold_of(condition: Condition) -> float:
    """Return the price that a condition is about."""
    return condition.crosses if isinstance(condition, PriceCross) else _levels(condition)[0]


def in_words(condition: Condition, state: State, holds: Holds, price: float) -> str:
    """Return why a transition happened; `price` is the last one."""
    if isinstance(condition, PriceCross):
        return _cross_in_words(condition, state, holds, price)
    threshold, clear = _levels(condition)
    true = f"{'above' if condition.above is not None else 'below'} {threshold:.15g}"
    back = f"{'at or below' if condition.above is not None else 'at or above'} {clear:.15g}"
    is_true = _level(condition, price) is Signal.TRUE
    now = f"price {price:.15g} is {true}" if is_true else f"price {price:.15g} is not {back} since it was {true}"
    if state is State.PENDING:
        return f"{now}: fires if it is not {back} within {format_duration(holds.pending)}"
    if state is State.INACTIVE:
        return f"price {price:.15g} is {back} before {format_duration(holds.pending)} had passed"
    if state is State.FIRING:
        return f"{now}, for {format_duration(holds.pending)}" if holds.pending else now
    lasting = f", for {format_duration(holds.clearing)}" if holds.clearing else ""
    return f"price {price:.15g} is {back}{lasting}"


def _cross_in_words(condition: PriceCross, state: State, holds: Holds, price: float) -> str:
    threshold = f"{condition.crosses:.15g}"
    way = "up" if price > condition.crosses else "down"
    if state is State.PENDING:
        return f"price {price:.15g} crossed {threshold} {way}: fires if no price follows within " + format_duration(
            holds.pending
        )
    if state is State.INACTIVE:
        return f"price {price:.15g} followed before {format_duration(holds.pending)} had passed"
    if state is State.FIRING:
        lasting = f" and no price followed for {format_duration(holds.pending)}" if holds.pending else ""
        return f"price {price:.15g} crossed {threshold} {way}{lasting}"
    lasting = f" for {format_duration(holds.clearing)}" if holds.clearing else ""
    return f"price {price:.15g} did not cross {threshold} again{lasting}"


def _level(condition: PriceLevel, price: float) -> Signal:
    threshold, clear = _levels(condition)
    if condition.above is not None:
        return Signal.TRUE if price > threshold else Signal.CLEAR if price <= clear else Signal.BETWEEN
    return Signal.TRUE if price < threshold else Signal.CLEAR if price >= clear else Signal.BETWEEN


def _levels(condition: PriceLevel) -> tuple[float, float]:
    """Return threshold and clear; clear defaults to the threshold."""
    threshold = condition.above if condition.above is not None else condition.below
    if threshold is None:
        raise ValueError("a price level without a threshold")
    return threshold, threshold if condition.clear is None else condition.clear
