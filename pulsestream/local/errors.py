"""Errors of the local stack.

UsageError
├── JavaMissingError     no Java that Kafka runs on, and none could be fetched
├── HomeBusyError        another process already runs from the same folder
└── PortBusyError        a port that was asked for is taken
OutageError
└── StartError           a part was started and did not come up
"""

from pulsestream.core.errors import OutageError, UsageError


class JavaMissingError(UsageError):
    """There is no Java that Kafka runs on, and none could be fetched."""


class HomeBusyError(UsageError):
    """Another process already runs from the same folder."""


class PortBusyError(UsageError):
    """A port that was asked for is taken."""


class StartError(OutageError):
    """A part of the stack was started and did not come up."""
