"""`pulsestream record` against the exchange simulator: killed, started again, disconnected, and played again."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from producers.errors import FrameError
from producers.frames import Frame, read_frames
from producers.recording import read_index
from pulsestream.local import process
from tests.support.e2e import Service, eventually
from tests.support.producing import start_exchange

PRODUCTS = ("BTC-USD", "ETH-USD")
OWN_ANSWERS = {"subscriptions", "heartbeat"}
"""Frames that the simulator makes for each client anew."""


UNWRITTEN = 20
"""Frames at most that an exchange which was killed had sent, and not yet written down."""


@dataclass(frozen=True)
class Evidence:
    """A recording in two files; `indexed`: frames that were stored when the first one's recorder was killed."""

    output: Path
    indexed: int
    exit_code: int
    sent: list[str]

    @property
    def files(self) -> list[list[Frame]]:
        return [list(read_frames(path)) for path in sorted(self.output.glob("*.frames.zst"))]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("record")
    output, port = folder / "recording", process.free_port()
    market, url = start_exchange(folder, "--synthetic", "11", "--rate", "40", port=port)
    recorder = _start_recorder(folder, url, output)
    try:
        eventually(lambda: _assert_at_least(_indexed(output), 100))
        recorder.kill()
        indexed = _indexed(output)
        recorder.start()
        eventually(lambda: _assert_at_least(_indexed(output), indexed + 50))
        market.kill()
        market, _ = start_exchange(folder, "--synthetic", "12", "--rate", "40", port=port)
        eventually(lambda: _assert_at_least(max(_connections(output)), 2))
        code = recorder.stop()
    finally:
        recorder.stop()
        market.stop()
    sent = [frame.text for path in folder.glob("sent-*.frames") for frame in read_frames(path)]
    return Evidence(output, indexed, code, sent)


def _start_recorder(folder: Path, url: str, output: Path, *arguments: str) -> Service:
    command = [sys.executable, "-m", "pulsestream.cli", "record", "--exchange", "simulator", "--url", url]
    command += ["--products", ",".join(PRODUCTS), "--output", str(output), *arguments]
    service = Service("record", command, {}, folder / "record.log")
    service.start()
    return service


def _indexed(output: Path) -> int:
    return sum(entry.count for path in output.glob("*.frames.zst") for entry in read_index(path))


def _connections(output: Path) -> set[int]:
    return {frame.connection for frame in read_frames(output)}


def _assert_at_least(value: int, wanted: int) -> None:
    assert value >= wanted


def test_what_a_killed_recorder_had_stored_is_read_to_the_last_frame(evidence: Evidence) -> None:
    killed = [frame.text for frame in evidence.files[0]]

    assert len(killed) >= evidence.indexed >= 100
    assert set(killed) <= set(evidence.sent)
    assert len(killed) == len(set(killed))


def test_a_recorder_connects_again_and_tells_the_connections_apart(evidence: Evidence) -> None:
    _, second = evidence.files

    assert [frame.connection for frame in second] == sorted(frame.connection for frame in second)
    assert {frame.connection for frame in second} == {1, 2}
    before, after = ([frame.text for frame in second if frame.connection == number] for number in (1, 2))
    assert {*before[:-UNWRITTEN], *after} <= set(evidence.sent)


def test_a_recorder_ends_cleanly_and_its_files_are_one_recording_in_time_order(evidence: Evidence) -> None:
    frames = list(read_frames(evidence.output))

    assert evidence.exit_code == 0
    assert frames == [frame for frames in evidence.files for frame in frames]
    assert [frame.received for frame in frames] == sorted(frame.received for frame in frames)


def test_a_recording_played_by_the_simulator_and_recorded_again_is_the_same(evidence: Evidence, tmp_path: Path) -> None:
    def market_data(output: Path) -> list[str]:
        try:
            frames = list(read_frames(output))
        except FrameError:
            return []
        return [frame.text for frame in frames if json.loads(frame.text)["type"] not in OWN_ANSWERS]

    def assert_same() -> None:
        assert market_data(output) == market_data(evidence.output)

    output = tmp_path / "recording"
    market, url = start_exchange(tmp_path, "--frames", str(evidence.output), "--speed", "50")
    recorder = _start_recorder(tmp_path, url, output)
    try:
        eventually(assert_same)
    finally:
        recorder.stop()
        market.stop()


def test_an_exchange_that_is_not_there_is_named_at_the_end(tmp_path: Path) -> None:
    url = f"ws://127.0.0.1:{process.free_port()}"
    recorder = _start_recorder(tmp_path, url, tmp_path / "recording", "--seconds", "0.5")
    assert recorder.running is not None

    assert recorder.running.wait(60) == 1

    said = (tmp_path / "record.log").read_text()
    assert f"pulsestream: nothing was recorded: no data from simulator at {url}: " in said
    assert list((tmp_path / "recording").iterdir()) == []
