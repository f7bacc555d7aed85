"""What a client sees first, and from which offsets on it is to see the rest: both from one moment of the database.

The sink writes rows and its positions in one transaction, and this reads them in one that is REPEATABLE READ: a record
is either among the rows or at a position from there on, never both and never neither.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from api.cache import AnswerCache
from api.database import Connection, Database, fetch_all
from api.live.rows import Key, Row, alert_key, row_text, stat_row, tick_row
from pulsestream.core.clock import to_datetime, to_micros
from schemas.records import Alert, Record, Stat, Tick
from streams.engine.lines import WINDOWS

FRESH: Final = 1.0
"""Seconds that a snapshot serves whoever comes: many come at once after a restart."""
ALERTS: Final = 200
"""The newest alerts that are read for it, before any filter."""
_NAMES: Final = tuple(window.name for window in WINDOWS)
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows, and by topic id and partition the offset from which on records are not among them."""

    ticks: Sequence[Row]
    stats: Sequence[Row]
    alerts: Sequence[tuple[Key, str]]
    positions: Mapping[str, Mapping[int, int]]

    def next_offsets(self) -> dict[str, tuple[int, ...]]:
        """Return the positions as tuples by partition; a partition without one begins at 0."""
        return {
            topic_id: tuple(known.get(number, 0) for number in range(max(known) + 1))
            for topic_id, known in self.positions.items()
        }


@dataclass(frozen=True, slots=True)
class Placed:
    """An alert that was read from its topic; `appended_at` is the broker's, in microseconds."""

    alert: Alert
    partition: int
    offset: int
    appended_at: int


class Snapshots:
    """Reads snapshots, and what is stored of alerts. Raises Problem 503 without the database."""

    def __init__(self, database: Database, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._answers: AnswerCache[Snapshot] = AnswerCache(self._read, monotonic, fresh=FRESH, size=1_000)

    async def get(self, tenant: str) -> Snapshot:
        """Return a tenant's snapshot, at most FRESH seconds old."""
        return await self._answers.get(tenant)

    async def repeats(self, tenant: str, placed: Sequence[Placed]) -> set[int]:
        """Return which of these records, by their place in the list, repeat an earlier one that is stored."""
        bound = {
            "tenant": tenant,
            "places": list(range(len(placed))),
            "ids": [each.alert.alert_id for each in placed],
            "ats": [to_datetime(each.alert.at) for each in placed],
            "appended": [to_datetime(each.appended_at) for each in placed],
        }
        async with self._database.tenant(tenant) as connection:
            return {row["place"] for row in await fetch_all(connection, "live_repeats", bound)}

    async def _read(self, tenant: str) -> Snapshot:
        async with self._database.moment(tenant) as connection:
            ticks = await fetch_all(connection, "live_ticks", {"tenant": tenant})
            stats = await fetch_all(connection, "live_stats", {"tenant": tenant, "windows": list(_NAMES)})
            alerts = await fetch_all(connection, "live_alerts", {"tenant": tenant, "limit": ALERTS})
            positions = await _positions(connection, tenant)
        return Snapshot(
            [tick_row(_record(Tick, row)) for row in ticks],
            [stat_row(_record(Stat, row)) for row in stats],
            [(alert_key(alert), row_text(alert)) for alert in (_record(Alert, row) for row in reversed(alerts))],
            positions,
        )


async def _positions(connection: Connection, tenant: str) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for row in await fetch_all(connection, "own_positions", {"tenant": tenant}):
        found.setdefault(row["topic_id"], {})[row["partition"]] = row["next_offset"]
    return found


def _record(record_type: type[R], row: Mapping[str, Any]) -> R:
    """Return the record that a row was made from."""
    fields = {name: _value(value) for name, value in row.items()}
    if "as_of_topic" in fields:
        fields["as_of"] = {
            "topic_id": fields["as_of_topic"],
            "partition": fields["as_of_partition"],
            "offset": fields["as_of_offset"],
        }
    return msgspec.convert(fields, record_type)


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_micros(value)
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
