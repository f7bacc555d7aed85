"""How complete a tenant's stored trades are, hour by hour. Pure.

The trade ids of a product count up without holes, so an hour whose last stored id is `last_id` should hold
`last_id - base` trades, `base` being the last id before it: per cent = 100 x stored / (last_id - base).

- `base` is the greatest id of the stored hours before, since the subscription began or in the hour just before.
  Without one the hour counts from its first stored id on: what a tenant never asked for is not missing.
- A hole belongs to the hour of the first trade stored behind it. An hour without any trade says nothing (None).
- Ids that an exchange jumped over when it began to count anew were never trades: they are not expected.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import floor
from typing import Final

HOUR: Final = timedelta(hours=1)
_PRECISION: Final = 10_000


@dataclass(frozen=True, slots=True)
class StoredHour:
    """The trades of one hour (by their event times) that are stored: how many, their least and greatest ids."""

    hour: datetime
    trades: int
    first_id: int
    last_id: int


@dataclass(frozen=True, slots=True)
class HourOfTrades:
    """One hour's figure; `expected` and `percent` are None where nothing can be said."""

    hour: datetime
    trades: int
    expected: int | None = None
    percent: float | None = None


Span = tuple[int, int]
"""A first and a last trade id."""


def by_hour(
    stored: Iterable[StoredHour], since: datetime, start: datetime, end: datetime, skipped: Collection[Span] = ()
) -> list[HourOfTrades]:
    """Return every hour from `start` up to, not including, `end` (both whole hours), given the stored ones in order.

    `stored` may begin before `start`. `since`: when the subscription began. `skipped`: ids that no trade ever had.
    """
    figures = {hour.hour: hour for hour in _measured(stored, whole_hour(since), skipped)}
    wanted = (start + number * HOUR for number in range((end - start) // HOUR))
    return [figures.get(hour) or HourOfTrades(hour, 0) for hour in wanted]


def whole_hour(moment: datetime) -> datetime:
    """Return the beginning of the hour that holds a moment."""
    return moment.replace(minute=0, second=0, microsecond=0)


def _measured(stored: Iterable[StoredHour], since: datetime, skipped: Collection[Span]) -> Iterable[HourOfTrades]:
    before: StoredHour | None = None
    greatest = 0
    for hour in stored:
        counts = before is not None and (before.hour >= since or before.hour + HOUR == hour.hour)
        base = greatest if counts else hour.first_id - 1
        unused = sum(last - first + 1 for first, last in skipped if base < first and last < hour.last_id)
        expected = max(hour.last_id - base - unused, hour.trades)
        yield HourOfTrades(hour.hour, hour.trades, expected, _percent(hour.trades, expected))
        greatest = max(hour.last_id, greatest) if counts else hour.last_id
        before = hour


def _percent(stored: int, expected: int) -> float:
    """Return 100 only where nothing is missing: figures are cut, not rounded."""
    return floor(100 * _PRECISION * stored / expected) / _PRECISION if stored < expected else 100.0
