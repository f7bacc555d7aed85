"""Silences: made, listed, ended before their time, and tried against what fires now. Each change is audited."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from api import errors
from api.alerts import repository as alerts
from api.alerts.repository import START, CurrentAlert, Wanted
from api.alerts.service import OPEN
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.database import Connection, Database
from api.ids import uuid7
from api.outbox import lock_tenant
from api.silences import repository
from api.silences.repository import NewSilence, SilenceRow
from pulsestream.core.clock import Clock, format_rfc3339, to_datetime, to_micros

MOST: Final = 200
"""Silences of a tenant that have not ended: each may be looked at for every alert that is told."""
KEPT: Final = timedelta(days=90)
"""How long ended ones are kept."""
PREVIEW: Final = 500
"""Alerts that a preview shows."""


@dataclass(frozen=True, slots=True)
class Page:
    """Silences, the newest first; `next_before` is None after the last one."""

    silences: list[SilenceRow]
    next_before: str | None


class Silences:
    """What can be done with silences."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def now(self) -> datetime:
        """Return the time by which silences are judged."""
        return to_datetime(self._clock())

    async def create(self, caller: Caller, new: NewSilence) -> SilenceRow:
        """Make a silence; raises Problem 403 (as many as may be) or 422."""
        now, tenant = self.now(), caller.tenant
        new = replace(new, silence_id=uuid7(self._clock()))
        if new.ends_at is not None and new.ends_at <= max(now, new.starts_at):
            raise errors.invalid_body([errors.FieldError("/ends_at", "is over, or not after starts_at")])
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            await _check_zone(connection, new)
            await repository.prune_silences(connection, tenant, now - KEPT)
            use = await repository.count_silences(connection, tenant, now)
            if use >= MOST:
                raise errors.quota_exceeded("silences", MOST, use, caller.tier)
            await repository.insert_silence(connection, tenant, new, now, caller.key_id)
            row = await _found(connection, tenant, new.silence_id, now)
            target = f"silence:{row.silence_id}"
            await append_change(connection, Actor.of(caller), Action.SILENCE_CREATE, target, after=_audited(row))
        return row

    async def list(self, tenant: str, state: str | None, limit: int, before: str | None) -> Page:
        """Return a page of the silences in a state, or of all."""
        async with self._database.tenant(tenant) as connection:
            rows = await repository.list_silences(
                connection, tenant, self.now(), state=state, below=before, limit=limit + 1
            )
        return Page(rows[:limit], rows[limit - 1].silence_id if len(rows) > limit else None)

    async def get(self, tenant: str, silence_id: str) -> SilenceRow:
        """Return a silence; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            return await _found(connection, tenant, silence_id, self.now())

    async def expire(self, caller: Caller, silence_id: str) -> None:
        """End a silence now; one that has ended stays as it is. Raises Problem 404."""
        now, tenant = self.now(), caller.tenant
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = await _found(connection, tenant, silence_id, now)
            if await repository.expire_silence(connection, tenant, silence_id, now, caller.key_id):
                target = f"silence:{silence_id}"
                await append_change(connection, Actor.of(caller), Action.SILENCE_EXPIRE, target, before=_audited(held))

    async def preview(self, tenant: str, matchers: str) -> Sequence[CurrentAlert]:
        """Return what is pending or firing now and all matchers hold for."""
        wanted = Wanted(OPEN, matchers=matchers)
        async with self._database.tenant(tenant) as connection:
            return await alerts.current_alerts(connection, tenant, wanted, self.now(), behind=START, limit=PREVIEW)


async def _check_zone(connection: Connection, new: NewSilence) -> None:
    if new.weekly is not None and not await repository.knows_time_zone(connection, new.weekly.time_zone):
        fault = f"{new.weekly.time_zone!r} is no time zone that is known: write it as Europe/Berlin"
        raise errors.invalid_body([errors.FieldError("/weekly/time_zone", fault)])


async def _found(connection: Connection, tenant: str, silence_id: str, now: datetime) -> SilenceRow:
    row = await repository.find_silence(connection, tenant, silence_id, now)
    if row is None:
        raise errors.not_found(f"There is no silence {silence_id[:60]!r}: GET /api/v1/silences lists the tenant's.")
    return row


def _audited(row: SilenceRow) -> dict[str, Any]:
    return {
        "matchers": row.matchers,
        "starts_at": format_rfc3339(to_micros(row.starts_at)),
        "ends_at": None if row.ends_at is None else format_rfc3339(to_micros(row.ends_at)),
        "weekly": None if row.weekdays is None else [row.weekdays, str(row.from_time), row.minutes, row.time_zone],
        "comment": row.comment,
    }
