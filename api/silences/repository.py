"""Rows of silences."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

import msgspec

from api.database import Connection, execute, fetch_all, fetch_one


@dataclass(frozen=True, slots=True)
class Weekly:
    """When a maintenance window comes back: days 1 (Monday) to 7, by the clock of a time zone."""

    weekdays: Sequence[int]
    from_time: time
    minutes: int
    time_zone: str


@dataclass(frozen=True, slots=True)
class NewSilence:
    """A silence to make; `matchers` is JSON."""

    silence_id: str
    matchers: str
    starts_at: datetime
    ends_at: datetime | None
    weekly: Weekly | None
    comment: str


@dataclass(frozen=True, slots=True)
class SilenceRow:
    """A stored silence. `state`: active, pending (also between two windows) or expired."""

    silence_id: str
    matchers: list[dict[str, str]]
    starts_at: datetime
    ends_at: datetime | None
    weekdays: list[int] | None
    from_time: time | None
    minutes: int | None
    time_zone: str | None
    comment: str
    created_at: datetime
    created_by: str
    expired_at: datetime | None
    expired_by: str | None
    state: str


async def list_silences(
    connection: Connection, tenant: str, now: datetime, *, state: str | None, below: str | None, limit: int
) -> list[SilenceRow]:
    """Return silences in a state, or all, the newest first."""
    asked = {"tenant": tenant, "now": now, "state": state, "silence_id": None, "below": below, "limit": limit}
    return [_row(row) for row in await fetch_all(connection, "list_silences", asked)]


async def find_silence(connection: Connection, tenant: str, silence_id: str, now: datetime) -> SilenceRow | None:
    """Return a silence."""
    asked = {"tenant": tenant, "now": now, "state": None, "silence_id": silence_id, "below": None, "limit": 1}
    row = await fetch_one(connection, "list_silences", asked)
    return None if row is None else _row(row)


async def count_silences(connection: Connection, tenant: str, now: datetime) -> int:
    """Return how many have not ended."""
    row = await fetch_one(connection, "count_silences", {"tenant": tenant, "now": now})
    return 0 if row is None else int(row["silences"])


async def prune_silences(connection: Connection, tenant: str, before: datetime) -> None:
    """Forget those that ended before a time."""
    await execute(connection, "prune_silences", {"tenant": tenant, "before": before})


async def knows_time_zone(connection: Connection, name: str) -> bool:
    """Tell whether the database knows a time zone."""
    row = await fetch_one(connection, "knows_time_zone", {"name": name})
    return row is not None and bool(row["known"])


async def insert_silence(connection: Connection, tenant: str, new: NewSilence, now: datetime, created_by: str) -> None:
    """Store a silence."""
    weekly = new.weekly
    row = {
        "tenant": tenant,
        "silence_id": new.silence_id,
        "matchers": new.matchers,
        "starts_at": new.starts_at,
        "ends_at": new.ends_at,
        "weekdays": None if weekly is None else list(weekly.weekdays),
        "from_time": None if weekly is None else weekly.from_time,
        "minutes": None if weekly is None else weekly.minutes,
        "time_zone": None if weekly is None else weekly.time_zone,
        "comment": new.comment,
        "now": now,
        "created_by": created_by,
    }
    await execute(connection, "insert_silence", row)


async def expire_silence(connection: Connection, tenant: str, silence_id: str, now: datetime, by: str) -> bool:
    """End a silence now; return whether it had not ended before."""
    row = {"tenant": tenant, "silence_id": silence_id, "now": now, "expired_by": by}
    return await execute(connection, "expire_silence", row) > 0


def _row(row: dict[str, Any]) -> SilenceRow:
    return SilenceRow(**row | {"matchers": msgspec.json.decode(row["matchers"])})
