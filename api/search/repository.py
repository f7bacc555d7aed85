"""Runs a search's plans and gives rows as the API shows them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg import sql
from psycopg.errors import QueryCanceled

from api.database import Connection, fetch_one
from api.search import statements, steps
from api.search.collections import Match
from api.search.plan import Plan
from pulsestream.core.clock import to_micros

Row = dict[str, Any]
Placed = tuple[tuple[int, ...], str, Row]
"""A row with its place in the walk: the leading columns of the order in microseconds or numbers, and its id."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows in the walk's order; `is_cut` where more lie behind them that would be too many bytes."""

    placed: list[Placed]
    is_cut: bool = False


Look = Callable[[Connection, Plan, Mapping[str, Any]], Awaitable[Part]]
"""Runs a plan by one of two ways, with what it binds."""

MAX_BYTES: Final = 2 * 1024 * 1024
"""Bytes of heavy values after which a page ends."""
TAKEN: Final = 32
"""Heavy rows that are taken before it is known how heavy they are."""
COUNTED: Final = 10_000
"""Rows that are counted; of more the planner's estimate is given."""
COUNT_TIMEOUT: Final = 1.0
"""Seconds that counting may take."""
_FAR: Final = {Match.CONTAINS.value: "where_contains_of_tenant"}


async def run(connection: Connection, plan: Plan, tenant: str, limit: int) -> Part:
    """Return at most `limit` rows in the walk's order."""
    bound = {"tenant": tenant, "limit": limit}
    if plan.is_by_containment:
        return await _run_by_containment(connection, plan, bound, limit)
    return await _walked(connection, plan, bound)


async def count(connection: Connection, plan: Plan, tenant: str) -> tuple[int, bool]:
    """Return how many rows a plan has, and whether that is exact."""
    bound = {"tenant": tenant, "limit": COUNTED + 1}
    rows = await _counted(connection, plan, bound)
    if rows is not None and rows <= COUNTED:
        return rows, True
    explained = await _fetched(connection, statements.estimated(plan), plan, bound)
    return max(rows or 0, _planned_rows(explained[0])), False


async def _counted(connection: Connection, plan: Plan, bound: Mapping[str, Any]) -> int | None:
    """Return the number of rows up to one more than are counted; None where that takes too long."""
    try:
        async with connection.transaction():
            await fetch_one(connection, "count_within", {"timeout": f"{COUNT_TIMEOUT * 1000:.0f}"})
            return int((await _fetched(connection, statements.counted(plan), plan, bound))[0]["rows"])
    except QueryCanceled:
        return None


async def horizon(connection: Connection) -> int:
    """Return the transaction from which on rows may still be on their way."""
    found = await fetch_one(connection, "ingested_horizon", {})
    return int(found["horizon"]) if found else 0


async def _run_by_containment(connection: Connection, plan: Plan, bound: dict[str, Any], limit: int) -> Part:
    """Look at the nearest rows one by one, then further in steps, as far as a page should lie, then at all the others.

    Each step reads up to a bound, and the next one from there: what arrives meanwhile moves none.
    """
    near = await _span(connection, plan, bound, steps.NEAR)
    if near is None:
        return await _walked(connection, plan, bound)
    part = await _walked(connection, near.within(plan), bound)
    found, seen, rest, at = part.placed, near.rows, near.behind(plan), near.end
    while not part.is_cut and len(found) < limit:
        step = steps.next_step(near, at, len(found), seen, limit, ascending=plan.ascending)
        look, reach = await _reach(connection, rest, bound, step)
        part = await look(connection, reach.within(rest) if reach else rest, bound | {"limit": limit - len(found)})
        found = found + part.placed
        if reach is None:
            break
        seen, rest, at = seen + reach.rows, reach.behind(rest), reach.end
    return Part(found, part.is_cut)


