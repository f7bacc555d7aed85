import json

import pytest

from producers.exchange.board import Board
from producers.exchange.dialects.coinbase import heartbeat_frame
from producers.exchange.errors import SimulatorError
from producers.exchange.market import MAX_LAG, FeedFrame, Pacer
from producers.exchange.options import ExchangeOptions, make_market
from pulsestream.core.clock import MICROS_PER_SECOND, parse_rfc3339

NOON = parse_rfc3339("2026-01-31T12:00:00Z")


def trade(sequence: int | None, trade_id: int | None) -> FeedFrame:
    return FeedFrame("ticker", "BTC-USD", "{}", sequence, trade_id)


def board() -> Board:
    return Board(["BTC-USD"], lambda: NOON)


def heartbeat(last: Board) -> dict[str, object]:
    fields: dict[str, object] = json.loads(heartbeat_frame("BTC-USD", *last.last_ids("BTC-USD"), NOON).text)
    return fields


def test_a_heartbeat_before_any_frame_knows_no_trade() -> None:
    assert heartbeat(board()) == {
        "type": "heartbeat",
        "last_trade_id": 0,
        "product_id": "BTC-USD",
        "sequence": 0,
        "time": "2026-01-31T12:00:00.000000Z",
    }


def test_a_heartbeat_reports_the_highest_ids_even_if_a_frame_came_late() -> None:
    last = board()

    last.publish([trade(90, 20), trade(88, 19), trade(None, None)])

    assert (heartbeat(last)["sequence"], heartbeat(last)["last_trade_id"]) == (90, 20)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 10.0), (2.0, 5.0), (0.5, 20.0)])
def test_market_time_is_scaled_by_speed(speed: float, seconds: float) -> None:
    pacer = Pacer(speed, wall=NOON, monotonic=100.0)

    assert pacer.delay(10 * MICROS_PER_SECOND, monotonic=100.0) == pytest.approx(seconds)
    assert pacer.delay(10 * MICROS_PER_SECOND, monotonic=100.0 + seconds + 1) == pytest.approx(-1)


def test_an_unpaced_clock_never_waits() -> None:
    pacer = Pacer(0, wall=NOON, monotonic=100.0)

    assert pacer.unpaced
    assert pacer.delay(10 * MICROS_PER_SECOND, monotonic=100.0) == 0


@pytest.mark.parametrize(("speed", "position"), [(2.0, 13), (0.0, 8)])
def test_market_time_goes_on_after_the_last_frame(speed: float, position: int) -> None:
    pacer = Pacer(speed, wall=NOON, monotonic=100.0)
    pacer.reach(3 * MICROS_PER_SECOND, monotonic=101.5)

    assert pacer.position(106.5) == position * MICROS_PER_SECOND


def test_a_clock_that_is_a_little_late_catches_up() -> None:
    pacer = Pacer(1.0, wall=NOON, monotonic=100.0)

    late = MAX_LAG - 1
    assert not pacer.settle(0, wall=NOON + round(late * MICROS_PER_SECOND), monotonic=100.0 + late)
    assert pacer.anchor == NOON


def test_a_clock_that_stood_still_is_set_anew() -> None:
    pacer = Pacer(2.0, wall=NOON, monotonic=100.0)
    at = 20 * MICROS_PER_SECOND

    assert pacer.settle(at, wall=NOON + 3600 * MICROS_PER_SECOND, monotonic=3700.0)

    assert pacer.anchor == NOON + 3590 * MICROS_PER_SECOND
    assert pacer.delay(at, monotonic=3700.0) == pytest.approx(0)


def test_a_wall_clock_that_jumped_while_the_machine_slept_moves_the_anchor() -> None:
    pacer = Pacer(1.0, wall=NOON, monotonic=100.0)
    at = 20 * MICROS_PER_SECOND

    assert pacer.settle(at, wall=NOON + 8 * 3600 * MICROS_PER_SECOND, monotonic=120.0)

    assert pacer.anchor + at == NOON + 8 * 3600 * MICROS_PER_SECOND


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExchangeOptions(), "choose one"),
        (ExchangeOptions(synthetic=1, speed=2), "speed and loop belong to a replay"),
        (ExchangeOptions(synthetic=1, loop=True), "speed and loop belong to a replay"),
        (ExchangeOptions(synthetic=1, speed=-1), "speed -1 is not"),
        (ExchangeOptions(synthetic=1, speed=float("nan")), "speed nan is not"),
        (ExchangeOptions(synthetic=1, rate=0), "rate 0 is not"),
        (ExchangeOptions(synthetic=1, products=("btc",)), "'btc' is no product"),
    ],
)
def test_options_that_cannot_be_served_are_refused(options: ExchangeOptions, message: str) -> None:
    with pytest.raises(SimulatorError, match=message):
        make_market(options)
