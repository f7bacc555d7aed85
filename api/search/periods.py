"""Periods of series of bars: which stored period they are made of, and where they begin and end. Pure.

A period begins at a multiple of its length since 1970-01-01T00:00:00Z; weeks begin on Monday. Times are microseconds.
"""

import re
from dataclasses import dataclass
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.validate import PERIODS

MAX_MULTIPLE: Final = 3600
"""Stored bars in a period."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_WRITTEN: Final = re.compile(r"([1-9][0-9]{0,4})([smhdw])")
_MONDAY: Final = 4 * 86_400
"""Seconds from 1970-01-01, a Thursday, to the first Monday."""


@dataclass(frozen=True, slots=True)
class Period:
    """A length of time; `text` as it was asked for."""

    text: str
    stored: str
    multiple: int
    length: int
    anchor: int

    def floor(self, time: int) -> int:
        """Return the beginning of the period that holds a time."""
        return time - (time - self.anchor) % self.length

    def ceil(self, time: int) -> int:
        """Return the first beginning at or after a time."""
        return -self._mirrored().floor(-time)

    def _mirrored(self) -> "Period":
        return Period(self.text, self.stored, self.multiple, self.length, -self.anchor)


def parse(text: str) -> Period:
    """Return the period that a text names; raises ValueError, which says what would be one."""
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise ValueError(f"{text[:20]!r} is not a period: write it as 90s, 15m, 4h, 1d or 1w")
    seconds = int(written[1]) * _UNITS[written[2]]
    stored = next(name for name in reversed(PERIODS) if seconds % PERIODS[name] == 0)
    multiple = seconds // PERIODS[stored]
    if multiple > MAX_MULTIPLE:
        raise ValueError(f"{text} would be made of {multiple} bars of {stored} each: {MAX_MULTIPLE} is the most")
    anchor = _MONDAY if written[2] == "w" else 0
    return Period(text, stored, multiple, seconds * MICROS_PER_SECOND, anchor * MICROS_PER_SECOND)
