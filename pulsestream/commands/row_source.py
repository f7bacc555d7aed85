"""Stored ticks and trades of a tenant as a source: read by cursors on the server, in order of event time.

A reading sees one snapshot of the database, and holds one fetch of each table in memory, whatever the span.
"""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg

from pulsestream.commands.reading import (
    SLICE_RECORDS,
    Gathering,
    Key,
    Skipped,
    Slice,
    SourceError,
    Span,
    identity_of,
    ticks_key,
)
from pulsestream.core.clock import to_datetime
from pulsestream.core.errors import OutageError
from pulsestream.core.topics import check_slug
from streams.engine.inputs import UNKNOWN_TIME, Row

FETCHED: Final = 4_096
"""Rows that one round trip brings."""
_CONNECT_SECONDS: Final = 10
_TICKS: Final = """
    SELECT (extract(epoch FROM exchange_time) * 1000000)::bigint,
           (extract(epoch FROM appended_at) * 1000000)::bigint,
           exchange, product, price, size, side,
           sequence, event_id, best_bid, best_ask,
           (extract(epoch FROM quote_time) * 1000000)::bigint
    FROM ticks
    WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s
    ORDER BY exchange_time, sequence, event_id"""
_TRADES: Final = """
    SELECT (extract(epoch FROM exchange_time) * 1000000)::bigint,
           (extract(epoch FROM appended_at) * 1000000)::bigint,
           exchange, product, price, size, side,
           trade_id
    FROM trades
    WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s
    ORDER BY exchange_time, trade_id, event_id"""
_TRADE_COLUMNS: Final = 8
_TRADED: Final = """
    SELECT DISTINCT exchange, product FROM trades
    WHERE tenant = %(tenant)s AND exchange_time >= %(begin)s AND exchange_time < %(end)s"""
_KNOWN: Final = """
    SELECT EXISTS (SELECT FROM ticks WHERE tenant = %(tenant)s) OR EXISTS (SELECT FROM trades WHERE tenant = %(tenant)s)
"""


class RowSource:
    """What is stored of a tenant. Raises SourceError when that is nothing, OutageError when the database is away."""

    def __init__(self, database_url: str, tenant: str, span: Span) -> None:
        self.skipped = Skipped()
        self._url = database_url
        self._tenant = check_slug(tenant)
        self._chosen = {"tenant": tenant, "begin": to_datetime(span.begin), "end": to_datetime(span.end)}
        with self._snapshot() as connection:
            [known] = connection.execute(_KNOWN, self._chosen).fetchone() or (False,)
        if not known:
            raise SourceError(f"no tick and no trade of tenant {tenant!r} is stored; `pulsestream doctor` looks why")

    def traded(self) -> set[tuple[str, str]]:
        """Return the products of which trades are stored."""
        with self._snapshot() as connection:
            return {(exchange, product) for exchange, product in connection.execute(_TRADED, self._chosen)}

    def slices(self, span: int | None) -> Iterator[Slice]:  # noqa: ARG002 - rows are counted, whatever time they cover
        """Yield slices of a number of records, in order of time."""
        gathering, begun = Gathering(), 0
        with self._snapshot() as connection:
            for key, row in self._rows(connection):
                begun = begun if gathering.count else row.time
                gathering.put(key, row)
                if gathering.count == SLICE_RECORDS:
                    yield Slice(begun, gathering.take())
        if gathering.count:
            yield Slice(begun, gathering.take())

    @contextmanager
    def _snapshot(self) -> Iterator[psycopg.Connection]:
        try:
            with psycopg.connect(self._url, connect_timeout=_CONNECT_SECONDS) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", [self._tenant])
                yield connection
        except psycopg.Error as error:
            raise OutageError(
                f"cannot read what is stored: {error}; is the database that was named running?"
            ) from error

    def _rows(self, connection: psycopg.Connection) -> Iterator[tuple[Key, Row]]:
        """Yield ticks and trades in order of time; offsets count up."""
        tables = (self._table(connection, "ticks", _TICKS), self._table(connection, "trades", _TRADES))
        for offset, stored in enumerate(heapq.merge(*tables, key=_time)):
            yield _tick(stored, offset) if len(stored) > _TRADE_COLUMNS else _trade(stored, offset)

    def _table(self, connection: psycopg.Connection, name: str, statement: LiteralString) -> Iterator[tuple[Any, ...]]:
        with connection.cursor(name=name, binary=True) as cursor:
            cursor.itersize = FETCHED
            yield from cursor.execute(statement, self._chosen)


def _time(stored: tuple[Any, ...]) -> int:
    time: int = stored[0]
    return time


def _tick(stored: tuple[Any, ...], offset: int) -> tuple[Key, Row]:
    time, appended_at, exchange, product, price, size, side, sequence, event_id, bid, ask, quote_time = stored
    quoted_at = UNKNOWN_TIME if bid is None or ask is None else quote_time or time
    identity = identity_of(sequence, event_id)
    row = Row(offset, appended_at, time, price, size, side == "buy", identity, bid, ask, quoted_at)
    return ticks_key(exchange, product), row


def _trade(stored: tuple[Any, ...], offset: int) -> tuple[Key, Row]:
    time, appended_at, exchange, product, price, size, side, trade_id = stored
    row = Row(offset, appended_at, time, price, size, side == "buy", trade_id, None, None, UNKNOWN_TIME)
    return Key("trades", exchange, product), row
