"""The sink: topic to committed rows, one per id, against what brings the same rows in other ways.

- `vs_copy_binary`: rows a second of `pulsestream sink` against psql's binary copy of the same rows, encoded before, to
  the same table; `..._1pct_duplicates`: the same while a hundredth of the ticks come twice
- `vs_debezium`: against the Debezium JDBC sink connector with upserts, on the same broker and database
- `sink_cpu_us`, `sink_peak_mib`: CPU of the sink's process a row, and its memory at most
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.broker import running_broker
from benchmarks.choice import Choice, Figures
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.race import SpoiltError
from benchmarks.sink_stand import PLAIN, REPEATED, Filled, Span, Stand, running_server
from benchmarks.table import show

SHOWN: Final = {
    "psql": "psql \\copy, binary",
    "sink": "ours",
    "duplicates": "ours, 1 % come twice",
    "debezium": "Debezium JDBC sink",
}
PARTS: Final = tuple(SHOWN)
RATIOS: Final = {
    "vs_copy_binary": ("sink", "psql"),
    "vs_copy_binary_1pct_duplicates": ("duplicates", "psql"),
    "vs_debezium": ("sink", "debezium"),
}
LEFT_OUT: Final = "left out"


@dataclass(frozen=True, slots=True)
class Plan:
    """Ticks in the backlog, rounds, who takes part, a slow one's turn, and whether peers may be installed."""

    ticks: int
    rounds: int
    parts: Sequence[str]
    span: Span
    install: bool


QUICK: Final = Plan(60_000, 1, PARTS, Span(1.0, 4.0), install=False)
WHOLE: Final = Plan(1_000_000, 5, PARTS, Span(10.0, 20.0), install=True)
SAMPLE: Final = 200
"""Rows at a table's beginning that are compared with everybody's."""
PARTLY: Final = frozenset({"debezium"})
"""Those that store a part of the ticks in the time they are given: their tables cannot be compared whole."""


@dataclass(slots=True)
class Outcome:
    """The turns of each entrant by round, None where one did not count, and why not."""

    turns: dict[str, list[Filled | None]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def ratio(self, ours: str, theirs: str) -> float | None:
        """Return how many times as many rows a second as theirs: the median of the rounds' ratios."""
        rounds = zip(self.turns.get(ours, ()), self.turns.get(theirs, ()), strict=False)
        found = [one.per_second / two.per_second for one, two in rounds if one is not None and two is not None]
        return median(found) if found else None

    def counted(self, name: str) -> list[Filled]:
        """Return an entrant's turns that count."""
        return [turn for turn in self.turns.get(name, ()) if turn is not None]


def run(quick: bool, choice: Choice) -> Figures:  # noqa: FBT001 - what the command line says
    """Measure, print a table, and return the figures; exits with a message for a part that is none."""
    unknown = set(choice.only) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    plan = QUICK if quick else WHOLE
    names = [name for name in plan.parts if not choice.only or name in choice.only]
    with (
        running_broker() as broker,
        running_server() as server,
        tempfile.TemporaryDirectory(prefix="pulsestream-benchmark-") as folder,
    ):
        stand = Stand(broker, server, Path(folder), int(plan.ticks * choice.scale))
        try:
            stand.lay()
            span = Span(plan.span.warm_up * choice.scale, plan.span.seconds * choice.scale)
            outcome = measure(stand, names, replace(plan, span=span), choice.repetitions or plan.rounds)
            table = "a hypertable" if stand.is_hypertable else "a plain table: the server has no TimescaleDB"
        finally:
            stand.close()
    show_turns(outcome, table)
    return figures(outcome)


def measure(stand: Stand, names: Sequence[str], plan: Plan, rounds: int) -> Outcome:
    """Let these entrants fill a fresh database each, in turn, round after round."""
    entrants: Mapping[str, Callable[[str], Filled]] = {
        "psql": stand.psql,
        "sink": lambda database: stand.sink(database, PLAIN),
        "duplicates": lambda database: stand.sink(database, REPEATED),
        "debezium": lambda database: stand.debezium(database, plan.span, install=plan.install),
    }
    outcome = Outcome({name: [] for name in names})
    prints: dict[str, tuple[int, ...]] = {}
    for _ in range(rounds):
        for name in names:
            outcome.turns[name].append(_turn(stand, name, entrants[name], outcome.reasons, prints))
    return outcome


def _turn(
    stand: Stand,
    name: str,
    entrant: Callable[[str], Filled],
    reasons: dict[str, str],
    prints: dict[str, tuple[int, ...]],
) -> Filled | None:
    try:
        with stand.database() as database:
            turn = entrant(database)
            if name not in prints:
                whole = (0, 0) if name in PARTLY else stand.fingerprint(database)
                prints[name] = (*whole, *stand.fingerprint(database, SAMPLE))
    except (UnavailableError, SpoiltError) as error:
        reasons[name] = str(error)
        print(f"{name}: {error}", flush=True)
        return None
    if len({found[2:] for found in prints.values()}) > 1 or len({found for found in prints.values() if found[0]}) > 1:
        raise SystemExit(f"the tables are not the same: {prints}")
    cpu = "" if turn.cpu is None else f", {turn.cpu / turn.rows * 1e6:.2f} us of CPU a row"
    print(f"{name}: {turn.per_second:,.0f} rows/s{cpu}", flush=True)
    return turn


def show_turns(outcome: Outcome, table: str) -> None:
    """Print a row for each entrant: median and spread of the rate, CPU."""
    columns = (f"ticks into {table}", "rows/s", "least to most", "CPU us/row")
    show("Topic or file to committed rows, one per id", columns, [_row(name, outcome) for name in outcome.turns])


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    turns = outcome.counted(name)
    if not turns:
        return SHOWN[name], "-", "-", outcome.reasons.get(name, "did not run").splitlines()[0][:60]
    rates = [turn.per_second for turn in turns]
    costs = [turn.cpu / turn.rows * 1e6 for turn in turns if turn.cpu is not None]
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
    return SHOWN[name], f"{median(rates):,.0f}", spread, f"{median(costs):.2f}" if costs else "-"


def figures(outcome: Outcome) -> Figures:
    """Return the ratios; None, and why, where one side has no turn that counts."""
    said: Figures = {}
    for key, (ours, theirs) in RATIOS.items():
        said[key] = outcome.ratio(ours, theirs)
        if said[key] is None:
            missing = next((name for name in (ours, theirs) if not outcome.counted(name)), theirs)
            said[f"{key}_reason"] = outcome.reasons.get(missing, LEFT_OUT).splitlines()[0]
    sinks = [turn.cpu / turn.rows * 1e6 for turn in outcome.counted("sink") if turn.cpu is not None]
    said["sink_cpu_us"] = median(sinks) if sinks else None
    peaks = [turn.peak_mib for name in ("sink", "duplicates") for turn in outcome.counted(name) if turn.peak_mib]
    said["sink_peak_mib"] = max(peaks, default=None)
    return said
