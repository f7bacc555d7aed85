"""What one database transaction does: rows by table, records refused, offsets moved. Pure.

`next_offset` is everywhere the offset of the first record not yet stored.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from schemas.records import AsOf, Bar, Event, Feed, Stat
from sinks.intake import take_in
from sinks.rows import Refused, Removed, Row, event_body
from sinks.taken import Taken

Partition = tuple[str, int]
"""A topic's name and the number of a partition."""
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Place:
    """A partition of one life of a topic: another id under the same name is another place."""

    topic: str
    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class Move:
    """A position that goes from `expected` to `next_offset`, or not at all."""

    place: Place
    expected: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Records from `from_offset` up to, not including, `to_offset` that left a topic before they could be read."""

    place: Place
    from_offset: int
    to_offset: int
    cause: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition's next record is."""

    place: Place
    next_offset: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction's work."""

    moves: tuple[Move, ...]
    rows: Mapping[str, Sequence[Row]]
    refused: tuple[Refused, ...] = ()
    removed: tuple[Removed, ...] = ()


def plan(taken: Sequence[Taken], positions: Mapping[Partition, Position], now: int) -> Batch:
    """Return the work for records as they were taken; every partition must have a position."""
    done = take_in(taken, now)
    return Batch(moves(taken, positions), done.rows, tuple(done.refused), tuple(done.removed))


def moves(taken: Iterable[Taken], positions: Mapping[Partition, Position]) -> tuple[Move, ...]:
    """Return how the positions move over these records, always in the same order so that two sinks never deadlock."""
    ends = {(records.topic, records.partition): records.next_offset for records in taken}
    found = [Move(positions[where].place, positions[where].next_offset, end) for where, end in ends.items()]
    return tuple(sorted(found, key=lambda move: (move.place.topic_id, move.place.partition)))


def newest_stats(rows: Sequence[Row]) -> list[Row]:
    """Return for each statistic the row with the greatest as_of; the others would be overwritten by it."""
    return _greatest(rows, _stat_key, lambda row: as_of_rank(cast(Stat, row.record).as_of))


def newest_bars(rows: Sequence[Row]) -> list[Row]:
    """Return for each bar the row with the greatest as_of (none: the least); of equal ones the one made last."""
    return _greatest(rows, _bar_key, _bar_rank)


def newest_feeds(rows: Sequence[Row]) -> list[Row]:
    """Return for each key of the feeds' ledger the row with the greatest version; of equal ones the last."""
    return _greatest(rows, _feed_key, lambda row: cast(Feed, row.record).version)


def surviving(rows: Sequence[Row], removed: Sequence[Removed]) -> tuple[list[Row], list[str]]:
    """Return the feed rows that no later null record removes, and the keys whose last record is null."""
    ends = {record.key: record.arrived.offset for record in removed}
    kept = [row for row in rows if row.arrived.offset > ends.get(_feed_key(row), -1)]
    again = {_feed_key(row) for row in kept}
    return kept, sorted(ends.keys() - again)


def as_of_rank(as_of: AsOf) -> tuple[bytes, int, int]:
    """Return what orders versions of a statistic, as the database does: the id by its bytes (collation C)."""
    return as_of.topic_id.encode(), as_of.partition, as_of.offset


EventKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Events:
    """A batch's events by identity: the first of each with its body's hash, and what came after it."""

    first: Mapping[EventKey, tuple[Row, bytes]]
    repeated: int
    conflicts: tuple[Refused, ...]


def distinct_events(rows: Sequence[Row]) -> Events:
    """Return the first event of each (tenant, event_id), the number that repeat it, and those that contradict it."""
    first: dict[EventKey, tuple[Row, bytes]] = {}
    repeated = 0
    conflicts = []
    for row in rows:
        body = event_body(cast(Event, row.record))
        held = first.setdefault(event_key(row), (row, body))
        if held[0] is row:
            continue
        if held[1] == body:
            repeated += 1
        else:
            conflicts.append(id_conflict(row))
    return Events(first, repeated, tuple(conflicts))


def event_key(row: Row) -> EventKey:
    """Return what identifies an event."""
    return row.tenant, cast(Event, row.record).event_id


def id_conflict(row: Row) -> Refused:
    """Return the refusal of an event whose id is already another event's."""
    return Refused(row.arrived, "id_conflict", f"event {event_key(row)[1]!r} is stored with another body")


def _greatest(rows: Sequence[Row], key: Callable[[Row], K], rank: Callable[[Row], object]) -> list[Row]:
    chosen: dict[K, Row] = {}
    for row in rows:
        held = chosen.get(key(row))
        if held is None or not rank(row) < rank(held):  # type: ignore[operator]  # ranks of one kind are comparable
            chosen[key(row)] = row
    return list(chosen.values())


def _stat_key(row: Row) -> tuple[str, int, str]:
    stat = cast(Stat, row.record)
    return row.tenant, stat.at, stat.event_id


def _bar_key(row: Row) -> tuple[str, int, str]:
    bar = cast(Bar, row.record)
    return row.tenant, bar.start, bar.event_id


def _bar_rank(row: Row) -> tuple[tuple[bytes, int, int], int]:
    bar = cast(Bar, row.record)
    return (b"", -1, -1) if bar.as_of is None else as_of_rank(bar.as_of), bar.received_time


def _feed_key(row: Row) -> str:
    return (row.arrived.key or b"").decode()
