import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streams.engine.machine import IDLE, STABLE, TABLE, Holds, Phase, Signal, Standing, State, close, due, react

TIMED = {Phase.PENDING, Phase.CLEARING, Phase.COOLING, Phase.WAITING}
LASTING = Holds(pending=10, clearing=20, cooling=30)
INSTANT = Holds(pending=0, clearing=0, cooling=0)

#: What the table must say, written out: phase, signal -> next phase, since restarts, report.
EXPECTED = {
    (Phase.INACTIVE, Signal.TRUE): (Phase.PENDING, True, State.PENDING),
    (Phase.INACTIVE, Signal.BETWEEN): (Phase.INACTIVE, False, None),
    (Phase.INACTIVE, Signal.CLEAR): (Phase.INACTIVE, False, None),
    (Phase.PENDING, Signal.TRUE): (Phase.PENDING, False, None),
    (Phase.PENDING, Signal.BETWEEN): (Phase.PENDING, False, None),
    (Phase.PENDING, Signal.CLEAR): (Phase.INACTIVE, False, State.INACTIVE),
    (Phase.PENDING, Signal.TIMER): (Phase.FIRING, False, State.FIRING),
    (Phase.FIRING, Signal.TRUE): (Phase.FIRING, False, None),
    (Phase.FIRING, Signal.BETWEEN): (Phase.FIRING, False, None),
    (Phase.FIRING, Signal.CLEAR): (Phase.CLEARING, True, None),
    (Phase.CLEARING, Signal.TRUE): (Phase.FIRING, False, None),
    (Phase.CLEARING, Signal.BETWEEN): (Phase.FIRING, False, None),
    (Phase.CLEARING, Signal.CLEAR): (Phase.CLEARING, False, None),
    (Phase.CLEARING, Signal.TIMER): (Phase.COOLING, True, State.RESOLVED),
    (Phase.COOLING, Signal.TRUE): (Phase.WAITING, False, None),
    (Phase.COOLING, Signal.BETWEEN): (Phase.COOLING, False, None),
    (Phase.COOLING, Signal.CLEAR): (Phase.COOLING, False, None),
    (Phase.COOLING, Signal.TIMER): (Phase.INACTIVE, False, None),
    (Phase.WAITING, Signal.TRUE): (Phase.WAITING, False, None),
    (Phase.WAITING, Signal.BETWEEN): (Phase.WAITING, False, None),
    (Phase.WAITING, Signal.CLEAR): (Phase.COOLING, False, None),
    (Phase.WAITING, Signal.TIMER): (Phase.PENDING, True, State.PENDING),
}


@pytest.mark.parametrize(("phase", "signal"), list(itertools.product(Phase, Signal)))
def test_each_phase_answers_each_signal_as_written_out(phase: Phase, signal: Signal) -> None:
    if (phase, signal) not in EXPECTED:
        assert signal is Signal.TIMER
        assert phase not in TIMED
        assert (phase, signal) not in TABLE
        return
    to, restarts, report = EXPECTED[phase, signal]

    standing, states = react(Standing(phase, 5), signal, 7, LASTING)

    assert standing == Standing(to, 7 if restarts else 5)
    assert states == ([] if report is None else [report])


@pytest.mark.parametrize("phase", list(Phase))
def test_the_stable_signals_are_those_that_change_nothing(phase: Phase) -> None:
    for signal in (Signal.TRUE, Signal.BETWEEN, Signal.CLEAR):
        changes = react(Standing(phase, 5), signal, 7, LASTING) != (Standing(phase, 5), [])

        assert bool(STABLE[phase] & signal) is not changes


@pytest.mark.parametrize("phase", list(Phase))
def test_only_phases_with_a_time_of_their_own_have_a_timer(phase: Phase) -> None:
    lasts = {Phase.PENDING: 10, Phase.CLEARING: 20, Phase.COOLING: 30, Phase.WAITING: 30}

    assert due(Standing(phase, 5), LASTING) == (5 + lasts[phase] if phase in lasts else None)


def test_phases_of_no_duration_are_passed_through_without_a_word() -> None:
    firing, first = react(IDLE, Signal.TRUE, 7, INSTANT)
    resolved, second = react(firing, Signal.CLEAR, 8, INSTANT)

    assert (firing.phase, first) == (Phase.FIRING, [State.FIRING])
    assert (resolved.phase, second) == (Phase.INACTIVE, [State.RESOLVED])


def test_a_waiting_rule_without_a_hold_fires_when_the_cooldown_ends() -> None:
    standing, states = react(Standing(Phase.WAITING, 5), Signal.TIMER, 35, Holds(0, 20, 30))

    assert (standing.phase, states) == (Phase.FIRING, [State.FIRING])


