"""The supervisor over real child processes: order, restarts, and that nothing is ever left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pulsestream.local.errors import StartError
from pulsestream.local.supervisor import Event, State, Supervisor, backoff
from tests.support import supervised
from tests.support.supervised import child


class Run:
    """A supervisor and what it told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.supervisor = Supervisor(self.events.append)

    def told(self, name: str, state: State) -> list[str]:
        return [event.text for event in self.events if event.child == name and event.state is state]


@pytest.fixture
def run() -> Iterator[Run]:
    started = Run()
    yield started
    started.supervisor.stop()


def _until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def _journal(folder: Path) -> list[str]:
    return (folder / "journal").read_text("utf-8").splitlines()


def test_a_child_starts_after_what_it_needs_is_ready_and_all_stop_in_reverse(run: Run, tmp_path: Path) -> None:
    run.supervisor.start([child(tmp_path, "base")])
    run.supervisor.start([child(tmp_path, "last", needs=("middle",)), child(tmp_path, "middle", needs=("base",))])

    run.supervisor.stop()

    assert _journal(tmp_path) == [
        *("base started", "middle started", "last started"),
        *("last stopped", "middle stopped", "base stopped"),
    ]


def test_a_killed_child_is_started_again_and_it_is_said(run: Run, tmp_path: Path) -> None:
    run.supervisor.start([child(tmp_path, "worker")])
    first = run.supervisor.pids()["worker"]

    run.supervisor.kill("worker")
    run.supervisor.wait_ready(["worker"], timeout=10)

    assert run.supervisor.pids()["worker"] != first
    assert run.told("worker", State.RESTARTING) == ["was ended by SIGKILL: starting again in 0.5 s"]
    assert run.told("worker", State.READY)[-1].startswith("ready again after")


def test_a_child_that_cannot_start_ends_the_start_with_its_own_words(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"(?s)worker ended with exit code 1:.*wrong setting: colour"):
        run.supervisor.start([child(tmp_path, "worker", "--broken")])

    run.supervisor.stop()
    assert _journal(tmp_path) == ["worker started"] * 3


def test_a_child_that_does_not_stop_is_killed_after_its_time(run: Run, tmp_path: Path) -> None:
    run.supervisor.start([child(tmp_path, "worker", "--stubborn", stop_timeout=0.3)])
    pid = run.supervisor.pids()["worker"]

    run.supervisor.stop()

    assert not psutil.pid_exists(pid)
    assert run.told("worker", State.STOPPED) == ["stopped (killed after 0.3 s)"]


def test_an_interrupted_start_gives_up_and_leaves_no_child(run: Run, tmp_path: Path) -> None:
    run.supervisor.start([child(tmp_path, "base")])
    pid = run.supervisor.pids()["base"]

    run.supervisor.interrupt()
    with pytest.raises(StartError, match="stopped before everything was ready"):
        run.supervisor.start([child(tmp_path, "late", needs=("base",))])
    run.supervisor.stop()

    assert not psutil.pid_exists(pid)


def test_the_wait_between_starts_doubles_up_to_half_a_minute() -> None:
    assert [backoff(failures) for failures in (0, 1, 2, 3, 6, 7, 8, 100)] == [0.5, 0.5, 1, 2, 16, 30, 30, 30]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A supervisor in a process of its own, and its two children."""
    command = [sys.executable, supervised.__file__, tmp_path]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        line = next(line for line in running.stdout if line.startswith("all ready"))
        yield running, [psutil.Process(int(pid)) for pid in line.split()[2:]]
        running.kill()


Owned = tuple[subprocess.Popen[str], list[psutil.Process]]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_no_child_outlives_a_killed_supervisor(process: Owned) -> None:
    supervisor, children = process

    supervisor.kill()

    _, alive = psutil.wait_procs(children, timeout=10)
    assert (len(children), alive) == (2, [])


def test_ctrl_c_reaches_the_supervisor_only_which_stops_its_children_in_reverse(process: Owned, tmp_path: Path) -> None:
    supervisor, children = process
    groups = {os.getpgid(child.pid) for child in children}

    os.kill(supervisor.pid, signal.SIGINT)

    assert supervisor.wait(10) == 0
    assert os.getpgid(0) not in groups
    assert _journal(tmp_path)[-2:] == ["second stopped", "first stopped"]
