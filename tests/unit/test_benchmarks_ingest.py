"""The ingestion benchmark asks what it says, counts what it gets, and its rival writes the same records."""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from api.ingestion.events import Accepted, parse_batch, parse_single
from benchmarks import ingest
from benchmarks.ingest_stand import Turn
from benchmarks.peers import pydantic_api
from benchmarks.peers.http_load import Job, Load, Requests, load
from pulsestream.core.clock import wall_clock
from pulsestream.local import process
from schemas.codec import codec
from schemas.records import Event


def job(events: int, port: int = 0) -> Job:
    return Job(port=port, path="/x", key="ps_live_x", events=events, connections=4, seconds=0.2, warm_up=0.1)


def body_of(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    return body


def test_every_event_of_the_load_is_taken_and_has_an_id_of_its_own() -> None:
    requests = Requests(job(3))

    events = [event for _ in range(4) for event in parse_batch(body_of(requests.next()), wall_clock)]

    assert all(isinstance(event, Accepted) for event in events)
    assert len({event.id for event in events}) == 12
    assert isinstance(parse_single(body_of(Requests(job(1)).next()), wall_clock), Accepted)


def test_a_request_for_nothing_has_no_body() -> None:
    assert Requests(job(0)).next().endswith(b"\r\n\r\n")


@pytest.fixture
def responder(tmp_path: Path) -> Iterator[int]:
    port = process.free_port()
    command = [sys.executable, "-m", "benchmarks.peers.http_load", "respond", str(port)]
    running = process.spawn(command, log=tmp_path / "log")
    deadline = time.monotonic() + 20
    while process.port_is_free(port):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text("utf-8")
        time.sleep(0.02)
    yield port
    process.stop(running)


@pytest.mark.parametrize("events", [1, 100])
def test_the_load_counts_answers_and_settles_what_is_under_way(responder: int, events: int) -> None:
    made = load(job(events, responder))

    assert made.statuses == {"202": made.requests}
    assert made.sent_in_all >= made.requests > 10
    assert 0 < made.p50 <= made.p99


def test_the_rival_writes_the_record_that_we_write() -> None:
    body = body_of(Requests(job(1)).next())
    ours = parse_single(body, wall_clock).record

    theirs = codec(Event).decode(
        pydantic_api.encoded(pydantic_api.record_of(msgspec.json.decode(body, type=_Sent).event(), datetime.now(UTC)))
    )

    assert msgspec.structs.replace(theirs, data="", received_time=0) == msgspec.structs.replace(
        ours, data="", received_time=0
    )
    assert msgspec.json.decode(theirs.data) == msgspec.json.decode(ours.data)


class _Sent(msgspec.Struct):
    id: str
    type: str
    source: str
    product: str
    time: datetime
    data: msgspec.Raw

    def event(self) -> pydantic_api.EventIn:
        fields = msgspec.structs.asdict(self) | {"data": msgspec.json.decode(self.data)}
        return pydantic_api.EventIn(**fields)


def turn(rate: float) -> Turn:
    return Turn(Load(int(rate), 1.0, {"202": int(rate)}, int(rate), 1.0, 2.0, 0.5), 1.0, 0.2)


def test_ratios_compare_within_each_round_with_the_quicker_of_the_two_that_do_nothing() -> None:
    turns = {
        "single": [turn(1200), turn(120)],
        "noop GET": [turn(1000), turn(100)],
        "noop POST": [turn(800), turn(80)],
        "batch": [turn(300), turn(30)],
        "pydantic": [turn(100), turn(10)],
    }

    told = ingest._figures(turns, {1: turn(5000).load, 100: turn(5000).load})

    assert told["single_vs_noop"] == pytest.approx(1.2)
    assert told["batch_vs_pydantic"] == pytest.approx(3.0)


def test_an_event_that_is_not_on_its_topic_spoils_the_run() -> None:
    turns = {"single": [turn(10)], "batch": [turn(1)], "pydantic": [turn(1)]}

    ingest._check_stored(turns, {ingest.TENANT: 111, ingest.PEER: 100})
    with pytest.raises(AssertionError, match="on the topics"):
        ingest._check_stored(turns, {ingest.TENANT: 110, ingest.PEER: 100})
