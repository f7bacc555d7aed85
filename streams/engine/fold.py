"""What happens to one source of a product: records and the event clock in, statistics, bars and alerts out.

Pure: a state and inputs give a new state and outputs, and nothing that a state shows is changed in place. Records are
folded in offset order; outputs do not depend on how records were batched. The shell groups records by key, chooses the
rules that apply (`rules.applies`), validates (`schemas.validate`), keeps the event clock, and sends what comes out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert, Bar, Stat
from streams.engine import alerts, series
from streams.engine.alerts import AlertBook, AlertFold
from streams.engine.cut import KeyBatch
from streams.engine.duplicates import Seen, SeenFold
from streams.engine.inputs import Columns, Row
from streams.engine.lines import MINUTE_PANES, Line, lines
from streams.engine.panes import Pane, pane_of
from streams.engine.rules import ActiveRule
from streams.engine.series import CLOCK_SLACK, GRACE, Series, SeriesFold
from streams.engine.statistics import Subject
from streams.engine.transitions import BASIS_CHANGED, UNSUBSCRIBED

NO_ALERTS: Final = AlertBook()
MICROS_PER_MILLI: Final = 1_000
TRADES: Final = "trades"


@dataclass(frozen=True, slots=True)
class KeyState:
    """Everything known about one source of a product; immutable. Times are microseconds.

    `prices`: price statistics, bars and rules over prices live here, not on the product's other source.
    """

    exchange: str
    product: str
    dataset: str
    topic_id: str
    partition: int
    prices: bool
    first_seq: int = 0
    """From which the numbers of a rule's alerts count up: above those that were given on another source."""
    watermark: int = 0
    """Largest exchange_time seen; 0 before the first record."""
    clock_mark: int = 0
    """Event time up to which the clock has decided about alerts; they ignore records older than it."""
    series: Series = field(default_factory=Series)
    seen: tuple[Seen, ...] = ()
    book: AlertBook = NO_ALERTS

    @property
    def basis(self) -> str:
        """What price statistics are made of here."""
        return TRADES if self.dataset == TRADES else "ticks"

    @property
    def lines(self) -> tuple[Line, ...]:
        """What is emitted."""
        return lines(prices=self.prices, quotes=self.dataset != TRADES)


