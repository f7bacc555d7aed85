"""The contract's own errors.

PulseStreamError
├── DecodeError      bytes that are no record of ours; carries a stable `code` for dead letters and metrics
└── MigrationError   the database's schema cannot be brought up to date
"""

from pulsestream.core.errors import PulseStreamError


class DecodeError(PulseStreamError):
    """Bytes that are no record of ours. `code` is one of `undecodable`, `unknown_schema`, `wrong_schema`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class MigrationError(PulseStreamError):
    """The database's schema cannot be brought up to date."""
