"""Usage, from memory to its table once a minute and at a stop, and back to the tenant that asks.

A process that is killed loses what it counted since it stored last: a minute at most, unless the database was away.
What it stores is stored once, also when the database ends a connection in the moment of a commit.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from api.database import Database, fetch_all, fetch_one
from api.errors import Problem
from api.limits.usage import Batch, Usage
from pulsestream.core.clock import Clock, to_datetime
from pulsestream.core.log import logger

_DAY: Final = timedelta(days=1)
_SHORTEST: Final = 0.05
"""Seconds between two looks at the clock around midnight."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class DayOfUsage:
    """What a tenant used on a day (UTC)."""

    day: date
    requests: int
    events: int
    bytes: int
    refused: int


class UsageStore:
    """Stores what `usage` counts; `process` names this process among all that ever were."""

    def __init__(self, database: Database, usage: Usage, process: str, clock: Clock) -> None:
        self._database = database
        self._usage = usage
        self._process = process
        self._clock = clock

    def today(self) -> date:
        """Return the day (UTC)."""
        return to_datetime(self._clock()).date()

    async def keep(self, every: float) -> None:
        """Store every so many seconds, and at midnight, until cancelled."""
        while True:
            now = to_datetime(self._clock())
            await asyncio.sleep(min(every, max(_SHORTEST, (_midnight(now) - now).total_seconds())))
            await self.store()

    async def store(self) -> None:
        """Store what has been counted; what the database does not take now waits for the next time."""
        self._usage.close(self.today())
        waiting = self._usage.waiting
        try:
            while waiting:
                await self._add(waiting[0])
                waiting.popleft()
        except Problem as problem:
            _log.warning("usage not stored", reason=problem.detail, batches=len(waiting))

    async def show(self, tenant: str, first: date, last: date) -> Sequence[DayOfUsage]:
        """Return what a tenant used on the days from `first` to `last` that it used anything on, oldest first."""
        row = {"tenant": tenant, "first": first, "last": last}
        async with self._database.tenant(tenant) as connection:
            return [DayOfUsage(**found) for found in await fetch_all(connection, "list_usage", row)]

    async def _add(self, batch: Batch) -> None:
        batch.is_sent = True
        counts = batch.counts.values()
        row = {
            "process": self._process,
            "batch": batch.number,
            "day": batch.day,
            "tenants": [*batch.counts],
            "requests": [each.requests for each in counts],
            "events": [each.events for each in counts],
            "bytes": [each.octets for each in counts],
            "refused": [each.refused for each in counts],
        }
        async with self._database.connection() as connection:
            await fetch_one(connection, "add_usage", row)


def _midnight(now: datetime) -> datetime:
    """Return the end of the day (UTC)."""
    return datetime.combine(now.date(), datetime.min.time(), UTC) + _DAY
