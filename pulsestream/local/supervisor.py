"""Runs child processes: starts them in order, waits until each is ready, restarts what ends, stops all in reverse.

One thread owns every child, because the kernel ties a child's life to the thread that started it: when this process
is killed, so are the children. What happens is told as Events; the children's own output goes to their log files.
"""

import contextlib
import enum
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pulsestream.local import process
from pulsestream.local.errors import StartError

TICK: Final = 0.05
"""Seconds between two looks at the children."""
START_ATTEMPTS: Final = 3
"""A child that ends so often before it was ever ready ends the start of the whole."""
USAGE_EXIT: Final = 2
"""Exit code with which a command says that its settings are wrong: trying again cannot help."""
STEADY: Final = 60.0
"""Seconds of readiness after which earlier failures are forgotten."""


class State(enum.Enum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell about a child: it became ready, ended and will be started again, or was stopped."""

    child: str
    state: State
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child process as it should run.

    `problem` says in one sentence what a running child still lacks, None when it is ready. `prepare` runs before each
    start, `after_spawn` gets each process id and `after_exit` each exit code. `needs` names children that must be
    ready before the first start.
    """

    name: str
    command: Callable[[], Sequence[str]]
    log: Path
    problem: Callable[[], str | None]
    env: Mapping[str, str] | None = None
    needs: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    after_spawn: Callable[[int], None] | None = None
    after_exit: Callable[[int], None] | None = None
    user: Callable[[], tuple[int, int] | None] | None = None
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    state: State = State.WAITING
    running: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    ready_since: float = 0.0
    start_again: float = 0.0
    failures: int = 0
    was_ready: bool = False
    complained: bool = False
    problem: str | None = None


def backoff(failures: int) -> float:
    """Return the seconds to wait before the start after `failures` ends in a row: 0.5, 1, 2, … at most 30."""
    return float(min(30.0, 0.5 * 2 ** (max(1, failures) - 1)))


@dataclass(slots=True)
class Supervisor:
    """Runs the children given to `start`, in that order, until `stop`."""

    tell: Callable[[Event], None]
    _children: dict[str, _Child] = field(default_factory=dict)
    _order: list[str] = field(default_factory=list)
    _interrupted: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _failure: BaseException | None = None

    def start(self, specs: Collection[ChildSpec]) -> None:
        """Start these children beside those that run, and return when all are ready; raises StartError.

        A child starts when what it needs is ready. When the start fails, the caller is to `stop`.
        """
        with self._changed:
            for spec in specs:
                self._children[spec.name] = _Child(spec)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
            self._thread.start()
        self.wait_ready([spec.name for spec in specs])

    def wait_ready(self, names: Collection[str], timeout: float | None = None) -> None:
        """Return when these children are ready; raises StartError when one cannot be, or after `timeout` seconds."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._settled(names), timeout)
        if self._failure is not None:
            raise self._failure
        if self._gave_up():
            raise StartError("stopped before everything was ready")
        if not done:
            late = [f"{name} ({self._children[name].problem})" for name in names if not self._is_ready(name)]
            raise StartError(f"not ready after {timeout} s: {', '.join(late)}")

    def interrupt(self) -> None:
        """Make `start` and `wait_ready` give up, in whichever thread; `stop` is still to be called.

        Nothing ends by this, so that what the caller does with a ready child can end well. Safe in a signal handler.
        """
        self._interrupted.set()

    def stop(self) -> None:
        """Stop every child, the last one started first, and return when none is left."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def kill(self, name: str) -> None:
        """End a child with SIGKILL, as a crash would; raises KeyError when it does not run."""
        child = self._children[name]
        if child.running is None:
            raise KeyError(f"{name} does not run")
        child.state = State.RESTARTING
        child.running.kill()

    def pids(self) -> dict[str, int]:
        """Return the process ids of the children that run."""
        running = {name: child.running for name, child in list(self._children.items())}
        return {name: child.pid for name, child in running.items() if child is not None and child.returncode is None}

    def states(self) -> dict[str, State]:
        """Return the state of each child."""
        return {name: child.state for name, child in list(self._children.items())}

    @property
    def failure(self) -> BaseException | None:
        """What ended the supervisor, if anything did."""
        return self._failure

    def _settled(self, names: Collection[str]) -> bool:
        return self._failure is not None or self._gave_up() or all(self._is_ready(name) for name in names)

    def _gave_up(self) -> bool:
        return self._interrupted.is_set() or self._stopping.is_set()

    def _is_ready(self, name: str) -> bool:
        return self._children[name].state is State.READY

    def _run(self) -> None:
        try:
            while not self._stopping.wait(TICK):
                for child in list(self._children.values()):
                    self._step(child, time.monotonic())
                if self._interrupted.is_set():
                    self._notify()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits, who raises it
            self._failure = error
        finally:
            self._notify()
            self._stop_all()

    def _step(self, child: _Child, now: float) -> None:
        if child.running is None:
            if now >= child.start_again and all(self._children[name].was_ready for name in child.spec.needs):
                self._launch(child, now)
            return
        code = child.running.poll()
        if code is not None:
            self._ended(child, code, now)
        elif child.state is State.STARTING:
            self._probe(child, now)
        elif now - child.ready_since > STEADY:
            child.failures = 0

    def _launch(self, child: _Child, now: float) -> None:
        spec = child.spec
        if spec.name not in self._order:
            self._order.append(spec.name)
        if spec.prepare is not None:
            spec.prepare()
        child.running = process.spawn(
            spec.command(),
            log=spec.log,
            env=spec.env,
            on_parent_death=spec.death_signal,
            user=spec.user() if spec.user is not None else None,
        )
        if spec.after_spawn is not None:
            spec.after_spawn(child.running.pid)
        child.state, child.began, child.complained = State.STARTING, now, False

    def _probe(self, child: _Child, now: float) -> None:
        child.problem = child.spec.problem()
        if child.problem is None:
            child.state, child.ready_since = State.READY, now
            again = " again" if child.was_ready else ""
            child.was_ready = True
            self.tell(Event(child.spec.name, State.READY, f"ready{again} after {now - child.began:.1f} s"))
            self._notify()
        elif now - child.began > child.spec.start_timeout:
            self._late(child)

    def _late(self, child: _Child) -> None:
        text = f"not ready after {child.spec.start_timeout:.0f} s ({child.problem}): see {child.spec.log}"
        if not child.was_ready:
            raise StartError(f"{child.spec.name} is {text}")
        if not child.complained:
            child.complained = True
            self.tell(Event(child.spec.name, State.STARTING, text))

    def _ended(self, child: _Child, code: int, now: float) -> None:
        child.running = None
        child.failures += 1
        if child.spec.after_exit is not None:
            child.spec.after_exit(code)
        if not child.was_ready and (code == USAGE_EXIT or child.failures >= START_ATTEMPTS):
            raise StartError(f"{child.spec.name} {_how(code)}:\n{process.last_lines(child.spec.log)}")
        delay = backoff(child.failures)
        child.state, child.start_again = State.RESTARTING, now + delay
        self.tell(Event(child.spec.name, State.RESTARTING, f"{_how(code)}: starting again in {delay:g} s"))

    def _stop_all(self) -> None:
        for child in [self._children[name] for name in reversed(self._order)]:
            if child.running is not None:
                code = process.stop(child.running, grace=child.spec.stop_timeout, with_signal=child.spec.stop_signal)
                if child.spec.after_exit is not None:
                    child.spec.after_exit(code)
                killed = f" (killed after {child.spec.stop_timeout:g} s)" if code == -signal.SIGKILL else ""
                self.tell(Event(child.spec.name, State.STOPPED, f"stopped{killed}"))
            child.running, child.state = None, State.STOPPED

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):  # a signal without a name in Python, such as a real-time one
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
