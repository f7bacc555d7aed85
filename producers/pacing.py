"""When to connect again, when a silent connection is given up, and which failures are final. Pure.

Full jitter: AWS Architecture Blog, "Exponential Backoff And Jitter". The attempt count goes back to zero only after a
minute of good data, so that an exchange that accepts and closes at once is never hit in a tight loop.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from producers.errors import ExchangeSaidError, StaleFeedError

GOOD_DATA: Final = 60.0
"""Seconds of data on one connection after which its exchange counts as well again."""
MAX_RETRY_AFTER: Final = 300.0
"""Longest time, in seconds, that a Retry-After header is believed."""

_TRY_AGAIN_STATUS: Final = frozenset({408, 425, 429})
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of the pauses between connections, in seconds."""

    base: float = 1.0
    cap: float = 30.0


class Backoff:
    """Pauses between connections. `uniform(low, high)` draws the jitter."""

    def __init__(self, pace: Pace, uniform: Callable[[float, float], float]) -> None:
        self.attempts = 0
        self._pace = pace
        self._uniform = uniform

    def next(self, good_seconds: float, at_least: float = 0.0) -> float:
        """Return the pause in seconds after a connection that delivered data for `good_seconds`."""
        if good_seconds >= GOOD_DATA:
            self.attempts = 0
        highest = min(self._pace.cap, self._pace.base * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        return max(at_least, self._uniform(0.0, highest))


class TokenBucket:
    """At most `per` acts in any `window` of seconds: half of them at once, the rest evenly. Times are monotonic."""

    def __init__(self, per: float, window: float, now: float) -> None:
        self._capacity = max(1.0, per / 2)
        self._rate = per / 2 / window
        self._tokens = self._capacity
        self._at = now

    def reserve(self, now: float) -> float:
        """Take the next turn, in whose order callers come; return the seconds until it."""
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)


class Watchdog:
    """Tells a silent exchange from a reader that its own back pressure holds up. Times in seconds, monotonic."""

    def __init__(self, stale_after: float, now: float) -> None:
        self._stale_after = stale_after
        self._silent_since = now
        self._held_since: float | None = None
        self._first_good: float | None = None
        self._last_good = now

    def good(self, now: float) -> None:
        """Note a frame that proves the feed alive."""
        if self._first_good is None:
            self._first_good = now
        self._last_good = self._silent_since = now

    def hold(self, now: float) -> None:
        """Note that the reader is at work: silence is now its own, not the exchange's."""
        self._held_since = now

    def resume(self, now: float) -> None:
        """Note that the reader waits for the exchange again."""
        if self._held_since is not None:
            self._silent_since += now - self._held_since
            self._held_since = None

    def is_stale(self, now: float) -> bool:
        """Say whether the exchange has sent nothing good for too long."""
        return self._held_since is None and now - self._silent_since > self._stale_after

    @property
    def good_seconds(self) -> float:
        """How long this connection has delivered, from its first good frame to its last."""
        return 0.0 if self._first_good is None else self._last_good - self._first_good


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a failure: end the producer, or connect again, not before `at_least` seconds."""

    fatal: bool
    at_least: float = 0.0


def judge(error: Exception, *, proven: bool = False) -> Verdict:
    """Decide whether a connection that ended with `error` is tried again: the one place that does.

    proven: market data has come from this address; an answer without a feed is then a page that will pass.
    """
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        again = proven or status in _TRY_AGAIN_STATUS or status >= _SERVER_ERROR
        return Verdict(fatal=not again, at_least=_retry_after(error.response.headers.get("Retry-After")))
    if isinstance(error, ssl.SSLCertVerificationError):
        return Verdict(fatal=True)
    if isinstance(error, InvalidMessage):
        return Verdict(fatal=not isinstance(error.__cause__, EOFError | OSError))
    passing = isinstance(error, OSError | EOFError | ConnectionClosed | StaleFeedError | ExchangeSaidError)
    return Verdict(fatal=not passing)


def _retry_after(header: str | None) -> float:
    return min(float(header), MAX_RETRY_AFTER) if header is not None and header.isdecimal() else 0.0
