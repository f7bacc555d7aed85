"""What the database knows of a tenant's topics: the sink's positions and gaps in them, and the newest rows."""

from dataclasses import dataclass
from datetime import datetime

from api.database import Connection, fetch_all


@dataclass(frozen=True, slots=True)
class PositionRow:
    """Where the sink goes on in a partition of one life of a topic, and when it moved there."""

    topic: str
    topic_id: str
    partition: int
    next_offset: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewestRow:
    """The newest row of a table by its event time, and when the broker took it."""

    dataset: str
    time: datetime
    appended_at: datetime


async def positions(connection: Connection, tenant: str) -> list[PositionRow]:
    """Return the sink's positions in the tenant's topics, those of topics that are no more included."""
    return [PositionRow(**row) for row in await fetch_all(connection, "own_positions", {"tenant": tenant})]


async def lost(connection: Connection, tenant: str) -> dict[str, int]:
    """Return how many records of each topic were gone before the sink could store them."""
    rows = await fetch_all(connection, "own_lost_records", {"tenant": tenant})
    return {row["topic"]: int(row["records"]) for row in rows}


async def newest(connection: Connection, tenant: str) -> list[NewestRow]:
    """Return the newest row of each table that holds one."""
    return [NewestRow(**row) for row in await fetch_all(connection, "newest_rows", {"tenant": tenant})]
