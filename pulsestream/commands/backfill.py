"""The backfill command: its options read, its progress shown (a bar with the time left, or lines), Ctrl-C obeyed."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Final, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from producers.backfill import backfill
from producers.backfill_plan import Choice, Span
from pulsestream.core.settings import Settings

LINE_EVERY: Final = 5.0
"""Seconds between two lines of progress where there is no terminal."""


def run(settings: Settings, exchange: str, span: Span, choice: Choice, out: TextIO) -> bool:
    """Backfill until the end or Ctrl-C; returns whether the end was reached. Raises UsageError, OutageError."""
    with _shown(out) as shown:
        return asyncio.run(_run(at_exchange(settings, exchange), span, choice, shown))


def at_exchange(settings: Settings, exchange: str) -> Settings:
    """Return settings for an exchange; addresses and venue of another one do not hold for it."""
    if exchange in {"", settings.exchange}:
        return settings
    other = {"exchange": exchange, "venue": "", "exchange_url": "", "exchange_rest_url": "", "exchange_key": ""}
    return settings.model_copy(update=other)


async def _run(settings: Settings, span: Span, choice: Choice, shown: "_Shown") -> bool:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)  # a second one ends it at once
        shown.say("stopping after this page")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    finished = await backfill(settings, span, choice, shown, stopping=stopping)
    if not finished:
        shown.say("stopped; run the same command again to continue")
    return finished


class _Shown(Protocol):
    """What shows progress, and is to be entered and left."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *ended: object) -> None: ...
    def begin(self, part: str, total: int) -> None: ...
    def advance(self, done: int, records: int) -> None: ...
    def say(self, text: str) -> None: ...


def _shown(out: TextIO) -> _Shown:
    return Bars(out) if out.isatty() else Lines(out, time.monotonic)


class Bars:
    """A bar for each part, with the time that is left."""

    def __init__(self, out: TextIO) -> None:
        left = TimeRemainingColumn(compact=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left:"), left)
        self._progress = Progress(*columns, console=Console(file=out))
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._progress.stop()

    def begin(self, part: str, total: int) -> None:
        """Show a new bar."""
        self._task = self._progress.add_task(part, total=total)

    def advance(self, done: int, records: int) -> None:  # noqa: ARG002 - a bar shows steps
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)


class Lines:
    """A line every few seconds, for logs and pipes."""

    def __init__(self, out: TextIO, monotonic: Callable[[], float]) -> None:
        self._out = out
        self._monotonic = monotonic
        self._part, self._total = "", 0
        self._began = self._said = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self._out.flush()

    def begin(self, part: str, total: int) -> None:
        """Begin to count."""
        self._part, self._total = part, total
        self._began = self._said = self._monotonic()

    def advance(self, done: int, records: int) -> None:
        """Show how far it is and how long the rest will take, if the last line is old enough."""
        now = self._monotonic()
        if now - self._said < LINE_EVERY or not done:
            return
        self._said = now
        left = (now - self._began) * (self._total - done) / done
        self.say(f"{self._part}: {done} of {self._total} ({records} records sent), {_duration(left)} left")

    def say(self, text: str) -> None:
        """Show a line."""
        self._out.write(text + "\n")
        self._out.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
