"""The tables that records go to, with columns derived from the records' Avro schemas. Pure.

A row starts with the tenant and ends with the broker's append time; between them stand the record's own fields, in
the schema's order. A test holds every table here equal to the one that the migrations make.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from schemas import registry
from schemas.codec import NAMES, codec
from schemas.records import Alert, AsOf, Bar, DeadLetter, Event, Feed, Record, Stat, Tick, Trade, dead_letter_id
from sinks.copy_binary import Kind, Pack, packers

Columns = Mapping[str, Kind]
Values = tuple[object, ...]

_KINDS: Final[dict[str, Kind]] = {
    "string": "text",
    "double": "double precision",
    "long": "bigint",
    "int": "integer",
    "boolean": "boolean",
    "timestamp-micros": "timestamptz",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, the columns of a row in order with their kinds, its key, and how a record becomes values."""

    name: str
    columns: Columns
    key: tuple[str, ...]
    packers: tuple[Pack, ...]
    values: Callable[[Any], Values]  # the record type differs by table


def _fields(record_type: type[Record], overrides: Mapping[str, Columns]) -> dict[str, Kind]:
    columns: dict[str, Kind] = {}
    for field in cast(list[dict[str, Any]], registry.current(NAMES[record_type]).json["fields"]):
        name = field["name"]
        columns |= overrides[name] if name in overrides else {name: _kind(field["type"])}
    return columns


def _kind(avro: Any) -> Kind:  # parsed JSON
    if isinstance(avro, list):
        return _kind(next(branch for branch in avro if branch != "null"))
    return _KINDS[avro["logicalType"] if isinstance(avro, dict) else avro]


def _tenant_table(
    name: str,
    record_type: type[Record],
    key: tuple[str, ...],
    overrides: Mapping[str, Columns] = {},
    values: Callable[[Any], Values] = msgspec.structs.astuple,
) -> Table:
    columns: dict[str, Kind] = {"tenant": "text", **_fields(record_type, overrides), "appended_at": "timestamptz"}
    return Table(name, columns, ("tenant", *key), packers(columns.values()), values)


_AS_OF: Final[Columns] = {"as_of_topic": "text", "as_of_partition": "integer", "as_of_offset": "bigint"}


def _stat_values(stat: Stat) -> Values:
    *fields, as_of, revision, volatility, low, high = msgspec.structs.astuple(stat)
    return (*fields, *_as_of_values(as_of), revision, volatility, low, high)


def _bar_values(bar: Bar) -> Values:
    *fields, as_of, origin, received_time = msgspec.structs.astuple(bar)
    return (*fields, *_as_of_values(as_of), origin, received_time)


def _as_of_values(as_of: AsOf | None) -> Values:
    return (None, None, None) if as_of is None else (as_of.topic_id, as_of.partition, as_of.offset)


_FEED_COLUMNS: Final[Columns] = {
    "key": "text",
    "exchange": "text",
    "product": "text",
    "state": "text",
    "at": "timestamptz",
    "gap_kind": "text",
    "gap_from_id": "bigint",
    "gap_to_id": "bigint",
    "gap_opened": "timestamptz",
    "gap_closed": "timestamptz",
    "gap_cause": "text",
    "last_trade_id": "bigint",
    "version": "bigint",
    "gap_missing": "bigint",
    "complete_until": "timestamptz",
    "appended_at": "timestamptz",
}


def _feed_values(feed: Feed) -> Values:
    *gap, missing = msgspec.structs.astuple(feed.gap) if feed.gap is not None else (None,) * 7
    named = (feed.exchange, feed.product, feed.state, feed.at)
    return (*named, *gap, feed.last_trade_id, feed.version, missing, feed.complete_until)


_LETTER_COLUMNS: Final[Columns] = {
    "tenant": "text",
    "id": "text",
    "reason": "text",
    "message": "text",
    "topic": "text",
    "partition": "integer",
    "offset": "bigint",
    "key": "bytea",
    "size": "bigint",
    "first_seen": "timestamptz",
    "replay_of": "text",
    "replays": "integer",
    "letter": "bytea",
    "appended_at": "timestamptz",
}
"""What letters are searched by, and the letter itself: names of headers and keys may be no text of the database's."""


def _letter_values(letter: DeadLetter) -> Values:
    place = (letter.topic, letter.partition, letter.offset, letter.key)
    size = letter.omitted or (None if letter.value is None else len(letter.value))
    replay = (letter.first_seen, letter.replay_of, letter.replays)
    message = letter.message.replace("\x00", "\\x00")
    whole = codec(DeadLetter).encode(letter)
    return (dead_letter_id(letter), letter.reason, message, *place, size, *replay, whole)


TICKS: Final = _tenant_table("ticks", Tick, ("exchange_time", "event_id"))
TRADES: Final = _tenant_table("trades", Trade, ("exchange_time", "event_id"))
EVENTS: Final = _tenant_table("events", Event, ("time", "event_id"), {"data": {"data": "jsonb"}})
STATS: Final = _tenant_table("stats", Stat, ("at", "event_id"), {"as_of": _AS_OF}, _stat_values)
BARS: Final = _tenant_table("bars", Bar, ("start", "event_id"), {"as_of": _AS_OF}, _bar_values)
ALERTS: Final = _tenant_table(
    "alerts",
    Alert,
    ("at", "alert_id"),
    {"labels": {"labels": "jsonb"}, "last_prices": {"last_prices": "jsonb"}},
)
DEAD_LETTERS: Final = Table(
    "dead_letters", _LETTER_COLUMNS, ("tenant", "id"), packers(_LETTER_COLUMNS.values()), _letter_values
)
FEEDS: Final = Table("feeds", _FEED_COLUMNS, ("key",), packers(_FEED_COLUMNS.values()), _feed_values)

BY_DATASET: Final = {
    "ticks": TICKS,
    "own-ticks": TICKS,
    "trades": TRADES,
    "events": EVENTS,
    "stats": STATS,
    "bars": BARS,
    "alerts": ALERTS,
    "dlq": DEAD_LETTERS,
}
"""Where the records of a tenant's dataset go; a tenant's own ticks are ticks."""
