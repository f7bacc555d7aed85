"""The alerts of one source of a product: each rule's machine, fed with records, windows and the clock in event order.

Times are exact: a timer acts at its own time, known once a record at or after it is read or the event clock reaches
it; at an equal time the timer acts before the record or window. Each transition gives one alert. Nothing depends on
how records were batched, nor on how often the clock looked without a decision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert, PricePoint
from streams.engine.batches import ColumnBatch, RowBatch, Sighting, spread_of
from streams.engine.conditions import possible, read, signal
from streams.engine.definitions import Limit
from streams.engine.inputs import Columns, Row
from streams.engine.machine import STABLE, Phase, Signal, State
from streams.engine.measures import Measure, instants, next_instant, value_at
from streams.engine.rules import ActiveRule, RuleKey
from streams.engine.sweep import Stretch
from streams.engine.transitions import (
    QUIET_MARKET,
    RULE_CHANGED,
    UNTOUCHED,
    Machine,
    Machines,
    Sight,
    Transitions,
    Watch,
)
from streams.engine.view import Panes
from streams.engine.words import in_words

LAST_PRICES: Final = 5
RECORD_CAME: Final = "a record came"
"""The reason for which an alert on missing records ends."""
CLOCK_SLACK: Final = 2 * MICROS_PER_SECOND
"""How far the event clock must be past a time for rules over windows to act at it: panes close then."""


@dataclass(frozen=True, slots=True)
class AlertBook:
    """The machines of a key that differ from a fresh one, and what alerts last saw.

    `last_seen`: the last prices, oldest first. `last_spread`: the last spread, where a rule asks for it.

    `looked`: the second up to which the clock looked at rules over windows without a decision, and `ahead`: the
    machines of those that this changed without a word. No part of the state: the next record makes both void.
    """

    machines: Machines = field(default_factory=dict)
    last_seen: tuple[Sighting, ...] = ()
    last_spread: Sighting | None = None
    looked: int = field(default=0, compare=False)
    ahead: Machines = field(default_factory=dict, compare=False)

    @property
    def last_seq(self) -> int:
        """The greatest number of an alert of any of its rules: where a source that takes over begins to count."""
        return max([held.seq for held in self.machines.values()], default=0)


def over_windows(rules: Sequence[ActiveRule]) -> bool:
    """Tell whether some of the rules are over windows: then `AlertFold.windows` has to be called."""
    return any(rule.measure is not None for rule in rules)


def deadline(book: AlertBook, rules: Sequence[ActiveRule], panes: Panes, watermark: int) -> int | None:
    """Return the event-clock time, micros, at which `AlertFold.clock` first has something to do, or None."""
    times: list[int] = []
    coming: dict[Measure, int | None] = {}
    for rule in rules:
        measure = rule.measure
        held = book.ahead.get(rule.key) or book.machines.get(rule.key)
        if held is not None and rule.silence is None:
            watch = Watch(rule, held)
            if watch.due is not None and not watch.silent:
                times.append(watch.due if measure is None else watch.due + CLOCK_SLACK)
        if measure is not None and rule.ended_at is None and measure not in coming:
            after = max(watermark // MICROS_PER_SECOND, book.looked)
            coming[measure] = next_instant(measure, panes, after)
    times += [second * MICROS_PER_SECOND + CLOCK_SLACK for second in coming.values() if second is not None]
    return min(times, default=None)


def silence_deadline(book: AlertBook, rules: Sequence[ActiveRule], since: int) -> int | None:
    """Return the time, micros, at which `AlertFold.silence` first has something to do if no record comes, or None."""
    times: list[int] = []
    for rule in rules:
        if rule.silence is None or rule.ended_at is not None:
            continue
        watch, at = Watch(rule, book.machines.get(rule.key, UNTOUCHED)), since + rule.silence
        phase = watch.held.standing.phase
        if phase is Phase.INACTIVE or (phase is Phase.COOLING and watch.due is not None):
            times.append(max(at, watch.due or 0))
        elif watch.due is not None and (phase is not Phase.CLEARING or watch.due <= at):
            times.append(watch.due)
    return min(times, default=None)


class AlertFold:
    """A book while records, windows and timers act on it; ends as the next book.

    `watermark` is that of the state before; `first_seq` as in Transitions. Rules that another state evaluates
    (`rules.lives_on`) are left alone here.
    """

    def __init__(self, book: AlertBook, exchange: str, product: str, *, watermark: int = 0, first_seq: int = 0) -> None:
        self.acted_at = 0
        """Event time of the last decision of the clock; 0 if none."""
        self._book = book
        self._transitions = Transitions(book.machines, exchange, product, first_seq)
        self._second = watermark // MICROS_PER_SECOND
        self._looked = 0
        self._ahead: dict[RuleKey, Machine] = {}
        self._batch: RowBatch | ColumnBatch = RowBatch(())
        self._read = 0
        self._quoted = False
        self._reason = QUIET_MARKET

    @property
    def alerts(self) -> list[Alert]:
        """The alerts so far, in order."""
        return self._transitions.alerts

    # ---- what is fed ----

    def records(self, records: Columns | Sequence[Row], rules: Sequence[ActiveRule]) -> None:
        """Evaluate records in offset order, none of them older than one before it.

        Where a rule is over a window, `windows` has been called with the second of the records, all of one second.
        """
        if not len(records) or not rules:
            return
        self._remember()
        self._batch = batch = ColumnBatch(records) if isinstance(records, Columns) else RowBatch(records)
        for watch in self._unsettled(batch, rules):
            if watch.rule.silence is not None:
                self._hear(watch, batch)
            elif isinstance(batch, ColumnBatch):
                self._search(watch, batch)
            else:
                self._walk(watch, batch)
        self._transitions.settle()
        self._read = len(batch)

    def may_change(self, records: Columns | Sequence[Row], rules: Sequence[ActiveRule]) -> bool:
        """Tell whether records can change what a rule over single records, or on missing ones, says."""
        return bool(self._unsettled(ColumnBatch(records) if isinstance(records, Columns) else RowBatch(records), rules))

    def windows(
        self,
        panes: Panes,
        until: int,
        rules: Sequence[ActiveRule],
        appended_at: int,
        stretch: Stretch | None = None,
    ) -> None:
        """Evaluate conditions over windows up to second `until`, which a record appended at `appended_at` reached.

        Called whenever a record's second passes the watermark's, with panes that end at or before it closed and
        without those records. `stretch`: the same panes as columns, for a long way to `until`.
        """
        if until <= self._second:
            return
        seeing = _Seeing(panes, self._second, until, stretch)
        for order, rule in enumerate(rules):
            if rule.measure is None:
                continue
            if rule.ended_at is not None and appended_at >= rule.ended_at:
                self._retire(rule, rule.ended_at, RULE_CHANGED, order)
                continue
            effective = rule.effective_at <= appended_at
            if effective or rule.key in self._transitions.machines:
                watch = self._transitions.watch(rule, order)
                self._over_window(watch, seeing if effective else None, until * MICROS_PER_SECOND)
        self._transitions.settle()
        self._second = until

    def end(self, panes: Panes, second: int, minute: int, rules: Sequence[ActiveRule]) -> None:
        """Evaluate conditions over windows once more where the last panes close; no timer acts any more.

        Panes of 1 s are closed up to `second`, those of 1 m up to `minute`.
        """
        for order, rule in enumerate(rules):
            measure, limit = rule.measure, rule.compared
            at = minute if measure is not None and measure.by_minute else second
            if measure is None or not isinstance(limit, Limit) or at not in instants(measure, panes, self._second, at):
                continue
            watch = self._transitions.watch(rule, order)
            value = value_at(measure, panes, at)
            if value is not None and (watch.due is None or watch.due > at * MICROS_PER_SECOND):
                moment = at * MICROS_PER_SECOND
                self._transitions.value(watch, value, signal(limit, value), moment, self._see)
        self._transitions.settle()

    def clock(self, panes: Panes, until: int, rules: Sequence[ActiveRule]) -> None:
        """Let the event clock say `until`, micros: timers act, and windows up to 2 s before are evaluated."""
        horizon = until - CLOCK_SLACK
        after, second = max(self._second, self._book.looked), horizon // MICROS_PER_SECOND
        seeing = _Seeing(panes, after, second)
        for order, rule in enumerate(rules):
            if rule.measure is not None:
                acted_at = self._look(rule, order, seeing if rule.ended_at is None else None, horizon)
            elif rule.key in self._transitions.machines and rule.silence is None:
                watch = self._transitions.watch(rule, order)
                acted_at = self._transitions.timers(watch, until, self._see, silent=False)
            else:
                continue
            self.acted_at = max(self.acted_at, acted_at)
        self._transitions.settle()
        self._looked = max(after, second)

    def silence(self, since: int, until: int, rules: Sequence[ActiveRule], reason: str) -> None:
        """Let rules on missing records know that none came from `since` to `until`, micros, and why.

        `since`: the last record's time; where there is none, the time from which on one was expected.
        """
        self._reason, self._looked, self._ahead = reason, self._book.looked, dict(self._book.ahead)
        for order, rule in enumerate(rules):
            if rule.silence is not None and rule.ended_at is None:
                self._miss(rule, order, since + rule.silence, until)
        self._transitions.settle()

    def retire(self, rule: ActiveRule, at: int) -> None:
        """Close what a version has open, and forget the version."""
        self._retire(rule, at, RULE_CHANGED, 0)
        self._transitions.settle()

    def close_all(self, rules: Sequence[ActiveRule], at: int, reason: str) -> None:
        """Close what these rules have open, and forget their machines."""
        for order, rule in enumerate(rules):
            self._retire(rule, at, reason, order)
        self._transitions.settle()

    def finish(self) -> AlertBook:
        """Return the book that follows."""
        self._remember()
        return replace(self._book, machines=self._transitions.machines, looked=self._looked, ahead=self._ahead)

    # ---- rules over single records ----

    def _unsettled(self, batch: RowBatch | ColumnBatch, rules: Sequence[ActiveRule]) -> list[Watch]:
        """Return the rules that these records may change: for all others the extremes prove that none does."""
        machines, transitions = self._transitions.machines, self._transitions
        begun, ended, last_time = *batch.appended, batch.last_time
        watches = []
        for order, rule in enumerate(rules):
            held = machines.get(rule.key)
            if rule.source == "quotes":
                self._quoted = True
            if held is None:
                concerned = ended >= rule.effective_at and (rule.ended_at is None or begun < rule.ended_at)
                if concerned and (self._signals(rule, batch, UNTOUCHED) & _STARTING or self._gap(rule, batch)):
                    watches.append(transitions.watch(rule, order))
            elif self._signals(rule, batch, held) & ~STABLE[held.standing.phase]:
                watches.append(transitions.watch(rule, order))
            else:
                watch = transitions.watch(rule, order)
                over = rule.ended_at is not None and ended >= rule.ended_at
                if over or self._gap(rule, batch) or (watch.due is not None and watch.due <= last_time):
                    watches.append(watch)
        return watches

    @staticmethod
    def _signals(rule: ActiveRule, batch: RowBatch | ColumnBatch, held: Machine) -> int:
        """Return a mask with at least the signals that the batch can give to a rule."""
        compared, source = rule.compared, rule.source
        if source == "clock":
            return Signal.CLEAR
        if compared is None or rule.measure is not None or source == "product":
            return 0
        low, high = batch.prices if source == "prices" else batch.spreads
        return possible(compared, low, high, held.side) if low <= high else 0

    def _walk(self, watch: Watch, batch: RowBatch) -> None:
        """Let a rule read rows one by one."""
        transitions, rule = self._transitions, watch.rule
        for index, row in enumerate(batch.rows):
            self._read = index
            if rule.ended_at is not None and row.appended_at >= rule.ended_at:
                transitions.place = (index, 0)
                self._retire(rule, rule.ended_at, RULE_CHANGED, watch.order)
                return
            transitions.place = (index, 1)
            transitions.timers(watch, row.time, self._see)
            self._read = index + 1
            transitions.place = (index, 2)
            if rule.effective_at <= row.appended_at:
                self._price(watch, row)

    def _price(self, watch: Watch, row: Row) -> None:
        rule = watch.rule
        value = row.price if rule.source == "prices" else spread_of(row)
        if value is None or rule.compared is None or rule.measure is not None:
            return
        said, side = read(rule.compared, value, watch.held.side)
        if side != watch.held.side:
            self._transitions.keep(watch, replace(watch.held, side=side))
        if said & ~STABLE[watch.held.standing.phase]:
            self._transitions.react(watch, said, row.time, self._see)

    def _search(self, watch: Watch, batch: ColumnBatch) -> None:
        """Let a rule act at the records that change it, one after another."""
        transitions, rule = self._transitions, watch.rule
        stop = len(batch) if rule.ended_at is None else batch.begin(rule.ended_at)
        search, position = None, 0
        if rule.compared is not None and rule.measure is None:
            values = batch.columns.price if rule.source == "prices" else batch.spread_values
            search = batch.search(rule.compared, values, watch.held.side, rule.effective_at, stop)
        while True:
            changing = search.first(~STABLE[watch.held.standing.phase] & _ANY, position) if search else stop
            timed = stop if watch.due is None else max(batch.reached(watch.due), position)
            if min(changing, timed) >= stop:
                break
            if timed <= changing:
                self._read, position, transitions.place = timed, timed, (timed, 1)
                transitions.timers(watch, int(batch.columns.time[timed]), self._see)
            elif search is not None:
                self._read, position, transitions.place = changing + 1, changing + 1, (changing, 2)
                transitions.react(watch, search.at(changing), int(batch.columns.time[changing]), self._see)
        if search is not None and search.side != watch.held.side:
            transitions.keep(watch, replace(watch.held, side=search.side))
        if stop < len(batch) and rule.ended_at is not None:
            self._read, transitions.place = stop, (stop, 0)
            self._retire(rule, rule.ended_at, RULE_CHANGED, watch.order)

    # ---- rules over windows ----

    def _over_window(self, watch: Watch, seeing: "_Seeing | None", until: int) -> None:
        """Let timers, and windows where `seeing` is given, act up to `until`, micros, as records show them."""
        transitions, measure, limit = self._transitions, watch.rule.measure, watch.rule.compared
        if seeing and measure and isinstance(limit, Limit):
            decided = watch.held.decided
            for second in seeing.telling(measure, limit, watch):
                value = seeing.value(measure, second) if second > decided else None
                if value is not None:
                    at = second * MICROS_PER_SECOND
                    transitions.timers(watch, at, self._see)
                    transitions.value(watch, value, signal(limit, value), at, self._see)
        transitions.timers(watch, until, self._see)

    def _look(self, rule: ActiveRule, order: int, seeing: "_Seeing | None", until: int) -> int:
        """Let the clock look at a rule over a window up to `until`, micros; return when it last decided, or 0.

        A change that is reported is a decision: the machine as of then is kept. What follows without a word is only
        looked at (`ahead`). The end of a cooldown acts only where a window makes the condition true after it.
        """
        transitions, measure, limit = self._transitions, rule.measure, rule.compared
        watch = transitions.watch(rule, order)
        deciding = _Deciding(transitions, watch)
        watch.take(self._book.ahead.get(rule.key, watch.held))
        if seeing and measure and isinstance(limit, Limit):
            for second in seeing.seconds(measure):
                value = seeing.value(measure, second) if second > watch.held.decided else None
                at = second * MICROS_PER_SECOND
                if value is None or (watch.silent and signal(limit, value) is not Signal.TRUE):
                    continue
                deciding.take(transitions.timers(watch, at, self._see))
                transitions.value(watch, value, signal(limit, value), at, self._see)
                deciding.take(at)
        deciding.take(transitions.timers(watch, until, self._see, silent=False))
        if watch.held != deciding.held:
            self._ahead[rule.key] = watch.held
        deciding.settle()
        return deciding.at

    # ---- silence ----

    def _gap(self, rule: ActiveRule, batch: RowBatch | ColumnBatch) -> bool:
        """Tell whether a rule on missing records may find a gap before one of these."""
        if rule.silence is None:
            return False
        first = batch.first_time
        before = self._book.last_seen[-1].time if self._book.last_seen else first
        return max(batch.longest_gap, first - before) >= rule.silence

    def _hear(self, watch: Watch, batch: RowBatch | ColumnBatch) -> None:
        """Let a rule on missing records hear these: each ends the silence before it."""
        transitions, rule = self._transitions, watch.rule
        seen = self._book.last_seen[-1] if self._book.last_seen else None
        since = seen.time if seen and seen.appended_at >= rule.effective_at else None
        for index, (time, appended_at) in enumerate(batch.moments()):
            self._read = index
            if rule.ended_at is not None and appended_at >= rule.ended_at:
                transitions.place = (index, 0)
                self._retire(rule, rule.ended_at, RULE_CHANGED, watch.order)
                return
            transitions.place = (index, 1)
            if since is not None and rule.silence is not None:
                self._silent(watch, since + rule.silence, time)
            transitions.timers(watch, time, self._see)
            self._read, transitions.place = index + 1, (index, 2)
            if rule.effective_at <= appended_at:
                since = time
                if Signal.CLEAR & ~STABLE[watch.held.standing.phase]:
                    transitions.react(watch, Signal.CLEAR, time, self._see)

    def _silent(self, watch: Watch, at: int, until: int) -> None:
        """Let a silence that is too long at `at` make a rule true, if that is by `until`."""
        if at <= until:
            self._transitions.timers(watch, at, self._see)
            if Signal.TRUE & ~STABLE[watch.held.standing.phase]:
                self._transitions.react(watch, Signal.TRUE, at, self._see)

    def _miss(self, rule: ActiveRule, order: int, at: int, until: int) -> None:
        """Let the clock miss records of a rule at `at`; what it does not report is as if it had not been looked at."""
        transitions = self._transitions
        held, before = transitions.machines.get(rule.key), transitions.reported
        watch = transitions.watch(rule, order)
        self._silent(watch, at, until)
        transitions.timers(watch, until, self._see, silent=False)
        if transitions.reported > before:
            self.acted_at = max(self.acted_at, watch.held.reported_at)
        else:
            transitions.put_back(rule, held)

    # ---- what alerts show ----

    def _see(self, watch: Watch, state: State) -> Sight:
        """Return what led to a transition; only what the rule's version is for is shown."""
        rule, since = watch.rule, watch.rule.effective_at
        seen = [sighting for sighting in self._last_seen() if sighting.appended_at >= since]
        value = self._value(watch, seen)
        window = rule.measure.window if rule.measure else None
        points = _points(seen)
        if rule.silence is not None:
            threshold = rule.silence / MICROS_PER_SECOND
            reason = self._reason if state in {State.PENDING, State.FIRING} else RECORD_CAME
            return Sight(None, threshold, reason, window, points)
        if value is None or rule.compared is None:
            return Sight(None, None, RULE_CHANGED, window, points)
        reason = in_words(rule.definition.condition, state, rule.holds, value)
        return Sight(value, rule.compared.threshold, reason, window, points)

    def _value(self, watch: Watch, seen: Sequence[Sighting]) -> float | None:
        rule = watch.rule
        if rule.measure is not None:
            return watch.held.value
        if rule.source == "prices":
            return seen[-1].value if seen else None
        spread = self._last_spread()
        return spread.value if spread and spread.appended_at >= rule.effective_at else None

    def _retire(self, rule: ActiveRule, at: int, reason: str, order: int) -> None:
        if rule.key in self._transitions.machines:
            seen = [sighting for sighting in self._last_seen() if sighting.appended_at >= rule.effective_at]
            self._transitions.retire(rule, at, reason, _points(seen), order)

    def _last_seen(self) -> list[Sighting]:
        return [*self._book.last_seen, *self._batch.seen_prices(LAST_PRICES, self._read)][-LAST_PRICES:]

    def _last_spread(self) -> Sighting | None:
        return self._batch.seen_spread(self._read) or self._book.last_spread

    def _remember(self) -> None:
        """Take over into the book what was read of a batch."""
        if self._read:
            spread = self._last_spread() if self._quoted else self._book.last_spread
            self._book = replace(self._book, last_seen=tuple(self._last_seen()), last_spread=spread)
            self._batch, self._read = RowBatch(()), 0


