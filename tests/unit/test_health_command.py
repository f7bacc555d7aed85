"""What a container's health check runs: it says whether the process beside it is ready, and loads no library for it."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from pulsestream.cli import app
from pulsestream.commands.health import main
from pulsestream.core.health import OpsServer, Readiness
from pulsestream.local.process import free_port


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def port(readiness: Readiness) -> Iterator[int]:
    server = OpsServer(0, readiness)
    server.start()
    yield server.port
    server.stop()


def test_a_ready_process_is_healthy(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PULSESTREAM_OPS_PORT", str(port))

    assert main([]) == 0
    assert capsys.readouterr().out == "ready\n"


def test_one_that_is_not_ready_says_why(
    port: int, readiness: Readiness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readiness.add("broker", lambda: "it is away")
    monkeypatch.setenv("PULSESTREAM_OPS_PORT", str(port))

    assert main([]) == 1
    assert capsys.readouterr().out == "broker: it is away\n"


def test_without_a_port_of_its_own_the_api_is_asked(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PULSESTREAM_OPS_PORT", "0")
    monkeypatch.setenv("PULSESTREAM_API_PORT", str(port))

    assert main([]) == 0
    assert capsys.readouterr().out == "ready\n"


def test_nobody_there_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/readyz"

    assert main([url]) == 1
    assert capsys.readouterr().out == f"{url} does not answer yet\n"


def test_the_command_asks_a_given_address(port: int) -> None:
    result = CliRunner().invoke(app, ["health", f"http://127.0.0.1:{port}/readyz"])

    assert (result.exit_code, result.output) == (0, "ready\n")


def test_the_check_loads_none_of_the_libraries() -> None:
    heavy = ("pydantic", "typer", "confluent_kafka", "numpy", "httpx")
    program = f"import sys, pulsestream.commands.health; print([name for name in {heavy} if name in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)

    assert shown.stdout == "[]\n"
