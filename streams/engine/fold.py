"""What happens to one key (tenant, exchange, product): records and the event clock in, statistics and alerts out.

Pure: a state and inputs give a new state and outputs, and nothing is changed in place. Records are folded in offset
order; outputs do not depend on how records were batched. The shell groups records by key, chooses the rules that
apply (`rules.applies`), validates (`schemas.validate`), keeps the event clock, and sends what comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert, AsOf, Stat, Tick
from streams.engine import alerts, series
from streams.engine.alerts import AlertBook, AlertFold
from streams.engine.duplicates import Seen, SeenFold
from streams.engine.inputs import UNKNOWN_TIME, Row
from streams.engine.rules import ActiveRule
from streams.engine.series import CLOCK_SLACK, GRACE, Series, SeriesFold
from streams.engine.view import PaneRows

NO_PANES: Final = Series()
NO_ALERTS: Final = AlertBook()


@dataclass(frozen=True, slots=True)
class Input:
    """A validated record, its position, and the broker's append time in microseconds."""

    tick: Tick
    as_of: AsOf
    appended_at: int


@dataclass(frozen=True, slots=True)
class KeyState:
    """Everything known about one key; immutable. Times are microseconds."""

    exchange: str
    product: str
    watermark: int = 0
    """Largest exchange_time seen; 0 before the first record."""
    clock_mark: int = 0
    """Event time up to which the clock has decided about alerts; they ignore records older than it."""
    ticks: Series = NO_PANES
    seen: tuple[Seen, ...] = ()
    book: AlertBook = NO_ALERTS


@dataclass(frozen=True, slots=True)
class Folded:
    """The state that follows, and what to send. `counts` has: folded, duplicate, late, late_for_alerts."""

    state: KeyState
    stats: list[Stat]
    alerts: list[Alert]
    counts: Mapping[str, int]


def new_state(exchange: str, product: str) -> KeyState:
    """Return the state of a key of which nothing was read yet."""
    return KeyState(exchange, product)


def fold(state: KeyState, inputs: Sequence[Input], rules: Sequence[ActiveRule]) -> Folded:
    """Fold records of this key, in offset order. `rules` are those that apply to the key, ended versions included.

    A record appended at or after a version's ended_at retires that version, as `retire(state, rule, ended_at)` would.
    """
    sorting = _Sorting(state)
    for item in inputs:
        sorting.add(item)
    statistics = SeriesFold(state.ticks, state.exchange, state.product)
    for second, run in sorting.runs:
        statistics.close(second)
        statistics.add(second, run)
    evaluation = AlertFold(state.book, state.exchange, state.product, watermark=state.watermark)
    evaluation.records([_row(item) for item in sorting.visible], rules)
    after = replace(
        state,
        watermark=sorting.watermark,
        ticks=statistics.finish(state.watermark, sorting.watermark),
        seen=sorting.seen.finish(sorting.watermark),
        book=evaluation.finish(),
    )
    return Folded(after, statistics.stats, evaluation.alerts, sorting.counts)


def advance(state: KeyState, clock: int, rules: Sequence[ActiveRule]) -> Folded:
    """Let the event clock say `clock` (event time, micros): panes close 2 s past their end, alert timers act.

    Returns the same state object where nothing was to be done. Only what the clock decides about an alert moves
    `clock_mark`, and only to the time of that decision.
    """
    deadline = next_deadline(state, rules)
    if deadline is None or clock < deadline:
        return Folded(state, [], [], {})
    statistics = SeriesFold(state.ticks, state.exchange, state.product)
    statistics.close((clock - CLOCK_SLACK) // MICROS_PER_SECOND)
    evaluation = AlertFold(state.book, state.exchange, state.product, watermark=state.watermark)
    evaluation.clock(_NO_VIEW, clock, rules)
    after = replace(
        state,
        clock_mark=max(state.clock_mark, evaluation.acted_at),
        ticks=statistics.finish(state.watermark, state.watermark),
        book=evaluation.finish(),
    )
    return Folded(after, statistics.stats, evaluation.alerts, {})


def retire(state: KeyState, rule: ActiveRule, at: int) -> Folded:
    """End a version of a rule at time `at` (pass its ended_at): what is open is closed, reason `rule_changed`."""
    if (rule.rule_id, rule.version) not in state.book.machines:
        return Folded(state, [], [], {})
    evaluation = AlertFold(state.book, state.exchange, state.product, watermark=state.watermark)
    evaluation.retire(rule, at)
    return Folded(replace(state, book=evaluation.finish()), [], evaluation.alerts, {})


def next_deadline(state: KeyState, rules: Sequence[ActiveRule]) -> int | None:
    """Return the earliest event-clock time, micros, at which `advance` would do something; None: only a record can."""
    times = (series.deadline(state.ticks), alerts.deadline(state.book, rules, _NO_VIEW, state.watermark))
    return min([time for time in times if time is not None], default=None)


def _row(item: Input) -> Row:
    tick = item.tick
    return Row(
        item.as_of.offset,
        item.appended_at,
        tick.exchange_time,
        tick.price,
        tick.size,
        tick.side == "buy",
        tick.sequence or 0,
        tick.best_bid,
        tick.best_ask,
        tick.quote_time or UNKNOWN_TIME,
    )


class _NoView:
    """Panes of which none is shown to rules."""

    first_time = 0

    def rows(self, seconds: int, at: int) -> PaneRows:
        raise NotImplementedError(f"no panes of {seconds} s before {at}")

    def reference(self, second: int) -> float | None:
        raise NotImplementedError(f"no price before {second}")

    def instants(self, seconds: int, after: int, until: int) -> list[int]:  # noqa: ARG002 (there are no panes)
        return []


_NO_VIEW: Final = _NoView()


class _Sorting:
    """What each record is, in offset order: a duplicate, too late, or folded; and whether alerts see it.

    `runs` holds what is folded, as runs of consecutive records of one second.
    """

    def __init__(self, state: KeyState) -> None:
        self.watermark = state.watermark
        self.seen = SeenFold(state.seen)
        self.runs: list[tuple[int, list[Input]]] = []
        self.visible: list[Input] = []
        self.counts = {"folded": 0, "duplicate": 0, "late": 0, "late_for_alerts": 0}
        self._mark = max(state.watermark, state.clock_mark)

    def add(self, item: Input) -> None:
        """Sort one record."""
        time = item.tick.exchange_time
        if time < self.watermark - GRACE:
            self.counts["late"] += 1
            return
        if not self.seen.add(item.tick, self.watermark):
            self.counts["duplicate"] += 1
            return
        self.counts["folded"] += 1
        self.watermark = max(self.watermark, time)
        second = time // MICROS_PER_SECOND
        if self.runs and self.runs[-1][0] == second:
            self.runs[-1][1].append(item)
        else:
            self.runs.append((second, [item]))
        if time < self._mark:
            self.counts["late_for_alerts"] += 1
        else:
            self._mark = time
            self.visible.append(item)
