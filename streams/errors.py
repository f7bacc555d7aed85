"""What can go wrong in the streams worker; each of these ends the process, and a restart folds again.

OutageError
└── StreamError
    ├── StateError      the checkpoints cannot be read or written
    │   └── FencedError another worker has taken the partition over
    ├── DeliveryError   the broker did not take an output, and no tenant alone is to blame
    └── PositionError   a partition delivered other offsets than were asked for
"""

from pulsestream.core.errors import OutageError


class StreamError(OutageError):
    """The streams worker cannot go on."""


class StateError(StreamError):
    """The checkpoints cannot be read or written."""


class FencedError(StateError):
    """Another worker has taken the partition over: what this one does no longer counts."""


class DeliveryError(StreamError):
    """The broker did not take an output, and no tenant alone is to blame."""


class PositionError(StreamError):
    """A partition delivered other offsets than were asked for."""
