"""A batch of records as rules over single records look at it: extremes first, then what changes something.

Rows are walked one by one; columns are searched for the next record that can change a rule. Both say the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streams.engine.conditions import NEITHER
from streams.engine.definitions import Crossing, Limit
from streams.engine.inputs import Columns, Floats, Row
from streams.engine.machine import Signal

Signals: TypeAlias = NDArray[np.uint8]
BPS: Final = 10_000


class Extremes(NamedTuple):
    """The least and the greatest of a batch's values; low > high where there is none."""

    low: float
    high: float


NOTHING: Final = Extremes(float("inf"), float("-inf"))


class Sighting(NamedTuple):
    """A value that alerts saw (a price, a spread): its event time, and when the broker appended it (micros)."""

    time: int
    value: float
    appended_at: int


def spread_of(row: Row) -> float | None:
    """Return a record's spread in basis points of the middle; None where a side is unknown."""
    if row.bid is None or row.ask is None:
        return None
    return (row.ask - row.bid) / ((row.ask + row.bid) / 2) * BPS


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Records as rows."""

    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def prices(self) -> Extremes:
        """The extremes of the prices."""
        prices = [row.price for row in self.rows]
        return Extremes(min(prices), max(prices))

    @cached_property
    def spreads(self) -> Extremes:
        """The extremes of the spreads."""
        spreads = [spread for row in self.rows if (spread := spread_of(row)) is not None]
        return Extremes(min(spreads), max(spreads)) if spreads else NOTHING

    @cached_property
    def appended(self) -> tuple[int, int]:
        """The earliest and the latest append time."""
        times = [row.appended_at for row in self.rows]
        return min(times), max(times)

    @property
    def first_time(self) -> int:
        """The event time of the first record."""
        return self.rows[0].time

    @property
    def last_time(self) -> int:
        """The event time of the last record."""
        return self.rows[-1].time

    @cached_property
    def longest_gap(self) -> int:
        """The longest time from one record to the next, micros; 0 where there is one record only."""
        return max((after.time - before.time for before, after in pairwise(self.rows)), default=0)

    def moments(self) -> Iterable[tuple[int, int]]:
        """Give the event time and append time of each record."""
        return ((row.time, row.appended_at) for row in self.rows)

    def seen_prices(self, count: int, stop: int) -> list[Sighting]:
        """Return the last `count` prices before index `stop`, oldest first."""
        return [Sighting(row.time, row.price, row.appended_at) for row in self.rows[max(stop - count, 0) : stop]]

    def seen_spread(self, stop: int) -> Sighting | None:
        """Return the last spread before index `stop`."""
        for row in reversed(self.rows[:stop]):
            if (spread := spread_of(row)) is not None:
                return Sighting(row.time, spread, row.appended_at)
        return None


@dataclass(frozen=True, eq=False)
class ColumnBatch:
    """Records as columns."""

    columns: Columns

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def prices(self) -> Extremes:
        """The extremes of the prices."""
        prices = self.columns.price
        return Extremes(float(prices.min()), float(prices.max()))

    @cached_property
    def spread_values(self) -> Floats:
        """The spread of each record; NaN where a side is unknown."""
        bid, ask = self.columns.bid, self.columns.ask
        spreads: Floats = (ask - bid) / ((ask + bid) / 2) * BPS
        return spreads

    @cached_property
    def spreads(self) -> Extremes:
        """The extremes of the spreads."""
        low, high = float(np.fmin.reduce(self.spread_values)), float(np.fmax.reduce(self.spread_values))
        return NOTHING if np.isnan(low) else Extremes(low, high)

    @cached_property
    def appended(self) -> tuple[int, int]:
        """The earliest and the latest append time."""
        times = self.columns.appended_at
        return int(times.min()), int(times.max())

    @property
    def first_time(self) -> int:
        """The event time of the first record."""
        return int(self.columns.time[0])

    @property
    def last_time(self) -> int:
        """The event time of the last record."""
        return int(self.columns.time[-1])

    @cached_property
    def longest_gap(self) -> int:
        """The longest time from one record to the next, micros; 0 where there is one record only."""
        return int(np.diff(self.columns.time).max()) if len(self) > 1 else 0

    def moments(self) -> Iterable[tuple[int, int]]:
        """Give the event time and append time of each record."""
        return zip(self.columns.time.tolist(), self.columns.appended_at.tolist(), strict=True)

    def seen_prices(self, count: int, stop: int) -> list[Sighting]:
        """Return the last `count` prices before index `stop`, oldest first."""
        part, columns = slice(max(stop - count, 0), stop), self.columns
        lists = (columns.time[part].tolist(), columns.price[part].tolist(), columns.appended_at[part].tolist())
        return [Sighting(*seen) for seen in zip(*lists, strict=True)]

    def seen_spread(self, stop: int) -> Sighting | None:
        """Return the last spread before index `stop`."""
        known = np.flatnonzero(~np.isnan(self.spread_values[:stop]))
        if not len(known):
            return None
        last = known[-1]
        columns = self.columns
        return Sighting(int(columns.time[last]), float(self.spread_values[last]), int(columns.appended_at[last]))

    def begin(self, appended_at: int) -> int:
        """Return the index of the first record appended at or after a time; len where there is none."""
        late = self.columns.appended_at >= appended_at
        index = int(late.argmax())
        return index if late[index] else len(self)

    def reached(self, time: int) -> int:
        """Return the index of the first record at or after an event time; len where there is none."""
        return int(self.columns.time.searchsorted(time))

    def search(self, compared: Limit | Crossing, values: Floats, side: int, effective_at: int, stop: int) -> "Search":
        """Return what the first `stop` values say to a rule that is for records appended from `effective_at` on."""
        values = values[:stop]
        if isinstance(compared, Limit):
            signals, after = _level_signals(compared, values), side
        else:
            eligible = self.columns.appended_at[:stop] >= effective_at
            signals, after = _cross_signals(compared, values, eligible, side)
        if self.appended[0] < effective_at:
            signals[self.columns.appended_at[:stop] < effective_at] = 0
        return Search(signals, after)


class Search:
    """What each record says to a rule (0: nothing), searched by index; `side` is the one after them all."""

    def __init__(self, signals: Signals, side: int) -> None:
        self.side = side
        self._signals = signals
        self._found: dict[int, NDArray[np.intp]] = {}

    def first(self, mask: int, start: int) -> int:
        """Return the index of the first record from `start` on with a signal in `mask`; beyond all if there is none."""
        found = self._found.get(mask)
        if found is None:
            found = self._found[mask] = np.flatnonzero(self._signals & mask)
        place = int(found.searchsorted(start))
        return int(found[place]) if place < len(found) else len(self._signals)

    def at(self, index: int) -> Signal:
        """Return what a record says."""
        return Signal(int(self._signals[index]))


def _level_signals(limit: Limit, values: Floats) -> Signals:
    """Return the signals of values; 0 for NaN."""
    true = values > limit.threshold if limit.above else values < limit.threshold
    clear = values <= limit.clear if limit.above else values >= limit.clear
    signals: Signals = np.where(true, Signal.TRUE, np.where(clear, Signal.CLEAR, Signal.BETWEEN)).astype(np.uint8)
    signals[np.isnan(values)] = 0
    return signals


def _cross_signals(crossing: Crossing, values: Floats, eligible: NDArray[np.bool_], side: int) -> tuple[Signals, int]:
    """Return the signals of prices, and the side of the last eligible one that lies on a side."""
    sides = np.sign(values - crossing.threshold).astype(np.int8)
    sided = np.flatnonzero(eligible & (sides != NEITHER))
    signals = np.full(len(values), Signal.CLEAR, np.uint8)
    if not len(sided):
        return signals, side
    now = sides[sided]
    before = np.concatenate((np.array([side], np.int8), now[:-1]))
    crossed = (before != NEITHER) & (now != before)
    if crossing.direction != "both":
        crossed &= now == (1 if crossing.direction == "up" else -1)
    signals[sided[crossed]] = Signal.TRUE
    return signals, int(now[-1])
