"""Records of the past as evaluations take them: batches of each key in its order, in slices of bounded size.

Whoever reads records (recordings, bars, stored rows) gathers them here.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from schemas.records import Tick, Trade
from schemas.validate import MAX_TIME, OWN_PREFIX
from streams.engine.inputs import UNKNOWN_TIME, Columns, Floats, Row

Dataset: TypeAlias = Literal["ticks", "own-ticks", "trades"]

SLICE_RECORDS: Final = 16_384


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A source of a product: what has a state of its own in the engine."""

    dataset: Dataset
    exchange: str
    product: str


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """Of records that are bars: their opening, highest and lowest prices, as long as the records."""

    open: Floats
    high: Floats
    low: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records of one key, in its order. With `candles` each is a bar at its end less 1 us, its price the close."""

    key: Key
    records: Columns | list[Row]
    candles: Candles | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """What was read at once: at most one batch of each key. `at`: event time, micros, that slices are merged by."""

    at: int
    batches: list[Batch]


@dataclass(frozen=True, slots=True)
class Span:
    """The event times that are read: from begin to before end, micros."""

    begin: int = 0
    end: int = MAX_TIME

    def holds(self, time: int) -> bool:
        """Tell whether a record of this time is read."""
        return self.begin <= time < self.end


class Gathering:
    """Ticks and trades as they are read, by key; ends as batches."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[Key, list[Row]] = {}

    def add(self, record: Tick | Trade, offset: int, appended_at: int) -> None:
        """Take one record that passed the validator."""
        key, row = row_of(record, offset, appended_at)
        self._rows.setdefault(key, []).append(row)
        self.count += 1

    def put(self, key: Key, row: Row) -> None:
        """Take one record that is a row already."""
        self._rows.setdefault(key, []).append(row)
        self.count += 1

    def take(self) -> list[Batch]:
        """Return what was gathered, keys in order, and begin anew."""
        rows, self._rows, self.count = self._rows, {}, 0
        return [Batch(key, _columns(rows[key])) for key in sorted(rows)]


def row_of(record: Tick | Trade, offset: int, appended_at: int) -> tuple[Key, Row]:
    """Return a record as the engine takes it, and its key."""
    exchange, product, time = record.exchange, record.product, record.exchange_time
    if isinstance(record, Trade):
        row = Row(
            offset, appended_at, time, record.price, record.size, record.side == "buy", record.trade_id,
            None, None, UNKNOWN_TIME,
        )  # fmt: skip
        return Key("trades", exchange, product), row
    quoted = record.best_bid is not None and record.best_ask is not None
    row = Row(
        offset, appended_at, time, record.price, record.size, record.side == "buy",
        identity_of(record.sequence, record.event_id), record.best_bid, record.best_ask,
        (record.quote_time or time) if quoted else UNKNOWN_TIME,
    )  # fmt: skip
    return ticks_key(exchange, product), row


def ticks_key(exchange: str, product: str) -> Key:
    """Return the key of a product's ticks."""
    return Key("own-ticks" if exchange.startswith(OWN_PREFIX) else "ticks", exchange, product)


def _columns(rows: list[Row]) -> Columns | list[Row]:
    """Return rows as columns where every record has a number of its own."""
    if any(isinstance(row.identity, bytes) for row in rows):
        return rows
    return Columns(
        np.array([row.offset for row in rows], np.int64),
        np.array([row.appended_at for row in rows], np.int64),
        np.array([row.time for row in rows], np.int64),
        np.array([row.price for row in rows], np.float64),
        np.array([row.size for row in rows], np.float64),
        np.array([row.buy for row in rows], np.bool_),
        np.array([row.identity for row in rows], np.int64),
        np.array([row.bid for row in rows], np.float64),
        np.array([row.ask for row in rows], np.float64),
        np.array([row.quote_time for row in rows], np.int64),
    )


def identity_of(sequence: int | None, event_id: str) -> int | bytes:
    """Return what makes a tick the same as another of its key, as the engine knows it."""
    return sequence if sequence is not None else hashlib.blake2b(event_id.encode(), digest_size=16).digest()
