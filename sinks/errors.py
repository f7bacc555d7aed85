"""The sink's own errors.

    OutageError
    ├── DatabaseAwayError  the database cannot be used now: rest, reconnect, go on from its positions
    ├── DatabaseError      the database refuses in a way that no retry mends: the process ends
    └── GroupRefusedError  the broker refuses this sink's membership: the process ends
    PulseStreamError
    └── FencedError        another sink moved an offset: the batch is given up, nothing of it is stored
        └── ForsakenError  the group has dropped this sink, and its client does not come back: it joins anew

A dead-letter topic that cannot be reached is a `BrokerError` of the core.
"""

from typing import Literal

from pulsestream.core.errors import OutageError, PulseStreamError

State = Literal["ready", "slow", "away", "full", "read_only"]
"""What a database can be like."""


class DatabaseAwayError(OutageError):
    """The database cannot be used now: away, restarting, out of room, read-only, or a lock was not given."""

    def __init__(self, message: str, state: State = "away") -> None:
        super().__init__(message)
        self.state = state


class DatabaseError(OutageError):
    """The database refuses in a way that no retry mends, such as a missing table or privilege."""


class GroupRefusedError(OutageError):
    """The broker refuses this sink as a member of its group, or its client has failed for good."""


class FencedError(PulseStreamError):
    """Another sink moved an offset that this one expected to move: its batch is given up."""


class ForsakenError(FencedError):
    """The group has dropped this sink, and its client has not come back by itself: it has to join anew."""