@dataclass(frozen=True, slots=True)
class Folded:
    """The state that follows, and what to send. `counts` has: folded, duplicate, late, late_for_alerts."""

    state: KeyState
    stats: list[Stat]
    bars: list[Bar]
    alerts: list[Alert]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive records of one second, what they amount to, when the first was appended, and those alerts see."""

    pane: Pane
    records: Columns | Sequence[Row]
    appended_at: int
    visible: Columns | Sequence[Row]

    @property
    def since_quote(self) -> int:
        """How many records there are from the first one with a quote on."""
        records = self.records
        if isinstance(records, Columns):
            quoted = np.flatnonzero(~(np.isnan(records.bid) | np.isnan(records.ask)))
            return len(records) - int(quoted[0]) if len(quoted) else 0
        first = next((index for index, row in enumerate(records) if None not in {row.bid, row.ask}), len(records))
        return len(records) - first


def new_state(
    exchange: str, product: str, dataset: str = "ticks", *, topic_id: str = "", partition: int = 0, prices: bool = True
) -> KeyState:
    """Return the state of a source of which nothing was read yet; `topic_id` and `partition` are where it is read."""
    return KeyState(exchange, product, dataset, topic_id, partition, prices)


def fold(
    state: KeyState,
    records: KeyBatch | Sequence[Row],
    rules: Sequence[ActiveRule],
    emitted: tuple[Line, ...] | None = None,
) -> Folded:
    """Fold records of this key, in offset order. `rules` are those that apply to the key, ended versions included.

    A record appended at or after a version's ended_at retires that version, as `retire(state, rule, ended_at)` would.
    `emitted`: all that is to be emitted about the key, in its whole life, where that is not everything.
    """
    sorted_records = _sort(state, records)
    statistics = SeriesFold(state.series, _subject(state), state.lines if emitted is None else emitted)
    evaluation = _evaluation(state)
    over_windows = alerts.over_windows(rules)
    minute = state.watermark // series.MINUTE
    for run in sorted_records.runs:
        second = run.pane.second
        statistics.close(second)
        if over_windows:
            evaluation.windows(statistics, second, rules, run.appended_at)
        statistics.add(run.pane, run.since_quote if second < statistics.until else 0)
        if over_windows:
            evaluation.records(run.visible, rules)
        if run.pane.close_time // series.MINUTE > minute:
            minute = run.pane.close_time // series.MINUTE
            statistics.settle(run.pane.close_time)
    if not over_windows:
        for visible in sorted_records.visible:
            evaluation.records(visible, rules)
    after = KeyState(  # written out: `replace` takes several times as long, for each key of each batch
        state.exchange,
        state.product,
        state.dataset,
        state.topic_id,
        state.partition,
        state.prices,
        state.first_seq,
        sorted_records.watermark,
        state.clock_mark,
        statistics.finish(state.watermark, sorted_records.watermark),
        sorted_records.seen.finish(sorted_records.watermark),
        evaluation.finish() if rules else state.book,
    )
    return Folded(after, statistics.stats, statistics.bars, evaluation.alerts, sorted_records.counts)


def may_alert(state: KeyState, records: KeyBatch | Sequence[Row], rules: Sequence[ActiveRule]) -> bool:
    """Tell whether records of this key, in offset order, can change an alert; if not, folding them may wait.

    Those that were not folded yet have to be among the ones of which it was said that they change none.
    """
    seen = records.columns if isinstance(records, KeyBatch) else records
    last = int(seen.time[-1]) if isinstance(seen, Columns) else seen[-1].time
    if alerts.over_windows(rules) and last // MICROS_PER_SECOND > state.watermark // MICROS_PER_SECOND:
        return True
    return _evaluation(state).may_change(seen, rules)


def advance(state: KeyState, clock: int, rules: Sequence[ActiveRule]) -> Folded:
    """Let the event clock say `clock` (event time, micros): panes close 2 s past their end, alert timers act.

    Returns the same state object where nothing was to be done. Only what the clock decides about an alert moves
    `clock_mark`, and only to the time of that decision.
    """
    deadline = next_deadline(state, rules)
    if deadline is None or clock < deadline:
        return Folded(state, [], [], [], {})
    statistics = SeriesFold(state.series, _subject(state), state.lines)
    statistics.close((clock - CLOCK_SLACK) // MICROS_PER_SECOND)
    evaluation = _evaluation(state)
    evaluation.clock(statistics, clock, rules)
    after = replace(
        state,
        clock_mark=max(state.clock_mark, evaluation.acted_at),
        series=statistics.finish(state.watermark, state.watermark),
        book=evaluation.finish(),
    )
    return Folded(after, statistics.stats, statistics.bars, evaluation.alerts, {})


def end(state: KeyState, rules: Sequence[ActiveRule], emitted: tuple[Line, ...] | None = None) -> Folded:
    """End the source: panes and periods that are open close at their ends. No timer acts beyond the last record.

    Windows that would be empty by then are not emitted.
    """
    if not state.watermark:
        return Folded(state, [], [], [], {})
    newest = state.watermark // MICROS_PER_SECOND
    second, minute = newest + 1, (newest // MINUTE_PANES + 1) * MINUTE_PANES
    given = state.lines if emitted is None else emitted
    statistics = SeriesFold(state.series, _subject(state), given)
    statistics.close(max([minute, *(line.closes(newest) for line in given)]))
    evaluation = _evaluation(state)
    evaluation.end(statistics, second, minute, rules)
    after = replace(state, series=statistics.finish(state.watermark, state.watermark), book=evaluation.finish())
    stats = [stat for stat in statistics.stats if stat.count]
    return Folded(after, stats, statistics.bars, evaluation.alerts, {})


def silence(state: KeyState, until: int, rules: Sequence[ActiveRule], *, reason: str, since: int = 0) -> Folded:
    """Let rules on missing records know that it is `until` (micros) and no record came after the watermark, and why.

    Where there never was a record, one was expected from `since` on. Unlike `advance`, this goes on while the exchange
    is not heard: `reason` is `transitions.QUIET_MARKET` or `FEED_DOWN`. Returns the same state where nothing changed.
    """
    evaluation = _evaluation(state)
    evaluation.silence(state.watermark or since, until, rules, reason)
    book = evaluation.finish()
    if book == state.book:
        return Folded(state, [], [], [], {})
    after = replace(state, clock_mark=max(state.clock_mark, evaluation.acted_at), book=book)
    return Folded(after, [], [], evaluation.alerts, {})


def silence_deadline(state: KeyState, rules: Sequence[ActiveRule], *, since: int = 0) -> int | None:
    """Return the time, micros, at which `silence` would do something if no record comes; None: only a record can."""
    return alerts.silence_deadline(state.book, rules, state.watermark or since)


def expect_nothing(state: KeyState, at: int, rules: Sequence[ActiveRule]) -> Folded:
    """Close what rules on missing records have open at time `at` (micros): the product is no longer subscribed.

    Returns the same state where nothing was open.
    """
    missing = [rule for rule in rules if rule.silence is not None and rule.key in state.book.machines]
    if not missing:
        return Folded(state, [], [], [], {})
    evaluation = _evaluation(state)
    evaluation.close_all(missing, at, UNSUBSCRIBED)
    return Folded(replace(state, book=evaluation.finish()), [], [], evaluation.alerts, {})


def retire(state: KeyState, rule: ActiveRule, at: int) -> Folded:
    """End a version of a rule at time `at` (pass its ended_at): what is open is closed, reason `rule_changed`."""
    if (rule.rule_id, rule.version) not in state.book.machines:
        return Folded(state, [], [], [], {})
    evaluation = _evaluation(state)
    evaluation.retire(rule, at)
    return Folded(replace(state, book=evaluation.finish()), [], [], evaluation.alerts, {})


def switch(state: KeyState, at: int, rules: Sequence[ActiveRule], *, prices: bool) -> Folded:
    """Let prices live on this source from append time `at` on (micros), or no longer: then what is open is closed.

    A rule's alerts count up across the sources: what was given on the other one has lower numbers than `at` in
    milliseconds.
    """
    if prices is state.prices:
        return Folded(state, [], [], [], {})
    evaluation = _evaluation(state)
    if not prices:
        evaluation.close_all([rule for rule in rules if rule.source in {"prices", "clock"}], at, BASIS_CHANGED)
    after = replace(
        state,
        prices=prices,
        first_seq=at // MICROS_PER_MILLI if prices else state.first_seq,
        book=evaluation.finish(),
    )
    return Folded(after, [], [], evaluation.alerts, {})


def next_deadline(state: KeyState, rules: Sequence[ActiveRule]) -> int | None:
    """Return the earliest event-clock time, micros, at which `advance` would do something; None: only a record can."""
    times = [series.deadline(state.series, state.lines)]
    if rules:
        statistics = SeriesFold(state.series, _subject(state), state.lines)
        times.append(alerts.deadline(state.book, rules, statistics, state.watermark))
    return min((time for time in times if time is not None), default=None)


def _evaluation(state: KeyState) -> AlertFold:
    return AlertFold(state.book, state.exchange, state.product, watermark=state.watermark, first_seq=state.first_seq)


def _subject(state: KeyState) -> Subject:
    return Subject(state.exchange, state.product, state.basis, state.topic_id, state.partition)


# ---- what each record is ----


@dataclass(slots=True)
class _Sorted:
    """What is folded, as runs; what alerts see, in offset order; the watermark and the ids after it."""

    runs: Iterator[_Run] | list[_Run]
    visible: list[Columns | Sequence[Row]]
    watermark: int
    seen: SeenFold
    counts: dict[str, int]


def _sort(state: KeyState, records: KeyBatch | Sequence[Row]) -> _Sorted:
    if not isinstance(records, KeyBatch):
        return _sort_rows(state, records)
    seen, columns = SeenFold(state.seen), records.columns
    ascends = int(columns.time[0]) >= max(state.watermark, state.clock_mark)
    if not (records.tidy and ascends and int(columns.identity[0]) > seen.highest):
        return _sort_rows(state, records.rows())
    for pane, start, stop in zip(records.panes, records.bounds, records.bounds[1:], strict=False):
        seen.add_run(pane.second, columns.identity[start:stop])
    parts = ((pane, columns.part(*edges)) for pane, edges in zip(records.panes, pairwise(records.bounds), strict=True))
    runs = (_Run(pane, part, int(part.appended_at[0]), part) for pane, part in parts)
    counts = {"folded": len(records), "duplicate": 0, "late": 0, "late_for_alerts": 0}
    return _Sorted(runs, [columns], int(columns.time[-1]), seen, counts)


def _sort_rows(state: KeyState, rows: Sequence[Row]) -> _Sorted:
    """Sort records one by one, in offset order: a duplicate, too late, or folded; and whether alerts see it."""
    watermark, mark = state.watermark, max(state.watermark, state.clock_mark)
    seen = SeenFold(state.seen)
    counts = {"folded": 0, "duplicate": 0, "late": 0, "late_for_alerts": 0}
    runs: list[tuple[int, list[Row], list[Row]]] = []
    for row in rows:
        time = row.time
        if time < watermark - GRACE:
            counts["late"] += 1
            continue
        if not seen.add(row, watermark):
            counts["duplicate"] += 1
            continue
        counts["folded"] += 1
        watermark = max(watermark, time)
        second = time // MICROS_PER_SECOND
        if not runs or runs[-1][0] != second:
            runs.append((second, [], []))
        runs[-1][1].append(row)
        if time < mark:
            counts["late_for_alerts"] += 1
        else:
            mark = time
            runs[-1][2].append(row)
    made = [_Run(pane_of(second, run), run, run[0].appended_at, visible) for second, run, visible in runs]
    return _Sorted(made, [[row for _, _, visible in runs for row in visible]], watermark, seen, counts)
