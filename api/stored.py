"""Stored ticks and trades of a tenant as evaluations of the past take them: in order of event time, in slices.

A reading sees one snapshot of the database, and holds one fetch of each table in memory, whatever the span. It blocks:
it belongs into a process of its own, never into the event loop.
"""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import psycopg
from psycopg import sql

from api.database import query
from pulsestream.core.clock import to_datetime, to_micros
from streams.engine.inputs import UNKNOWN_TIME, Row
from streams.engine.reading import SLICE_RECORDS, Gathering, Key, Slice, Span, identity_of, ticks_key

Connection = psycopg.Connection[Any]
Stored = tuple[Any, ...]

FETCHED: Final = 4_096
"""Rows that one round trip brings."""
_CONNECT_SECONDS: Final = 10
_TRADE_COLUMNS: Final = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which of a tenant's records are read; None: all. `traded`: (exchange, product) of which ticks are left out."""

    tables: tuple[Literal["ticks", "trades"], ...] = ("ticks", "trades")
    products: tuple[str, ...] | None = None
    exchanges: tuple[str, ...] | None = None
    traded: frozenset[tuple[str, str]] = frozenset()


EVERYTHING: Final = Chosen()


@contextmanager
def snapshot(url: str, tenant: str, seconds: float = 0) -> Iterator[Connection]:
    """Open a connection that sees one tenant as it is at its first query, and changes nothing.

    A statement that takes longer than `seconds` is ended; 0: none is. Raises psycopg.Error.
    """
    with psycopg.connect(url, connect_timeout=_CONNECT_SECONDS, application_name="pulsestream-stored") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute(query("bind_tenant"), {"tenant": tenant, "timeout": f"{seconds * 1000:.0f}"})
        yield connection


class StoredRecords:
    """What is stored of a tenant, read over the connection of a snapshot."""

    def __init__(self, connection: Connection, tenant: str, span: Span) -> None:
        self._connection = connection
        self._bound = {"tenant": tenant, "begin": to_datetime(span.begin), "end": to_datetime(span.end)}

    def is_empty(self) -> bool:
        """Tell whether nothing of the tenant is stored, at whatever time."""
        [[known]] = self._connection.execute(query("anything_stored"), self._bound).fetchall()
        return not known

    def traded(self, chosen: Chosen = EVERYTHING) -> frozenset[tuple[str, str]]:
        """Return the (exchange, product) pairs of which trades are stored."""
        statement = query("stored_traded").format(conditions=_conditions("trades", chosen))
        return frozenset(self._connection.execute(statement, self._bound | _bound(chosen)).fetchall())

    def newest(self) -> int | None:
        """Return the time of the newest record, whatever its product, in micros; None: there is none."""
        [[newest]] = self._connection.execute(query("stored_newest"), self._bound).fetchall()
        return None if newest is None else to_micros(newest)

    def begin_of(self, most: int, chosen: Chosen) -> int | None:
        """Return the time, micros, from which on there are at most so many records; None: there are not more at all."""
        times = [
            query("stored_times").format(table=sql.Identifier(table), conditions=_conditions(table, chosen))
            for table in chosen.tables
        ]
        statement = query("stored_before_the_newest").format(times=sql.SQL(" UNION ALL ").join(times))
        found = self._connection.execute(statement, self._bound | _bound(chosen) | {"most": most}).fetchone()
        return None if found is None else to_micros(found[0]) + 1

    def slices(self, chosen: Chosen = EVERYTHING) -> Iterator[Slice]:
        """Yield slices of a number of records, in order of time."""
        gathering, begun = Gathering(), 0
        for key, row in self._rows(chosen):
            begun = begun if gathering.count else row.time
            gathering.put(key, row)
            if gathering.count == SLICE_RECORDS:
                yield Slice(begun, gathering.take())
        if gathering.count:
            yield Slice(begun, gathering.take())

    def _rows(self, chosen: Chosen) -> Iterator[tuple[Key, Row]]:
        """Yield ticks and trades in order of time; offsets count up."""
        tables = (self._table(table, chosen) for table in chosen.tables)
        for offset, stored in enumerate(heapq.merge(*tables, key=_time)):
            yield _tick(stored, offset) if len(stored) > _TRADE_COLUMNS else _trade(stored, offset)

    def _table(self, table: str, chosen: Chosen) -> Iterator[Stored]:
        statement = query(f"stored_{table}").format(conditions=_conditions(table, chosen))
        with self._connection.cursor(name=table, binary=True) as cursor:
            cursor.itersize = FETCHED
            yield from cursor.execute(statement, self._bound | _bound(chosen))


def _conditions(table: str, chosen: Chosen) -> sql.Composable:
    names = ["stored_of_products"] if chosen.products is not None else []
    names += ["stored_of_exchanges"] if chosen.exchanges is not None else []
    names += ["stored_untraded"] if chosen.traded and table == "ticks" else []
    return sql.SQL(" ").join([query(name) for name in names])


def _bound(chosen: Chosen) -> dict[str, Any]:
    return {
        "products": None if chosen.products is None else list(chosen.products),
        "exchanges": None if chosen.exchanges is None else list(chosen.exchanges),
        "traded": [f"{exchange}:{product}" for exchange, product in sorted(chosen.traded)],
    }


def _time(stored: Stored) -> int:
    return cast(int, stored[0])


def _tick(stored: Stored, offset: int) -> tuple[Key, Row]:
    time, appended_at, exchange, product, price, size, side, sequence, event_id, bid, ask, quote_time = stored
    quoted_at = UNKNOWN_TIME if bid is None or ask is None else quote_time or time
    identity = identity_of(sequence, event_id)
    row = Row(offset, appended_at, time, price, size, side == "buy", identity, bid, ask, quoted_at)
    return ticks_key(exchange, product), row


def _trade(stored: Stored, offset: int) -> tuple[Key, Row]:
    time, appended_at, exchange, product, price, size, side, trade_id = stored
    row = Row(offset, appended_at, time, price, size, side == "buy", trade_id, None, None, UNKNOWN_TIME)
    return Key("trades", exchange, product), row
