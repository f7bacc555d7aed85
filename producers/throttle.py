"""How often an exchange's REST API is asked: a token bucket whose rate may change, and a circuit. Pure.

Times are seconds of a monotonic clock. The bucket is the virtual scheduling form of the generic cell rate algorithm
(ITU-T I.371). The jitter is full: AWS Architecture Blog, "Exponential Backoff And Jitter".
"""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

TRIP_AFTER: Final = 5
"""Failures in a row after which an API counts as away."""
FIRST_REST: Final = 2.0
LONGEST_REST: Final = 60.0
"""Seconds that an API which is away is left alone, at first and at most."""
SLOWEST: Final = 0.01
"""Requests a second, at least: a share of nothing must not divide by zero."""

LONGEST_HOLD: Final = 3 * 86_400.0
"""Most seconds that a Retry-After is believed: Binance's longest ban."""

Uniform = Callable[[float, float], float]


class Throttle:
    """Hands out moments at which requests may start: `burst` at once, then `rate` a second."""

    def __init__(self, rate: float, burst: int = 1) -> None:
        self._interval = 1 / max(rate, SLOWEST)
        self._burst = burst
        self._next = 0.0
        self._held_until = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return 1 / self._interval

    def set_rate(self, rate: float) -> None:
        """Change the rate for everything that is not handed out yet."""
        self._interval = 1 / max(rate, SLOWEST)

    def reserve(self, now: float) -> float:
        """Hand out the next moment; returns the seconds until then."""
        due = max(self._next, now - (self._burst - 1) * self._interval, self._held_until)
        self._next = due + self._interval
        return max(0.0, due - now)

    def hold(self, until: float) -> None:
        """Hand out nothing before this moment: the exchange said so."""
        self._held_until = max(until, self._held_until)

    def held(self, now: float) -> float:
        """Return the seconds for which nothing may start."""
        return max(0.0, self._held_until - now)


class Circuit:
    """Leaves an API alone that fails again and again: one attempt, then a rest that doubles."""

    def __init__(self, uniform: Uniform) -> None:
        self._uniform = uniform
        self._failures = 0
        self._resting_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the API counts as away."""
        return self._failures >= TRIP_AFTER

    def rest(self, now: float) -> float:
        """Return the seconds for which the API is to be left alone.

        0 means that a request may start; while the circuit is open, only this one, until its outcome is told.
        """
        rest = max(0.0, self._resting_until - now)
        if rest == 0 and self.is_open:
            self._resting_until = now + LONGEST_REST
        return rest

    def failed(self, now: float) -> None:
        """Count a failure."""
        self._failures += 1
        if self.is_open:
            longest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(self._failures - TRIP_AFTER, 10))
            self._resting_until = now + self._uniform(longest / 2, longest)

    def answered(self) -> None:
        """Count an answer of whatever kind: the API is there."""
        self._failures = 0
        self._resting_until = 0.0


def retry_after(header: str | None, wall_seconds: float) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date).

    0 if it is none, and `LONGEST_HOLD` at most: a slip of the exchange's must not stop the requests for good.
    """
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return min(LONGEST_HOLD, float(header))
    try:
        return min(LONGEST_HOLD, max(0.0, parsedate_to_datetime(header).timestamp() - wall_seconds))
    except (ValueError, OverflowError):
        return 0.0
