"""Finds the first trade at or after a time in an exchange's history, where pages can be asked for by id only.

It goes back from the newest trades in growing steps, then interpolates and halves the rest at every third step, so a
market that trades in bursts, or whose ids begin anywhere, costs a logarithm of requests. Times rise with ids, but for
a few neighbours that the caller filters.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.records import Trade

Ask = Callable[[int], Awaitable[Sequence[Trade]]]
"""Returns the page of trades that begins with an id, or near it."""
MOST_QUESTIONS: Final = 100
_HALVE_EVERY: Final = 3


@dataclass(frozen=True, slots=True)
class _Point:
    trade_id: int
    time: int


async def first_id_at(at: int, latest: Sequence[Trade], ask: Ask) -> int:
    """Return the lowest id whose trade is at or after `at` (micros); the next id to come if there is none.

    `latest`: the newest page, not empty.
    """
    if latest[-1].exchange_time < at:
        return latest[-1].trade_id + 1
    found = _within(latest, at)
    if found is not None:
        return found
    low, high = await _bracket(at, latest, ask)
    for step in range(MOST_QUESTIONS):
        if high.trade_id - low.trade_id <= 1:
            break
        guess = _guess(low, high, at, len(latest), halve=step % _HALVE_EVERY == _HALVE_EVERY - 1)
        page = await ask(guess)
        found = _within(page, at)
        if found is not None:
            return found
        low, high = _narrowed(low, high, guess, page, at)
    return high.trade_id


async def _bracket(at: int, latest: Sequence[Trade], ask: Ask) -> tuple[_Point, _Point]:
    """Return a point before `at` and one not before it: back from the newest page at its own rate, then ever faster."""
    high, pace = _point(latest[0]), len(latest) / max(latest[-1].exchange_time - latest[0].exchange_time, 1)
    step = max(len(latest), int((high.time - at) * pace))
    while high.trade_id > 1:
        guess = max(high.trade_id - step, 1)
        page = await ask(guess)
        if not page:
            return _Point(guess, high.time), high
        if page[0].exchange_time < at:
            return _point(page[0]), high
        high = min(high, _point(page[0]), key=lambda point: point.trade_id)
        if guess == 1:
            break
        step *= 2
    return _Point(high.trade_id - 1, high.time), high


def _guess(low: _Point, high: _Point, at: int, page: int, *, halve: bool) -> int:
    span = high.trade_id - low.trade_id
    share = 0.5 if halve or high.time <= low.time else (at - low.time) / (high.time - low.time)
    return min(max(low.trade_id + int(span * share) - page // 2, low.trade_id + 1), high.trade_id - 1)


def _narrowed(low: _Point, high: _Point, guess: int, page: Sequence[Trade], at: int) -> tuple[_Point, _Point]:
    """Return the bounds after a page that lies wholly before or after; one that says nothing halves nothing."""
    inside = [trade for trade in page if low.trade_id < trade.trade_id < high.trade_id]
    if not inside:
        return _Point(guess, low.time), high
    if inside[0].exchange_time >= at:
        return low, _point(inside[0])
    return _point(inside[-1]), high


def _within(page: Sequence[Trade], at: int) -> int | None:
    """Return the first id at or after `at` if the page has trades on both sides of it."""
    if not page or page[0].exchange_time >= at or page[-1].exchange_time < at:
        return None
    return next(trade.trade_id for trade in page if trade.exchange_time >= at)


def _point(trade: Trade) -> _Point:
    return _Point(trade.trade_id, trade.exchange_time)
