"""Rows of dead letters, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from api.cursor import Position
from api.database import Connection, fetch_all, fetch_one, query
from api.dead_letters.filters import WALK, Filter, conditions
from pulsestream.core.clock import to_micros
from schemas.codec import codec
from schemas.records import DeadLetter


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A dead letter as it is searched. `settled` is None while it is open; `size` None where there was no value."""

    id: str
    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    size: int | None
    first_seen: datetime
    replay_of: str | None
    replays: int
    settled: str | None
    settled_at: datetime | None
    settled_by: str | None
    settled_reason: str | None

    @property
    def state(self) -> str:
        """Return open, replayed or discarded."""
        return self.settled or "open"

    @property
    def position(self) -> Position:
        """Return where a walk stands after this letter."""
        return Position(to_micros(self.first_seen), WALK, self.id)


async def search(
    connection: Connection, tenant: str, wanted: Filter, behind: Position | None, limit: int, *, ascending: bool
) -> list[LetterRow]:
    """Return at most `limit` letters in the order of their first refusal, behind a position."""
    names, bound = conditions(wanted, tenant, behind, ascending=ascending)
    direction = sql.SQL("ASC" if ascending else "DESC")
    filters = sql.SQL(" ").join(query(name) for name in names)
    statement = query("search_dead_letters").format(filters=filters, direction=direction)
    cursor = await connection.execute(statement, bound | {"tenant": tenant, "limit": limit}, prepare=False)
    return [LetterRow(**row) for row in await cursor.fetchall()]


async def find(connection: Connection, tenant: str, ids: Sequence[str]) -> dict[str, LetterRow]:
    """Return the letters of these ids that the tenant has."""
    rows = await fetch_all(connection, "find_dead_letters", {"tenant": tenant, "ids": [*ids]})
    return {row["id"]: LetterRow(**row) for row in rows}


async def read(connection: Connection, tenant: str, letter_id: str) -> DeadLetter | None:
    """Return a letter whole."""
    row = await fetch_one(connection, "read_dead_letter", {"tenant": tenant, "id": letter_id})
    return None if row is None else _letter(row)


async def refused_replays(connection: Connection, tenant: str, letter_id: str) -> list[str]:
    """Return the ids of the letters that replays of this one ended as."""
    rows = await fetch_all(connection, "refused_replays", {"tenant": tenant, "id": letter_id})
    return [row["id"] for row in rows]


async def lock(connection: Connection, tenant: str, ids: Sequence[str]) -> dict[str, DeadLetter]:
    """Return those of these letters that are open and in nobody else's hands, held until the transaction ends."""
    rows = await fetch_all(connection, "lock_dead_letters", {"tenant": tenant, "ids": [*ids]})
    return {row["id"]: _letter(row) for row in rows}


async def settle(
    connection: Connection, tenant: str, ids: Sequence[str], *, settled: str, by: str, reason: str | None
) -> list[str]:
    """Record what became of those of these letters that are open, and return their ids."""
    bound = {"tenant": tenant, "ids": [*ids], "settled": settled, "by": by, "reason": reason}
    return [row["id"] for row in await fetch_all(connection, "settle_dead_letters", bound)]


def _letter(row: dict[str, Any]) -> DeadLetter:
    letter: DeadLetter = codec(DeadLetter).decode(bytes(row["letter"]))
    return letter
