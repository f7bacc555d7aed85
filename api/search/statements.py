"""Plans as statements: the queries of `queries.sql` with the names of a plan's columns put in. Pure.

Every value is bound. Beside a plan's own parameters a statement binds `tenant` and what its query names.
"""

from collections.abc import Iterable
from typing import Final

from psycopg import sql

from api.database import queries, query
from api.search.plan import Condition, Plan

_TYPES: Final = {"ingested": "bigint", "time": "timestamptz", "id": "text"}
"""Of values that are compared with the columns of an order, by the ends of their names."""
_PLACED: Final = ("_behind", "_up_to")
"""How conditions on the place in the walk end."""


def rows(plan: Plan) -> sql.Composed:
    """Return the statement that gives a plan's rows, `limit` at most."""
    return query("search_rows").format(
        columns=_listed(columns(plan)),
        table=sql.Identifier(plan.collection.name),
        conditions=_conditions(plan),
        order=_order(plan),
    )


def edges(plan: Plan) -> sql.Composed:
    """Return the statement that gives the keys of the first row of the walk and of the one at place `near`."""
    return query("search_edges").format(
        columns=_listed(plan.keys),
        table=sql.Identifier(plan.collection.name),
        conditions=_conditions(plan),
        order=_order(plan),
    )


def far(plan: Plan) -> sql.Composed:
    """Return the statement that finds rows by what their data contains."""
    direction = _direction(plan)
    first, *others = (sql.Identifier(key) for key in plan.keys)
    order = [sql.SQL("{} + INTERVAL '0' {}").format(first, direction)]
    order += [sql.SQL("{} {}").format(key, direction) for key in others]
    return query("search_far").format(
        columns=_listed(columns(plan)), conditions=_conditions(plan), order=sql.SQL(", ").join(order)
    )


def counted(plan: Plan) -> sql.Composed:
    """Return the statement that counts rows, `limit` at most."""
    return query("count_rows").format(table=sql.Identifier(plan.collection.name), conditions=_conditions(plan))


def estimated(plan: Plan) -> sql.Composed:
    """Return the statement that asks the planner how many rows there are."""
    return query("estimate_rows").format(table=sql.Identifier(plan.collection.name), conditions=_conditions(plan))


def columns(plan: Plan) -> tuple[str, ...]:
    """Return the columns that a row is read with: those shown, and those of the order."""
    return tuple(dict.fromkeys((*plan.shown, *plan.keys)))


def _conditions(plan: Plan) -> sql.Composable:
    return sql.SQL(" ").join([_condition(plan, condition) for condition in plan.conditions])


def _condition(plan: Plan, condition: Condition) -> sql.Composable:
    if condition.query.endswith(_PLACED):
        names = _compared(plan, condition)
    elif condition.values:
        names = {"column": sql.Identifier(*condition.columns), "value": sql.Placeholder(*condition.values)}
    else:
        names = {}
    text = queries()[condition.query]
    return query(condition.query).format(**{name: value for name, value in names.items() if f"{{{name}}}" in text})


def _compared(plan: Plan, condition: Condition) -> dict[str, sql.Composable]:
    up, down = (">", ">="), ("<", "<=")
    (beyond, beyond_or_at), (_, before_or_at) = (up, down) if plan.ascending else (down, up)
    return {
        "columns": _listed(condition.columns),
        "values": sql.SQL(", ").join([_typed(name) for name in condition.values]),
        "beyond": sql.SQL(beyond),
        "beyond_or_at": sql.SQL(beyond_or_at),
        "before_or_at": sql.SQL(before_or_at),
    }


def _typed(name: str) -> sql.Composable:
    return sql.SQL("{}::{}").format(sql.Placeholder(name), sql.SQL(_TYPES[name.rpartition("_")[2]]))


def _order(plan: Plan) -> sql.Composable:
    direction = _direction(plan)
    return sql.SQL(", ").join([sql.SQL("{} {}").format(sql.Identifier(key), direction) for key in plan.keys])


def _direction(plan: Plan) -> sql.SQL:
    return sql.SQL("ASC" if plan.ascending else "DESC")


def _listed(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join([sql.Identifier(name) for name in names])
