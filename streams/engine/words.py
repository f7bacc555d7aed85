"""Why a transition happened, in words."""

from streams.engine.conditions import signal
from streams.engine.definitions import (
    Change,
    Condition,
    Crossing,
    Divergence,
    Limit,
    Spread,
    Volatility,
    Volume,
    ZScore,
    compared_with,
)
from streams.engine.durations import format_duration
from streams.engine.machine import Holds, Signal, State


def in_words(condition: Condition, state: State, holds: Holds, value: float) -> str:
    """Return why a rule came to `state`; `value` is the last one that was compared."""
    compared = compared_with(condition)
    if isinstance(compared, Crossing):
        return _cross(compared, state, holds, value)
    if compared is None:
        raise ValueError(f"a condition of type {condition.type} compares nothing")
    return _limit(condition, compared, state, holds, value)


def measured(condition: Condition, value: float) -> str:
    """Return what was measured and how much it is: "price 101", "change over 5m -2.5 %"."""
    if isinstance(condition, Change):
        return f"change over {condition.window} {amount(condition, value)}"
    if isinstance(condition, Volatility):
        return f"volatility over {condition.window} {amount(condition, value)}"
    if isinstance(condition, Volume):
        return f"volume over {condition.window} {amount(condition, value)} its mean over {condition.baseline}"
    if isinstance(condition, ZScore):
        last = "minute" if condition.window == "1h" else "second"
        return f"z-score {amount(condition, value)} of the last {last} over {condition.window}"
    if isinstance(condition, Spread | Divergence):
        return f"{condition.type} {amount(condition, value)}"
    return f"price {amount(condition, value)}"


def amount(condition: Condition, value: float) -> str:
    """Return a value or threshold of a condition with its unit: prices whole, what is computed to 6 digits."""
    if isinstance(condition, Change):
        return f"{value:.6g} %"
    if isinstance(condition, Volume):
        return f"{value:.6g} times"
    if isinstance(condition, Spread | Divergence):
        return f"{value:.6g} bps"
    return f"{value:.6g}" if isinstance(condition, Volatility | ZScore) else f"{value:.15g}"


def true_when(condition: Condition, limit: Limit) -> str:
    """Return when a condition is true: "above 100"."""
    return f"{'above' if limit.above else 'below'} {amount(condition, limit.threshold)}"


def clear_when(condition: Condition, limit: Limit) -> str:
    """Return when a condition is false again: "at or below 98"."""
    return f"{'at or below' if limit.above else 'at or above'} {amount(condition, limit.clear)}"


def _limit(condition: Condition, limit: Limit, state: State, holds: Holds, value: float) -> str:
    true, back, what = true_when(condition, limit), clear_when(condition, limit), measured(condition, value)
    is_true = signal(limit, value) is Signal.TRUE
    now = f"{what} is {true}" if is_true else f"{what} is not {back} since it was {true}"
    if state is State.PENDING:
        return f"{now}: fires if it is not {back} within {format_duration(holds.pending)}"
    if state is State.INACTIVE:
        return f"{what} is {back} before {format_duration(holds.pending)} had passed"
    if state is State.FIRING:
        return f"{now}, for {format_duration(holds.pending)}" if holds.pending else now
    lasting = f", for {format_duration(holds.clearing)}" if holds.clearing else ""
    return f"{what} is {back}{lasting}"


def _cross(crossing: Crossing, state: State, holds: Holds, price: float) -> str:
    threshold = f"{crossing.threshold:.15g}"
    way = "up" if price > crossing.threshold else "down"
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
