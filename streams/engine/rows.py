"""Rows of panes as columns that grow at their end.

Successive states of a key share one `Rows`: what lies before a state's end never changes, what lies behind it belongs
to whoever folds on. So a state holds two positions, and going back to an earlier one copies nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np

from streams.engine.inputs import UNKNOWN_TIME, Floats, Ints
from streams.engine.panes import FLOATS, Pane, row_of

SUMS: Final = 7
"""How many of FLOATS, from the front, are sums."""
COUNT, VOLUME, QUOTE_VOLUME, BUY_VOLUME, QUOTES, SPREAD, SPREAD_BPS, OPEN, HIGH, LOW, CLOSE, MEAN, M2 = range(
    len(FLOATS)
)
INTS: Final = ("second", "offset", "appended_at", "as_of", "quote_seen", "quote_at")
"""`as_of`, `quote_seen` and `quote_at` run on from row to row: the greatest offset and the last quote so far."""
SECOND, OFFSET, APPENDED_AT, AS_OF, QUOTE_SEEN, QUOTE_AT = range(len(INTS))
BLOCK: Final = 16
"""Rows are forgotten, and stored, in blocks of that many steps."""
_FIRST_CAPACITY: Final = 16


class Rows:
    """Columns with room for more rows: `floats` and `ints`, one line a column."""

    __slots__ = ("floats", "ints", "stored", "tail")

    def __init__(self, capacity: int = _FIRST_CAPACITY) -> None:
        self.floats: Floats = np.zeros((len(FLOATS), capacity))
        self.ints: Ints = np.zeros((len(INTS), capacity), np.int64)
        #: The panes that are written behind what is shared, so that they need not be written again.
        self.tail: Sequence[Pane] = ()
        #: How a checkpoint wrote panes behind what is shared, by second, so that they need not be encoded again.
        self.stored: dict[int, tuple[Pane, msgspec.Raw]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Some rows that do not change any more: those from `start` to before `stop`."""

    rows: Rows
    start: int = 0
    stop: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Span)
            and np.array_equal(self.ints, other.ints)
            and np.array_equal(self.floats, other.floats)
        )

    __hash__ = None  # type: ignore[assignment] # as of any list

    @property
    def floats(self) -> Floats:
        """The rows' floats."""
        return self.rows.floats[:, self.start : self.stop]

    @property
    def ints(self) -> Ints:
        """The rows' integers."""
        return self.rows.ints[:, self.start : self.stop]


class Moments(NamedTuple):
    """The mean of prices less the first, and the sum of squared deviations from the mean."""

    mean: float
    m2: float


class Extent:
    """A span that is written on: rows from `start` to before `stop` are settled, those up to `end` are not.

    `step` is the length of a row's pane, seconds.
    """

    __slots__ = ("end", "rows", "start", "step", "stop")

    def __init__(self, span: Span, step: int) -> None:
        self.rows, self.start, self.stop = span.rows, span.start, span.stop
        self.end = span.stop
        self.step = step

    def span(self) -> Span:
        """Return what is settled."""
        return Span(self.rows, self.start, self.stop)

    def find(self, second: int, end: int | None = None) -> int:
        """Return the position of the first row, of those before `end`, that begins at or after a second."""
        column = self.rows.ints[SECOND, self.start : self.end if end is None else end]
        return self.start + int(column.searchsorted(second))

    def second(self, position: int) -> int:
        """Return where a row begins."""
        return int(self.rows.ints[SECOND, position])

    def load(self, panes: Sequence[Pane]) -> None:
        """Have these panes behind what is settled."""
        if self.rows.tail is panes:
            self.end = self.stop + len(panes)
        else:
            self.replace(0, panes)

    def replace(self, index: int, panes: Sequence[Pane]) -> None:
        """Have these panes from the `index`-th row behind what is settled on."""
        self.end = self.stop + index
        self.rows.tail = ()
        for pane in panes:
            as_of, seen, quoted = self._running()
            if pane.quote_seen and pane.quote_seen >= seen:
                seen, quoted = pane.quote_seen, pane.quote_at
            self._add(row_of(pane), (pane.second, pane.offset, pane.appended_at, max(as_of, pane.offset), seen, quoted))

    def add_aggregate(self, second: int, panes: "Extent", start: int, end: int) -> None:
        """Add what rows of shorter panes amount to, as the row of the pane that begins at a second."""
        floats, ints = panes.rows.floats[:, start:end], panes.rows.ints[:, start:end]
        last = int(ints[OFFSET].argmax())
        moments = panes.moments(start, end)
        self._add(
            (
                *floats[:SUMS].sum(axis=1).tolist(),
                floats[OPEN, 0],
                floats[HIGH].max(),
                floats[LOW].min(),
                floats[CLOSE, -1],
                moments.mean,
                moments.m2,
            ),
            (second, ints[OFFSET, last], ints[APPENDED_AT, last], *ints[AS_OF:, -1].tolist()),
        )

    def moments(self, start: int, end: int) -> Moments:
        """Return the moments of the prices in rows, as deviations, so that nothing large cancels (Chan et al. 1979)."""
        floats = self.rows.floats[:, start:end]
        counts, opens = floats[COUNT], floats[OPEN]
        means = (opens - opens[0]) + floats[MEAN]
        count = float(np.add.reduce(counts))
        mean = float(np.add.reduce(counts * means)) / count
        deviations = means - mean
        return Moments(mean, float(np.add.reduce(counts * deviations * deviations + floats[M2])))

    def settle(self, count: int) -> None:
        """Count the next rows as settled."""
        self.stop += count

    def forget_before(self, second: int) -> None:
        """Drop whole blocks of rows before the last one that begins before a second."""
        last = max(self.find(second, self.stop) - 1, self.start)
        if last > self.start:
            length = BLOCK * self.step
            self.start = self.find(self.second(last) // length * length, self.stop)

    def _running(self) -> tuple[int, int, int]:
        if self.end == self.start:
            return -1, UNKNOWN_TIME, UNKNOWN_TIME
        as_of, seen, quoted = self.rows.ints[AS_OF:, self.end - 1].tolist()
        return as_of, seen, quoted

    def _add(self, floats: Sequence[float], ints: Sequence[int]) -> None:
        if self.end == self.rows.ints.shape[1]:
            self._grow()
        self.rows.floats[:, self.end] = floats
        self.rows.ints[:, self.end] = ints
        self.end += 1

    def _grow(self) -> None:
        """Move to columns of our own with room for as many rows again."""
        used = self.end - self.start
        rows = Rows(max(2 * used, _FIRST_CAPACITY))
        rows.floats[:, :used] = self.rows.floats[:, self.start : self.end]
        rows.ints[:, :used] = self.rows.ints[:, self.start : self.end]
        self.rows, self.start, self.stop, self.end = rows, 0, self.stop - self.start, used
