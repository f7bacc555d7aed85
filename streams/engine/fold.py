"""What happens to one key (tenant, exchange, product): records and the event clock in, statistics and alerts out.

Pure: a state and inputs give a new state and outputs, and nothing is changed in place. Records are folded in offset
order; outputs do not depend on how records were batched. The shell groups records by key, chooses the rules that
apply (`rules.applies`), validates (`schemas.validate`), keeps the event clock, and sends what comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.records import Alert, AsOf, Stat, Tick
from streams.engine.rules import ActiveRule


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
    watermark: int
    """Largest exchange_time seen; 0 before the first record."""
    clock_mark: int
    """Event time up to which the clock has decided about alerts; they ignore records older than it."""


@dataclass(frozen=True, slots=True)
class Folded:
    """The state that follows, and what to send. `counts` has: folded, duplicate, late, late_for_alerts."""

    state: KeyState
    stats: list[Stat]
    alerts: list[Alert]
    counts: Mapping[str, int]


def new_state(exchange: str, product: str) -> KeyState:
    """Return the state of a key of which nothing was read yet."""
    return KeyState(exchange, product, 0, 0)


def fold(state: KeyState, inputs: Sequence[Input], rules: Sequence[ActiveRule]) -> Folded:
    """Fold records of this key, in offset order. `rules` are those that apply to the key, ended versions included.

    A record appended at or after a version's ended_at retires that version, as `retire(state, rule, ended_at)` would.
    """
    raise NotImplementedError


def advance(state: KeyState, clock: int, rules: Sequence[ActiveRule]) -> Folded:
    """Let the event clock say `clock` (event time, micros): panes close 2 s past their end, alert timers act.

    Returns the same state object where nothing was to be done.
    """
    raise NotImplementedError


def retire(state: KeyState, rule: ActiveRule, at: int) -> Folded:
    """End a version of a rule at time `at` (pass its ended_at): what is open is closed, reason `rule_changed`."""
    raise NotImplementedError


def next_deadline(state: KeyState, rules: Sequence[ActiveRule]) -> int | None:
    """Return the earliest event-clock time, micros, at which `advance` would do something; None: only a record can."""
    raise NotImplementedError
