"""The times of rows: of the event, of its receipt, of the broker's append. Pure.

In microseconds, one column a row: shape (3, rows). A record that tells of no receipt of its own has its append for one.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from schemas.columns import Ints
from schemas.records import Alert, Bar, Event, Stat, Tick, Trade
from sinks.rows import Row

Moments: TypeAlias = Ints


def moments_of(rows: Sequence[Row]) -> Moments:
    """Return the times of rows that were encoded one by one."""
    return np.array([of_row(row) for row in rows], np.int64).reshape(-1, 3).T


def of_row(row: Row) -> tuple[int, int, int]:
    """Return the times of one row."""
    appended = row.arrived.appended_at
    match row.record:
        case Tick() | Trade() as record:
            return record.exchange_time, record.received_time, appended
        case Event() as record:
            return record.time, record.received_time, appended
        case Bar() as record:
            return record.start, record.received_time, appended
        case Stat() | Alert() as record:
            return record.at, appended, appended
        case _:
            return appended, appended, appended
