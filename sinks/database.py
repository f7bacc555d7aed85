"""The sink's database: positions, and one transaction that stores a batch and moves its positions.

Positions move only from the value that this sink expects, and they move first: a sink that lost its partitions is
stopped before it writes anything. Driver errors are sorted here, by SQLSTATE, into data (bisected to the record),
away (retry) and everything else (end).
"""

import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Final, LiteralString, cast

import psycopg
from psycopg import sql

from pulsestream.core.clock import to_datetime
from schemas.migrate import missing
from schemas.records import Event
from sinks.column_rows import copy_stream, event_times
from sinks.errors import DatabaseAwayError, DatabaseError, FencedError
from sinks.plan import (
    Batch,
    EventKey,
    Gap,
    Move,
    Place,
    distinct_events,
    id_conflict,
    newest_bars,
    newest_feeds,
    newest_stats,
    surviving,
)
from sinks.rows import Refused, Row
from sinks.tables import ALERTS, BARS, DEAD_LETTERS, EVENTS, FEEDS, STATS, TICKS, TRADES, Table

_DATA: Final = frozenset({"22", "23", "54"})
"""SQLSTATE classes that the record is to blame for; 54 is a record beyond a limit of the server (an index row)."""
_AWAY: Final = frozenset({"08", "40", "53", "55", "57", "58"})
_AWAY_CODES: Final = frozenset({"25006", "25P03", "25P04"})
"""Read-only (a standby, after a failover), and transactions that the server ended for taking too long."""
_WRONG_SETTING: Final = re.compile(r"authentication failed|does not exist|no pg_hba\.conf entry")
_CONNECT_OPTIONS: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_TABLES: Final = (TICKS, TRADES, EVENTS, STATS, BARS, ALERTS, DEAD_LETTERS, FEEDS)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of some rows of one table; those neither stored nor refused were there already."""

    stored: int
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch: rows stored and rows that were there already, by table."""

    rows: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, int] = field(default_factory=dict)


Write = Callable[[Sequence[Row]], Written]
Settle = Callable[[Sequence[Refused]], None]
"""Puts refused records where they can be found, and returns once they are safe; raises BrokerError."""


