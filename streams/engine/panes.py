"""One second of a product's ticks: what each pane holds, and how records enter it.

A pane has its own candle, and running totals over all records of the key up to its end. So the sums over any window
are differences of two panes' totals, and a late record adds the same amounts to its pane and to all later ones.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from schemas.records import AsOf, Tick
from streams.engine.exact import SCALE


class Candle(msgspec.Struct, frozen=True, gc=False):
    """Prices of one pane. Equal times: the first in offset order opens, the last closes."""

    open_time: int
    open: float
    close_time: int
    close: float
    high: float
    low: float


class Totals(msgspec.Struct, frozen=True, gc=False):
    """Running totals: counts, and sums as multiples of 2**-180 (squares and turnover: of 2**-360)."""

    count: int = 0
    prices: int = 0
    squares: int = 0
    sizes: int = 0
    turnover: int = 0
    buys: int = 0
    quotes: int = 0
    spreads: int = 0
    spreads_bps: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Return the sum, field by field."""
        return Totals(
            self.count + other.count,
            self.prices + other.prices,
            self.squares + other.squares,
            self.sizes + other.sizes,
            self.turnover + other.turnover,
            self.buys + other.buys,
            self.quotes + other.quotes,
            self.spreads + other.spreads,
            self.spreads_bps + other.spreads_bps,
        )


class Quote(msgspec.Struct, frozen=True, gc=False):
    """The last tick with both sides: its exchange_time, and the time of its quote."""

    seen: int
    at: int


class Pane(msgspec.Struct, frozen=True, gc=False):
    """The pane [second, second + 1); totals, as_of and quote are running: over all records before its end."""

    second: int
    candle: Candle
    totals: Totals
    as_of: AsOf
    quote: Quote | None


class Positioned(Protocol):
    """A tick and where it was read."""

    @property
    def tick(self) -> Tick:
        """The record."""

    @property
    def as_of(self) -> AsOf:
        """Its position."""


NOTHING: Final = Totals()
EMPTY_CANDLE: Final = Candle(2**62, 0.0, -1, 0.0, 0.0, float("inf"))


def add(panes: list[Pane], seconds: list[int], second: int, run: Sequence[Positioned]) -> None:
    """Enter records of one pane, in offset order, into `panes` (ascending; `seconds` are theirs), in place."""
    index = bisect_left(seconds, second)
    held = panes[index] if index < len(panes) and seconds[index] == second else None
    before = held or (panes[index - 1] if index else None)
    added, quote, as_of = totals_of(run), last_quote(run), run[-1].as_of
    pane = Pane(
        second,
        candle_with(held.candle if held else EMPTY_CANDLE, run),
        before.totals.plus(added) if before else added,
        as_of,
        newer_quote(before.quote if before else None, quote),
    )
    if held is None:
        panes.insert(index, pane)
        seconds.insert(index, second)
    else:
        panes[index] = pane
    for later in range(index + 1, len(panes)):
        follow = panes[later]
        panes[later] = Pane(
            follow.second, follow.candle, follow.totals.plus(added), as_of, newer_quote(follow.quote, quote)
        )


def candle_with(candle: Candle, run: Sequence[Positioned]) -> Candle:
    """Return the candle after records of its pane, in offset order."""
    open_time, opened, close_time, close = candle.open_time, candle.open, candle.close_time, candle.close
    for item in run:
        tick = item.tick
        time, price = tick.exchange_time, tick.price
        if time < open_time:
            open_time, opened = time, price
        if time >= close_time:
            close_time, close = time, price
    prices = [item.tick.price for item in run]
    high, low = max(candle.high, *prices), min(candle.low, *prices)
    return Candle(open_time, opened, close_time, close, high, low)


def totals_of(run: Sequence[Positioned]) -> Totals:
    """Return the totals of records; a missing size adds nothing, quotes count where both sides are known."""
    prices = squares = sizes = turnover = buys = quotes = spreads = spreads_bps = 0
    scale = SCALE
    for item in run:
        tick = item.tick
        price = int(tick.price * scale)
        prices += price
        squares += price * price
        if tick.size:
            size = int(tick.size * scale)
            sizes += size
            turnover += price * size
            if tick.side == "buy":
                buys += size
        bid, ask = tick.best_bid, tick.best_ask
        if bid is not None and ask is not None:
            quotes += 1
            spreads += int(ask * scale) - int(bid * scale)
            spreads_bps += int((ask - bid) / ((ask + bid) / 2) * 10_000 * scale)
    return Totals(len(run), prices, squares, sizes, turnover, buys, quotes, spreads, spreads_bps)


def last_quote(run: Sequence[Positioned]) -> Quote | None:
    """Return the last quote of records by time, then by offset."""
    last = None
    for item in run:
        tick = item.tick
        if has_quote(tick) and (last is None or tick.exchange_time >= last.exchange_time):
            last = tick
    if last is None:
        return None
    return Quote(last.exchange_time, last.exchange_time if last.quote_time is None else last.quote_time)


def newer_quote(held: Quote | None, arrived: Quote | None) -> Quote | None:
    """Return the later quote by time; equal: the arrived."""
    if held is None or arrived is None:
        return held or arrived
    return arrived if arrived.seen >= held.seen else held


def has_quote(tick: Tick) -> bool:
    """Tell whether both sides of the book are known."""
    return tick.best_bid is not None and tick.best_ask is not None
