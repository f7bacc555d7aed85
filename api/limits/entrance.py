"""Who comes in, and whether now: keys to callers within their limits, and strangers within those of their address.

A stranger is a key that this process has not found valid before. So an address that guesses is refused before anything
is looked up, while a client behind the same address whose key works goes on.
"""

from collections.abc import Callable
from typing import Final

from api import errors
from api.access_log import CALLER
from api.asgi import Scope
from api.auth import Authenticator, Caller
from api.errors import Problem
from api.limits.addresses import Addresses
from api.limits.bucket import SECOND, Shape
from api.limits.limiter import Limiter
from api.limits.plan import seconds
from pulsestream.core.metrics import RATE_LIMITED

FAILURES: Final = 20
"""Bad keys that an address may send at once; one more comes back every `WITHIN / FAILURES` seconds."""
WITHIN: Final = 60
_SERVER_ERROR: Final = 500


class Entrance:
    """Finds callers and lets the limiter count them; `monotonic` gives nanoseconds."""

    def __init__(self, authenticator: Authenticator, limiter: Limiter, monotonic: Callable[[], int]) -> None:
        self.limiter: Final = limiter
        self._authenticator = authenticator
        self._monotonic = monotonic
        self._strangers = Addresses(Shape(FAILURES, WITHIN * SECOND // FAILURES)) if limiter.is_on else None

    def recent(self, text: bytes, scope: Scope) -> Caller | None:
        """Return who holds this key where that was found of late, else None; raises Problem 429 (rate limit)."""
        caller = self._authenticator.recent(text)
        if caller is not None:
            scope[CALLER] = caller
            self.limiter.admit(caller, scope)
        return caller

    async def caller(self, text: str | None, scope: Scope) -> Caller:
        """Return who holds this key; raises Problem 401, 403 (suspended tenant), 429 (any limit) or 503."""
        scope[CALLER] = caller = await self._found(text, scope)
        self.limiter.admit(caller, scope)
        return caller

    async def _found(self, text: str | None, scope: Scope) -> Caller:
        if self._strangers is None or not text or self._authenticator.remembers(text):
            return await self._authenticator.caller(text)
        address = (scope.get("client") or ("",))[0]
        wait = self._strangers.wait(address, self._monotonic())
        if wait:
            RATE_LIMITED.labels("bad-keys").inc()
            raise errors.too_many_bad_keys(seconds(wait))
        try:
            return await self._authenticator.caller(text)
        except Problem as problem:
            if problem.status < _SERVER_ERROR:
                self._strangers.count(address, self._monotonic())
            raise