class _Deciding:
    """What the clock decided about a rule: its machine as of the last change that was reported, at `at` (0: none)."""

    def __init__(self, transitions: Transitions, watch: Watch) -> None:
        self.at = 0
        self.held = watch.held
        self._transitions, self._watch = transitions, watch
        self._before = transitions.machines.get(watch.rule.key)
        self._reported = transitions.reported

    def take(self, at: int) -> None:
        """Keep the machine if something was reported since, at event time `at`."""
        if self._transitions.reported > self._reported:
            self.at, self._reported = at, self._transitions.reported
            self.held = self._before = replace(self._watch.held, decided=at // MICROS_PER_SECOND)
            self._watch.take(self.held)

    def settle(self) -> None:
        """Have the rule's machine as it was decided."""
        self._transitions.put_back(self._watch.rule, self._before)


class _Seeing:
    """The values of measures at the seconds in (after, until], each worked out once however many rules ask."""

    def __init__(self, panes: Panes, after: int, until: int, stretch: Stretch | None = None) -> None:
        self._panes = panes
        self._stretch = stretch
        self._span = after, until
        self._seconds: dict[Measure, list[int]] = {}
        self._values: dict[tuple[Measure, int], float | None] = {}

    def seconds(self, measure: Measure) -> list[int]:
        """Return the seconds at which a measure may change."""
        if measure not in self._seconds:
            self._seconds[measure] = instants(measure, self._panes, *self._span)
        return self._seconds[measure]

    def telling(self, measure: Measure, limit: Limit, watch: Watch) -> Iterator[int]:
        """Give the seconds at which a rule may change, while it does: all, or those that a stretch leaves."""
        if self._stretch is None:
            yield from self.seconds(measure)
            return
        seconds = self._stretch.instants(measure, *self._span)
        sweep = self._stretch.sweep(measure, limit, seconds)
        position = 0
        while position < len(seconds):
            stop = sweep.next(position, ~STABLE[watch.held.standing.phase] & _ANY, watch.due)
            if watch.held.value is not None:
                before = (int(seconds[index]) for index in sweep.last_valued(position, stop))
                yield from islice((second for second in before if self.value(measure, second) is not None), 1)
            if stop < len(seconds):
                yield int(seconds[stop])
            position = stop + 1

    def value(self, measure: Measure, second: int) -> float | None:
        """Return the value at a second."""
        known = measure, second
        if known not in self._values:
            self._values[known] = value_at(measure, self._panes, second)
        return self._values[known]


_ANY: Final = Signal.TRUE | Signal.BETWEEN | Signal.CLEAR
_STARTING: Final = ~STABLE[Phase.INACTIVE] & _ANY


def _points(seen: Sequence[Sighting]) -> list[PricePoint]:
    return [PricePoint(time=sighting.time, price=sighting.value) for sighting in seen]
