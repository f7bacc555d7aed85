"""How long a proof of membership holds. Pure; seconds of a monotonic clock, which goes on while a process stands still.

A proof counts from when it was asked for, not from when its answer was read: an answer may have lain in a buffer while
the process stood still and another one took over. One question is open at a time, so no answer is taken for another's.
"""

from collections.abc import Callable
from typing import Final

LEASE: Final = 5.0
"""Seconds for which a proof holds: less than the group's session, so nobody else has the shards yet."""
RENEW_EVERY: Final = 1.0


class Lease:
    """Whether it is certain that this process is still a member of its group."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._proved_at: float | None = None
        self._asked_at: float | None = None
        self._renew_at = 0.0
        self._is_outdated = False

    def holds(self) -> bool:
        """Say whether no other process can have taken over yet."""
        proved_at = self._proved_at
        return proved_at is not None and self._monotonic() - proved_at < LEASE

    def is_due(self) -> bool:
        """Say whether a proof should be asked for now."""
        return self._asked_at is None and self._monotonic() >= self._renew_at

    def asked(self) -> None:
        """Note that a proof is asked for."""
        self._asked_at = self._monotonic()
        self._renew_at = self._asked_at + RENEW_EVERY

    def answered(self, *, confirmed: bool) -> None:
        """Note the answer to the question that is open."""
        if confirmed and not self._is_outdated:
            self._proved_at = self._asked_at
        self._asked_at = None
        self._is_outdated = False

    def hasten(self) -> None:
        """Ask for a proof as soon as none is open: the membership has changed."""
        self._renew_at = 0.0

    def void(self) -> None:
        """Count as no member, whatever is answered to a question that was asked before."""
        self._proved_at = None
        self._is_outdated = self._asked_at is not None
