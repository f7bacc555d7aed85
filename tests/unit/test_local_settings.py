"""What the local stack derives from its settings: the feed, each child's environment, roles, the home's note."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from producers.exchange.synthetic import write_recording
from pulsestream.core.errors import SettingsError, UsageError
from pulsestream.core.settings import Settings
from pulsestream.local import feed
from pulsestream.local.attach import attach
from pulsestream.local.errors import HomeBusyError
from pulsestream.local.home import Home
from pulsestream.local.private import stored_secrets, write_private
from pulsestream.local.roles import as_role, child_environment


def _never(url: str) -> bool:
    raise AssertionError(f"{url} was tried")


def test_auto_is_live_where_the_exchange_answers_and_simulated_elsewhere() -> None:
    online = feed.choose(Settings(feed="auto"), lambda _: True)
    offline = feed.choose(Settings(feed="auto"), lambda _: False)

    assert (online.exchange, online.arguments) == ("coinbase", ())
    assert (offline.exchange, offline.arguments[0]) == ("simulator", "--synthetic")


def test_live_is_taken_at_its_word() -> None:
    chosen = feed.choose(Settings(feed="live", exchange_url="ws://127.0.0.1:1"), _never)

    assert chosen == feed.Feed("coinbase", (), "live from ws://127.0.0.1:1")


def test_a_replay_keeps_the_exchanges_name_and_its_old_times(tmp_path: Path) -> None:
    recording = tmp_path / "day.frames"
    write_recording(recording, seed=1, seconds=30, products=("DOGE-USD", "ETH-USD"))

    chosen = feed.choose(Settings(feed=f"replay:{recording}"), _never)

    assert (chosen.exchange, chosen.is_replay) == ("coinbase", True)
    assert chosen.products == ("ETH-USD", "DOGE-USD")
    begin = ["--frames", str(recording), "--start-after", "2"]
    assert feed.command(chosen, 9443)[-6:] == [*begin, "--port", "9443"]


def test_a_recording_without_ticks_is_refused(tmp_path: Path) -> None:
    recording = tmp_path / "empty.frames"
    recording.touch()

    with pytest.raises(SettingsError, match="no ticker frame"):
        feed.choose(Settings(feed=f"replay:{recording}"), _never)


def test_a_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.frames"):
        feed.choose(Settings(feed=f"replay:{tmp_path}/missing.frames"), _never)


def test_a_child_reads_exactly_the_settings_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PULSESTREAM_KAFKA_PASSWORD", "the parent's")
    given = Settings(
        home=tmp_path, kafka_username="ps-sink", kafka_password=SecretStr("its-own"), checkpoint_interval=0.25
    )

    program = (
        "from pulsestream.core.settings import load_settings\n"
        "s = load_settings()\n"
        "print(s.home, s.kafka_username, s.kafka_password.get_secret_value(), s.checkpoint_interval, s.kafka_ca_file)"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=child_environment(given), check=True)

    assert said.stdout == f"{tmp_path} ps-sink its-own 0.25 None\n"


def test_a_role_is_taken_on_over_the_url_that_was_given() -> None:
    url = as_role("postgresql://owner:secret@db.example/ps?sslmode=require&options=-c%20x%3D1", "ps_sink")

    parts = urlsplit(url)
    assert parts.netloc == "owner:secret@db.example"
    assert parse_qs(parts.query) == {"sslmode": ["require"], "options": ["-c role=ps_sink"]}
    assert "+" not in parts.query


def test_secrets_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"

    first = stored_secrets(file, ["a"])
    second = stored_secrets(file, ["a", "b"])

    assert second["a"] == first["a"]
    assert len(second["b"]) >= 32
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_private_file_is_private_even_where_a_readable_one_stood(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("old", "utf-8")
    file.chmod(0o644)

    write_private(file, "new")

    assert (file.read_text("utf-8"), file.stat().st_mode & 0o777) == ("new", 0o600)


def test_a_home_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = Home(tmp_path), Home(tmp_path)
    first.lock()

    with pytest.raises(HomeBusyError, match=f"process {os.getpid()}"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_command_finds_the_stack_that_runs_from_its_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lock()
    home.write_note({"kafka_bootstrap": "127.0.0.1:1", "kafka_username": "admin", "api_port": 9000})

    settings = attach(Settings(home=tmp_path, log_level="error"))
    home.unlock()

    found = (settings.kafka_bootstrap, settings.kafka_username, settings.api_port, settings.log_level)
    assert found == ("127.0.0.1:1", "admin", 9000, "error")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ("simulator", "ws://127.0.0.1:2", "")),
        ({"exchange": "kraken"}, ("kraken", "", "")),
        ({"exchange": "simulator", "exchange_url": "ws://127.0.0.1:3"}, ("simulator", "ws://127.0.0.1:3", "")),
    ],
)
def test_a_command_takes_the_stacks_exchange_or_its_own_and_never_a_mixture(
    tmp_path: Path, given: dict[str, str], found: tuple[str, str, str]
) -> None:
    home = Home(tmp_path)
    home.lock()
    home.write_note({"kafka_bootstrap": "127.0.0.1:1", "exchange": "simulator", "exchange_url": "ws://127.0.0.1:2"})

    settings = attach(Settings(home=tmp_path, **given))
    home.unlock()

    assert (settings.exchange, settings.exchange_url, settings.exchange_rest_url) == found


def test_a_named_broker_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, kafka_bootstrap="broker:9092")

    assert attach(settings) is settings


def test_where_no_stack_runs_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lock()
    home.write_note({"kafka_bootstrap": "127.0.0.1:1"})
    home._lock.close()  # as when the stack is killed: the note stays

    with pytest.raises(UsageError, match="make up"):
        attach(Settings(home=tmp_path))
