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
from streams.engine.panes import ClosedPanes, Pane, Positioned, carried, entered, has_quote
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
    """Panes that may still be needed, and the statistics that may still be revised; immutable.

    `until`: panes that end at or before this second are closed. `emitted`: (at in seconds, index in LINES) to the
    revision last given.
    """

    closed: ClosedPanes = field(default_factory=ClosedPanes)
    open: Pane | None = None
    until: int = 0
    first_time: int = 0
    emitted: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def newest(self) -> Pane | None:
        """The last pane that holds records."""
        return self.open or (self.closed.panes[-1] if self.closed.panes else None)


def deadline(series: Series) -> int | None:
    """Return the event-clock time, micros, at which the next pane or window closes; None if nothing is open."""
    newest = series.newest
    ends = [at for index in range(len(LINES)) for at in _ends(newest, index) if at > series.until]
    return min(ends) * MICROS_PER_SECOND + CLOCK_SLACK if ends else None


class SeriesFold:
    """A series while records enter it; ends as the next series. Closed panes are copied before the first change."""

    def __init__(self, series: Series, exchange: str, product: str) -> None:
        self.stats: list[Stat] = []
        self._names = exchange, product
        self._closed = series.closed
        self._open = series.open
        self._until = series.until
        self._first_time = series.first_time
        self._emitted = dict(series.emitted)
        self._revised: set[tuple[int, int]] = set()
        self._shared = True

    def close(self, second: int) -> None:
        """Close panes and windows that end at or before `second`, and emit their statistics in order of time."""
        if second <= self._until:
            return
        newest = self._open or (self._closed.panes[-1] if self._closed.panes else None)
        ends = ((at, index) for index in range(len(LINES)) for at in _ends(newest, index))
        due = sorted([(at, index) for at, index in ends if self._until < at <= second])
        self._until = second
        if self._open is not None and self._open.second < second:
            self._own().append(self._open)
            self._open = None
        for at, index in due:
            self._emitted[at, index] = 0
            self._emit(at, index)

    def add(self, second: int, run: Sequence[Positioned]) -> None:
        """Enter records of one pane, in offset order."""
        earliest = min([item.tick.exchange_time for item in run])
        self._first_time = min(self._first_time, earliest) if self._first_time else earliest
        if second >= self._until:
            self._open = entered(self._open, self._closed.before(second), second, run)
            return
        self._own().enter(second, run)
        if self._open is not None:
            self._open = carried(self._open, run)
        self._revise(second, run)

    def finish(self, before: int, watermark: int) -> Series:
        """Emit the revisions, drop what no record can reach any more, and return the series.

        The watermark was `before` when the fold began: only where it passed a second, something is out of reach.
        """
        for at, index in sorted(self._revised):
            self._emit(at, index)
        reached = (watermark - GRACE) // MICROS_PER_SECOND
        emitted, closed = self._emitted, self._closed
        if reached > (before - GRACE) // MICROS_PER_SECOND:
            emitted = {line: revision for line, revision in emitted.items() if line[0] > reached}
            closed = closed.since(reached + 1 - LONGEST)
        return Series(closed, self._open, self._until, self._first_time, emitted)

    def _own(self) -> ClosedPanes:
        """Return the closed panes, to be changed."""
        if self._shared:
            self._closed, self._shared = self._closed.since(0), False
        return self._closed

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
        if at <= self._until and (at, index) not in self._emitted:
            self._emitted[at, index] = revision
            self._revised.add((at, index))

    def _holds(self, at: int, index: int) -> bool:
        """Tell whether the window of a line that ends at `at` holds records of its basis."""
        basis, window = LINES[index]
        end = bisect_left(self._closed.seconds, at)
        start = bisect_left(self._closed.seconds, at - window.seconds, 0, end)
        if basis == "ticks":
            return end > start
        panes = self._closed.panes
        before = panes[start - 1].totals.quotes if start else 0
        return panes[end - 1].totals.quotes > before

    def _emit(self, at: int, index: int) -> None:
        basis, window = LINES[index]
        history = History(*self._names, self._closed, self._first_time)
        make = price_stat if basis == "ticks" else quote_stat
        self.stats.append(make(history, window, at, self._emitted[at, index]))


def _first_of(basis: str, run: Sequence[Positioned]) -> int | None:
    """Return the index of the first record of a basis, or None."""
    if basis == "ticks":
        return 0
    return next((index for index, item in enumerate(run) if has_quote(item.tick)), None)


def _ends(newest: Pane | None, index: int) -> Iterator[int]:
    """Give the seconds at which the newest pane of a line's basis ends, and at which its window becomes empty."""
    basis, window = LINES[index]
    if newest is None:
        return
    if basis == "ticks":
        end = newest.second + 1
    elif newest.quote is not None:
        end = newest.quote.seen // MICROS_PER_SECOND + 1
    else:
        return
    yield end
    yield end + window.seconds
