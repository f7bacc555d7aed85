"""What a sink knows of its database, for `/readyz` and metrics: ready, slow, away, full or read-only.

To connect proves that a database is there, not that it has room, and a batch may be stored beside the table that has
none: one that was full counts as full until it took everything for DOUBT seconds.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from pulsestream.core.errors import OutageError
from pulsestream.core.metrics import SINK_PAUSED, SINK_STORAGE
from sinks.errors import DatabaseAwayError, State

DOUBT: Final = 10.0
_STATES: Final[tuple[State, ...]] = ("ready", "slow", "away", "full", "read_only")


class Storage:
    """The state of the database; `problem` may be asked from other threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._doubted_until = 0.0
        self._become("away", "not connected yet")

    @property
    def problem(self) -> str | None:
        """Return what is wrong, or None."""
        return None if self._state == "full" and not self._is_doubted() else self._said

    def failed(self, error: OutageError) -> None:
        """Take note of why the sink rests; what is no fault of the database leaves its state as it was."""
        SINK_PAUSED.set(1)
        self._doubted_until = math.inf
        self._become(error.state if isinstance(error, DatabaseAwayError) else self._state, str(error))

    def silent(self, seconds: float) -> None:
        """Take note of a batch that has been on its way for so long."""
        SINK_PAUSED.set(1)
        cause = "the database is slow or silent, or dead letters are not acknowledged"
        self._become("slow", f"a batch has been on its way for {seconds:.0f} s: {cause}")

    def connected(self) -> None:
        """Take note of a new session."""
        self._doubted_until = self._monotonic() + DOUBT
        self.answered()

    def answered(self) -> None:
        """Take note that the database dealt with a batch."""
        SINK_PAUSED.set(0)
        if self._state != "full" or not self._is_doubted():
            self._become("ready", None)

    def _is_doubted(self) -> bool:
        return self._monotonic() < self._doubted_until

    def _become(self, state: State, said: str | None) -> None:
        self._state: State = state
        self._said = said
        for name in _STATES:
            SINK_STORAGE.labels(name).set(name == state)
