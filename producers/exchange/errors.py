"""What can be wrong with the way the simulator was started.

UsageError
└── SimulatorError
    └── PortBusyError
"""

from pulsestream.core.errors import UsageError


class SimulatorError(UsageError):
    """The exchange simulator was asked for something that it cannot do."""


class PortBusyError(SimulatorError):
    """Another process listens on the port."""
