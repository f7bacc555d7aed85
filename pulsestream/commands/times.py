"""Times as people write them on the command line."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from pulsestream.core.clock import parse_rfc3339, to_micros
from pulsestream.core.errors import UsageError

_SPAN: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_time(option: str, text: str) -> int:
    """Return a time in microseconds: RFC 3339 with a zone, or a date, which begins at midnight UTC; UsageError."""
    try:
        if _DATE.fullmatch(text):
            return to_micros(datetime.fromisoformat(text).replace(tzinfo=UTC))
        return parse_rfc3339(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r} is no time: write it as 2026-01-31T12:00:00Z, or 2026-01-31 for midnight UTC"
        ) from error


def parse_span(option: str, text: str) -> timedelta:
    """Return a length of time written as 30m, 12h or 7d; UsageError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise UsageError(f"{option} {text!r} is no length of time: write it as 30m, 12h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
