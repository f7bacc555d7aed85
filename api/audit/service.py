"""The audit as its tenant reads it: page by page, whole, and verified."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from api import errors
from api.audit import repository
from api.audit.chain import BrokenChainError, Head, Place, Row, verified, verify_end
from api.audit.repository import Filter
from api.cursor import CursorError, CursorSeal, Position
from api.database import Database
from pulsestream.core.clock import format_rfc3339, to_micros

EXPORT_PAGE: Final = 1000
"""Rows of an export that are in memory at once."""
FIELDS: Final = ("seq", "at", "action", "actor", "target", "request_id", "before", "after", "denial", "hash")
"""What is shown of an entry."""
_WALK: Final = "audit"
_VERIFYING: Final = ["audit", "verify"]


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, newest first; `next_cursor` is None after the last one."""

    entries: list[dict[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a part of the chain found: rows `first` to `last` are as they were appended.

    The chain ends with row `head` (0: it has none). `hash` is that of row `last`, in hexadecimal. `broken_at` is the
    first row that is not as it was appended. `next_cursor` leads to the rows behind; None after the head, or a bad row.
    """

    first: int
    head: int
    last: int
    hash: str
    broken_at: int | None = None
    reason: str | None = None
    next_cursor: str | None = None

    @property
    def intact(self) -> bool:
        """Return whether no row was found that is not as it was appended."""
        return self.broken_at is None


class Audit:
    """What can be done with a tenant's audit."""

    def __init__(self, database: Database, seal: CursorSeal) -> None:
        self._database = database
        self._seal = seal

    async def search(self, tenant: str, wanted: Filter, limit: int, cursor: str | None) -> Page:
        """Return one page, newest first; raises Problem 400."""
        behind = None if cursor is None else self._open(cursor, tenant, wanted.identity()).time
        rows = await self._rows(tenant, wanted, behind, limit + 1)
        more = len(rows) > limit
        next_cursor = self._sealed(rows[limit - 1], tenant, wanted) if more else None
        return Page([shown(row) for row in rows[:limit]], next_cursor)

    async def pages(self, tenant: str, wanted: Filter) -> AsyncGenerator[Sequence[dict[str, Any]], None]:
        """Give every entry of a filter, newest first, a page at a time and no transaction in between."""
        behind = None
        while rows := await self._rows(tenant, wanted, behind, EXPORT_PAGE):
            yield [shown(row) for row in rows]
            behind = rows[-1].seq

    async def verify(self, tenant: str, limit: int, cursor: str | None) -> Verdict:
        """Check at most `limit` rows of the chain from its beginning, or from where `next_cursor` leads.

        Raises Problem 400 for a cursor that is none.
        """
        place = Place()
        if cursor is not None:
            position = self._open(cursor, tenant, _VERIFYING)
            place = Place(position.time, bytes.fromhex(position.event_id))
        async with self._database.tenant(tenant) as connection:
            head = await repository.read_head(connection, tenant)
            rows = await repository.read_chain(connection, tenant, place.seq, head.place.seq, limit)
        return self._verdict(tenant, place, rows, head, is_end=len(rows) < limit)

    def _verdict(self, tenant: str, place: Place, rows: Sequence[Row], head: Head, *, is_end: bool) -> Verdict:
        verdict = Verdict(place.seq + 1, head.place.seq, place.seq, place.hash.hex())
        try:
            reached = verified(tenant, place, rows)
            if is_end:
                verify_end(reached, head)
        except BrokenChainError as fault:
            return replace(verdict, broken_at=fault.seq, reason=fault.reason)
        position = Position(reached.seq, _WALK, reached.hash.hex())
        cursor = None if is_end else self._seal.seal(position, tenant, _VERIFYING)
        return replace(verdict, last=reached.seq, hash=reached.hash.hex(), next_cursor=cursor)

    async def _rows(self, tenant: str, wanted: Filter, behind: int | None, limit: int) -> list[Row]:
        async with self._database.tenant(tenant) as connection:
            return await repository.search(connection, tenant, wanted, behind, limit)

    def _sealed(self, last: Row, tenant: str, wanted: Filter) -> str:
        return self._seal.seal(Position(last.seq, _WALK, ""), tenant, wanted.identity())

    def _open(self, cursor: str, tenant: str, walk: list[Any]) -> Position:
        try:
            return self._seal.open(cursor, tenant, walk)
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of an answer to this very request, unchanged."
            ) from error


def shown(row: Row) -> dict[str, Any]:
    """Return an entry as people read it, also where somebody made something else of it than JSON."""
    try:
        entry = msgspec.json.decode(row.entry, type=dict[str, Any])
    except msgspec.MsgspecError:
        entry = {}
    columns = {"seq": row.seq, "at": format_rfc3339(to_micros(row.at)), "action": row.action, "target": row.target}
    return {name: entry.get(name) for name in FIELDS} | columns | {"hash": row.hash.hex()}
