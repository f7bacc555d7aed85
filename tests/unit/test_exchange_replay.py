import itertools
import json
from pathlib import Path

import pytest

from producers.exchange.errors import SimulatorError
from producers.exchange.market import FeedFrame, Moment, Recorded
from producers.exchange.options import ExchangeOptions, make_market
from producers.exchange.replay import Replay
from producers.frames import FrameError, FrameWriter, read_frames
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339, parse_rfc3339

BEGIN = parse_rfc3339("2021-04-17T16:43:37Z")
NOW = parse_rfc3339("2026-01-31T12:00:00Z")
Fields = dict[str, object]


def fields(kind: str, at: float, product: str = "BTC-USD", **more: object) -> Fields:
    time = format_rfc3339(BEGIN + round(at * MICROS_PER_SECOND))
    return {"type": kind, "product_id": product, "time": time, **more}


FRAMES: list[tuple[float, Fields]] = [
    (0.0, {"type": "subscriptions", "channels": []}),
    (0.0, fields("ticker", -100, sequence=500, trade_id=70)),
    (0.1, fields("last_match", -100, sequence=500, trade_id=70)),
    (1.0, fields("ticker", 1.01, sequence=510, trade_id=71)),
    (1.5, fields("match", 1.01, sequence=510, trade_id=71)),
    (2.0, {"type": "error", "message": "Failed to subscribe"}),
    (2.5, fields("l2update", 2.5, product="ETH-USD", changes=[])),
    (4.0, fields("ticker", 4.5, product="ETH-USD", sequence=9, trade_id=3)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "some.frames", FRAMES)


def write(path: Path, frames: list[tuple[float, Fields]]) -> Path:
    with FrameWriter(path) as file:
        for at, frame in frames:
            file.write(BEGIN + round(at * MICROS_PER_SECOND), json.dumps(frame))
    return path


def frames_of(moment: Moment, anchor: int) -> list[FeedFrame]:
    return [event.frame for event in moment.events(anchor) if isinstance(event, Recorded)]


def played(moments: list[Moment], anchor: int = NOW) -> list[tuple[float, Fields]]:
    return [
        (moment.at / MICROS_PER_SECOND, json.loads(frame.text))
        for moment in moments
        for frame in frames_of(moment, anchor)
    ]


def rounds(path: Path, frames: int, *, speed: float = 1.0, started: int = NOW) -> list[tuple[float, Fields]]:
    return played(list(itertools.islice(Replay(path, loop=True, speed=speed).moments(started), frames)))


def test_frames_keep_text_order_and_spacing_and_answers_are_left_out(path: Path) -> None:
    replay = Replay(path)

    moments = list(replay.moments(NOW))

    kept = [(at, frame) for at, frame in FRAMES if frame["type"] not in ("subscriptions", "error")]
    assert played(moments) == kept
    texts = [frame.text for moment in moments for frame in frames_of(moment, NOW)]
    assert texts == [frame.text for frame in read_frames(path) if frame.text in set(texts)]


def test_the_recordings_products_can_be_subscribed_to_and_named_ones_beside_them(path: Path) -> None:
    assert Replay(path, extra_products=("XRP-USD", "BTC-USD")).products == ("BTC-USD", "ETH-USD", "XRP-USD")


def test_the_exchanges_time_is_the_recordings_own(path: Path) -> None:
    assert Replay(path).time(3 * MICROS_PER_SECOND, NOW) == BEGIN + 3 * MICROS_PER_SECOND


def test_receipt_times_that_go_back_do_not_reorder_frames(tmp_path: Path) -> None:
    path = write(
        tmp_path / "back.frames", [(1.0, fields("ticker", 1)), (3.0, fields("ticker", 2)), (2.0, fields("ticker", 3))]
    )

    assert [moment.at for moment in Replay(path).moments(NOW)] == [0, 2 * MICROS_PER_SECOND, 2 * MICROS_PER_SECOND]


def test_a_loop_shows_present_times_with_the_recorded_spacing(path: Path) -> None:
    first_round = rounds(path, 6)

    times = [parse_rfc3339(str(frame["time"])) - NOW for _, frame in first_round]
    assert times == [round(at * MICROS_PER_SECOND) for at in (-100, -100, 1.01, 1.01, 2.5, 4.5)]


def test_times_of_a_loop_are_scaled_by_speed(path: Path) -> None:
    _, frame = rounds(path, 6, speed=2.0)[5]

    assert parse_rfc3339(str(frame["time"])) == NOW + round(4.5 / 2 * MICROS_PER_SECOND)


def test_a_loop_repeats_no_id_and_never_goes_back_in_time(path: Path) -> None:
    frames = [frame for _, frame in rounds(path, 40) if frame["type"] == "ticker"]

    for name in ("sequence", "trade_id"):
        ids = [(frame["product_id"], frame[name]) for frame in frames]
        assert len(set(ids)) == len(ids)
        assert all(int(str(number)) >= NOW for _, number in ids)
    for product in ("BTC-USD", "ETH-USD"):
        times = [str(frame["time"]) for frame in frames if frame["product_id"] == product]
        assert times == sorted(times)


def test_a_loop_keeps_a_trade_and_its_ticker_together(path: Path) -> None:
    frames = [frame for _, frame in rounds(path, 40)]

    trades = {(f["product_id"], f["trade_id"], f["sequence"], f["time"]) for f in frames if f["type"] == "match"}
    tickers = {(f["product_id"], f["trade_id"], f["sequence"], f["time"]) for f in frames if f["type"] == "ticker"}
    assert trades
    assert trades <= tickers


def test_what_answered_the_recorders_subscription_is_played_in_the_first_round_only(path: Path) -> None:
    kinds = [frame["type"] for _, frame in rounds(path, 10)]

    assert kinds == [
        "ticker",
        "last_match",
        "ticker",
        "match",
        "l2update",
        "ticker",
        *("ticker", "match", "l2update", "ticker"),
    ]


def test_a_loop_started_later_begins_above_the_ids_of_the_one_before(path: Path) -> None:
    earlier = {frame["sequence"] for _, frame in rounds(path, 40) if "sequence" in frame}
    later = {frame["sequence"] for _, frame in rounds(path, 40, started=NOW + MICROS_PER_SECOND) if "sequence" in frame}

    assert max(map(str, earlier)) < min(map(str, later))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"stream":"btcusdt@trade"}', "is no frame of Coinbase Exchange"),
        ('{"type":"ticker","sequence":"7"}', "is no frame of Coinbase Exchange"),
        ('{"type":"ticker","time":"yesterday"}', "has a wrong time"),
        ('{"type":"ticker","time":"2021-04-17T16:43:37"}', "has a wrong time"),
    ],
)
def test_a_frame_that_cannot_be_played_is_named_before_anyone_connects(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "wrong.frames"
    path.write_text(f'1.0 {{"type":"ticker"}}\n2.0 {text}\n')

    with pytest.raises(FrameError, match=f"line 2 {fault}"):
        Replay(path)


def test_a_recording_without_playable_frames_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.frames", FRAMES[:1])

    with pytest.raises(FrameError, match="holds no frame that can be played"):
        Replay(path)


def test_a_loop_without_a_pace_is_refused(path: Path) -> None:
    with pytest.raises(SimulatorError, match="a loop needs a speed"):
        make_market(ExchangeOptions(frames=path, speed=0, loop=True))
