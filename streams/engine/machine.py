"""The alert state machine: inactive -> pending -> firing -> resolved, as one table.

Pure and ignorant of prices: it takes what a condition says at an event time, or that a timer ended, and answers with
the next standing and the transitions to report. Times are microseconds of event time.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Phase(IntEnum):
    """Where a rule stands for one product. The numbers are part of the stored state."""

    INACTIVE = 0
    PENDING = 1
    """The condition is true, for less than `for`."""
    FIRING = 2
    CLEARING = 3
    """Firing, and the clear condition has held without a break since `since`, for less than `keep_firing_for`."""
    COOLING = 4
    """Resolved at `since`, less than `cooldown` ago."""
    WAITING = 5
    """As COOLING, and the condition is true again."""


class Signal(IntEnum):
    """What a condition says about a record, or that the phase's time is over. Bits, so that sets are masks."""

    TRUE = 1
    BETWEEN = 2
    """Between threshold and clear: neither true nor clear."""
    CLEAR = 4
    TIMER = 8


class State(StrEnum):
    """The state of an alert record."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class Move:
    """What a signal does: the next phase, whether its time starts now, and the transition to report."""

    to: Phase
    restarts: bool = False
    report: State | None = None


@dataclass(frozen=True, slots=True)
class Holds:
    """How long phases last, microseconds: a rule's `for`, `keep_firing_for` and `cooldown`."""

    pending: int
    clearing: int
    cooling: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A phase and the event time it is counted from."""

    phase: Phase
    since: int


IDLE: Final = Standing(Phase.INACTIVE, 0)

_RECORD_SIGNALS: Final = (Signal.TRUE, Signal.BETWEEN, Signal.CLEAR)

TABLE: Final[dict[tuple[Phase, Signal], Move]] = {
    (Phase.INACTIVE, Signal.TRUE): Move(Phase.PENDING, restarts=True, report=State.PENDING),
    (Phase.INACTIVE, Signal.BETWEEN): Move(Phase.INACTIVE),
    (Phase.INACTIVE, Signal.CLEAR): Move(Phase.INACTIVE),
    (Phase.PENDING, Signal.TRUE): Move(Phase.PENDING),
    (Phase.PENDING, Signal.BETWEEN): Move(Phase.PENDING),
    (Phase.PENDING, Signal.CLEAR): Move(Phase.INACTIVE, report=State.INACTIVE),
    (Phase.PENDING, Signal.TIMER): Move(Phase.FIRING, report=State.FIRING),
    (Phase.FIRING, Signal.TRUE): Move(Phase.FIRING),
    (Phase.FIRING, Signal.BETWEEN): Move(Phase.FIRING),
    (Phase.FIRING, Signal.CLEAR): Move(Phase.CLEARING, restarts=True),
    (Phase.CLEARING, Signal.TRUE): Move(Phase.FIRING),
    (Phase.CLEARING, Signal.BETWEEN): Move(Phase.FIRING),
    (Phase.CLEARING, Signal.CLEAR): Move(Phase.CLEARING),
    (Phase.CLEARING, Signal.TIMER): Move(Phase.COOLING, restarts=True, report=State.RESOLVED),
    (Phase.COOLING, Signal.TRUE): Move(Phase.WAITING),
    (Phase.COOLING, Signal.BETWEEN): Move(Phase.COOLING),
    (Phase.COOLING, Signal.CLEAR): Move(Phase.COOLING),
    (Phase.COOLING, Signal.TIMER): Move(Phase.INACTIVE),
    (Phase.WAITING, Signal.TRUE): Move(Phase.WAITING),
    (Phase.WAITING, Signal.BETWEEN): Move(Phase.WAITING),
    (Phase.WAITING, Signal.CLEAR): Move(Phase.COOLING),
    (Phase.WAITING, Signal.TIMER): Move(Phase.PENDING, restarts=True, report=State.PENDING),
}
"""Every phase and every signal that can reach it; the phases without a TIMER row have no end of their own."""

STABLE: Final[tuple[int, ...]] = tuple(
    sum(signal.value for signal in _RECORD_SIGNALS if TABLE[phase, signal] == Move(phase)) for phase in Phase
)
"""By phase: the signals, as a mask, that change nothing."""


def due(standing: Standing, holds: Holds) -> int | None:
    """Return the event time at which the phase's time is over, or None if it has no end of its own."""
    hold = _hold(standing.phase, holds)
    return None if hold is None else standing.since + hold


def react(standing: Standing, signal: Signal, at: int, holds: Holds) -> tuple[Standing, list[State]]:
    """Return the standing after a signal at event time `at`, and the transitions to report, all of them at `at`.

    A phase that lasts 0 ends at once: with `for` 0 there is no pending, and nothing is reported of it.
    """
    standing, report = _apply(standing, signal, at)
    reports = [report]
    while _hold(standing.phase, holds) == 0:
        if reports[-1] is State.PENDING:
            reports.pop()
        standing, report = _apply(standing, Signal.TIMER, at)
        reports.append(report)
    return standing, [state for state in reports if state is not None]


def close(standing: Standing) -> State | None:
    """Return the transition that ends an open alert from outside; None if nothing is open."""
    if standing.phase in {Phase.FIRING, Phase.CLEARING}:
        return State.RESOLVED
    return State.INACTIVE if standing.phase is Phase.PENDING else None


def _apply(standing: Standing, signal: Signal, at: int) -> tuple[Standing, State | None]:
    move = TABLE[standing.phase, signal]
    return Standing(move.to, at if move.restarts else standing.since), move.report


def _hold(phase: Phase, holds: Holds) -> int | None:
    if phase is Phase.PENDING:
        return holds.pending
    if phase is Phase.CLEARING:
        return holds.clearing
    return holds.cooling if phase in {Phase.COOLING, Phase.WAITING} else None
