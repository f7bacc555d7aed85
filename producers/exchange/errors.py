"""What can be wrong with the way the simulator was started.

UsageError
└── ExchangeError
    └── PortBusyError
"""

from pulsestream.core.errors import UsageError


class ExchangeError(UsageError):
    """The exchange simulator was asked for something that it cannot do."""


class PortBusyError(ExchangeError):
    """Another process listens on the port."""
