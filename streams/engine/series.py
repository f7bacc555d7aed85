"""The rolling statistics and bars of one source of a product: panes, which are closed, and what was emitted about them.

A pane closes when a record's time, or the event clock less 2 s, passes its end. Each closed pane that holds records
gives one statistic a window; so does a window that became empty; a bar follows the end of its period. A late record
revises what was emitted about its time. Nothing here depends on how records were batched, except that the revisions
made by the late records of one batch are emitted once, as the last of them.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Bar, Stat
from streams.engine.forecast import HISTORY_SECONDS, HORIZONS, Outlook, forecast
from streams.engine.inputs import UNKNOWN_TIME
from streams.engine.lines import LONGEST, MINUTE_PANES, SECOND_PANES, Line, ends
from streams.engine.measures import LOOKBACK_MINUTES, LOOKBACK_SECONDS
from streams.engine.panes import Pane, merged
from streams.engine.rows import CLOSE, COUNT, OPEN, QUOTES, SECOND, Extent, Rows, Span
from streams.engine.statistics import Subject, View, bar_of, price_stat, quote_stat
from streams.engine.sweep import Stretch
from streams.engine.view import PaneRows

GRACE: Final = 10 * MICROS_PER_SECOND
"""How far behind the watermark a record may be and still revise statistics."""
CLOCK_SLACK: Final = 2 * MICROS_PER_SECOND
"""How far the event clock must be past a pane's end to close it."""

MINUTE: Final = MINUTE_PANES * MICROS_PER_SECOND

Due = tuple[int, int]
"""When an emission is due (seconds), and the index of its line."""


def _no_rows() -> Span:
    return Span(Rows())


@dataclass(frozen=True, slots=True)
class Series:
    """What may still be needed of a source's panes, and what may still be revised; immutable.

    `seconds` and `minutes` hold panes that no record can change any more, `tail` those that one can, the newest last.
    `until`: panes that end at or before this second are closed. `condensed`: panes before this second are in `minutes`.
    `first_time`, `quote_seen`: times of the first record and of the last quote, micros. `emitted`: what was given, by
    when it was due and its line's label, with its revision.
    """

    seconds: Span = field(default_factory=_no_rows)
    minutes: Span = field(default_factory=_no_rows)
    tail: tuple[Pane, ...] = ()
    until: int = 0
    condensed: int = 0
    first_time: int = 0
    quote_seen: int = UNKNOWN_TIME
    emitted: Mapping[tuple[int, str], int] = field(default_factory=dict)

    @property
    def newest(self) -> int | None:
        """The second of the last pane that holds records."""
        if self.tail:
            return self.tail[-1].second
        return int(self.seconds.ints[SECOND, -1]) if len(self.seconds) else None


def deadline(series: Series, lines: Sequence[Line]) -> int | None:
    """Return the event-clock time, micros, at which the next pane, window or period closes; None if none is open."""
    open_ends = [at for at, _ in ends(lines, series.newest, _second_of(series.quote_seen)) if at > series.until]
    return min(open_ends) * MICROS_PER_SECOND + CLOCK_SLACK if open_ends else None