async def _reach(
    connection: Connection, rest: Plan, bound: Mapping[str, Any], step: steps.Step | None
) -> tuple[Look, steps.Step | steps.Span | None]:
    """Return how a step's rows are looked at, and how far; None: to the end."""
    if step is None or step.is_by_index:
        return _by_index, step
    return _walked, await _span(connection, rest, bound, step.rows)


async def _walked(connection: Connection, plan: Plan, bound: Mapping[str, Any]) -> Part:
    return await _placed(connection, statements.rows(plan), plan, bound)


async def _by_index(connection: Connection, plan: Plan, bound: Mapping[str, Any]) -> Part:
    conditions = tuple(replace(one, query=_FAR.get(one.query, one.query)) for one in plan.conditions)
    far = replace(plan, conditions=conditions)
    return await _placed(connection, statements.far(far), far, bound)


async def _span(connection: Connection, plan: Plan, bound: Mapping[str, Any], rows: int) -> steps.Span | None:
    """Return where the next `rows` rows of a walk lie, whatever their data contains; None where there are fewer."""
    others = replace(plan, conditions=tuple(one for one in plan.conditions if one.query != Match.CONTAINS))
    found = await _fetched(connection, statements.edges(others), others, {**bound, "near": rows})
    if not found or found[-1]["place"] < rows:
        return None
    time, last = plan.collection.time, found[-1]
    return steps.Span(rows, found[0][time], last[time], last[plan.collection.id])


async def _placed(connection: Connection, statement: sql.Composed, plan: Plan, bound: Mapping[str, Any]) -> Part:
    if plan.collection.heavy in plan.shown:
        rows, is_cut = await _fetched_bounded(connection, statement, plan, bound)
    else:
        rows, is_cut = await _fetched(connection, statement, plan, bound), False
    return Part([(_place(row, plan), row[plan.collection.id], _shown(row, plan)) for row in rows], is_cut)


async def _fetched_bounded(
    connection: Connection, statement: sql.Composed, plan: Plan, bound: Mapping[str, Any]
) -> tuple[list[Row], bool]:
    """Take rows little by little, up to the one that makes their values too many bytes."""
    rows: list[Row] = []
    size = 0
    async with connection.cursor("page") as cursor:
        await cursor.execute(statement, {**bound, **_values(plan)})
        while size < MAX_BYTES:
            wanted = TAKEN if not rows else max(1, (MAX_BYTES - size) * len(rows) // max(size, 1))
            batch = await cursor.fetchmany(min(wanted, bound["limit"] - len(rows)))
            rows += batch
            size += sum(_bytes(row[plan.collection.heavy or ""]) for row in batch)
            if len(batch) < wanted or len(rows) == bound["limit"]:
                return rows, False
    return rows, True


async def _fetched(connection: Connection, statement: sql.Composed, plan: Plan, bound: Mapping[str, Any]) -> list[Row]:
    """Run a statement. Not prepared: with the values known, the planner leaves out chunks and picks the right index."""
    return await (await connection.execute(statement, {**bound, **_values(plan)}, prepare=False)).fetchall()


def _values(plan: Plan) -> dict[str, Any]:
    return {name: value for condition in plan.conditions for name, value in condition.values.items()}


def _bytes(value: msgspec.Raw) -> int:
    return memoryview(value).nbytes


def _place(row: Row, plan: Plan) -> tuple[int, ...]:
    return tuple(to_micros(row[key]) if isinstance(row[key], datetime) else row[key] for key in plan.leading)


def _shown(row: Row, plan: Plan) -> Row:
    shown = {name: row[name] for name in plan.shown}
    for name in plan.collection.times:
        moment = shown.get(name)
        if moment is not None:
            shown[name] = rfc3339(moment)
    return shown


def rfc3339(moment: datetime) -> str:
    """Return an aware UTC datetime as every answer writes it; faster than formatting from microseconds."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _planned_rows(explained: Mapping[str, Any]) -> int:
    plan: Any = next(iter(explained.values()))
    return int(msgspec.json.decode(plan)[0]["Plan"]["Plan Rows"])
