"""A guard against reconnect storms: all connections of a process to one host share its attempts.

Each feed backs off by itself (`pacing.Backoff`), but eight of them that lose their exchange at once are still eight
times as many attempts as it allows. A Retry-After that one of them is told holds up all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from producers.pacing import TokenBucket

_WINDOW: Final = 60.0


class StormGuard:
    """Hands out turns to connect, host by host, in the order in which they were asked for."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._buckets: dict[str, TokenBucket] = {}
        self._held_until: dict[str, float] = {}

    async def turn(self, host: str, per_minute: float) -> None:
        """Wait until a connection to `host` may be attempted: at most `per_minute` in any minute."""
        now = self._monotonic()
        bucket = self._buckets.setdefault(host, TokenBucket(per_minute, _WINDOW, now))
        pause = max(bucket.reserve(now), self._held(host))
        while pause > 0:
            await self._sleep(pause)
            pause = self._held(host)

    def hold(self, host: str, seconds: float) -> None:
        """Let nobody connect to `host` for so long: it asked for that."""
        until = self._monotonic() + seconds
        self._held_until[host] = max(until, self._held_until.get(host, until))

    def _held(self, host: str) -> float:
        return self._held_until.get(host, 0.0) - self._monotonic()
