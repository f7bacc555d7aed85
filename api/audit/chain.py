"""The chain of a tenant's audit: each row's hash covers its entry and the hash of the row before. Pure.

`append_audit` in the database makes the rows; here they are checked, by a fold from the first row to the head. It
names the first row that is not what was appended. Who can write both tables, and computes every hash from a change on
anew, makes another chain: only a hash that was kept elsewhere tells the two apart.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from pulsestream.core.clock import format_rfc3339, to_micros

GENESIS: Final = bytes(32)
"""What stands before the first row."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is stored: `entry` is what is hashed, the columns before it are members of it."""

    tenant: str
    seq: int
    at: datetime
    action: str
    actor: str | None
    target: str
    entry: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """How far a chain is: the last row's number (0: none), and its hash."""

    seq: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends, as it is kept beside the rows, and the greatest number that a row has (0: there is none)."""

    place: Place
    last: int


class BrokenChainError(Exception):
    """Row `seq` is not the one that was appended; `reason` says how that shows."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"row {seq}: {reason}")
        self.seq = seq
        self.reason = reason


def sealed(before: bytes, entry: str) -> bytes:
    """Return the hash of a row with this entry behind a row with the hash `before`."""
    return hashlib.sha256(before + entry.encode()).digest()


def verified(tenant: str, place: Place, rows: Iterable[Row]) -> Place:
    """Return how far the chain is behind these rows, which follow `place`; raises BrokenChainError."""
    for row in rows:
        place = _after(tenant, place, row)
    return place


def held_against(kept: Mapping[int, str], rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows; raises BrokenChainError behind one whose hash is not the one that was kept (in hexadecimal)."""
    for row in rows:
        yield row
        if kept.get(row.seq, row.hash.hex()) != row.hash.hex():
            raise BrokenChainError(row.seq, f"its hash was {kept[row.seq]} when it was kept: the chain was made anew")


def verify_end(place: Place, head: Head) -> None:
    """Check that a chain whose rows were verified up to `place` ends there; raises BrokenChainError."""
    if head.last > head.place.seq:
        raise BrokenChainError(
            head.place.seq + 1, f"it lies behind the end of the chain, which is row {head.place.seq}"
        )
    if place.seq < head.place.seq:
        raise BrokenChainError(place.seq + 1, f"it is missing: the chain ends with row {head.place.seq}")
    if place != head.place:
        raise BrokenChainError(place.seq, "its hash is not the one at which the chain ends")


def _after(tenant: str, place: Place, row: Row) -> Place:
    expected = place.seq + 1
    if row.seq != expected:
        raise BrokenChainError(expected, f"row {row.seq} stands in its place: rows were removed, added or moved")
    if row.hash != sealed(place.hash, row.entry):
        raise BrokenChainError(expected, "its hash is not that of its entry behind the row before")
    for name, told, held in _columns(tenant, row):
        if told != held:
            raise BrokenChainError(expected, f"its column {name} is {held!r}, and its entry says {told!r}")
    return Place(row.seq, row.hash)


def _columns(tenant: str, row: Row) -> Iterable[tuple[str, Any, Any]]:
    """Return name, value in the entry and value in the column, for each column that repeats a member of the entry."""
    entry = _members(row)
    yield "tenant", entry.get("tenant"), row.tenant
    yield "tenant", row.tenant, tenant
    yield "seq", entry.get("seq"), row.seq
    yield "at", entry.get("at"), format_rfc3339(to_micros(row.at))
    yield "action", entry.get("action"), row.action
    yield "target", entry.get("target"), row.target
    actor = entry.get("actor")
    yield "actor", actor.get("id") if isinstance(actor, dict) else None, row.actor


def _members(row: Row) -> dict[str, Any]:
    try:
        return msgspec.json.decode(row.entry, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BrokenChainError(row.seq, f"its entry is not a JSON object: {error}") from error
