"""What the sink would make of a dead letter's record now: by its own reader, its own row, and the database's word.

A row is copied into an empty twin of its table, with the table's columns and indexes, and taken back at once. So the
API's role needs no right to write, and nothing that is stored can be touched.
"""

from collections.abc import Sequence
from typing import Final, cast

import psycopg
from psycopg import sql

from api.database import Connection, fetch_one, query
from schemas.records import DeadLetter, Event
from schemas.validate import Fault
from sinks.copy_binary import stream
from sinks.rows import Arrived, Refused, Row, event_body, read
from sinks.tables import BY_DATASET, Table

_DATA: Final = ("22", "23", "54")
"""SQLSTATE classes of a row that the table does not take."""


async def judge(connection: Connection, letters: Sequence[DeadLetter], now: int) -> list[Fault | None]:
    """Return for each letter why its record would be refused, or None; `connection` is in the tenant's transaction.

    `now` in microseconds bounds the records' times. Letters are judged in order: of two events with one id and two
    bodies the second would be refused.
    """
    trial = _Trial(connection)
    return [await trial.judge(letter, now) for letter in letters]


class _Trial:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._twins: set[str] = set()
        self._bodies: dict[str, bytes] = {}

    async def judge(self, letter: DeadLetter, now: int) -> Fault | None:
        if letter.omitted:
            lost = f"{letter.omitted} bytes were too many for a letter: send the record again from where it came from"
            return Fault("value_omitted", lost)
        reading = read(_arrived(letter, now), now)
        if isinstance(reading, Refused):
            return Fault(reading.code, reading.message)
        if not isinstance(reading, Row):
            return Fault("unknown_topic", f"topic {letter.topic} holds nothing of a tenant's")
        return await self._conflict(reading) or await self._refusal(reading)

    async def _conflict(self, row: Row) -> Fault | None:
        if not isinstance(row.record, Event):
            return None
        event, body = row.record, event_body(row.record)
        held = self._bodies.setdefault(event.event_id, await self._stored_body(row) or body)
        if held == body:
            return None
        return Fault("id_conflict", f"event {event.event_id!r} is stored with another body")

    async def _stored_body(self, row: Row) -> bytes | None:
        bound = {"tenant": row.tenant, "event_id": cast(Event, row.record).event_id}
        found = await fetch_one(self._connection, "event_body", bound)
        return None if found is None else bytes(found["body"])

    async def _refusal(self, row: Row) -> Fault | None:
        table = BY_DATASET[row.dataset]
        if table.name not in self._twins:
            await self._connection.execute(_statement("make_twin", table))
            self._twins.add(table.name)
        try:
            async with (
                self._connection.transaction(force_rollback=True),
                self._connection.cursor() as cursor,
                cursor.copy(_statement("copy_into_twin", table)) as copy,
            ):
                await copy.write(stream([row.encoded]))
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate[:2] not in _DATA:
                raise
            return Fault("refused_by_database", f"SQLSTATE {error.sqlstate}: {error.diag.message_primary}")
        return None


def _arrived(letter: DeadLetter, now: int) -> Arrived:
    headers = tuple((header.name, header.value) for header in letter.headers)
    return Arrived(letter.topic, letter.partition, letter.offset, now, letter.key, letter.value, headers)


def _statement(name: str, table: Table) -> sql.Composed:
    return query(name).format(
        twin=sql.Identifier("pg_temp", f"trial_{table.name}"),
        table=sql.Identifier(table.name),
        columns=sql.SQL(", ").join(sql.Identifier(column) for column in table.columns),
    )
