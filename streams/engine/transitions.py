"""The machines of the rules of one key while signals act on them, and the alert that each transition gives.

What a transition shows beside its state (value, reason, prices) is asked for only when there is one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from schemas.records import Alert, PricePoint
from streams.engine import machine
from streams.engine.machine import IDLE, STABLE, Phase, Signal, Standing, State
from streams.engine.rules import ActiveRule, RuleKey

RULE_CHANGED: Final = "rule_changed"
"""The reason of alerts that a new version, a pause or a deletion closes."""
BASIS_CHANGED: Final = "basis_changed"
"""The reason of alerts that end because a product's prices live on another source from now on."""
UNSUBSCRIBED: Final = "unsubscribed"
"""The reason of alerts about missing records that end because none is expected any more."""
QUIET_MARKET: Final = "quiet_market"
"""Why no record comes: the exchange is heard and tells of none."""
FEED_DOWN: Final = "feed_down"
"""Why no record comes: the exchange is not heard."""

_BITS: Final = {state: 1 << bit for bit, state in enumerate(State)}
_SHOWING: Final = frozenset({Phase.PENDING, Phase.CLEARING, Phase.WAITING})
"""The phases whose end is reported: with the last value."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A rule version's state for one key.

    `side`: of the threshold on which the last price lay (crosses). `seq`: of the last alert. `reported`: the states
    reported at event time `reported_at`, as a mask; `again`: how often at that time a state came a second time.
    `value`: the last one of a condition over a window, in phases whose end is reported. `decided`: the second up to
    which the clock decided about a condition over a window.
    """

    standing: Standing = IDLE
    side: int = 0
    seq: int = 0
    reported_at: int = 0
    reported: int = 0
    again: int = 0
    value: float | None = None
    decided: int = 0


Machines = Mapping[RuleKey, Machine]
StoredMachine = tuple[str, int, int, int, int, int, int, int, int, float | None]
"""A machine as what msgspec encodes: rule id, version, phase, since, and the fields after the standing."""


def stored_machines(machines: Machines) -> list[StoredMachine]:
    """Return machines as what msgspec encodes."""
    return [
        (
            *(rule_id, version, held.standing.phase.value, held.standing.since),
            *(held.side, held.seq, held.reported_at, held.reported, held.again, held.value),
        )
        for (rule_id, version), held in sorted(machines.items())
    ]


def restored_machines(parts: Sequence[StoredMachine]) -> dict[RuleKey, Machine]:
    """Return the machines that `stored_machines` gave the parts of."""
    return {
        (rule_id, version): Machine(Standing(Phase(phase), since), side, seq, reported_at, reported, again, value)
        for rule_id, version, phase, since, side, seq, reported_at, reported, again, value in parts
    }


@dataclass(frozen=True, slots=True)
class Sight:
    """What led to a transition: what was compared, with what, why, and the last prices, oldest first."""

    value: float | None
    threshold: float | None
    reason: str
    window: str | None
    last_prices: list[PricePoint]


class Watch:
    """A rule under evaluation; `order` is its place among the rules."""

    __slots__ = ("due", "held", "order", "rule")

    def __init__(self, rule: ActiveRule, held: Machine, order: int = 0) -> None:
        self.rule = rule
        self.order = order
        self.take(held)

    @property
    def silent(self) -> bool:
        """Whether the timer reports nothing: then only records let it act, and the clock decides nothing by it."""
        return self.held.standing.phase is Phase.COOLING

    def take(self, after: Machine) -> None:
        """Go on from another machine."""
        self.held = after
        self.due = machine.due(after.standing, self.rule.holds)


See = Callable[[Watch, State], Sight]


