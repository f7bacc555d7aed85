"""What tenants use, counted in memory until it is stored. Pure.

Counts go into numbered batches of one day each. One that was sent stays as it is until it is known to be stored, so
that sending it again adds nothing twice.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final


class Counts:
    """What one tenant used."""

    __slots__ = ("events", "octets", "refused", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.events = 0
        self.octets = 0
        self.refused = 0

    def add(self, other: "Counts") -> None:
        """Add what is counted elsewhere."""
        self.requests += other.requests
        self.events += other.events
        self.octets += other.octets
        self.refused += other.refused


@dataclass(slots=True)
class Batch:
    """Counts of a day by tenant; `is_sent` once the database may have them."""

    number: int
    day: date
    counts: Mapping[str, Counts]
    is_sent: bool = False


class Usage:
    """Counts by tenant since `day` began, or since they were last put into a batch."""

    def __init__(self, day: date) -> None:
        self.waiting: Final[deque[Batch]] = deque()
        """Batches that are not known to be stored, the oldest first."""
        self._day = day
        self._number = 0
        self._counts: dict[str, Counts] = {}

    def of(self, tenant: str) -> Counts:
        """Return the counts to add to now; they are not to be kept."""
        counts = self._counts.get(tenant)
        if counts is None:
            counts = self._counts[tenant] = Counts()
        return counts

    def close(self, day: date) -> None:
        """Put what was counted into a batch, and go on counting for `day`."""
        counted, self._counts = self._counts, {}
        last = self.waiting[-1] if self.waiting else None
        if last is not None and not last.is_sent and last.day == self._day:
            last.counts = _sum(last.counts, counted)
        elif counted:
            self._number += 1
            self.waiting.append(Batch(self._number, self._day, counted))
        self._day = day


def _sum(one: Mapping[str, Counts], other: Mapping[str, Counts]) -> dict[str, Counts]:
    added: dict[str, Counts] = {}
    for counts in (one, other):
        for tenant, more in counts.items():
            added.setdefault(tenant, Counts()).add(more)
    return added
