"""What a market is to the server: moments in order on one clock, and heartbeats from what was published.

Market time counts microseconds from the moment the clock started. The `anchor` is the wall time of market time 0, in
microseconds since 1970: frames that carry "now" are made from it at the last moment. Pure: no clock, no I/O but the
recording's file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from producers.exchange.protocol import FeedFrame, heartbeat_frame
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339

MAX_LAG: Final = 5.0
"""Seconds that the clock may be late before it is set anew instead of catching up in a burst."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Frames that the market publishes together at a market time; `frames(anchor)` gives their text."""

    at: int
    frames: Callable[[int], Sequence[FeedFrame]]


class Market(Protocol):
    """A source of frames: a recording or a self-made market."""

    @property
    def products(self) -> Sequence[str]:
        """Products that can be subscribed to."""

    def moments(self, started: int) -> Iterator[Moment]:
        """Yield the moments in order of `at`; `started` is the wall time from which new ids count."""

    def time(self, at: int, anchor: int) -> int:
        """Return the exchange's time (microseconds since 1970) at a market time."""

    def __str__(self) -> str:
        """Return what is played, for the line that says so."""


class LastTrades:
    """The highest sequence and trade id published of each product: what heartbeats report."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def publish(self, frames: Iterable[FeedFrame]) -> None:
        """Take frames that were published."""
        for frame in frames:
            if frame.product is not None:
                sequence, trade_id = self._last.get(frame.product, (0, 0))
                self._last[frame.product] = max(sequence, frame.sequence or 0), max(trade_id, frame.trade_id or 0)

    def heartbeat(self, product: str, time: int) -> FeedFrame:
        """Return a product's heartbeat at an exchange time; both ids are 0 before its first frame."""
        sequence, trade_id = self._last.get(product, (0, 0))
        return heartbeat_frame(product, sequence, trade_id, format_rfc3339(time))


class Pacer:
    """The market clock: when a market time is due. Speed 0 is as fast as clients take the frames."""

    def __init__(self, speed: float, *, wall: int, monotonic: float) -> None:
        """Start the clock now: wall time in microseconds since 1970, monotonic time in seconds."""
        self._speed = speed
        self._wall = wall
        self._monotonic = monotonic
        self._reached = (0, monotonic)

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
