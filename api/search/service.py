"""Search: a page of a walk over one tenant's stored rows, and the cursor that goes on from there."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from api import errors
from api.cursor import CursorError, CursorSeal, Position
from api.database import Database
from api.search import plan as planning
from api.search import repository
from api.search.plan import Plan, SearchError, SearchRequest
from api.search.repository import Row


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the walk's order; `next_cursor` is None after the last row."""

    rows: list[Row]
    next_cursor: str | None


class Search:
    """Searches stored rows."""

    def __init__(self, database: Database, seal: CursorSeal) -> None:
        self._database = database
        self._seal = seal

    async def page(self, tenant: str, request: SearchRequest, cursor: str | None) -> Page:
        """Return one page; raises Problem 400 for an impossible search or a cursor that is not its own.

        No row that was visible when a walk began is skipped or repeated: rows never change their place in the order,
        and each page begins strictly behind the last row of the one before.
        """
        plans = self._plans(tenant, request, cursor)
        async with self._database.tenant(tenant) as connection:
            parts = [await repository.run(connection, part, tenant, request.limit + 1) for part in plans]
        merged = _merged(parts, ascending=request.ascending)
        rows = list(islice(merged, request.limit + 1))
        if len(rows) <= request.limit:
            return Page([row for _, row in rows], None)
        rows.pop()
        time, last = rows[-1]
        position = Position(time, last["dataset"], last["event_id"])
        return Page([row for _, row in rows], self._seal.seal(position, tenant, request.identity()))

    def _plans(self, tenant: str, request: SearchRequest, cursor: str | None) -> list[Plan]:
        try:
            behind = None if cursor is None else self._seal.open(cursor, tenant, request.identity())
            return planning.plan(request, behind)
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of a page of this very search, unchanged."
            ) from error
        except SearchError as error:
            raise errors.invalid_parameters([errors.FieldError(error.parameter, str(error))]) from error


def _merged(parts: Sequence[list[tuple[int, Row]]], *, ascending: bool) -> Iterable[tuple[int, Row]]:
    return heapq.merge(*parts, key=lambda part: planning.order_key(part[0], part[1]["dataset"], ascending=ascending))
