"""Rate limits of those whose key is known: each request and each event takes a token of the tenant and of the key.

A request that finds no token is refused whole, with 429, and takes nothing. Belongs to one event loop.
"""

from collections.abc import Callable
from typing import Final

from api import errors
from api.asgi import Scope
from api.auth import Caller
from api.errors import Problem
from api.limits.accounts import Accounts, Draw
from api.limits.bucket import Twice
from api.limits.plan import LIMIT_FIELD, plans, seconds
from api.limits.tiers import Tiers
from api.limits.usage import Usage
from pulsestream.core.metrics import RATE_LIMITED

_DRAW: Final = "pulsestream.draw"
Fields = tuple[tuple[bytes, bytes], ...]


class Limiter:
    """Counts what callers spend; `monotonic` gives nanoseconds. Without tiers nothing is limited, only counted."""

    def __init__(self, tiers: Tiers | None, processes: int, monotonic: Callable[[], int], usage: Usage) -> None:
        self.usage: Final = usage
        self._accounts = None if tiers is None else Accounts(plans(tiers, processes))
        self._monotonic = monotonic

    @property
    def is_on(self) -> bool:
        """Whether anything is limited."""
        return self._accounts is not None

    def admit(self, caller: Caller, scope: Scope) -> None:
        """Take a request's token; raises Problem 429. The answer to `scope` will tell what is left."""
        self.usage.of(caller.tenant).requests += 1
        if self._accounts is None:
            return
        now = self._monotonic()
        scope[_DRAW] = draw = self._accounts.draw(caller, now)
        if not draw.requests.take(1, now):
            raise self._refusal(caller, "requests", draw.requests, 1, now)

    def spend(self, caller: Caller, events: int) -> None:
        """Take so many events' tokens, all or none; raises Problem 429."""
        if self._accounts is None:
            return
        now = self._monotonic()
        draw = self._accounts.draw(caller, now)
        if not draw.events.take(events, now):
            raise self._refusal(caller, "events", draw.events, events, now)

    def fields(self, scope: Scope) -> Fields:
        """Return the header fields of the answer to a request; none where no caller was admitted."""
        draw: Draw | None = scope.get(_DRAW)
        if draw is None:
            return ()
        left = draw.requests.left(self._monotonic())
        return draw.plan.request_policy, (LIMIT_FIELD, draw.plan.request_limit % left)

    def event_fields(self, scope: Scope) -> Fields:
        """Return the same for a request that brought events."""
        draw: Draw | None = scope.get(_DRAW)
        if draw is None:
            return ()
        now = self._monotonic()
        left = draw.requests.left(now) + draw.events.left(now)
        return draw.plan.event_policy, (LIMIT_FIELD, draw.plan.event_limit % left)

    def _refusal(self, caller: Caller, policy: str, buckets: Twice, tokens: int, now: int) -> Problem:
        self.usage.of(caller.tenant).refused += 1
        waits = buckets.waits(tokens, now)
        violated = [name for name, wait in zip((policy, f"key-{policy}"), waits, strict=True) if wait]
        for name in violated:
            RATE_LIMITED.labels(name).inc()
        return errors.rate_limited(violated, seconds(max(waits)))
