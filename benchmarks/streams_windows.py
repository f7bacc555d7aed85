"""60 s windows from Avro ticks to a topic: our lane and our whole worker against the peers, interleaved on one broker.

Everybody reads the same backlog of one partition. A peer that cannot be installed, and a turn that does not count, are
reported with the reason.
"""

import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.choice import Choice, Figures
from benchmarks.peers.course import Course, Entrant
from benchmarks.peers.environments import JavaPeer, PythonPeer, UnavailableError
from benchmarks.peers.race import Span, SpoiltError, Turn
from benchmarks.table import show
from pulsestream.local.kafka import EmbeddedKafka

HOP: Final = 10
_LEAST: Final = 0.35
"""Of the backlog, however short the turns."""
LEFT_OUT: Final = "left out by --quick"
_QUIX: Final = PythonPeer("quix_windows", ("quixstreams==3.28.1", "fastavro==1.13.1"))
_BYTEWAX: Final = PythonPeer("bytewax_windows", ("bytewax==0.21.1", "confluent-kafka==2.16.1", "fastavro==1.13.1"))
_LANE: Final = PythonPeer("lane_windows")
ENTRANTS: Final = {
    "lane": Entrant("ours: a program on the lane", _LANE),
    "worker": Entrant("ours: the whole worker", None),
    "quix": Entrant("Quix Streams", _QUIX),
    "faust": Entrant("Faust, windowed table", PythonPeer("faust_windows")),
    "bytewax": Entrant("Bytewax", _BYTEWAX),
    "kafka-streams": Entrant("Kafka Streams, every field", JavaPeer("whole")),
    "kafka-streams-needed": Entrant("Kafka Streams, needed fields", JavaPeer("needed")),
    "lane-hopping": Entrant("ours, hopping 60/10", _LANE, HOP),
    "quix-hopping": Entrant("Quix Streams, hopping 60/10", _QUIX, HOP),
}
_QUICK: Final = frozenset({"lane", "worker", "quix", "faust", "bytewax", "kafka-streams"})
"""What a quick run has the time for."""
RATIOS: Final = {
    "tumbling_vs_quix": ("lane", "quix"),
    "tumbling_vs_faust_table": ("lane", "faust"),
    "tumbling_vs_bytewax": ("lane", "bytewax"),
    "tumbling_vs_kafka_streams": ("lane", "kafka-streams"),
    "tumbling_vs_kafka_streams_needed": ("lane", "kafka-streams-needed"),
    "hopping_vs_quix": ("lane-hopping", "quix-hopping"),
    "worker_vs_quix": ("worker", "quix"),
    "worker_vs_kafka_streams": ("worker", "kafka-streams"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it: ticks in the backlog, rounds, what a turn takes, whether peers may be installed."""

    backlog: int
    rounds: int
    span: Span
    install: bool


QUICK: Final = Plan(1_500_000, 1, Span(0.3, 2.0, 60_000), install=False)
WHOLE: Final = Plan(48_000_000, 5, Span(30.0, 60.0, 5_000_000), install=True)


@dataclass(slots=True)
class Outcome:
    """The turns of each entrant by round, None where one did not count, and why not."""

    turns: dict[str, list[Turn | None]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def ratio(self, ours: str, theirs: str) -> float | None:
        """Return how many times as many ticks a second as theirs: the median of the rounds' ratios."""
        return _median(one.per_second / two.per_second for one, two in self._pairs(ours, theirs))

    def cpu_ratio(self, ours: str, theirs: str) -> float | None:
        """Return how many times as much CPU a tick they take."""
        return _median(two.cpu_micros / one.cpu_micros for one, two in self._pairs(ours, theirs))

    def _pairs(self, ours: str, theirs: str) -> list[tuple[Turn, Turn]]:
        rounds = zip(self.turns.get(ours, ()), self.turns.get(theirs, ()), strict=False)
        return [(one, two) for one, two in rounds if one is not None and two is not None]

    def counted(self, name: str) -> list[Turn]:
        """Return an entrant's turns that count."""
        return [turn for turn in self.turns.get(name, ()) if turn is not None]


def run(broker: EmbeddedKafka, parts: Collection[str], choice: Choice, *, quick: bool) -> Figures:
    """Race those that are among the parts."""
    plan = _scaled(QUICK if quick else WHOLE, choice)
    names = [name for name in ENTRANTS if name in parts and (name in _QUICK or not quick)]
    if not names:
        return {}
    outcome = measure(broker, plan, names)
    show_turns(outcome)
    return figures(outcome, parts)


def _scaled(plan: Plan, choice: Choice) -> Plan:
    span = replace(plan.span, warm_up=plan.span.warm_up * choice.scale, seconds=plan.span.seconds * choice.scale)
    backlog = int(plan.backlog * min(max(choice.scale, _LEAST), 1.0))  # the fastest have to find enough of it
    return replace(plan, rounds=choice.repetitions or plan.rounds, span=span, backlog=backlog)


def measure(broker: EmbeddedKafka, plan: Plan, names: Collection[str]) -> Outcome:
    """Race these entrants in turn, round after round."""
    settings = broker.settings().model_copy(update={"partitions": 1})
    outcome = Outcome({name: [] for name in names})
    with tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-", ignore_cleanup_errors=True) as folder:
        course = Course(settings, Path(folder))
        course.lay(plan.backlog)
        for _ in range(plan.rounds):
            for name in names:
                outcome.turns[name].append(_turn(course, name, plan, outcome.reasons))
    return outcome


def _turn(course: Course, name: str, plan: Plan, reasons: dict[str, str]) -> Turn | None:
    try:
        turn = course.turn(name, ENTRANTS[name], plan.span, install=plan.install)
    except (UnavailableError, SpoiltError) as error:
        reasons[name] = str(error)
        print(f"{name}: {error}", flush=True)
        return None
    print(f"{name}: {turn.per_second:,.0f} ticks/s, {turn.cpu_micros:.2f} us of CPU a tick", flush=True)
    return turn


def show_turns(outcome: Outcome) -> None:
    """Print a row for each entrant: median and spread of the rate, CPU, windows compared."""
    rows = [_row(name, outcome) for name in outcome.turns]
    columns = ("60 s windows, emitted, recoverable", "ticks/s", "least to most", "CPU us/tick", "windows compared")
    show("Avro ticks to closed windows on a topic", columns, rows)


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    turns, shown = outcome.counted(name), ENTRANTS[name].shown
    if not turns:
        return shown, "-", "-", "-", outcome.reasons.get(name, "did not run").splitlines()[0][:60]
    rates = [turn.per_second for turn in turns]
    return (
        shown,
        f"{median(rates):,.0f}",
        f"{min(rates):,.0f} to {max(rates):,.0f}",
        f"{median(turn.cpu_micros for turn in turns):.2f}",
        f"{sum(turn.windows for turn in turns):,}",
    )


def figures(outcome: Outcome, parts: Collection[str]) -> Figures:
    """Return the ratios of throughput and CPU; None, and why, where one side has no turn that counts."""
    said: Figures = {}
    for key, (ours, theirs) in RATIOS.items():
        if not {ours, theirs} <= set(parts):
            continue
        said[key] = outcome.ratio(ours, theirs)
        said[f"{key}_cpu"] = outcome.cpu_ratio(ours, theirs)
        if said[key] is None:
            missing = next((name for name in (ours, theirs) if not outcome.counted(name)), theirs)
            said[f"{key}_reason"] = outcome.reasons.get(missing, LEFT_OUT).splitlines()[0]
    return said


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None
