"""Records as the engine takes them: rows one by one, or columns of many; both say the same.

A batch is decoded into one `Table`, sorted by key and in offset order within each. Small batches, and keys of which
some record has no number of its own, come as rows.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.records import Tick, Trade

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

_DIGEST_BYTES: Final = 16
UNKNOWN_TIME: Final = 0
"""Of a quote that is not there."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One record of a key. Times are micros; None means that the exchange did not say.

    `identity` is a tick's sequence or a trade's id; of a record without one, 16 bytes of a digest of its event_id.
    `quote_time` is when bid and ask were observed: exchange_time where the record says nothing else.
    """

    offset: int
    appended_at: int
    time: int
    price: float
    size: float | None
    buy: bool
    identity: int | bytes
    bid: float | None
    ask: float | None
    quote_time: int


def row_of(record: Tick | Trade, offset: int, appended_at: int) -> Row:
    """Return a record at an offset as a row; `appended_at` in micros."""
    time = record.exchange_time
    buy = record.side == "buy"
    if isinstance(record, Trade):
        price, size = record.price, record.size
        return Row(offset, appended_at, time, price, size, buy, record.trade_id, None, None, time)
    identity = digest(record.event_id) if record.sequence is None else record.sequence
    quote_time = time if record.quote_time is None else record.quote_time
    bid, ask = record.best_bid, record.best_ask
    return Row(offset, appended_at, time, record.price, record.size, buy, identity, bid, ask, quote_time)


def digest(event_id: str) -> bytes:
    """Return what identifies a record without a number of its own."""
    return hashlib.blake2b(event_id.encode(), digest_size=_DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Records as columns of one length. Unknown numbers are NaN; a quote counts where bid and ask are known."""

    offset: Ints
    appended_at: Ints
    time: Ints
    price: Floats
    size: Floats
    buy: Bools
    identity: Ints
    bid: Floats
    ask: Floats
    quote_time: Ints

    def __len__(self) -> int:
        return len(self.offset)

    def part(self, start: int, stop: int) -> "Columns":
        """Return the records from `start` to before `stop`, sharing memory."""
        return Columns(
            self.offset[start:stop],
            self.appended_at[start:stop],
            self.time[start:stop],
            self.price[start:stop],
            self.size[start:stop],
            self.buy[start:stop],
            self.identity[start:stop],
            self.bid[start:stop],
            self.ask[start:stop],
            self.quote_time[start:stop],
        )

    def rows(self) -> list[Row]:
        """Return the same records as rows."""
        return list(self._rows())

    def _rows(self) -> Iterator[Row]:
        columns = (
            self.offset, self.appended_at, self.time, self.price, self.size,
            self.buy, self.identity, self.bid, self.ask, self.quote_time,
        )  # fmt: skip
        for offset, appended_at, time, price, size, buy, identity, bid, ask, quote_time in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield Row(
                offset, appended_at, time, price, _known(size), buy, identity, _known(bid), _known(ask), quote_time
            )


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The records of many keys: those of `keys[i]`, an (exchange, product), are bounds[i] to before bounds[i + 1]."""

    columns: Columns
    keys: list[tuple[str, str]]
    bounds: list[int]


def _known(number: float) -> float | None:
    return None if number != number else number  # noqa: PLR0124 (NaN alone differs from itself)
