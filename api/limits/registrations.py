"""How many tenants may be registered: by an address, and by all together. Pure.

Each of N processes gives an N-th of both, and one an hour at least, so that a registration stays possible.
"""

from collections.abc import Callable
from typing import Final

from api import errors
from api.limits.addresses import Addresses
from api.limits.bucket import SECOND, Bucket, Shape
from api.limits.plan import seconds
from pulsestream.core.metrics import RATE_LIMITED

HOUR: Final = 3600 * SECOND
BY_ADDRESS: Final = "registrations-per-address"
IN_ALL: Final = "registrations"


class Registrations:
    """Counts what is tried, whatever becomes of it; `monotonic` gives nanoseconds."""

    def __init__(self, per_address: int, in_all: int, processes: int, monotonic: Callable[[], int]) -> None:
        self._addresses = Addresses(_hourly(per_address, processes))
        self._all = Bucket()
        self._shape: Final = _hourly(in_all, processes)
        self._monotonic = monotonic

    def admit(self, address: str) -> None:
        """Count a registration from an address; raises Problem 429 for one too many, which counts nothing."""
        now = self._monotonic()
        waits = {BY_ADDRESS: self._addresses.wait(address, now), IN_ALL: self._all.wait(self._shape, 1, now)}
        violated = [name for name, wait in waits.items() if wait]
        if violated:
            RATE_LIMITED.labels(IN_ALL).inc()
            raise errors.rate_limited(violated, seconds(max(waits.values())))
        self._addresses.count(address, now)
        self._all.take(self._shape, 1, now)


def _hourly(number: int, processes: int) -> Shape:
    share = max(1, number // processes)
    return Shape(share, HOUR // share)
