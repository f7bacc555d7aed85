"""Durations as rules write them ("60s", "5m") and as the engine counts them: microseconds."""

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MAX_DURATION: Final = 31 * 86_400 * 1_000_000
"""The longest `for`, `keep_firing_for`, `cooldown` and `after`, microseconds: 31 days."""

_UNITS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d)")


def parse_duration(text: object) -> int:
    """Return the microseconds of a duration such as "60s" or "5m"; raises ValueError."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'{text!r} is not a duration: write a number and us, ms, s, m, h or d, as in "60s"')
    micros = Decimal(match[1]) * _UNITS[match[2]]
    if micros != micros.to_integral_value() or micros > MAX_DURATION:
        raise ValueError(f"{text!r} is not a whole number of microseconds up to 31d")
    return int(micros)


def format_duration(micros: int) -> str:
    """Return microseconds as a duration that `parse_duration` reads back: the largest unit that divides them."""
    unit = next(name for name, size in reversed(_UNITS.items()) if micros % size == 0 and (micros or name == "s"))
    return f"{micros // _UNITS[unit]}{unit}"


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["60s", "5m"]}),
]
