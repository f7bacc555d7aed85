"""The statements of retention, over the room's named queries, as role ps_relay or a superuser."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from api.database import query
from api.relay_database import Connection, fetch_all, fetch_one
from api.retention.plan import TABLES, Chunk, Growth, Share, Table

BATCH: Final = 5_000
"""Rows that one transaction removes at most."""
LOCK: Final = 0x726574656E74  # "retent"
HOLD_WITHIN: Final = "2s"
"""How long a chunk's lock is waited for; whoever writes to it waits behind us for as long."""
LOOK_WITHIN: Final = "60s"
"""How long the last look at a chunk may take, while nobody can write to it."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk over a tenant's old rows by their key: where it is, how many rows it took away, and whether it goes on."""

    time: datetime | None
    key: str
    removed: int
    ended: bool


BEGIN: Final = Walk(None, "", 0, ended=False)


def tiers(connection: Connection) -> dict[str, str]:
    """Return every tenant's tier."""
    return {row["tenant"]: row["tier"] for row in fetch_all(connection, "retention_tiers")}


def has_chunks(connection: Connection) -> bool:
    """Say whether tables are hypertables."""
    return bool(fetch_one(connection, "retention_has_chunks")["found"])


def take_turn(connection: Connection) -> bool:
    """Become the one that removes, until the session ends; say whether another one is."""
    return bool(fetch_one(connection, "take_retention_lock", lock=LOCK)["taken"])


def end_turn(connection: Connection) -> None:
    """Let another one remove."""
    fetch_one(connection, "free_retention_lock", lock=LOCK)


def chunks(connection: Connection, table: Table, before: datetime) -> list[Chunk]:
    """Return the chunks that end before a time, oldest first."""
    rows = fetch_all(connection, "retention_chunks", table=table.name, before=before)
    return [Chunk(row["name"], row["first"], row["last"], row["octets"]) for row in rows]


def shares(connection: Connection, table: Table, chunk: Chunk) -> list[Share]:
    """Return what each tenant has in a chunk."""
    rows = _rows(connection, "retention_shares", table, first=chunk.first, last=chunk.last)
    return [Share(row["tenant"], row["rows"], row["newest"]) for row in rows]


def any_has_rows(connection: Connection, table: Table, chunk: Chunk, tenants: list[str]) -> bool:
    """Say whether any of these tenants has rows in a chunk."""
    [row] = _rows(connection, "retention_any", table, first=chunk.first, last=chunk.last, tenants=tenants)
    return bool(row["found"])


@contextmanager
def holding(connection: Connection, chunk: Chunk) -> Iterator[None]:
    """Let nobody write to a chunk within the block, which is one transaction."""
    with connection.transaction():
        connection.execute(query("retention_patience"), {"hold": HOLD_WITHIN, "look": LOOK_WITHIN})
        connection.execute(query("hold_chunk"), {"chunk": chunk.name})
        yield


def drop(connection: Connection, table: Table, chunk: Chunk) -> None:
    """Drop a chunk."""
    connection.execute(query("drop_chunk"), {"table": table.name, "first": chunk.first, "last": chunk.last})


def old_rows(connection: Connection, table: Table, tenant: str, cutoff: datetime) -> int:
    """Count a tenant's rows that are older than its cutoff."""
    [row] = _rows(connection, "retention_count", table, tenant=tenant, cutoff=cutoff)
    return int(row["rows"])


def remove_some(connection: Connection, table: Table, tenant: str, cutoff: datetime, walk: Walk) -> Walk:
    """Remove the old ones among the next BATCH rows of a walk; `removed` counts on."""
    bound = {"tenant": tenant, "cutoff": cutoff, "time": walk.time, "key": walk.key}
    found = _rows(connection, "retention_next", table, **bound, limit=BATCH)
    if not found:
        return Walk(walk.time, walk.key, walk.removed, ended=True)
    last = found[-1]
    bound |= {"last_time": last["time"], "last_key": last["key"]}
    removed = connection.execute(_named("retention_remove", table), bound, prepare=False).rowcount
    return Walk(last["time"], last["key"], walk.removed + removed, ended=bool(last["is_last"]))


def octets_a_row(connection: Connection, table: Table) -> float | None:
    """Return about how many bytes a row takes, its index entries included; None where the server does not know."""
    found = fetch_one(connection, "retention_row_size", table=table.name)["octets"]
    return None if found is None else float(found)


def count_hours(connection: Connection, tenant: str, cutoff: datetime) -> int:
    """Count a tenant's hours of trades, all of which are old."""
    return int(fetch_one(connection, "count_old_hours", tenant=tenant, cutoff=cutoff)["rows"])


def remove_hours(connection: Connection, tenant: str, cutoff: datetime) -> int:
    """Remove a bounded number of a tenant's hours of trades, all of which are old."""
    return connection.execute(query("remove_old_hours"), {"tenant": tenant, "cutoff": cutoff, "limit": BATCH}).rowcount


def count_ids(connection: Connection, before: datetime) -> dict[str, int]:
    """Count ids of events that were stored before a time, by tenant."""
    return {row["tenant"]: row["rows"] for row in fetch_all(connection, "count_old_event_ids", before=before)}


def remove_ids(connection: Connection, before: datetime) -> dict[str, int]:
    """Remove a bounded number of ids of events that were stored before a time; return how many, by tenant."""
    rows = fetch_all(connection, "remove_old_event_ids", before=before, limit=BATCH)
    return {row["tenant"]: row["rows"] for row in rows}


def growths(connection: Connection) -> list[Growth]:
    """Return how each hypertable's newest chunk has grown, if it is one that rows of now go to."""
    rows = fetch_all(connection, "chunk_growth", tables=[table.name for table in TABLES])
    return [Growth(row["table"], row["span"], row["octets"], row["elapsed"]) for row in rows]


def memory(connection: Connection) -> int:
    """Return the bytes of shared_buffers."""
    return int(fetch_one(connection, "shared_buffers")["octets"])


def set_span(connection: Connection, table: str, span: timedelta) -> None:
    """Let new chunks of a hypertable be so long."""
    connection.execute(query("set_chunk_span"), {"table": table, "span": span})


def _named(name: str, table: Table) -> sql.Composed:
    identifiers: Mapping[str, sql.Identifier] = {
        "table": sql.Identifier(table.name),
        "time": sql.Identifier(table.time),
        "key": sql.Identifier(table.key),
    }
    return query(name).format(**identifiers)


def _rows(connection: Connection, name: str, table: Table, **parameters: Any) -> list[DictRow]:
    """Run a query on a table. Not prepared: with its times known, the planner leaves out the chunks beyond them."""
    return connection.execute(_named(name, table), parameters, prepare=False).fetchall()


def is_held(error: psycopg.Error) -> bool:
    """Say whether a statement failed because somebody is at work on the table.

    Dropping a chunk asks for more of the table than holding it: where a writer has come in between and waits for the
    chunk, the server ends one of the two by a deadlock. A sink that it ends stores its batch again.
    """
    held = psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled | psycopg.errors.DeadlockDetected
    return isinstance(error, held)
