"""The roots of every error that PulseStream raises on purpose.

    PulseStreamError
    ├── UsageError            the person who started it can fix it; the CLI prints it and exits 2
    │   ├── SettingsError
    │   └── InvalidNameError  a tenant, dataset or topic name that cannot be
    └── OutageError           broker or database away, refused or broken; the CLI prints it and exits 1

Each room roots its own small tree in one of these. A message says what happened, why, and what to do next.
"""


class PulseStreamError(Exception):
    """Anything that PulseStream raises on purpose."""


class UsageError(PulseStreamError):
    """The person who started the command can put it right."""


class SettingsError(UsageError):
    """A setting has a wrong value or an unknown name."""


class InvalidNameError(UsageError):
    """A tenant, dataset or topic name breaks the naming rules."""


class OutageError(PulseStreamError):
    """Something that PulseStream depends on is away, refuses, or broke."""
