"""Settings come from the environment, and a mistake is one sentence that says what to write instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pulsestream.core.errors import SettingsError
from pulsestream.core.settings import environment, load_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PULSESTREAM_"):
            monkeypatch.delenv(name)


def test_defaults_suit_the_local_stack() -> None:
    settings = load_settings()

    assert (settings.api_host, settings.api_port, settings.partitions) == ("127.0.0.1", 8000, 3)


def test_a_wrong_value_names_the_variable_and_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSESTREAM_API_PORT", "eighty")

    with pytest.raises(SettingsError, match=r"PULSESTREAM_API_PORT='eighty' is wrong: .*integer"):
        load_settings()


def test_a_misspelt_name_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSESTREAM_API_PROT", "80")

    with pytest.raises(SettingsError, match="did you mean PULSESTREAM_API_PORT"):
        load_settings()


def test_every_fault_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSESTREAM_PARTITIONS", "0")
    monkeypatch.setenv("PULSESTREAM_LOG_LEVEL", "loud")

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert "PULSESTREAM_PARTITIONS" in str(caught.value)
    assert "PULSESTREAM_LOG_LEVEL" in str(caught.value)


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSESTREAM_KAFKA_PASSWORD", "hunter2")

    assert "hunter2" not in repr(load_settings())


def test_a_child_reads_what_its_parent_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment({"api_port": 9001, "exchange": "simulator"}).items():
        monkeypatch.setenv(name, value)

    assert (load_settings().api_port, load_settings().exchange) == (9001, "simulator")


def test_the_variables_of_options_and_tests_are_no_misspelt_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSESTREAM_API_KEY", "ps_live_x")
    monkeypatch.setenv("PULSESTREAM_SHARED", "elsewhere")

    assert load_settings().api_port == 8000


@pytest.mark.parametrize("command", ["producer", "stream", "sink", "migrate"])
def test_a_process_without_what_it_needs_ends_with_one_line_that_says_what_to_set(command: str, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PULSESTREAM_")}

    ended = subprocess.run(
        [sys.executable, "-m", "pulsestream.cli", command],
        env=environ | {"PULSESTREAM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    said = [line for line in ended.stderr.splitlines() if line.startswith("pulsestream: ")]
    assert ended.returncode in {1, 2}
    assert len(said) == 1
    assert "PULSESTREAM_" in said[0]
    assert "Traceback" not in ended.stderr
