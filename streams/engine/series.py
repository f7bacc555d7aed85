"""The rolling statistics of one source of a key: panes, which are closed, and what was emitted about them.

A pane closes when a record's time, or the event clock less 2 s, passes its end. Each closed pane that holds records
gives one statistic a window; so does a window that became empty. A late record revises every statistic that was
emitted for a time after it. Nothing here depends on how records were batched, except that the revisions made by the
late records of one batch are emitted once, as the last of them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Stat
from streams.engine.panes import Pane, Positioned, add, has_quote
from streams.engine.statistics import WINDOWS, History, Window, price_stat, quote_stat

GRACE: Final = 10 * MICROS_PER_SECOND
"""How far behind the watermark a record may be and still revise statistics."""
CLOCK_SLACK: Final = 2 * MICROS_PER_SECOND
"""How far the event clock must be past a pane's end to close it."""
LONGEST: Final = max(window.seconds for window in WINDOWS)

Line = tuple[Literal["ticks", "quotes"], Window]
LINES: Final[tuple[Line, ...]] = (
    *(("ticks", window) for window in WINDOWS),
    *(("quotes", window) for window in WINDOWS),
)
"""What is emitted: each basis in each window."""


@dataclass(frozen=True, slots=True)
class Series:
    """Panes that may still be needed, ascending, and the statistics that may still be revised.

    `closed`: panes that end at or before this second are closed. `emitted`: (at in seconds, index in LINES) to the
    revision last given.
    """

    panes: tuple[Pane, ...] = ()
    seconds: tuple[int, ...] = ()
    first_time: int = 0
    closed: int = 0
    emitted: Mapping[tuple[int, int], int] = field(default_factory=dict)


def deadline(series: Series) -> int | None:
    """Return the event-clock time, micros, at which the next pane or window closes; None if nothing is open."""
    ends = [at for index in range(len(LINES)) for at in _ends(series.panes, index) if at > series.closed]
    return min(ends) * MICROS_PER_SECOND + CLOCK_SLACK if ends else None


class SeriesFold:
    """A series while records enter it: a copy, changed in place, that ends as the next series."""

    def __init__(self, series: Series, exchange: str, product: str) -> None:
        self.stats: list[Stat] = []
        self._names = exchange, product
        self._panes = list(series.panes)
        self._seconds = list(series.seconds)
        self._first_time = series.first_time
        self._closed = series.closed
        self._emitted = dict(series.emitted)
        self._revised: set[tuple[int, int]] = set()

    def close(self, second: int) -> None:
        """Close panes and windows that end at or before `second`, and emit their statistics in order of time."""
        if second <= self._closed:
            return
        due = [
            (at, index)
            for index in range(len(LINES))
            for at in _ends(self._panes, index)
            if self._closed < at <= second
        ]
        self._closed = second
        for at, index in sorted(due):
            self._emitted[at, index] = 0
            self._emit(at, index)

    def add(self, second: int, run: Sequence[Positioned]) -> None:
        """Enter records of one pane, in offset order."""
        earliest = min([item.tick.exchange_time for item in run])
        self._first_time = min(self._first_time, earliest) if self._first_time else earliest
        add(self._panes, self._seconds, second, run)
        if second < self._closed:
            self._revise(second, run)

    def finish(self, watermark: int) -> Series:
        """Emit the revisions, drop what no record can reach any more, and return the series."""
        for at, index in sorted(self._revised):
            self._emit(at, index)
        oldest = watermark - GRACE
        emitted = {line: revision for line, revision in self._emitted.items() if line[0] * MICROS_PER_SECOND > oldest}
        first = bisect_left(self._seconds, oldest // MICROS_PER_SECOND + 1 - LONGEST)
        keep = max(first - 1, 0)
        return Series(tuple(self._panes[keep:]), tuple(self._seconds[keep:]), self._first_time, self._closed, emitted)

    def _revise(self, second: int, run: Sequence[Positioned]) -> None:
        """Count a revision a record for all that was emitted for a time after it, and give what it newly asks for."""
        for line in [line for line in self._emitted if line[0] > second]:
            self._emitted[line] += len(run)
            self._revised.add(line)
        for index, (basis, window) in enumerate(LINES):
            first = _first_of(basis, run)
            if first is not None:
                later = len(run) - 1 - first
                self._ask(second + 1, index, later)
                if not self._holds(second + 1 + window.seconds, index):
                    self._ask(second + 1 + window.seconds, index, later)

    def _ask(self, at: int, index: int, revision: int) -> None:
        """Have a statistic emitted that was not, if its time is closed."""
        if at <= self._closed and (at, index) not in self._emitted:
            self._emitted[at, index] = revision
            self._revised.add((at, index))

    def _holds(self, at: int, index: int) -> bool:
        """Tell whether the window of a line that ends at `at` holds records of its basis."""
        basis, window = LINES[index]
        end = bisect_left(self._seconds, at)
        start = bisect_left(self._seconds, at - window.seconds, 0, end)
        if basis == "ticks":
            return end > start
        before = self._panes[start - 1].totals.quotes if start else 0
        return self._panes[end - 1].totals.quotes > before

    def _emit(self, at: int, index: int) -> None:
        basis, window = LINES[index]
        history = History(*self._names, self._panes, self._seconds, self._first_time)
        make = price_stat if basis == "ticks" else quote_stat
        self.stats.append(make(history, window, at, self._emitted[at, index]))


def _first_of(basis: str, run: Sequence[Positioned]) -> int | None:
    """Return the index of the first record of a basis, or None."""
    if basis == "ticks":
        return 0
    return next((index for index, item in enumerate(run) if has_quote(item.tick)), None)


def _ends(panes: Sequence[Pane], index: int) -> Iterator[int]:
    """Give the seconds at which the newest pane of a line's basis ends, and at which its window becomes empty."""
    basis, window = LINES[index]
    if not panes:
        return
    newest = panes[-1]
    if basis == "ticks":
        end = newest.second + 1
    elif newest.quote is not None:
        end = newest.quote.seen // MICROS_PER_SECOND + 1
    else:
        return
    yield end
    yield end + window.seconds
