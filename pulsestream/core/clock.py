"""Wall time as a parameter: microseconds since 1970, UTC, from one injected clock.

Logic takes a `Clock`; only the shells pass `wall_clock`. Event time never comes from here.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

Clock = Callable[[], int]
"""Returns microseconds since 1970-01-01T00:00:00Z."""

MICROS_PER_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_PER_DAY = 86_400


def wall_clock() -> int:
    """Return the machine's time in microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def to_datetime(micros: int) -> datetime:
    """Return the aware UTC datetime of `micros`; exact, and OverflowError outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=micros)


def to_micros(moment: datetime) -> int:
    """Return the microseconds since 1970 of an aware datetime; exact."""
    since = moment - _EPOCH
    return (since.days * _SECONDS_PER_DAY + since.seconds) * MICROS_PER_SECOND + since.microseconds


def parse_rfc3339(text: str) -> int:
    """Return the microseconds since 1970 of an RFC 3339 time with a zone; digits beyond microseconds are cut.

    Raises ValueError for anything else, also for a time without a zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write it as 2026-01-31T12:00:00Z")
    since = moment - _EPOCH  # as in to_micros, without the call: every record's time comes through here
    return (since.days * _SECONDS_PER_DAY + since.seconds) * MICROS_PER_SECOND + since.microseconds


def format_rfc3339(micros: int) -> str:
    """Return `micros` as RFC 3339 in UTC with six digits of a second: 2021-04-17T16:43:37.056746Z."""
    second, fraction = divmod(micros, MICROS_PER_SECOND)
    return f"{_second(second)}.{fraction:06d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Return a whole second since 1970 as RFC 3339 in UTC without its zone: times come close to each other."""
    return to_datetime(seconds * MICROS_PER_SECOND).isoformat().removesuffix("+00:00")
