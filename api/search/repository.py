"""Runs a search's plans and gives rows as the API shows them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from psycopg import sql

from api.database import Connection, query
from api.search.plan import Plan
from pulsestream.core.clock import to_micros

Row = dict[str, Any]
_TIMES: Final = ("exchange_time", "received_time", "quote_time", "time", "at", "start")


async def run(connection: Connection, plan: Plan, tenant: str, limit: int) -> list[tuple[int, Row]]:
    """Return at most `limit` rows with their event times in microseconds, in the walk's order."""
    parameters = {**plan.parameters, "tenant": tenant, "limit": limit}
    cursor = await connection.execute(statement(plan), parameters, prepare=False)
    return [(to_micros(row[plan.dataset.time]), _shown(row, plan.dataset.name)) for row in await cursor.fetchall()]


def statement(plan: Plan) -> sql.Composed:
    """Return the statement of a plan; it binds the plan's parameters, `tenant` and `limit`."""
    names = _names(plan)
    filters = sql.SQL(" ").join(query(name).format(**_needed(name, names)) for name in plan.filters)
    return query(f"search_{plan.dataset.name}").format(filters=filters, direction=names["direction"])


def _names(plan: Plan) -> Mapping[str, sql.Composable]:
    return {
        "time": sql.Identifier(plan.dataset.time),
        "id": sql.Identifier(plan.dataset.id),
        "beyond": sql.SQL(">" if plan.ascending else "<"),
        "beyond_or_at": sql.SQL(">=" if plan.ascending else "<="),
        "direction": sql.SQL("ASC" if plan.ascending else "DESC"),
    }


def _needed(name: str, names: Mapping[str, sql.Composable]) -> dict[str, sql.Composable]:
    text = query(name).as_string()
    return {placeholder: value for placeholder, value in names.items() if f"{{{placeholder}}}" in text}


def _shown(row: Row, dataset: str) -> Row:
    shown: Row = {"dataset": dataset, **row}
    for name in _TIMES:
        moment = shown.get(name)
        if isinstance(moment, datetime):
            shown[name] = rfc3339(moment)
    return shown


def rfc3339(moment: datetime) -> str:
    """Return an aware UTC datetime as every answer writes it; faster than formatting from microseconds."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
