"""The ticks that every peer reads, and the windows that a plain loop makes of them.

A closed form of the record's number, so nothing is kept: 50 products in turn, 150 ticks a second of event time, in
order. Every optional field but the quote's time is there. Sizes are multiples of 1/64, so a sum of them is exact in
whatever order it is made, and equal windows are equal to the last bit.
"""

from dataclasses import dataclass, replace
from typing import Final

from benchmarks.peers.job import SECOND
from schemas.records import Tick

PRODUCTS: Final = tuple(f"P{number:02}-USD" for number in range(50))
EXCHANGE: Final = "coinbase"
PER_SECOND: Final = 150
"""Ticks of all products in a second of event time."""
BEGIN: Final = 1_767_225_600 * SECOND
"""Event time of the first one, micros: the start of a day."""

FIRST_SEQUENCE: Final = 33_393_879_800
FIRST_TRADE: Final = 881_613_000
SLICE: Final = 10
"""Seconds of the oracle's slices."""

WindowKey = tuple[str, int]
"""Product, and the window's start in micros."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed window held; prices in quote currency, volume in base currency.

    `count` None: not told, as in our bars, which count trades, of windows of ticks.
    """

    count: int | None
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a window takes of a tick; time in micros."""

    product: str
    time: int
    price: float
    size: float


def facts(number: int) -> Facts:
    """Return what matters of tick `number`."""
    turn = number % len(PRODUCTS)
    price = 100.0 + turn + number * 7919 % 10_007 / 100
    return Facts(PRODUCTS[turn], BEGIN + number * SECOND // PER_SECOND, price, (1 + number * 31 % 640) / 64)


def tick(number: int) -> Tick:
    """Return tick `number` whole."""
    told = facts(number)
    return Tick(
        event_id=f"{EXCHANGE}:{told.product}:{FIRST_SEQUENCE + number}",
        exchange=EXCHANGE,
        product=told.product,
        sequence=FIRST_SEQUENCE + number,
        trade_id=FIRST_TRADE + number,
        side="buy" if number % 3 else "sell",
        price=told.price,
        size=told.size,
        best_bid=told.price - 0.01,
        best_bid_size=12.5,
        best_ask=told.price + 0.01,
        best_ask_size=0.4,
        quote_time=None,
        open_24h=told.price - 1.25,
        high_24h=told.price + 3.5,
        low_24h=told.price - 4.5,
        volume_24h=94_381.0 + number / 100,
        volume_30d=2_295_579.0 + number / 100,
        exchange_time=told.time,
        received_time=told.time + 1_500,
    )


def ticks_before(time: int) -> int:
    """Return how many ticks happened before a moment in micros."""
    return -((BEGIN - time) * PER_SECOND // SECOND)


def plain_windows(size: int, step: int, until: int) -> dict[WindowKey, Closed]:
    """Return every window (seconds long, one each `step` seconds) that has ended at `until`, micros, and holds ticks.

    One loop over the ticks from the first on; windows begin at multiples of `step` since 1970.
    """
    windows: dict[WindowKey, Closed] = {}
    for number in range(ticks_before(until)):
        told = facts(number)
        newest = told.time - told.time % (step * SECOND)
        for start in range(newest, told.time - size * SECOND, -step * SECOND):
            if start + size * SECOND <= until:
                windows[told.product, start] = _with(windows.get((told.product, start)), told)
    return windows


class Oracle:
    """The same windows for spans of millions of ticks: one loop makes slices, each window is joined from its own."""

    def __init__(self) -> None:
        self._slices: dict[WindowKey, Closed] = {}
        self._next = 0

    def windows(self, size: int, step: int, until: int) -> dict[WindowKey, Closed]:
        """Return what `plain_windows` does, for sizes and steps of whole slices."""
        self._slice_up_to(until)
        return {
            (product, start): joined
            for start in range(BEGIN - (size - step) * SECOND, until - size * SECOND + 1, step * SECOND)
            for product in PRODUCTS
            if (joined := self._joined(product, start, size)) is not None
        }

    def _slice_up_to(self, until: int) -> None:
        slices = self._slices
        for number in range(self._next, ticks_before(until)):
            told = facts(number)
            key = told.product, told.time - told.time % (SLICE * SECOND)
            slices[key] = _with(slices.get(key), told)
        self._next = max(self._next, ticks_before(until))

    def _joined(self, product: str, start: int, size: int) -> Closed | None:
        starts = range(start, start + size * SECOND, SLICE * SECOND)
        parts = [part for begin in starts if (part := self._slices.get((product, begin))) is not None]
        if not parts:
            return None
        return Closed(
            sum(part.count or 0 for part in parts),
            parts[0].open,
            max(part.high for part in parts),
            min(part.low for part in parts),
            parts[-1].close,
            sum(part.volume for part in parts),
        )


def _with(window: Closed | None, told: Facts) -> Closed:
    price = told.price
    if window is None:
        return Closed(1, price, price, price, price, told.size)
    return Closed(
        (window.count or 0) + 1,
        window.open,
        max(window.high, price),
        min(window.low, price),
        price,
        window.volume + told.size,
    )


def differences(found: dict[WindowKey, Closed], expected: dict[WindowKey, Closed]) -> list[str]:
    """Return in words what is missing of `expected`, what nobody expected, and what differs; the first five."""
    said = [f"{key}: missing" for key in expected.keys() - found.keys()]
    said += [f"{key}: not expected" for key in found.keys() - expected.keys()]
    both = found.keys() & expected.keys()
    said += [f"{key}: {found[key]} is not {expected[key]}" for key in both if not _agree(found[key], expected[key])]
    return sorted(said)[:5]


def _agree(found: Closed, expected: Closed) -> bool:
    return found == (replace(expected, count=None) if found.count is None else expected)