class Database:
    """One session as the sink's role. Not safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: psycopg.Connection | None = None
        self._writers: Mapping[str, Write] = {
            TICKS.name: lambda rows: self._copy(TICKS, rows),
            ALERTS.name: lambda rows: self._copy(ALERTS, rows),
            DEAD_LETTERS.name: lambda rows: self._copy(DEAD_LETTERS, rows),
            EVENTS.name: self._store_events,
            TRADES.name: self._store_trades,
            BARS.name: lambda rows: self._upsert(BARS, newest_bars(rows)),
            STATS.name: lambda rows: self._upsert(STATS, newest_stats(rows)),
            FEEDS.name: lambda rows: self._upsert(FEEDS, newest_feeds(rows)),
        }

    def connect(self) -> None:
        """Open a new session; raises DatabaseAwayError, DatabaseError, and MigrationError for a newer database."""
        self.close()
        try:
            self._session = psycopg.connect(self._url, autocommit=True, **_CONNECT_OPTIONS)  # type: ignore[arg-type]  # libpq options
        except psycopg.OperationalError as error:
            if _WRONG_SETTING.search(str(error)):
                raise DatabaseError(f"PULSESTREAM_DATABASE_URL is wrong: {error}") from error
            raise DatabaseAwayError(f"the database cannot be reached: {error}") from error
        with _sorted_errors():
            lacking = missing(self._connection)
            if lacking:
                raise DatabaseError(f"the database lacks {', '.join(lacking)}: run `pulsestream migrate`")
            self._connection.execute(_query("session"))
            for table in _TABLES:
                self._connection.execute(_statement("staging", table))

    def abandon(self) -> None:
        """Cut the session's connection, so that who waits for the server fails; safe in any thread."""
        session = self._session
        if session is None or session.closed:
            return
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(session.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def positions(self, places: Collection[Place]) -> dict[Place, int]:
        """Return the next offset of each place, 0 where nothing was read yet; raises DatabaseAwayError."""
        named = {(place.topic_id, place.partition): place for place in places}
        bound = _columns_of([*places]) | {"topics": [place.topic for place in places]}
        with self._holding(places):
            self._connection.execute(_query("begin_positions"), bound)
            held = self._connection.execute(_query("read_positions"), bound).fetchall()
        return {named[topic_id, partition]: next_offset for topic_id, partition, next_offset in held}

    def cross(self, gap: Gap, position: Move) -> None:
        """Record a gap and move the position over it; raises DatabaseAwayError, and FencedError as `store` does."""
        with self._holding([gap.place]):
            self._move([position])
            bound = {"topic_id": gap.place.topic_id, "partition": gap.place.partition, "topic": gap.place.topic}
            bound |= {"from_offset": gap.from_offset, "to_offset": gap.to_offset, "cause": gap.cause}
            self._connection.execute(_query("record_gap"), bound)

    def store(self, batch: Batch, settle: Settle) -> Stored:
        """Store a batch, settle what is refused and move the positions, or do nothing at all.

        Raises FencedError when a position is not where the batch expects it, DatabaseAwayError when it should be tried
        again, DatabaseError when that would not help, and what `settle` raises.
        """
        with self._holding([move.place for move in batch.moves]):
            self._move(batch.moves)
            written = {table: self._bisect(self._writers[table], rows) for table, rows in self._ordered(batch)}
            refused = [*batch.refused, *(refusal for done in written.values() for refusal in done.refused)]
            if refused:
                settle(refused)
        return Stored(
            {table: done.stored for table, done in written.items()},
            {table: len(batch.rows[table]) - done.stored - len(done.refused) for table, done in written.items()},
        )

    @contextmanager
    def _holding(self, places: Collection[Place]) -> Iterator[None]:
        """Open a transaction over these places; end the session that keeps one of them locked for too long.

        That session can only be a sink that lost the partition: its owner is here.
        """
        with _sorted_errors():
            try:
                with self._connection.transaction():
                    yield
            except psycopg.errors.LockNotAvailable:
                self._connection.execute(_query("evict_holders"), _columns_of([*places]))
                raise

    @property
    def _connection(self) -> psycopg.Connection:
        if self._session is None:
            raise DatabaseAwayError("there is no session with the database")
        return self._session

    def _move(self, moves: Sequence[Move]) -> None:
        bound = _columns_of([move.place for move in moves])
        bound |= {"expected": [move.expected for move in moves], "next_offsets": [move.next_offset for move in moves]}
        moved = self._connection.execute(_query("move_positions"), bound).rowcount
        if moved != len(moves):
            raise FencedError(f"{len(moves) - moved} of {len(moves)} positions were moved by another sink")

    def _ordered(self, batch: Batch) -> Iterator[tuple[str, Sequence[Row]]]:
        for table, rows in batch.rows.items():
            if table != FEEDS.name:
                yield table, rows
        kept, gone = surviving(batch.rows.get(FEEDS.name, ()), batch.removed)
        if gone:
            self._connection.execute(_query("remove_feeds"), {"keys": gone})
        if kept:
            yield FEEDS.name, kept

    def _bisect(self, write: Write, rows: Sequence[Row]) -> Written:
        """Write rows under a savepoint; where the server refuses, halve them until the culprits stand alone."""
        try:
            with self._connection.transaction():
                return write(rows)
        except psycopg.Error as error:
            if not _is_data(error):
                raise
            if len(rows) == 1:
                return Written(0, (_refusal(rows[0], error),))
        middle = len(rows) // 2
        first, second = self._bisect(write, rows[:middle]), self._bisect(write, rows[middle:])
        return Written(first.stored + second.stored, first.refused + second.refused)

    def _copy(self, table: Table, rows: Sequence[Row]) -> Written:
        try:
            with self._connection.transaction():
                self._copy_into("copy", table, rows)
        except psycopg.errors.UniqueViolation:
            return self._insert_new(table, rows)
        return Written(len(rows))

    def _insert_new(self, table: Table, rows: Sequence[Row]) -> Written:
        self._stage(table, rows)
        return Written(self._connection.execute(_statement("insert_staged", table)).rowcount)

    def _upsert(self, table: Table, rows: Sequence[Row]) -> Written:
        self._stage(table, rows)
        return Written(self._connection.execute(_statement(f"upsert_staged_{table.name}", table)).rowcount)

    def _stage(self, table: Table, rows: Sequence[Row]) -> None:
        self._connection.execute(_statement("clear_staging", table))
        self._copy_into("copy_staging", table, rows)

    def _copy_into(self, query: str, table: Table, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(_statement(query, table)) as copy:
            copy.write(copy_stream(rows))

    def _store_trades(self, rows: Sequence[Row]) -> Written:
        self._stage(TRADES, rows)
        if not self._may_know_staged(rows):
            try:
                return self._copy_trades(rows)
            except psycopg.errors.UniqueViolation:
                pass  # somebody stored one of them meanwhile
        return Written(self._count("insert_staged_trades", rows))

    def _may_know_staged(self, rows: Sequence[Row]) -> bool:
        return bool(self._count("find_known_trades", rows))

    def _count(self, query: str, rows: Sequence[Row]) -> int:
        """Return the number that a query on staged trades gives.

        Not prepared: with the bounds of their times known, the planner leaves out the chunks beyond them.
        """
        found = self._connection.execute(_statement(query, TRADES), _span(rows), prepare=False).fetchone()
        return int(found[0]) if found else 0

    def _copy_trades(self, rows: Sequence[Row]) -> Written:
        with self._connection.transaction():
            self._copy_into("copy", TRADES, rows)
            self._connection.execute(_statement("count_staged_trades", TRADES))
        return Written(len(rows))

    def _store_events(self, rows: Sequence[Row]) -> Written:
        events = distinct_events(rows)
        fresh = self._claim(events.first)
        known = {key: held for key, held in events.first.items() if key not in fresh}
        bodies = self._bodies(known) if known else {}
        conflicts = tuple(id_conflict(row) for key, (row, body) in known.items() if bodies[key] != body)
        new = [row for key, (row, _) in events.first.items() if key in fresh]
        written = self._copy(EVENTS, new) if new else Written(0)
        return Written(written.stored, events.conflicts + conflicts)

    def _claim(self, events: Mapping[EventKey, tuple[Row, bytes]]) -> set[EventKey]:
        bound = _keys_of(events) | {
            "bodies": [body for _, body in events.values()],
            "micros": [cast(Event, row.record).time for row, _ in events.values()],
        }
        claimed = self._connection.execute(_query("claim_event_ids"), bound).fetchall()
        return {(tenant, event_id) for tenant, event_id in claimed}

    def _bodies(self, events: Mapping[EventKey, object]) -> dict[EventKey, bytes]:
        held = self._connection.execute(_query("read_event_bodies"), _keys_of(events)).fetchall()
        if len(held) != len(events):
            raise DatabaseAwayError("ids of events were removed while they were compared: try again")
        return {(tenant, event_id): bytes(body) for tenant, event_id, body in held}


def _span(rows: Sequence[Row]) -> dict[str, datetime]:
    """Return the least and the greatest event time of ticks or trades."""
    times = event_times(rows)
    return {"oldest": to_datetime(min(times)), "newest": to_datetime(max(times))}


def _columns_of(places: Sequence[Place]) -> dict[str, object]:
    return {"topic_ids": [place.topic_id for place in places], "partitions": [place.partition for place in places]}


def _keys_of(events: Collection[EventKey]) -> dict[str, object]:
    return {"tenants": [tenant for tenant, _ in events], "event_ids": [event_id for _, event_id in events]}


def _is_data(error: psycopg.Error) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in _DATA


def _refusal(row: Row, error: psycopg.Error) -> Refused:
    return Refused(row.arrived, "refused_by_database", f"SQLSTATE {error.sqlstate}: {error.diag.message_primary}")


def away(error: psycopg.Error) -> DatabaseAwayError:
    """Return what an error of class _AWAY says of the database."""
    match error.sqlstate:
        case "53100":
            return DatabaseAwayError(f"the database's disk is full: give it room. Nothing is lost: {error}", "full")
        case "25006":
            return DatabaseAwayError(f"the database is read-only now. Nothing is lost: {error}", "read_only")
        case _:
            return DatabaseAwayError(f"the database cannot be used now: {error}")


@contextmanager
def _sorted_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate
        if state is None or state[:2] in _AWAY or state in _AWAY_CODES:
            raise away(error) from error
        raise DatabaseError(f"the database refused (SQLSTATE {state}): {error}") from error


@cache
def _queries() -> dict[str, LiteralString]:
    text = (files("sinks") / "queries.sql").read_text("utf-8")
    named = re.findall(r"^-- name: (\w+)\n(.*?);\s*$", text, re.MULTILINE | re.DOTALL)
    return {name: cast(LiteralString, query) for name, query in named}  # a file of ours, not input


@cache
def _query(name: str) -> LiteralString:
    return _queries()[name]


def _statement(name: str, table: Table) -> sql.Composed:
    columns = [sql.Identifier(column) for column in table.columns]
    staging = sql.Identifier("pg_temp", f"staging_{table.name}")
    into = staging if name == "copy_staging" else sql.Identifier(table.name)
    return sql.SQL(_query(name.replace("copy_staging", "copy"))).format(
        table=into,
        staging=staging,
        columns=sql.SQL(", ").join(columns),
        updates=sql.SQL(", ").join(sql.SQL("EXCLUDED.{}").format(column) for column in columns),
    )
