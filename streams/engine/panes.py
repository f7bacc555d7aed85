"""One second of a product's ticks: what each pane holds, and how records enter it.

A pane has its own candle, and running totals over all records of the key up to its end. So the sums over any window
are differences of two panes' totals, and a late record adds the same amounts to its pane and to all later ones.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
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


class ClosedPanes:
    """Panes whose end has passed, ascending; also as columns, which the statistics read without touching each pane.

    A series that was finished shares its panes with its predecessors: they are changed only while they are copied
    into a fold of their own.
    """

    __slots__ = ("closes", "highs", "lows", "panes", "seconds")

    def __init__(self, panes: Iterable[Pane] = ()) -> None:
        self.panes = list(panes)
        self.seconds = [pane.second for pane in self.panes]
        self.highs = [pane.candle.high for pane in self.panes]
        self.lows = [pane.candle.low for pane in self.panes]
        self.closes = [pane.candle.close for pane in self.panes]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClosedPanes) and self.panes == other.panes

    __hash__ = None  # type: ignore[assignment] # as of any list

    def since(self, second: int) -> "ClosedPanes":
        """Return a copy of the panes from the last one before `second` on: what went before is of no more use."""
        start = max(bisect_left(self.seconds, second) - 1, 0)
        copy = ClosedPanes()
        copy.panes, copy.seconds = self.panes[start:], self.seconds[start:]
        copy.highs, copy.lows, copy.closes = self.highs[start:], self.lows[start:], self.closes[start:]
        return copy

    def before(self, second: int) -> Pane | None:
        """Return the last pane before a second."""
        index = bisect_left(self.seconds, second)
        return self.panes[index - 1] if index else None

    def append(self, pane: Pane) -> None:
        """Take the next pane."""
        self._insert(len(self.panes), pane)

    def enter(self, second: int, run: Sequence[Positioned]) -> None:
        """Enter late records of one pane, in offset order: it and all that follow have them in their totals."""
        index = bisect_left(self.seconds, second)
        if index < len(self.panes) and self.seconds[index] == second:
            held = self.panes.pop(index)
            for column in (self.seconds, self.highs, self.lows, self.closes):
                del column[index]
        else:
            held = None
        self._insert(index, entered(held, self.before(second), second, run))
        for later in range(index + 1, len(self.panes)):
            self.panes[later] = carried(self.panes[later], run)

    def _insert(self, index: int, pane: Pane) -> None:
        self.panes.insert(index, pane)
        self.seconds.insert(index, pane.second)
        self.highs.insert(index, pane.candle.high)
        self.lows.insert(index, pane.candle.low)
        self.closes.insert(index, pane.candle.close)


def entered(held: Pane | None, before: Pane | None, second: int, run: Sequence[Positioned]) -> Pane:
    """Return the pane after records of it, in offset order; `before` is the one that precedes it."""
    base = held or before
    added = totals_of(run)
    return Pane(
        second,
        candle_with(held.candle if held else EMPTY_CANDLE, run),
        base.totals.plus(added) if base else added,
        run[-1].as_of,
        newer_quote(base.quote if base else None, last_quote(run)),
    )


def carried(pane: Pane, run: Sequence[Positioned]) -> Pane:
    """Return a pane after late records entered an earlier one."""
    totals = pane.totals.plus(totals_of(run))
    return Pane(pane.second, pane.candle, totals, run[-1].as_of, newer_quote(pane.quote, last_quote(run)))


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