class Transitions:
    """Machines that differ from a fresh one, copied before the first change; and the alerts so far.

    `first_seq`: from which the numbers of a rule's alerts count up. Alerts of one step (`settle`) are in the order of
    `place`, then of their times where the place is that of timers, then of the rules.
    """

    def __init__(self, machines: Machines, exchange: str, product: str, first_seq: int = 0) -> None:
        self.alerts: list[Alert] = []
        self.place: tuple[int, int] = (0, 0)
        self._names = exchange, product
        self._machines: dict[RuleKey, Machine] | Machines = machines
        self._own: dict[RuleKey, Machine] | None = None
        self._fresh = Machine(seq=first_seq) if first_seq else UNTOUCHED
        self.reported = 0
        """How many alerts there were so far."""
        self._step: list[tuple[tuple[int, int], int, int, Alert]] = []

    @property
    def machines(self) -> Machines:
        """The machines as they are now."""
        return self._machines

    def watch(self, rule: ActiveRule, order: int = 0) -> Watch:
        """Return a rule with its machine, or with a fresh one."""
        return Watch(rule, self._machines.get(rule.key, self._fresh), order)

    def keep(self, watch: Watch, after: Machine) -> None:
        """Go on from another machine, and remember it."""
        watch.take(after)
        self._owned()[watch.rule.key] = after

    def put_back(self, rule: ActiveRule, held: Machine | None) -> None:
        """Have a rule's machine, or none, as it was before."""
        if held is not None:
            self._owned()[rule.key] = held
        elif rule.key in self._machines:
            del self._owned()[rule.key]

    def react(self, watch: Watch, signal: Signal, at: int, see: See) -> None:
        """Let a signal act at event time `at`, micros, and report what follows."""
        standing, states = machine.react(watch.held.standing, signal, at, watch.rule.holds)
        self.keep(watch, replace(watch.held, standing=standing))
        for state in states:
            self._report(watch, state, at, see)
        if watch.held.value is not None and standing.phase not in _SHOWING:
            self.keep(watch, replace(watch.held, value=None))

    def value(self, watch: Watch, value: float, said: Signal, at: int, see: See) -> bool:
        """Let what was measured act, and keep it for timers to show; tell whether it changed the phase."""
        if said & ~STABLE[watch.held.standing.phase]:
            watch.take(replace(watch.held, value=value))
            self.react(watch, said, at, see)
            return True
        if watch.held.value is not None and watch.held.value != value:
            self.keep(watch, replace(watch.held, value=value))
        return False

    def timers(self, watch: Watch, until: int, see: See, *, silent: bool = True) -> int:
        """Let a rule's timers act that end at or before `until`; return the time of the last that reports, or 0.

        `silent` False: not those that report nothing.
        """
        acted_at = 0
        while watch.due is not None and watch.due <= until and (silent or not watch.silent):
            at = watch.due
            acted_at = acted_at if watch.silent else at
            self.react(watch, Signal.TIMER, at, see)
        return acted_at

    def retire(self, rule: ActiveRule, at: int, reason: str, last_prices: list[PricePoint], order: int = 0) -> None:
        """Close what a version has open, and forget the version."""
        if rule.key not in self._machines:
            return
        watch = self.watch(rule, order)
        state = machine.close(watch.held.standing)
        if state is not None:
            window = rule.measure.window if rule.measure else None
            self._report(watch, state, at, lambda _watch, _state: Sight(None, None, reason, window, last_prices))
        del self._owned()[rule.key]

    def settle(self) -> None:
        """End a step: its alerts follow those before it."""
        if self._step:
            self._step.sort(key=lambda entry: entry[:3])
            self.alerts += [entry[3] for entry in self._step]
            self._step.clear()

    def _owned(self) -> dict[RuleKey, Machine]:
        if self._own is None:
            self._own = self._machines = dict(self._machines)
        return self._own

    def _report(self, watch: Watch, state: State, at: int, see: See) -> None:
        self.reported += 1
        self.keep(watch, _counted(watch.held, state, at))
        rule, held, sight = watch.rule, watch.held, see(watch, state)
        exchange, product = self._names
        again = f":{held.again}" if held.again else ""
        alert = Alert(
            alert_id=f"{rule.rule_id}:{rule.version}:{exchange}:{product}:{state.value}:{at}{again}",
            seq=held.seq,
            rule_id=rule.rule_id,
            rule_name=rule.definition.name,
            rule_version=rule.version,
            exchange=exchange,
            product=product,
            state=state.value,
            at=at,
            value=sight.value,
            threshold=sight.threshold,
            reason=sight.reason,
            severity=rule.definition.severity,
            labels=rule.definition.labels,
            window=sight.window,
            last_prices=sight.last_prices,
        )
        self._step.append((self.place, at, watch.order, alert))


UNTOUCHED: Final = Machine()


def _counted(held: Machine, state: State, at: int) -> Machine:
    """Return the machine after one more report; a state that comes again at the same time gets a number."""
    bit = _BITS[state]
    if at != held.reported_at:
        return replace(held, seq=held.seq + 1, reported_at=at, reported=bit, again=0)
    if held.reported & bit:
        return replace(held, seq=held.seq + 1, reported=bit, again=held.again + 1)
    return replace(held, seq=held.seq + 1, reported=held.reported | bit)
