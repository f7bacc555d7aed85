"""Notices that this process stood still: stopped, swapped out, or its event loop blocked. Pure.

A worker that stood still for longer than the group's session may have been replaced, and what it would decide next
might contradict its successor. So after a pause every shard first proves to the broker that it is still the owner.
"""

from typing import Final

MICROS: Final = 1_000_000
LIMIT: Final = 2 * MICROS
"""The longest unnoticed pause: well under the session timeout of 6 s, well over any batch."""


class Vigil:
    """Watches a monotonic clock, in microseconds, that is looked at several times a second."""

    def __init__(self, now: int) -> None:
        self._last = now
        self._pauses = 0

    def pauses(self, now: int) -> int:
        """Return how many pauses there have been, one that ends now included."""
        if now - self._last > LIMIT:
            self._pauses += 1
        self._last = now
        return self._pauses
