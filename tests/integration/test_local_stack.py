"""`pulsestream up`, as a person uses it: first start, a crash, Ctrl-C, second start, and what it refuses."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.stack import Up

PARTS = ("kafka", "database", "exchange", "producer", "relay", "stream", "sink", "api")


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pulsestream-home-") as folder:
        yield Path(folder) / "home"


@pytest.fixture
def up(home: Path) -> Iterator[Callable[..., Up]]:
    """Run `pulsestream up` in one home."""
    started: list[Up] = []

    def run(**settings: object) -> Up:
        started.append(Up(home, **({"api_port": _free_port()} | settings)))
        return started[-1]

    yield run
    for command in started:
        command.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processes(up: Up) -> list[psutil.Process]:
    return psutil.Process(up.process.pid).children(recursive=True)


def _curl(up: Up) -> httpx.Response:
    """Run the command line that was shown for copying, as an HTTP request."""
    line = up.wait_for("curl -s")
    found = re.search(r'"(http[^"]+)" -H "X-API-Key: \$\(cat ([^)]+)\)"', line)
    assert found, line
    return httpx.get(found[1], headers={"X-API-Key": Path(found[2]).read_text("utf-8").strip()}, trust_env=False)


def test_the_first_start_ends_with_a_curl_that_returns_ticks_and_the_second_is_quick(
    up: Callable[..., Up], home: Path
) -> None:
    first = up()
    key = first.wait_for("ps_live_").strip()
    first.wait_for("First tick stored after")
    rows = _curl(first).json()["rows"]
    first.wait_for("/docs")
    children = _processes(first)
    code = first.interrupt()

    began = time.monotonic()
    second = up()
    second.wait_for("First tick stored after")
    seconds = time.monotonic() - began
    again = second.interrupt()

    assert {row["exchange"] for row in rows} == {"simulator"}
    assert (home / "demo.key").read_text("utf-8").strip() == key
    assert (code, again) == (0, 0)
    assert not [child for child in children if child.is_running()]
    assert not [line for line in second.lines if "ps_live_" in line]
    assert seconds < 20


def test_every_part_is_shown_with_its_state_and_stopped_in_reverse(up: Callable[..., Up]) -> None:
    command = up()
    command.wait_for("/docs")
    command.interrupt()

    ready = [line.split()[0] for line in command.lines if " ready after " in line]
    stopped = [line.split()[0] for line in command.lines if line.rstrip().endswith(" stopped")]

    assert sorted(ready) == sorted(PARTS)
    assert stopped[-2:] == ["kafka", "database"]
    assert set(stopped[:2]) == {"api", "sink"}


def test_a_killed_part_is_started_again_and_ticks_go_on(up: Callable[..., Up], home: Path) -> None:
    command = up()
    command.wait_for("/docs")
    sink = next(child for child in _processes(command) if child.cmdline()[-1] == "sink")

    sink.kill()

    assert "was ended by SIGKILL: starting again in 0.5 s" in command.wait_for("sink  ")
    assert "ready again" in command.wait_for("sink  ")
    assert command.interrupt() == 0
    assert "Traceback" not in (home / "logs" / "sink.log").read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_nothing_outlives_a_killed_stack_and_the_next_start_recovers(up: Callable[..., Up]) -> None:
    command = up()
    command.wait_for("/docs")
    children = _processes(command)

    os.kill(command.process.pid, signal.SIGKILL)

    _, alive = psutil.wait_procs(children, timeout=15)
    assert (len(children) >= len(PARTS), alive) == (True, [])
    again = up()
    again.wait_for("First tick stored after")
    assert again.interrupt() == 0


def test_other_commands_find_the_running_stack(up: Callable[..., Up], home: Path) -> None:
    command = up()
    command.wait_for("/docs")

    tail = [sys.executable, "-m", "pulsestream.cli", "tail", "demo", "ticks", "--beginning", "-n", "2"]
    environment = os.environ | {"PULSESTREAM_HOME": str(home)}
    said = subprocess.run(tail, capture_output=True, text=True, env=environment, timeout=60, check=True)

    assert len(said.stdout.splitlines()) == 2


def test_a_busy_port_is_one_clear_message(up: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = up(api_port=port)
        code = command.wait()

    assert code == 2
    assert len(command.lines) == 1
    assert f"port {port} on 127.0.0.1 is taken" in command.lines[0]
    assert f"PULSESTREAM_API_PORT={port + 1}" in command.lines[0]


def test_a_wrong_feed_is_one_clear_message(up: Callable[..., Up]) -> None:
    command = up(feed="lively")

    assert command.wait() == 2
    assert command.lines == [
        "pulsestream: PULSESTREAM_FEED='lively' is wrong: use auto, live, simulator or replay:FILE\n"
    ]


def test_a_second_stack_in_the_same_home_is_refused(up: Callable[..., Up]) -> None:
    first = up()
    first.wait_for("PulseStream starts in")
    second = up()

    assert second.wait() == 2
    assert f"(process {first.process.pid})" in second.lines[0]
    first.interrupt()


def test_ctrl_c_while_starting_leaves_nothing(up: Callable[..., Up]) -> None:
    command = up()
    command.wait_for("kafka ")
    children = _processes(command)

    code = command.interrupt()

    assert code == 0
    assert not [child for child in children if child.is_running()]


def test_without_a_new_enough_java_one_message_says_what_to_do(home: Path, tmp_path: Path) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n", "utf-8")
    old.chmod(0o755)
    environment = os.environ | {
        "JAVA_HOME": str(tmp_path),
        "PATH": str(old.parent),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "CJDK_CACHE_DIR": str(tmp_path / "jdks"),
        "CJDK_INDEX_URL": "https://127.0.0.1:9/index.json",
        "PULSESTREAM_HOME": str(home),
        "PULSESTREAM_API_PORT": str(_free_port()),
    }

    command = [sys.executable, "-m", "pulsestream.cli", "up"]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    assert said.returncode == 2
    assert f"needs Java 17 or later: {old} is version 11" in said.stderr
    assert "apt-get install openjdk-17-jre-headless" in said.stderr
    assert "Traceback" not in said.stderr