class SeriesFold:
    """A series while records enter it; ends as the next series."""

    def __init__(self, series: Series, subject: Subject, lines: tuple[Line, ...]) -> None:
        self.stats: list[Stat] = []
        self.bars: list[Bar] = []
        self._subject = subject
        self._lines = lines
        self._seconds = Extent(series.seconds, SECOND_PANES)
        self._minutes = Extent(series.minutes, MINUTE_PANES)
        self._tail = list(series.tail)
        self._seconds.load(series.tail)
        self._until = series.until
        self._condensed = series.condensed
        self._emitted = dict(series.emitted)
        self._revised: set[Due] = set()
        self.first_time = series.first_time
        self._quote_seen = series.quote_seen
        self._newest = series.newest

    @property
    def until(self) -> int:
        """The second up to which panes are closed."""
        return self._until

    # ---- records ----

    def close(self, second: int) -> None:
        """Close panes, windows and periods that end at or before `second`, and emit about them in order of time."""
        if second <= self._until:
            return
        asked = ends(self._lines, self._newest, _second_of(self._quote_seen))
        due = sorted(pair for pair in asked if self._until < pair[0] <= second)
        self._until = second
        for at, index in due:
            self._emitted[at, self._lines[index].label] = 0
        self._emit(due)

    def add(self, pane: Pane, since_quote: int) -> None:
        """Enter records of one second, in offset order after all that were entered before.

        `since_quote`: how many they are from the first one with a quote on; asked where their pane is closed.
        """
        self.first_time = min(self.first_time, pane.open_time) if self.first_time else pane.open_time
        self._quote_seen = max(self._quote_seen, pane.quote_seen)
        seconds = [held.second for held in self._tail]
        index = bisect_left(seconds, pane.second)
        held = self._tail[index] if index < len(seconds) and seconds[index] == pane.second else None
        self._tail[index : index + (held is not None)] = [merged(held, pane)]
        self._seconds.replace(index, self._tail[index:])
        self._newest = max(self._newest or 0, pane.second)
        if pane.second < self._until:
            self._revise(pane, since_quote)

    def settle(self, watermark: int) -> None:
        """Let go of what no record can reach any more, as the watermark (micros) says."""
        reached = (watermark - GRACE) // MICROS_PER_SECOND
        self._emit(sorted(self._revised))
        self._revised.clear()
        settled = bisect_left([pane.second for pane in self._tail], reached)
        self._seconds.settle(settled)
        del self._tail[:settled]
        self.condense(reached // MINUTE_PANES * MINUTE_PANES)
        self._seconds.forget_before(reached - LOOKBACK_SECONDS)
        self._minutes.forget_before(reached - LOOKBACK_MINUTES)
        self._emitted = {due: revision for due, revision in self._emitted.items() if due[0] > reached}

    def finish(self, before: int, watermark: int) -> Series:
        """Emit the revisions and return the series.

        The watermark was `before` when the fold began: only where it passed a second, something is out of reach.
        """
        if (watermark - GRACE) // MICROS_PER_SECOND > (before - GRACE) // MICROS_PER_SECOND:
            self.settle(watermark)
        else:
            self._emit(sorted(self._revised))
        tail = tuple(self._tail)
        self._seconds.rows.tail = tail
        return Series(
            self._seconds.span(),
            self._minutes.span(),
            tail,
            self._until,
            self._condensed,
            self.first_time,
            self._quote_seen,
            self._emitted,
        )

    def _revise(self, pane: Pane, since_quote: int) -> None:
        """Count a revision a record for all that was emitted about its time, and give what it newly asks for."""
        count = pane.totals.count
        for index, line in enumerate(self._lines):
            closes = line.closes(pane.second)
            for at in [at for at, label in self._emitted if label == line.label and at > pane.second]:
                if line.kind != "bar" or at == closes:
                    self._emitted[at, line.label] += count
                    self._revised.add((at, index))
            asking = since_quote if line.kind == "quotes" else count
            if asking:
                self._ask(closes, index, asking - 1)
                if line.kind != "bar" and not self._holds(closes + line.seconds, line):
                    self._ask(closes + line.seconds, index, asking - 1)

    def _ask(self, at: int, index: int, revision: int) -> None:
        """Have something emitted that was not, if its time is closed."""
        name = at, self._lines[index].label
        if at <= self._until and name not in self._emitted:
            self._emitted[name] = revision
            self._revised.add((at, index))

    def _holds(self, at: int, line: Line) -> bool:
        """Tell whether the window of a line that ends at `at` holds records of its kind."""
        extent = self._seconds
        if line.pane == MINUTE_PANES:
            extent = self._all_minutes(at)
        end = extent.find(at)
        start = extent.find(at - line.seconds, end)
        column = COUNT if line.kind == "prices" else QUOTES
        return bool(extent.rows.floats[column, start:end].any())

    # ---- minutes ----

    def condense(self, until: int) -> None:
        """Make settled panes of a minute of all whole minutes before `until`."""
        if until <= self._condensed:
            return
        self._add_minutes(until)
        self._minutes.settle(self._minutes.end - self._minutes.stop)
        self._condensed = until

    def _add_minutes(self, until: int) -> None:
        self._minutes.end = self._minutes.stop
        start, end = self._seconds.find(self._condensed), self._seconds.find(until)
        seconds = self._seconds.rows.ints[SECOND, start:end].tolist()
        for minute, group in groupby(seconds, lambda second: second // MINUTE_PANES * MINUTE_PANES):
            stop = start + sum(1 for _ in group)
            self._minutes.add_aggregate(minute, self._seconds, start, stop)
            start = stop

    def _all_minutes(self, until: int) -> Extent:
        """Return the panes of a minute up to `until`, those included that records may still change."""
        self._add_minutes(until)
        return self._minutes

    # ---- emissions ----

    def _emit(self, due: Iterable[Due]) -> None:
        for at, group in groupby(due, lambda pair: pair[0]):
            lines = [self._lines[index] for _, index in group]
            forecasting = any(line.kind == "prices" and line.seconds in HORIZONS for line in lines)
            outlooks = self._outlooks(at) if forecasting else {}
            for line in lines:
                self._emit_line(line, at, outlooks.get(line.seconds))

    def _outlooks(self, at: int) -> Mapping[int, Outlook]:
        """Return what was to be expected at the last whole minute, by seconds ahead; nothing if a pane closed since."""
        minute = at // MINUTE_PANES * MINUTE_PANES
        if self._seconds.find(minute - 1) < self._seconds.find(at - 1):
            return {}
        extent = self._all_minutes(minute)
        start, end = extent.find(minute - HISTORY_SECONDS), extent.find(minute)
        made = forecast(extent.rows.ints[SECOND, start:end], extent.rows.floats[CLOSE, start:end], minute)
        return {outlook.seconds: outlook for outlook in made.outlooks} if made else {}

    def _emit_line(self, line: Line, at: int, outlook: Outlook | None) -> None:
        extent = self._seconds if line.pane == SECOND_PANES else self._all_minutes(at)
        revision = self._emitted[at, line.label]
        if line.window is None:
            bar = bar_of(self._subject, extent, line, at, first_time=self.first_time, revision=revision)
            self.bars += [] if bar is None else [bar]
            return
        view = View.of(self._subject, extent, line.window, at, self.first_time)
        prices = line.kind == "prices"
        self.stats.append(price_stat(view, revision, outlook) if prices else quote_stat(view, revision))

    # ---- what conditions ask ----

    def rows(self, seconds: int, at: int) -> PaneRows:
        """Return the panes with at - seconds <= second < at (view.Panes)."""
        extent = self._extent_of(seconds, at)
        end = extent.find(at)
        start = extent.find(at - seconds, end)
        return _pane_rows(extent, start, end)

    def stretch(self) -> Stretch:
        """Return everything as columns, for a sweep over panes that are all closed."""
        return Stretch(_pane_rows(self._seconds), _pane_rows(self._minutes), self.first_time)

    def reference(self, second: int) -> float | None:
        """Return the last price before a second (view.Panes); of minutes, only those that end by then are asked."""
        for extent in (self._seconds, self._minutes):
            position = extent.find(second - extent.step + 1)
            if position > extent.start:
                return float(extent.rows.floats[CLOSE, position - 1])
        return None

    def instants(self, seconds: int, after: int, until: int) -> list[int]:
        """Return when panes close or leave a window, in (after, until] (view.Panes)."""
        extent = self._extent_of(seconds, until)
        column, step = extent.rows.ints[SECOND], extent.step
        found: set[int] = set()
        for delay in (step, step + seconds):
            start, end = extent.find(after - delay + 1), extent.find(until - delay + 1)
            found.update((column[start:end] + delay).tolist())
        return sorted(found)

    def _extent_of(self, seconds: int, at: int) -> Extent:
        return self._seconds if seconds <= LONGEST[SECOND_PANES] else self._all_minutes(at)


def _second_of(time: int) -> int | None:
    return time // MICROS_PER_SECOND if time else None


def _pane_rows(extent: Extent, start: int | None = None, end: int | None = None) -> PaneRows:
    """Return the rows from `start` to before `end` as conditions see them; without: all."""
    chosen = slice(extent.start if start is None else start, extent.end if end is None else end)
    floats = extent.rows.floats[:, chosen]
    return PaneRows(
        extent.rows.ints[SECOND, chosen], floats[COUNT], *floats[OPEN : OPEN + 4], *floats[COUNT + 1 : COUNT + 4]
    )
