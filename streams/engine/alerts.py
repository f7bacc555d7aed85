"""The alerts of one key: each rule's machine, fed with prices in offset order and with timers.

Times are exact: a timer acts at its own time, known once a record at or after it is read or the event clock reaches
it; at an equal time the timer acts before the record. Each transition gives one alert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from schemas.records import Alert, PricePoint, Tick
from streams.engine import machine
from streams.engine.conditions import NEITHER, in_words, possible, read, threshold_of
from streams.engine.machine import IDLE, STABLE, Holds, Phase, Signal, Standing, State
from streams.engine.rules import ActiveRule

LAST_PRICES: Final = 5
RULE_CHANGED: Final = "rule_changed"
"""The reason of alerts that a new version, a pause or a deletion closes."""

_BITS: Final = {state: 1 << bit for bit, state in enumerate(State)}


class Appended(Protocol):
    """A record and the broker's append time of it, micros."""

    @property
    def tick(self) -> Tick:
        """The record."""

    @property
    def appended_at(self) -> int:
        """When the broker appended it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A rule version's state for one key.

    `side`: of the threshold on which the last price lay (crosses). `seq`: of the last alert. `reported`: the states
    reported at event time `reported_at`, as a mask; `again`: how often at that time a state came a second time.
    """

    standing: Standing = IDLE
    side: int = NEITHER
    seq: int = 0
    reported_at: int = 0
    reported: int = 0
    again: int = 0


UNTOUCHED: Final = Machine()
RuleKey = tuple[str, int]
"""Rule id and version."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A price that alerts saw: its event time, and when the broker appended it (micros)."""

    time: int
    price: float
    appended_at: int


@dataclass(frozen=True, slots=True)
class AlertBook:
    """The machines of a key that differ from a fresh one, and the last prices seen, oldest first."""

    machines: Mapping[RuleKey, Machine] = field(default_factory=dict)
    last_seen: tuple[Sighting, ...] = ()


def deadline(book: AlertBook, rules: Sequence[ActiveRule]) -> int | None:
    """Return the event time, micros, at which the first timer acts that has something to report, or None."""
    held = [_Watch(rule, found) for rule in rules if (found := book.machines.get((rule.rule_id, rule.version)))]
    return min([watch.due for watch in held if watch.due is not None and not watch.silent], default=None)


def holds_of(rule: ActiveRule) -> Holds:
    """Return how long a rule's phases last."""
    definition = rule.definition
    return Holds(definition.for_, definition.keep_firing_for, definition.cooldown)


class _Watch:
    """A rule under evaluation: its machine, changed in place."""

    __slots__ = ("condition", "due", "held", "holds", "key", "rule")

    def __init__(self, rule: ActiveRule, held: Machine) -> None:
        self.rule = rule
        self.key: RuleKey = (rule.rule_id, rule.version)
        self.condition = rule.definition.condition
        self.holds = holds_of(rule)
        self.held = held
        self.due = machine.due(held.standing, self.holds)

    @property
    def silent(self) -> bool:
        """Whether the timer reports nothing: then only records let it act, and the clock decides nothing by it."""
        return self.held.standing.phase is Phase.COOLING

    def take(self, after: Machine) -> None:
        """Go on from another machine."""
        self.held = after
        self.due = machine.due(after.standing, self.holds)


