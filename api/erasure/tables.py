"""Which rows a deleted tenant has: found in the catalogue, so that no table is forgotten; removed in bounded batches.

A table with a column `tenant` holds tenants' rows; one with `topic_id` and `topic` holds positions of topics, whose
names hold the tenant. The relay has to be let into each (`let_erase`): one that it is not let into stops the erasure.
"""

from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Final

from psycopg import sql

from api.database import query
from api.relay_database import Connection, fetch_all
from pulsestream.core.errors import PulseStreamError

KEPT: Final = frozenset({"tenants", "audit", "audit_heads", "erasures"})
"""The slug, which is never given again; the audit; the account of the erasure."""
OUTBOX: Final = "outbox"
"""It goes last, once all of it is published."""
BATCH: Final = 5000
"""Rows of a transaction, at most."""


class ErasureError(PulseStreamError):
    """A table of tenants' rows that cannot be erased: a migration forgot to call `let_erase`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that holds rows of tenants, with its primary key."""

    name: str
    key: tuple[str, ...]
    by_topic: bool

    @property
    def _owner(self) -> sql.Composable:
        return sql.SQL("split_part(topic, '.', 2)") if self.by_topic else sql.SQL("tenant")

    def count(self, connection: Connection, tenant: str) -> int:
        """Return how many rows a tenant has."""
        statement = query("erasure_count").format(table=sql.Identifier(self.name), owner=self._owner)
        return int(connection.execute(statement, {"tenant": tenant}).fetchall()[0]["rows"])

    def remove(self, connection: Connection, tenant: str, limit: int = BATCH) -> int:
        """Remove the tenant's first rows by primary key, at most `limit`, and return how many."""
        names: dict[str, sql.Composable] = {"table": sql.Identifier(self.name), "owner": self._owner}
        bound: dict[str, Any] = {"tenant": tenant, "limit": limit}
        if self.key[:1] != ("tenant",) or len(self.key) == 1:
            key = _joined(self.key)
            return connection.execute(query("erasure_remove_some").format(key=key, **names), bound).rowcount
        rest = _joined(self.key[1:])
        last = connection.execute(query("erasure_last").format(key=rest, **names), bound).fetchone()
        if last is None:
            return 0
        bound |= {str(number): last[column] for number, column in enumerate(self.key[1:])}
        places = sql.SQL(", ").join(sql.Placeholder(str(number)) for number in range(len(self.key) - 1))
        names |= {"key": rest, "first": sql.Identifier(self.key[1]), "places": places, "lead": sql.Placeholder("0")}
        return connection.execute(query("erasure_remove").format(**names), bound).rowcount


def tables(connection: Connection) -> list[Table]:
    """Return the tables that hold rows of tenants and are to be emptied; raises ErasureError.

    Positions come first: a sink that is at work stops at one that is gone, so nothing is stored behind an erasure. What
    refers to other tables comes before them, so that no row goes uncounted with another.
    """
    found = [row for row in fetch_all(connection, "erasure_tables") if row["name"] not in KEPT]
    barred = sorted(row["name"] for row in found if not row["open"])
    if barred:
        raise ErasureError(
            f"rows of tenants in {', '.join(barred)} cannot be erased: the relay is not let in. A migration has "
            "to call let_erase for each"
        )
    named = {row["name"]: Table(row["name"], tuple(row["key"] or ()), row["by_topic"]) for row in found}
    order = TopologicalSorter({row["name"]: () for row in found})
    for row in found:
        for referred in set(row["refers"]) & named.keys() - {row["name"]}:
            order.add(referred, row["name"])
    ordered = [named[name] for name in order.static_order() if name != OUTBOX]
    return sorted(ordered, key=lambda table: not table.by_topic)


def _joined(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
