"""One peer's turn: it reads the backlog, and the windows it closes tell how fast, since what each holds is known.

Marks are moments at which the windows of every product up to an event time are on the output topic, by the broker's
append time. Figures count from the first mark after the warm-up to the last, so start-up, and what is read ahead of the
windows, stand on neither side. Every window up to the last mark is compared with the oracle's; a turn with a
difference has no figures.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Final

import psutil
from confluent_kafka import Consumer, Message, TopicPartition

from benchmarks.peers.job import SECOND
from benchmarks.peers.ticks import PRODUCTS, Closed, Oracle, WindowKey, differences, ticks_before
from pulsestream.core.kafka import client_config
from pulsestream.core.settings import Settings
from pulsestream.local import process

START: Final = 120.0
"""Seconds until a peer's first window, at most."""
IDLE: Final = 60.0
"""Seconds without a mark after which the backlog counts as read."""

Reader = Callable[[Message], tuple[WindowKey, Closed] | None]
"""Returns the window that a record of the output topic holds; None for a record of something else."""


class SpoiltError(Exception):
    """A turn cannot count: the peer died, stood still, or its windows are not the oracle's."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a turn takes: seconds of warm-up, then so many seconds or records, whichever comes first."""

    warm_up: float
    seconds: float
    records: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Every window that ended at `until` (event time, micros) or before is out: when (seconds), at what CPU time."""

    until: int
    at: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn measured: ticks, seconds, CPU seconds, and how many windows were compared."""

    ticks: int
    seconds: float
    cpu: float
    windows: int

    @property
    def per_second(self) -> float:
        """Ticks a second."""
        return self.ticks / self.seconds

    @property
    def cpu_micros(self) -> float:
        """Microseconds of the peer's CPU a tick."""
        return self.cpu / self.ticks * 1e6


@dataclass(slots=True)
class Windows:
    """The windows of `size` seconds seen so far, and the marks among them."""

    size: int
    seen: dict[WindowKey, Closed] = field(default_factory=dict)
    twice: list[WindowKey] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    _of_start: Counter[int] = field(default_factory=Counter)

    def take(self, key: WindowKey, window: Closed, at: float, cpu: Callable[[], float]) -> None:
        """Take in a closed window that was appended at `at` (seconds)."""
        if key in self.seen:
            self.twice.append(key)
            return
        self.seen[key] = window
        self._of_start[key[1]] += 1
        if self._of_start[key[1]] == len(PRODUCTS):
            self.marks.append(Mark(key[1] + self.size * SECOND, at, cpu()))

    def ended_by(self, until: int) -> int:
        """Return how many of them had ended at an event time (micros)."""
        return sum(start + self.size * SECOND <= until for _, start in self.seen)

    def faults(self, oracle: Oracle, step: int, until: int) -> list[str]:
        """Return what differs from the oracle's windows that ended by `until`; none: nothing does."""
        found = {key: window for key, window in self.seen.items() if key[1] + self.size * SECOND <= until}
        return [f"{key}: twice" for key in self.twice] + differences(found, oracle.windows(self.size, step, until))


def chosen(marks: Sequence[Mark], span: Span, *, whole: bool) -> tuple[Mark, Mark] | None:
    """Return the marks between which a turn counts; None while there are too few.

    `whole`: no more will come, so the last one has to do.
    """
    begin = next((mark for mark in marks if mark.at >= marks[0].at + span.warm_up), None)
    if begin is None:
        return None
    for mark in marks:
        ticks = ticks_before(mark.until) - ticks_before(begin.until)
        if ticks > 0 and (mark.at - begin.at >= span.seconds or ticks >= span.records):
            return begin, mark
    last = marks[-1]
    return (begin, last) if whole and last.at > begin.at else None


class Watch:
    """Reads an output topic from its present end on."""

    def __init__(self, settings: Settings, topic: str, read: Reader) -> None:
        self._read = read
        self._consumer = Consumer(
            client_config(settings, "bench-watch")
            | {"group.id": "bench-watch", "enable.auto.commit": False, "fetch.wait.max.ms": 20, "log_level": 2}
        )
        at = [TopicPartition(topic, partition) for partition in range(settings.partitions)]
        ends = [self._consumer.get_watermark_offsets(one, timeout=10)[1] for one in at]
        self._consumer.assign([TopicPartition(topic, one.partition, end) for one, end in zip(at, ends, strict=True)])

    def poll(self, windows: Windows, cpu: Callable[[], float]) -> None:
        """Take in what has come, waiting a moment for more."""
        for message in self._consumer.consume(500, 0.05):
            error = message.error()
            if error is not None:
                raise SpoiltError(f"the output topic cannot be read: {error.str()}")
            said = self._read(message)
            if said is not None:
                windows.take(*said, message.timestamp()[1] / 1000, cpu)

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its living children."""
    whole = psutil.Process(pid)
    times = [one.cpu_times() for one in (whole, *whole.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def run(running: Popen[bytes], log: Path, watch: Watch, windows: Windows, span: Span) -> tuple[Mark, Mark]:
    """Watch a peer's process until its turn is over; raises SpoiltError when it dies or stands still."""
    began = time.monotonic()
    newest, known = began, 0
    while True:
        if running.poll() is not None:
            raise SpoiltError(f"the peer died:\n{process.last_lines(log, 20)}")
        watch.poll(windows, lambda: cpu_seconds(running.pid))
        now = time.monotonic()
        if len(windows.marks) > known:
            newest, known = now, len(windows.marks)
        patience = IDLE if known else START
        whole = now - newest > patience
        between = chosen(windows.marks, span, whole=whole) if known else None
        if between is not None:
            return between
        if whole and windows.marks:
            taken = windows.marks[-1].at - windows.marks[0].at
            raise SpoiltError(f"the backlog is too short: all windows came within {taken:.1f} s, the warm-up included")
        if whole:
            raise SpoiltError(f"no window for {patience:.0f} s:\n{process.last_lines(log, 20)}")
