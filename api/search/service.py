"""Search: a page of a walk over one tenant's stored rows, and the cursor that goes on from there."""

import heapq
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from api import errors
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database
from api.search import plan as planning
from api.search import repository
from api.search.collections import COLLECTIONS, TOGETHER
from api.search.plan import Plan, SearchError, SearchRequest
from api.search.repository import Part, Row

TIMEOUT: Final = 5.0
"""Seconds that a statement of a search may take."""
_LATEST: Final = 253_402_300_799_000_000
"""The end of the year 9999: above every event time, in microseconds."""
_BEGINNING: Final = Position(0, TOGETHER[0], "", -1)
_NAMED: Final = ("dataset", "event_id")


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows a search has in all; an estimate is the planner's, from its statistics."""

    rows: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the walk's order, each with its collection and id.

    `next_cursor` is None after the last row; a walk by ingestion has no last row, so it always has one.
    """

    rows: list[Row]
    next_cursor: str | None
    count: Count | None = None


class Search:
    """Searches stored rows."""

    def __init__(self, database: Database, seal: CursorSeal) -> None:
        self._database = database
        self._seal = seal

    async def page(
        self, tenant: str, request: SearchRequest, cursor: str | None, *, named: bool = True, counted: bool = False
    ) -> Page:
        """Return one page; raises Problem 400 for an impossible search or a cursor that is not its own.

        No row that was visible when a walk began is skipped or repeated: rows never change their place in the order of
        time, and each page begins strictly behind the last row of the one before. By ingestion a row that was changed
        moves to the end. `named`: rows begin with their dataset and id.
        """
        behind = self._behind(tenant, request, cursor)
        plans = _plans(request, behind)
        async with self._database.tenant(tenant, TIMEOUT) as connection:
            await _check_position(connection, behind)
            read = await _read(connection, plans, tenant, request)
            count = await _count(connection, request, tenant) if counted else None
        position = read.position or (_tail_position(read.entries, behind) if request.ingested else None)
        return Page(
            [entry.shown(named=named) for entry in read.entries],
            None if position is None else self._seal.seal(position, tenant, request.identity()),
            count,
        )

    async def end(self, tenant: str, request: SearchRequest) -> Page:
        """Return a page without rows, behind all that are there: a walk by ingestion begins with what comes next."""
        _plans(request, None)
        async with self._database.tenant(tenant, TIMEOUT) as connection:
            settled = await repository.horizon(connection) - 1
        position = Position(_LATEST, list(COLLECTIONS)[-1], "", settled)
        return Page([], self._seal.seal(position, tenant, request.identity()))

    async def pages(
        self, tenant: str, request: SearchRequest, most: int | None, *, named: bool
    ) -> AsyncGenerator[list[Row], None]:
        """Give the rows of a whole walk, or its first `most`, page after page; raises Problem as `page` does.

        Each page is a transaction of its own, so a reader that takes its time holds nothing in the database.
        """
        behind: Position | None = None
        left = most
        while left is None or left > 0:
            size = request.limit if left is None else min(request.limit, left)
            part = replace(request, limit=size)
            async with self._database.tenant(tenant, TIMEOUT) as connection:
                read = await _read(connection, _plans(part, behind), tenant, part)
            yield [entry.shown(named=named) for entry in read.entries]
            if read.position is None:
                return
            behind = read.position
            left = None if left is None else left - len(read.entries)

    def header(self, request: SearchRequest, *, named: bool) -> list[str]:
        """Return the names of all that rows hold, in order; raises Problem 400."""
        shown = [name for plan in _plans(request, None) for name in plan.shown]
        return list(dict.fromkeys([*(_NAMED if named else ()), *shown]))

    def _behind(self, tenant: str, request: SearchRequest, cursor: str | None) -> Position | None:
        try:
            return None if cursor is None else self._seal.open(cursor, tenant, request.identity())
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of a page of this very search, unchanged."
            ) from error


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row and its place in the walk."""

    leading: tuple[int, ...]
    collection: str
    id: str
    row: Row

    @property
    def position(self) -> Position:
        return Position(self.leading[-1], self.collection, self.id, self.leading[0] if len(self.leading) > 1 else None)

    def shown(self, *, named: bool) -> Row:
        return {"dataset": self.collection, "event_id": self.id, **self.row} if named else self.row


def _plans(request: SearchRequest, behind: Position | None) -> list[Plan]:
    try:
        return planning.plan(request, behind)
    except SearchError as error:
        raise errors.invalid_parameters([errors.FieldError(error.parameter, str(error))]) from error


@dataclass(frozen=True, slots=True)
class _Read:
    """The rows of a page, and where it goes on; None after the last row that is there."""

    entries: list[_Entry]
    position: Position | None


async def _read(connection: Connection, plans: Sequence[Plan], tenant: str, request: SearchRequest) -> _Read:
    parts = [await repository.run(connection, part, tenant, request.limit + 1) for part in plans]
    told = [_told(part, plan.collection.name) for part, plan in zip(parts, plans, strict=True)]
    ends = [entries[-1] for entries, part in zip(told, parts, strict=True) if part.is_cut]
    merged = _merged(told, ascending=request.ascending or request.ingested)
    entries = list(islice(_up_to_any(ends, merged), request.limit + 1))
    if len(entries) > request.limit:
        return _Read(entries[:-1], entries[-2].position)
    return _Read(entries, entries[-1].position if ends else None)


def _told(part: Part, collection: str) -> list[_Entry]:
    return [_Entry(leading, collection, row_id, row) for leading, row_id, row in part.placed]


def _up_to_any(ends: Sequence[_Entry], entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Give entries up to the first of these: what lies behind it in its collection is not known."""
    for entry in entries:
        yield entry
        if any(entry is end for end in ends):
            return


def _merged(parts: Sequence[list[_Entry]], *, ascending: bool) -> Iterable[_Entry]:
    return heapq.merge(
        *parts, key=lambda entry: planning.order_key(entry.leading, entry.collection, ascending=ascending)
    )


def _tail_position(entries: Sequence[_Entry], behind: Position | None) -> Position:
    return entries[-1].position if entries else behind or _BEGINNING


async def _check_position(connection: Connection, behind: Position | None) -> None:
    if behind is not None and behind.ingested is not None and behind.ingested >= await repository.horizon(connection):
        raise errors.invalid_cursor(
            "The database was put back to a time before this cursor, so rows may be stored anew behind it. Begin a new "
            "walk, with `from` a little before the last row that you have."
        )


async def _count(connection: Connection, request: SearchRequest, tenant: str) -> Count:
    counts = [await repository.count(connection, part, tenant) for part in _plans(request, None)]
    return Count(sum(rows for rows, _ in counts), all(is_exact for _, is_exact in counts))