@pytest.mark.parametrize(
    ("phase", "report"),
    [
        (Phase.INACTIVE, None),
        (Phase.PENDING, State.INACTIVE),
        (Phase.FIRING, State.RESOLVED),
        (Phase.CLEARING, State.RESOLVED),
        (Phase.COOLING, None),
        (Phase.WAITING, None),
    ],
)
def test_closing_from_outside_reports_what_was_open(phase: Phase, report: State | None) -> None:
    assert close(Standing(phase, 5)) == report


@dataclass
class Plain:
    """The prose of the design, second by second: no table, no timers, only what has been so since when."""

    holds: Holds
    state: str = "inactive"
    latched: bool = False
    since: int = 0
    clear_since: int | None = None
    resolved_at: int | None = None
    reported: list[tuple[str, int]] = field(default_factory=list)

    def instant(self, now: int) -> None:
        """Let time reach `now`, before any record of it."""
        if self.state == "pending" and now >= self.since + self.holds.pending:
            self.say("firing", now)
        if self.state == "firing" and self.clear_since is not None and now >= self.clear_since + self.holds.clearing:
            self.resolve(now)
        if self.state == "inactive" and self.resolved_at is not None and now >= self.resolved_at + self.holds.cooling:
            self.resolved_at = None
            if self.latched:
                self.begin(now)

    def record(self, now: int, signal: Signal) -> None:
        if signal is not Signal.BETWEEN:
            self.latched = signal is Signal.TRUE
        if self.state == "inactive" and signal is Signal.TRUE and self.resolved_at is None:
            self.begin(now)
        elif self.state == "pending" and signal is Signal.CLEAR:
            self.say("inactive", now)
        elif self.state == "firing":
            self.clear_since = (
                None if signal is not Signal.CLEAR else now if self.clear_since is None else self.clear_since
            )
            self.instant(now)

    def begin(self, now: int) -> None:
        self.since = now
        self.say("pending" if self.holds.pending else "firing", now)

    def resolve(self, now: int) -> None:
        self.say("resolved", now)
        self.state, self.clear_since = "inactive", None
        self.resolved_at = now if self.holds.cooling else None

    def say(self, state: str, now: int) -> None:
        self.state = state
        self.reported.append((state, now))


@given(
    st.builds(Holds, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([Signal.TRUE, Signal.BETWEEN, Signal.CLEAR])), max_size=30),
)
def test_the_table_says_what_the_prose_says(holds: Holds, steps: list[tuple[int, Signal]]) -> None:
    plain, standing, now = Plain(holds), IDLE, 100
    reported: list[tuple[str, int]] = []
    for wait, signal in [*steps, (40, Signal.BETWEEN)]:
        for moment in range(now + 1, now + wait + 1):
            plain.instant(moment)
        now += wait
        while (at := due(standing, holds)) is not None and at <= now:
            standing, states = react(standing, Signal.TIMER, at, holds)
            reported += [(state.value, at) for state in states]
        plain.record(now, signal)
        standing, states = react(standing, signal, now, holds)
        reported += [(state.value, now) for state in states]

    assert reported == plain.reported


class MachineAgainstProse(RuleBasedStateMachine):
    """Records, timers and closings in any order: the table and the prose stay in step."""

    @initialize(pending=st.integers(0, 4), clearing=st.integers(0, 4), cooling=st.integers(0, 4))
    def begin(self, pending: int, clearing: int, cooling: int) -> None:
        self.holds = Holds(pending, clearing, cooling)
        self.plain, self.standing, self.now = Plain(self.holds), IDLE, 100
        self.reported: list[tuple[str, int]] = []

    def _react(self, signal: Signal, at: int) -> None:
        self.standing, states = react(self.standing, signal, at, self.holds)
        self.reported += [(state.value, at) for state in states]

    @rule(step=st.integers(0, 6))
    def wait(self, step: int) -> None:
        for _ in range(step):
            self.now += 1
            self.plain.instant(self.now)
            while (end := due(self.standing, self.holds)) is not None and end <= self.now:
                self._react(Signal.TIMER, end)

    @rule(signal=st.sampled_from([Signal.TRUE, Signal.BETWEEN, Signal.CLEAR]))
    def record(self, signal: Signal) -> None:
        self.plain.record(self.now, signal)
        self._react(signal, self.now)

    @rule()
    def close(self) -> None:
        state = close(self.standing)
        opened = self.plain.state in {"pending", "firing"}
        assert (state is not None) is opened
        assert state == {"pending": "inactive", "firing": "resolved"}.get(self.plain.state)
        self.plain, self.standing, self.reported = Plain(self.holds), IDLE, []

    @invariant()
    def reports_agree(self) -> None:
        assert self.reported == self.plain.reported

    @invariant()
    def no_phase_outlives_its_time(self) -> None:
        end = due(self.standing, self.holds)
        assert end is None or end > self.now


MachineAgainstProse.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestMachineAgainstProse = MachineAgainstProse.TestCase
