"""Rows of the audit, as they are searched and as they are verified."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from api.audit.chain import GENESIS, Head, Place, Row
from api.database import Connection, fetch_all, fetch_one, query
from pulsestream.core.clock import to_datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """What rows have in common; None: anything. Times are microseconds, `from_time` included, `to_time` not."""

    action: str | None = None
    actor: str | None = None
    target: str | None = None
    from_time: int | None = None
    to_time: int | None = None

    def identity(self) -> list[Any]:
        """Return what a cursor is bound to."""
        return ["audit", self.action, self.actor, self.target, self.from_time, self.to_time]

    def conditions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the filters by their names, with what they bind."""
        for name in ("action", "actor", "target"):
            value = getattr(self, name)
            if value is not None:
                yield f"filter_audit_{name}", {name: value}
        for name, time in (("from", self.from_time), ("to", self.to_time)):
            if time is not None:
                yield f"filter_audit_{name}", {name: to_datetime(time)}


async def search(connection: Connection, tenant: str, wanted: Filter, behind: int | None, limit: int) -> list[Row]:
    """Return at most `limit` rows, newest first, with numbers below `behind`."""
    found = [*wanted.conditions()]
    if behind is not None:
        found.append(("filter_audit_behind", {"behind": behind}))
    filters = sql.SQL(" ").join(query(name) for name, _ in found)
    bound = {name: value for _, more in found for name, value in more.items()}
    statement = query("search_audit").format(filters=filters)
    cursor = await connection.execute(statement, bound | {"tenant": tenant, "limit": limit}, prepare=False)
    return [Row(**row) for row in await cursor.fetchall()]


async def read_chain(connection: Connection, tenant: str, after: int, to: int, limit: int) -> list[Row]:
    """Return at most `limit` rows behind number `after` up to number `to`, oldest first."""
    bound = {"tenant": tenant, "after": after, "to": to, "limit": limit}
    rows = await fetch_all(connection, "read_audit_chain", bound)
    return [Row(**row) for row in rows]


async def read_head(connection: Connection, tenant: str) -> Head:
    """Return where the tenant's chain ends."""
    row = await fetch_one(connection, "read_audit_head", {"tenant": tenant})
    if row is None:
        raise RuntimeError("the head of the audit gave no row")
    return Head(Place(row["seq"], row["hash"] or GENESIS), row["last"])