class AlertFold:
    """A book while records and timers act on it; ends as the next book."""

    def __init__(self, book: AlertBook, exchange: str, product: str) -> None:
        self.alerts: list[Alert] = []
        self.acted_at = 0
        """Event time of the last timer that the clock let act; 0 if none."""
        self._names = exchange, product
        self._book = book
        self._machines = dict(book.machines)
        self._records: Sequence[Appended] = ()
        self._read = 0

    def records(self, records: Sequence[Appended], rules: Sequence[ActiveRule]) -> None:
        """Evaluate records in offset order, none of them older than one before it."""
        self._records = records
        if not records:
            return
        watches = self._unsettled(rules)
        for index, record in enumerate(records if watches else ()):
            self._read = index
            self._retire_ended(watches, record.appended_at)
            while ready := _ready(watches, record.tick.exchange_time):
                self._timer(min(ready, key=_due))
            self._read = index + 1
            for watch in watches:
                if watch.rule.effective_at <= record.appended_at:
                    self._price(watch, record.tick)
        self._read = len(records)

    def clock(self, until: int, rules: Sequence[ActiveRule]) -> None:
        """Let the timers act that end at or before event time `until`."""
        held = [(rule, self._machines.get((rule.rule_id, rule.version))) for rule in rules]
        watches = [_Watch(rule, found) for rule, found in held if found]
        while ready := [watch for watch in _ready(watches, until) if not watch.silent]:
            self.acted_at = self._timer(min(ready, key=_due))

    def retire(self, rule: ActiveRule, at: int) -> None:
        """Close what a version has open, and forget the version."""
        watch = _Watch(rule, self._machines.pop((rule.rule_id, rule.version), UNTOUCHED))
        state = machine.close(watch.held.standing)
        if state is not None:
            self._report(watch, state, at, closing=True)
            del self._machines[watch.key]

    def finish(self) -> AlertBook:
        """Return the book that follows."""
        return AlertBook(self._machines, tuple(self._last_seen()))

    def _unsettled(self, rules: Sequence[ActiveRule]) -> list[_Watch]:
        """Return the rules that these records may change: for all others the extreme prices prove that none does."""
        prices = [record.tick.price for record in self._records]
        low, high = min(prices), max(prices)
        watches = []
        for rule in rules:
            held = self._machines.get((rule.rule_id, rule.version))
            if self._changes(rule, held or UNTOUCHED, low, high) and self._concerns(rule, held):
                watches.append(_Watch(rule, held or UNTOUCHED))
        return watches

    def _changes(self, rule: ActiveRule, held: Machine, low: float, high: float) -> bool:
        """Tell whether prices within [low, high], a timer or the end of the rule may change its machine."""
        if possible(rule.definition.condition, low, high, held.side) & ~STABLE[held.standing.phase]:
            return True
        last = self._records[-1]
        if rule.ended_at is not None and last.appended_at >= rule.ended_at:
            return True
        due = machine.due(held.standing, holds_of(rule)) if held is not UNTOUCHED else None
        return due is not None and due <= last.tick.exchange_time

    def _concerns(self, rule: ActiveRule, held: Machine | None) -> bool:
        """Tell whether some of the records lie within the rule's time, or its machine is there to be ended."""
        if held is not None:
            return True
        begun = self._records[-1].appended_at >= rule.effective_at
        return begun and (rule.ended_at is None or self._records[0].appended_at < rule.ended_at)

    def _retire_ended(self, watches: list[_Watch], appended_at: int) -> None:
        for watch in [watch for watch in watches if watch.rule.ended_at is not None]:
            ended_at = watch.rule.ended_at
            if ended_at is not None and appended_at >= ended_at:
                self.retire(watch.rule, ended_at)
                watches.remove(watch)

    def _timer(self, watch: _Watch) -> int:
        at = _due(watch)
        self._react(watch, Signal.TIMER, at)
        return at

    def _price(self, watch: _Watch, tick: Tick) -> None:
        signal, side = read(watch.condition, tick.price, watch.held.side)
        if side != watch.held.side:
            self._keep(watch, replace(watch.held, side=side))
        if signal & ~STABLE[watch.held.standing.phase]:
            self._react(watch, signal, tick.exchange_time)

    def _react(self, watch: _Watch, signal: Signal, at: int) -> None:
        standing, states = machine.react(watch.held.standing, signal, at, watch.holds)
        self._keep(watch, replace(watch.held, standing=standing))
        for state in states:
            self._report(watch, state, at)

    def _keep(self, watch: _Watch, after: Machine) -> None:
        watch.take(after)
        self._machines[watch.key] = after

    def _report(self, watch: _Watch, state: State, at: int, *, closing: bool = False) -> None:
        self._keep(watch, _counted(watch.held, state, at))
        rule = watch.rule
        seen = [sighting for sighting in self._last_seen() if sighting.appended_at >= rule.effective_at]
        exchange, product = self._names
        price = seen[-1].price if seen and not closing else None
        self.alerts.append(
            Alert(
                alert_id=_alert_id(watch, self._names, state, at),
                seq=watch.held.seq,
                rule_id=rule.rule_id,
                rule_name=rule.definition.name,
                rule_version=rule.version,
                exchange=exchange,
                product=product,
                state=state.value,
                at=at,
                value=price,
                threshold=None if price is None else threshold_of(watch.condition),
                reason=RULE_CHANGED if price is None else in_words(watch.condition, state, watch.holds, price),
                severity=rule.definition.severity,
                labels=rule.definition.labels,
                window=None,
                last_prices=[PricePoint(time=sighting.time, price=sighting.price) for sighting in seen],
            )
        )

    def _last_seen(self) -> list[Sighting]:
        recent = self._records[max(self._read - LAST_PRICES, 0) : self._read]
        seen = [Sighting(item.tick.exchange_time, item.tick.price, item.appended_at) for item in recent]
        return [*self._book.last_seen, *seen][-LAST_PRICES:]


def _counted(held: Machine, state: State, at: int) -> Machine:
    bit = _BITS[state]
    if at != held.reported_at:
        return replace(held, seq=held.seq + 1, reported_at=at, reported=bit, again=0)
    if held.reported & bit:
        return replace(held, seq=held.seq + 1, reported=bit, again=held.again + 1)
    return replace(held, seq=held.seq + 1, reported=held.reported | bit)


def _alert_id(watch: _Watch, names: tuple[str, str], state: State, at: int) -> str:
    """Return the id; a state that comes again at the same event time (equal record times) gets a number."""
    suffix = f":{watch.held.again}" if watch.held.again else ""
    return f"{watch.rule.rule_id}:{watch.rule.version}:{names[0]}:{names[1]}:{state.value}:{at}{suffix}"


def _ready(watches: Sequence[_Watch], until: int) -> list[_Watch]:
    return [watch for watch in watches if watch.due is not None and watch.due <= until]


def _due(watch: _Watch) -> int:
    if watch.due is None:
        raise ValueError("a phase without an end has no timer")
    return watch.due
