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
import psycopg
import pytest

from producers.exchange.synthetic import write_recording
from pulsestream.local import demo
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.e2e import DatabaseUrl
from tests.support.stack import Up, running_stack

PARTS = ("kafka", "database", "exchange", "producer", "relay", "stream", "sink", "notifier", "api")


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


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    """One stack that has started, for tests that leave it running."""
    with tempfile.TemporaryDirectory(prefix="pulsestream-home-") as folder:
        command = Up(Path(folder), api_port=_free_port())
        command.wait_for("/docs")
        yield command
        command.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processes(up: Up) -> list[psutil.Process]:
    return psutil.Process(up.process.pid).children(recursive=True)


def _line(up: Up, text: str) -> str:
    return next(line for line in up.lines if text in line)


def test_every_part_is_shown_with_its_state(running: Up) -> None:
    ready = [line.split()[0] for line in running.lines if " ready after " in line]

    assert sorted(ready) == sorted(PARTS)


def test_the_curl_that_is_shown_returns_the_simulators_ticks(running: Up) -> None:
    line = _line(running, "curl -s")
    found = re.search(r'"(http[^"]+)" -H "X-API-Key: \$\(cat ([^)]+)\)"', line)
    assert found, line

    key = Path(found[2]).read_text("utf-8").strip()
    rows = httpx.get(found[1], headers={"X-API-Key": key}, trust_env=False).json()["rows"]

    assert {row["exchange"] for row in rows} == {"simulator"}
    assert key in running.lines[running.lines.index(_line(running, "shown this once")) + 1]


def test_other_commands_find_the_running_stack(running: Up) -> None:
    tail = [sys.executable, "-m", "pulsestream.cli", "tail", "demo", "ticks", "--beginning", "-n", "2"]
    environment = os.environ | {"PULSESTREAM_HOME": str(running.home)}

    said = subprocess.run(tail, capture_output=True, text=True, env=environment, timeout=60, check=True)

    assert len(said.stdout.splitlines()) == 2


def test_a_second_stack_in_the_same_home_is_refused(running: Up) -> None:
    second = Up(running.home)

    assert second.wait() == 2
    assert f"(process {running.process.pid})" in second.lines[0]
    second.close()


@pytest.mark.parametrize("part", ["sink", "kafka"])
def test_a_killed_part_is_started_again_and_it_is_said(running: Up, part: str) -> None:
    word = {"sink": "sink", "kafka": "kafka.Kafka"}[part]
    victim = next(child for child in _processes(running) if word in child.cmdline())

    victim.kill()

    assert "was ended by SIGKILL: starting again in" in running.wait_for(f"  {part} ")
    assert "ready again" in running.wait_for(f"  {part} ")


def test_ctrl_c_stops_in_reverse_the_second_start_is_quick_and_keeps_the_key_and_after_a_kill_the_third_recovers(
    up: Callable[..., Up], home: Path
) -> None:
    first = up()
    key = first.wait_for("ps_live_").strip()
    first.wait_for("/docs")
    children = _processes(first)
    code = first.interrupt()

    began = time.monotonic()
    second = up()
    second.wait_for("First tick stored after")
    seconds = time.monotonic() - began
    left = _killed(second)
    third = up()
    third.wait_for("First tick stored after")
    again = third.interrupt()

    stopped = [line.split()[0] for line in first.lines if line.rstrip().endswith(" stopped")]
    assert (len(stopped), stopped[-2:]) == (len(PARTS), ["kafka", "database"])
    assert not [child for child in children if child.is_running()]
    assert (code, again) == (0, 0)
    assert (home / "demo.key").read_text("utf-8").strip() == key
    assert not [line for line in second.lines if "ps_live_" in line]
    assert seconds < 60
    assert left == []


def _killed(up: Up) -> list[psutil.Process]:
    """Kill a stack with SIGKILL and return which of its processes outlive it; only Linux tells them that it ended."""
    children = _processes(up)
    assert len(children) >= len(PARTS)
    os.kill(up.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=15)
    if sys.platform != "linux":
        for child in alive:
            child.kill()
        psutil.wait_procs(alive, timeout=15)
        return []
    return alive


@pytest.mark.heavy
def test_a_replay_driven_by_a_program_keeps_the_exchanges_name_over_a_crash(home: Path, tmp_path: Path) -> None:
    recording = tmp_path / "market.frames"
    write_recording(recording, seed=3, seconds=3600, products=("BTC-USD",), rate=2)

    with running_stack(home, feed=f"replay:{recording}", registration="token") as stack:
        fed = stack.chosen
        key, _ = demo.ensure_demo(stack.api_url, home / "demo.key", fed.exchange, fed.products, stack.invitation)
        before = stack.pids()
        stack.kill("producer")
        stack.wait_ready("producer")
        found = demo.wait_for_tick(stack.api_url, key, "", 60, lambda: False)
        after = stack.pids()
        settings = stack.service_settings("sink")

    assert found
    assert {name for name in before if before[name] != after[name]} == {"producer"}
    assert (stack.chosen.exchange, settings.kafka_username) == ("coinbase", "ps-sink")
    assert "Traceback" not in stack.home.log("producer").read_text("utf-8")


@pytest.mark.heavy
def test_a_broker_and_a_database_that_were_given_are_used(tmp_path: Path, database: DatabaseUrl) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.start()
    given = kafka.settings()
    command = Up(
        tmp_path / "home",
        api_port=_free_port(),
        kafka_bootstrap=given.kafka_bootstrap,
        kafka_username=given.kafka_username,
        kafka_password=kafka.password("admin"),
        database_url=database.url(),
    )
    try:
        command.wait_for("First tick stored after")
        with psycopg.connect(database.url()) as connection:
            stored = connection.execute("SELECT count(*) > 0 FROM ticks WHERE tenant = 'demo'").fetchone()
        code = command.interrupt()
    finally:
        command.close()
        kafka.stop()

    assert (code, stored) == (0, (True,))
    assert sorted({line.split()[0] for line in command.lines if " ready after " in line}) == sorted(PARTS[2:])


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


def test_ctrl_c_while_starting_leaves_nothing(up: Callable[..., Up]) -> None:
    command = up()
    command.wait_for("  kafka ")
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
