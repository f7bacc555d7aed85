"""Rules that compare a product's prices on several exchanges: one state per (tenant, product), of the ticks topic.

Prices come in offset order across the exchanges. Their clocks differ, so event time here is the largest time seen of
any of them; a price counts while it is at most 5 s older. An alert's exchange is `*`. Pure, as the rest of the engine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Alert, PricePoint
from schemas.validate import EVERY_EXCHANGE
from streams.engine.conditions import signal
from streams.engine.definitions import Divergence, Limit
from streams.engine.machine import State
from streams.engine.rules import ActiveRule
from streams.engine.transitions import (
    RULE_CHANGED,
    Machines,
    Sight,
    StoredMachine,
    Transitions,
    Watch,
    restored_machines,
    stored_machines,
)
from streams.engine.words import in_words

FRESH: Final = 5 * MICROS_PER_SECOND
"""How much older than the newest price of the product a price may be to be compared, micros."""
BPS: Final = 10_000


class Leg(NamedTuple):
    """The last price of the product on one exchange, and its event time (micros)."""

    exchange: str
    time: int
    price: float


class Priced(NamedTuple):
    """A price as it was read from the ticks topic. Times are micros."""

    exchange: str
    time: int
    price: float
    appended_at: int


@dataclass(frozen=True, slots=True)
class DivergenceState:
    """What is known of a product on all exchanges; immutable. Times are micros.

    `watermark`: the largest time of a price. `clock_mark`: up to which the clock has decided; older prices are ignored.
    """

    product: str
    legs: Mapping[str, Leg] = field(default_factory=dict)
    machines: Machines = field(default_factory=dict)
    watermark: int = 0
    clock_mark: int = 0


StoredDivergence = tuple[str, list[Leg], list[StoredMachine], int, int]


@dataclass(frozen=True, slots=True)
class Diverged:
    """The state that follows, the alerts to send, and how many prices were ignored as older than known ones."""

    state: DivergenceState
    alerts: list[Alert]
    late: int = 0


def stored(state: DivergenceState) -> StoredDivergence:
    """Return the state as what msgspec encodes."""
    legs = [leg for _, leg in sorted(state.legs.items())]
    return state.product, legs, stored_machines(state.machines), state.watermark, state.clock_mark


def restored(parts: StoredDivergence) -> DivergenceState:
    """Return the state that `stored` gave the parts of."""
    product, legs, machines, watermark, clock_mark = parts
    return DivergenceState(
        product, {leg[0]: Leg(*leg) for leg in legs}, restored_machines(machines), watermark, clock_mark
    )


def fold(state: DivergenceState, prices: Iterable[Priced], rules: Sequence[ActiveRule]) -> Diverged:
    """Read prices of the product in offset order; `rules` are those that name it, ended versions included."""
    reading = _Reading(state, rules)
    for index, priced in enumerate(prices):
        reading.read(index, priced)
    return reading.finish()


def advance(state: DivergenceState, clock: int, rules: Sequence[ActiveRule]) -> Diverged:
    """Let the event clock say `clock`, micros: timers act. Returns the same state where nothing was to be done."""
    due = deadline(state, rules)
    if due is None or clock < due:
        return Diverged(state, [])
    reading = _Reading(state, rules)
    reading.timers(clock)
    return reading.finish()


def retire(state: DivergenceState, rule: ActiveRule, at: int) -> Diverged:
    """End a version of a rule at `at`, micros: what is open is closed, reason `rule_changed`."""
    if rule.key not in state.machines:
        return Diverged(state, [])
    reading = _Reading(state, [rule])
    reading.retire(reading.watches[0], at)
    return reading.finish()


def deadline(state: DivergenceState, rules: Sequence[ActiveRule]) -> int | None:
    """Return the event-clock time, micros, at which `advance` would do something; None: only a price can."""
    watches = [Watch(rule, held) for rule in rules if (held := state.machines.get(rule.key)) is not None]
    return min((watch.due for watch in watches if watch.due is not None and not watch.silent), default=None)


class _Reading:
    """A state while prices and timers act on it."""

    def __init__(self, state: DivergenceState, rules: Sequence[ActiveRule]) -> None:
        self._state = state
        self._transitions = Transitions(state.machines, EVERY_EXCHANGE, state.product)
        self._legs = dict(state.legs)
        self._watermark, self._mark = state.watermark, state.clock_mark
        self._late = 0
        self.watches = [
            self._transitions.watch(rule, order) for order, rule in enumerate(rules) if rule.source == "product"
        ]

    def read(self, index: int, priced: Priced) -> None:
        """Take one price."""
        leg, now = self._legs.get(priced.exchange), max(self._watermark, priced.time)
        if now < self._mark or (leg is not None and priced.time < leg.time):
            self._late += 1
            return
        for watch in [watch for watch in self.watches if watch.rule.ended_at is not None]:
            ended_at = watch.rule.ended_at
            if ended_at is not None and priced.appended_at >= ended_at:
                self._transitions.place = (index, 0)
                self.retire(watch, ended_at)
        self._transitions.place = (index, 1)
        for watch in self.watches:
            self._transitions.timers(watch, now, self._see)
        self._watermark = now
        self._legs[priced.exchange] = Leg(priced.exchange, priced.time, priced.price)
        self._transitions.place = (index, 2)
        for watch in self.watches:
            if watch.rule.effective_at <= priced.appended_at and priced.exchange in _exchanges(watch.rule):
                self._compare(watch, now)

    def timers(self, until: int) -> None:
        """Let the timers act that report something, by the clock."""
        for watch in self.watches:
            self._mark = max(self._mark, self._transitions.timers(watch, until, self._see, silent=False))

    def retire(self, watch: Watch, at: int) -> None:
        """Close what a version has open, and forget it."""
        self.watches.remove(watch)
        self._transitions.retire(watch.rule, at, RULE_CHANGED, _points(self._fresh(watch.rule)), watch.order)

    def finish(self) -> Diverged:
        """Return what follows."""
        self._transitions.settle()
        after = replace(
            self._state,
            legs=self._legs,
            machines=self._transitions.machines,
            watermark=self._watermark,
            clock_mark=self._mark,
        )
        return Diverged(after, self._transitions.alerts, self._late)

    def _compare(self, watch: Watch, now: int) -> None:
        legs, limit = self._fresh(watch.rule), watch.rule.compared
        if len(legs) > 1 and isinstance(limit, Limit):
            low, high = min(leg.price for leg in legs), max(leg.price for leg in legs)
            value = (high - low) / ((high + low) / 2) * BPS
            self._transitions.value(watch, value, signal(limit, value), now, self._see)

    def _fresh(self, rule: ActiveRule) -> list[Leg]:
        """Return the prices that a rule compares, the oldest first."""
        legs = [leg for name in _exchanges(rule) if (leg := self._legs.get(name)) is not None]
        return sorted([leg for leg in legs if self._watermark - leg.time <= FRESH], key=lambda leg: leg.time)

    def _see(self, watch: Watch, state: State) -> Sight:
        rule, value, legs = watch.rule, watch.held.value, self._fresh(watch.rule)
        if value is None or rule.compared is None:
            raise ValueError(f"rule {rule.key} came to {state} without a value")
        words = in_words(rule.definition.condition, state, rule.holds, value)
        prices = ", ".join(f"{leg.exchange} {leg.price:.15g}" for leg in legs)
        return Sight(value, rule.compared.threshold, f"{words} ({prices})", None, _points(legs))


def _exchanges(rule: ActiveRule) -> Sequence[str]:
    condition = rule.definition.condition
    return condition.exchanges if isinstance(condition, Divergence) else ()


def _points(legs: Sequence[Leg]) -> list[PricePoint]:
    return [PricePoint(time=leg.time, price=leg.price) for leg in legs[-5:]]
