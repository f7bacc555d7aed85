"""The backtest command: rules over records of the past, evaluated by the live engine, each transition told.

What it counts as a notification is a firing transition: `for` and `cooldown` are behind it, and acknowledging, snoozing
and silencing exist only in a running installation.
"""

import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Final, TextIO

import orjson

from pulsestream.commands.reading import Skipped
from pulsestream.commands.shown import Counter, number, table, warn_of, with_progress
from pulsestream.commands.sources import Sources
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from pulsestream.core.errors import OutageError
from schemas.records import Alert
from streams.engine.evaluation import Choice, RuleEvaluation, Tally
from streams.engine.firings import Firings, told, told_order
from streams.engine.rules import RuleDefinition

PARTS: Final = 16
"""Parts that each process evaluates, so that none of them waits long for another at the end."""
_RIGHT: Final = frozenset({"value", "fired", "firing for", "would notify", "longest"})


@dataclass(frozen=True, slots=True)
class Result:
    """The transitions, what was read, and what was skipped."""

    transitions: list[Alert] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    skipped: Skipped = field(default_factory=Skipped)

    def include(self, other: "Result") -> None:
        """Take what came out elsewhere."""
        self.transitions.extend(other.transitions)
        self.tally.include(other.tally)
        self.skipped.include(other.skipped)


def backtest(
    rules: Sequence[RuleDefinition],
    sources: Sources,
    choice: Choice,
    progress: TextIO = sys.stderr,
    processes: int | None = None,
) -> Result:
    """Evaluate rules over everything that the sources hold; transitions come in order of their times.

    Many files of bars are evaluated in several processes (default: one a processor), products apart.
    """
    workers = processes or processors()
    parts = sources.divided(PARTS * workers) if workers > 1 else [sources]
    result = _in_processes(rules, parts, choice, workers, progress) if len(parts) > 1 else Result()
    if len(parts) == 1:
        result.include(_evaluated(rules, sources, choice, progress))
    result.transitions.sort(key=told_order)
    return result


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _evaluated(rules: Sequence[RuleDefinition], sources: Sources, choice: Choice, progress: TextIO) -> Result:
    evaluation = RuleEvaluation(rules, choice)
    transitions: list[Alert] = []
    for part in with_progress(sources.slices(None), progress):
        transitions += evaluation.take(part.batches)
    transitions += evaluation.finish()
    return Result(transitions, evaluation.tally, sources.skipped)


def _in_processes(
    rules: Sequence[RuleDefinition], parts: Sequence[Sources], choice: Choice, workers: int, progress: TextIO
) -> Result:
    result = Result()
    counter = Counter(progress)
    try:
        with ProcessPoolExecutor(workers, initializer=_leave_interrupts) as pool:
            try:
                for done in as_completed([pool.submit(_part, rules, part, choice) for part in parts]):
                    result.include(done.result())
                    counter.say(result.tally.records)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool as error:
        raise OutageError("a process of the backtest was killed, maybe for want of memory: name fewer files") from error
    finally:
        counter.end()
    return result


def _leave_interrupts() -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the one that was started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _part(rules: Sequence[RuleDefinition], sources: Sources, choice: Choice) -> Result:
    return _evaluated(rules, sources, choice, io.StringIO())


def run(
    rules: Sequence[RuleDefinition], sources: Sources, choice: Choice, *, as_json: bool, out: TextIO, err: TextIO
) -> None:
    """Backtest and print: a transition a line as JSON, or a table and a summary. What was skipped goes to `err`."""
    result = backtest(rules, sources, choice, err)
    if as_json:
        out.writelines(orjson.dumps(told(alert)).decode() + "\n" for alert in result.transitions)
    else:
        out.write(shown(rules, result, choice))
    warn_of(result.skipped, err)


def shown(rules: Sequence[RuleDefinition], result: Result, choice: Choice) -> str:
    """Return a result as people read it."""
    rows = [
        (
            format_rfc3339(one.at),
            one.state,
            one.rule_name,
            f"{one.exchange}:{one.product}",
            number(one.value),
            one.reason,
        )
        for one in result.transitions
    ]
    headings = ("time", "state", "rule", "product", "value", "reason")
    told = table(headings, rows, _RIGHT) if rows else "no rule changed its state\n"
    return f"{told}\n{_summary(rules, result)}\n{_read(result.tally, choice)}"


def _summary(rules: Sequence[RuleDefinition], result: Result) -> str:
    headings = ("rule", "fired", "would notify", "firing for", "longest", "at the end")
    by_rule: dict[str, list[Alert]] = {str(position): [] for position in range(len(rules))}
    for one in result.transitions:
        by_rule[one.rule_id].append(one)
    rows = []
    for rule, (rule_id, transitions) in zip(rules, by_rule.items(), strict=True):
        firings = Firings()
        for one in transitions:
            firings.take(one)
        firings.finish(result.tally.last)
        ending = f"{firings.still} firing" if firings.still else "-"
        ending = ending if rule_id in result.tally.rules else "saw no record" if rule.enabled else "disabled"
        times = (format_lasting(firings.lasting), format_lasting(firings.longest))
        rows.append((rule.name, str(firings.fired), str(firings.fired), *times, ending))
    return table(headings, rows, _RIGHT)


def format_lasting(micros: int) -> str:
    """Return a length of time as people read it: 1h 2m 3.5s."""
    seconds = micros % (60 * MICROS_PER_SECOND) / MICROS_PER_SECOND
    minutes = micros // (60 * MICROS_PER_SECOND)
    parts = [f"{minutes // 60}h"] if minutes >= 60 else []  # noqa: PLR2004 (minutes of an hour)
    parts += [f"{minutes % 60}m"] if minutes else []
    return " ".join([*parts, f"{seconds:g}s"])


def _read(tally: Tally, choice: Choice) -> str:
    if tally.first is None:
        return "0 records read: nothing lies in the time that was asked for\n"
    lines = [f"{tally.records:,} records read, {format_rfc3339(tally.first)} to {format_rfc3339(tally.last)}"]
    left_out = [f"{count:,} {name}" for name, count in _left_out(tally)]
    lines += [f"left out: {', '.join(left_out)}"] if left_out else []
    lines += [f"bars: rules over prices saw each bar's {_PRICES[choice.bar_price]}"] if tally.bars else []
    return "\n".join([*lines, ""])


_PRICES: Final = {"close": "close", "low": "low", "high": "high", "ohlc": "open, low, high and close"}


def _left_out(tally: Tally) -> Iterator[tuple[str, int]]:
    words = {"duplicate": "duplicates", "late": "more than 10 s late", "late_for_alerts": "too late for alerts"}
    for name, word in words.items():
        if tally.counts.get(name):
            yield word, tally.counts[name]
