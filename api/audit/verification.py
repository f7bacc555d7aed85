"""The chains of all tenants, verified over the database, and held against hashes that were kept elsewhere.

A chain is read at one moment, in one transaction, and some thousand rows of it are in memory at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg.rows import DictRow

from api.audit.chain import GENESIS, BrokenChainError, Head, Place, Row, held_against, verified, verify_end
from api.database import query
from api.relay_database import Connection, execute, fetch_all, fetch_one

_AT_ONCE: Final = 2000

Kept = Mapping[int, str]
"""Hashes of a chain that were kept elsewhere, in hexadecimal, by the number of their row."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A chain that was read: its last row with its hash (hexadecimal), or the first bad row and how that shows."""

    tenant: str
    seq: int
    hash: str
    broken_at: int | None = None
    reason: str | None = None


def tenants(connection: Connection) -> list[str]:
    """Return the tenants that have a row, or a head."""
    return [row["tenant"] for row in fetch_all(connection, "list_audit_tenants")]


def check(connection: Connection, tenant: str, kept: Kept) -> Checked:
    """Verify a whole chain."""
    with connection.transaction():
        execute(connection, "begin_reading_audit")
        row = fetch_one(connection, "read_audit_head", tenant=tenant)
        head = Head(Place(row["seq"], row["hash"] or GENESIS), row["last"])
        try:
            reached = verified(tenant, Place(), held_against(kept, _rows(connection, tenant)))
            verify_end(reached, head)
            _verify_length(reached, kept)
        except BrokenChainError as fault:
            return Checked(tenant, head.place.seq, head.place.hash.hex(), fault.seq, fault.reason)
    return Checked(tenant, reached.seq, reached.hash.hex())


def _verify_length(reached: Place, kept: Kept) -> None:
    last = max(kept, default=0)
    if last > reached.seq:
        raise BrokenChainError(reached.seq + 1, f"it is missing: there was a row {last} when its hash was kept")


def _rows(connection: Connection, tenant: str) -> Iterator[Row]:
    with connection.cursor(name="audit") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(query("read_whole_audit_chain"), {"tenant": tenant})
        yield from map(_row, cursor)


def _row(row: DictRow) -> Row:
    return Row(**row)
