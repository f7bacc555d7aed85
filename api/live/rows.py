"""Rows as the live view keeps them: under which key one replaces another, which of two is newer, and its JSON."""

from typing import NamedTuple

import msgspec

from schemas.records import Alert, Record, Stat, Tick
from schemas.render import to_json

Order = tuple[int | str, ...]
"""Of rows under one key, the greater is the newer."""


class Key(NamedTuple):
    """What a row is the newest of; only statistics have a window."""

    exchange: str
    product: str
    window: str | None = None


class Row(NamedTuple):
    """A tick or a statistic."""

    key: Key
    order: Order
    text: str


def tick_row(tick: Tick) -> Row:
    """Return a tick's row: a late one does not replace a newer price."""
    return Row(Key(tick.exchange, tick.product), (tick.exchange_time,), row_text(tick))


def stat_row(stat: Stat) -> Row:
    """Return a statistic's row: the latest end of a window counts, then the greatest source position (stat.avsc)."""
    as_of = stat.as_of
    order = stat.at, as_of.topic_id, as_of.partition, as_of.offset
    return Row(Key(stat.exchange, stat.product, stat.window), order, row_text(stat))


def alert_key(alert: Alert) -> Key:
    """Return what filters look at in an alert."""
    return Key(alert.exchange, alert.product)


def row_text(record: Record) -> str:
    """Return a record as the other routes show it."""
    return msgspec.json.encode(to_json(record)).decode()
