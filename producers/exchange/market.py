"""What a market is to the server: neutral trades and quotes in order on one clock; a dialect gives them their text.

Market time counts microseconds from the moment the clock started. The `anchor` is the wall time of market time 0, in
microseconds since 1970: what carries "now" is made from it at the last moment. Pure: no clock, no I/O but the
recording's file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pulsestream.core.clock import MICROS_PER_SECOND

MAX_LAG: Final = 5.0
"""Seconds that the clock may be late before it is set anew instead of catching up in a burst."""
UNIT_DIGITS: Final = 8
"""Decimals of a size."""
_POWERS: Final[tuple[int, ...]] = tuple(int(10**digits) for digits in range(40))


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade. `price` is whole ticks of `decimals`, `size` units of 1e-8, `side` the taker's, `time` micros UTC.

    `order` is a number of the taker's order; several trades may share one.
    """

    product: str
    trade_id: int
    sequence: int
    time: int
    price: int
    decimals: int
    size: int
    side: str
    order: int = 0


@dataclass(frozen=True, slots=True)
class Ticker:
    """A product's quotes and 24-hour figures after its last trade (None: it never traded, every figure is 0).

    Prices are whole ticks of `decimals`, sizes and volumes units of 1e-8, `quote_volume` the product of the two.
    """

    product: str
    sequence: int
    time: int
    trade: Trade | None = None
    decimals: int = 0
    bid: int = 0
    bid_size: int = 0
    ask: int = 0
    ask_size: int = 0
    open: int = 0
    high: int = 0
    low: int = 0
    volume: int = 0
    quote_volume: int = 0
    trades: int = 0
    volume_30d: int = 0


@dataclass(frozen=True, slots=True)
class Print:
    """One trade and the quotes that follow it."""

    trade: Trade
    ticker: Ticker


@dataclass(frozen=True, slots=True)
class FeedFrame:
    """One frame for subscribers: its channel, product (None: all), and text; the rest is None where it says nothing.

    sequence: of the product. trade_id: the last trade that the frame knows of. trade_ids: the trades that the frame
    delivers, each of which is lost with it. time: of the exchange, micros UTC.
    """

    channel: str
    product: str | None
    text: str
    sequence: int | None = None
    trade_id: int | None = None
    trade_ids: tuple[int, ...] = ()
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A frame of a recording and the trades in it."""

    frame: FeedFrame
    trades: tuple[Trade, ...] = ()


Event: TypeAlias = Print | Ticker | Recorded
"""What a market does: a trade with its quotes, a word on a product that never traded, or a frame that was recorded."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What happens at a market time. `events(anchor)` makes it happen: call it once, in the order of the moments."""

    at: int
    events: Callable[[int], Sequence[Event]]


def decimal(number: int, digits: int) -> str:
    """Return a whole number of 10 ** -digits as text, with all its digits: (5, 2) is 0.05."""
    if digits == 0:
        return str(number)
    integer, fraction = divmod(number, _POWERS[digits])
    return f"{integer}.{fraction:0{digits}d}"


def whole(text: str) -> tuple[int, int]:
    """Return a decimal text as a whole number and its digits after the point; ValueError for anything else."""
    before, _, after = text.partition(".")
    return int(before + after), len(after)


def units(text: str) -> int:
    """Return a size as units of 1e-8, what is below cut off; ValueError for anything else."""
    number, digits = whole(text)
    return number * _POWERS[UNIT_DIGITS - digits] if digits <= UNIT_DIGITS else number // _POWERS[digits - UNIT_DIGITS]


class Pacer:
    """The market clock: when a market time is due. Speed 0 is as fast as clients take the frames."""

    def __init__(self, speed: float, *, wall: int, monotonic: float) -> None:
        """Start the clock now: wall time in microseconds since 1970, monotonic time in seconds."""
        self._speed = speed
        self._wall = wall
        self._monotonic = monotonic
        self._reached = (0, monotonic)
        self.started = wall
        """Wall time at which the clock was started, whatever happened to it since."""

    @property
    def unpaced(self) -> bool:
        """Whether frames follow one another as fast as clients take them."""
        return self._speed == 0

    @property
    def anchor(self) -> int:
        """Wall time of market time 0, in microseconds since 1970."""
        return self._wall

    def delay(self, at: int, monotonic: float) -> float:
        """Return the seconds until a market time is due; negative when it is late."""
        if self.unpaced:
            return 0.0
        return at / self._speed / MICROS_PER_SECOND - (monotonic - self._monotonic)

    def position(self, monotonic: float) -> int:
        """Return the market time now; it goes on when nothing is left to publish."""
        at, since = self._reached
        return at + round((monotonic - since) * (self._speed or 1.0) * MICROS_PER_SECOND)

    def reach(self, at: int, monotonic: float) -> None:
        """Note that the frames of a market time are being published."""
        self._reached = (at, monotonic)

    def settle(self, at: int, *, wall: int, monotonic: float) -> bool:
        """Set the clock anew at a due market time if it is more than MAX_LAG late or wall time jumped.

        That happens after the machine slept, the process was stopped, or if the market is faster than the machine.
        """
        if self.unpaced:
            return False
        elapsed = round(at / self._speed)
        off = max(-self.delay(at, monotonic), abs(wall - self._wall - elapsed) / MICROS_PER_SECOND)
        if off <= MAX_LAG:
            return False
        self._wall = wall - elapsed
        self._monotonic = monotonic - elapsed / MICROS_PER_SECOND
        return True
