import itertools

import pytest

from producers.exchange.history import PAST_INTERVAL, PAST_SECONDS, History, Past
from producers.exchange.instrument import Instrument, Listing
from producers.exchange.market import UNIT_DIGITS, Trade
from pulsestream.core.clock import MICROS_PER_SECOND, parse_rfc3339

NOW = parse_rfc3339("2026-01-31T12:00:00Z")
PRODUCT = "BTC-USD"
LISTING = Listing(PRODUCT, 64_000.0, 2, 1.0, 0.01)
MINUTE = 60 * MICROS_PER_SECOND


def past(seed: int = 7) -> Past:
    return Past(LISTING, seed, NOW, rate=2.0)


def history(live: int = 0) -> History:
    """A market that has gone on for `live` orders, two seconds apart."""
    told = History([PRODUCT, "NEW-USD"])
    told.begin({PRODUCT: past()})
    instrument = Instrument(LISTING, 7, NOW)
    for number in range(live):
        told.publish(made.trade for made in instrument.trade(2 * number * MICROS_PER_SECOND, NOW))
    return told


def ids(trades: list[Trade]) -> list[int]:
    return [trade.trade_id for trade in trades]


def test_the_past_is_the_same_whenever_and_in_whatever_order_it_is_asked_for() -> None:
    one, other = past(), past()
    wanted = range(NOW - 500, NOW + 1)

    assert [one.trade(number) for number in wanted] == [other.trade(number) for number in reversed(wanted)][::-1]
    assert past(8).trade(NOW - 7) != one.trade(NOW - 7)


def test_past_trades_follow_one_another_up_to_the_start_of_the_market() -> None:
    made = [past().trade(number) for number in range(NOW - 3000, NOW + 1)]

    assert all(a.time <= b.time and a.sequence < b.sequence for a, b in itertools.pairwise(made))
    assert made[-1].time <= NOW
    assert {trade.side for trade in made} == {"buy", "sell"}
    assert all(trade.size > 0 and trade.price > 0 for trade in made)
    prices = [trade.price for trade in made]
    assert abs(prices[-1] - 6_400_000) < 6_400_000 * 0.001
    assert len(set(prices)) > 500
    assert max(prices) < 1.2 * min(prices)


def test_the_past_reaches_a_day_back() -> None:
    first = past().trade(past().first_id)

    assert abs(NOW - first.time - PAST_SECONDS * MICROS_PER_SECOND) <= 2 * PAST_INTERVAL


@pytest.mark.parametrize("before", [0, 1, 999, 7_777, 86_300])
def test_a_time_finds_the_first_trade_at_or_after_it(before: int) -> None:
    time = NOW - before * MICROS_PER_SECOND

    found = past().id_at(time)

    assert found > NOW or past().trade(found).time >= time
    assert past().trade(found - 1).time < time


def test_trades_go_on_without_a_gap_from_the_past_into_the_market() -> None:
    told = history(live=50)

    upwards = told.upwards(PRODUCT, NOW - 20, 60)
    downwards = told.downwards(PRODUCT, NOW + 40, 60)

    assert ids(upwards) == list(range(NOW - 20, NOW + 40))
    assert downwards == upwards[::-1]
    assert ids(told.downwards(PRODUCT, None, 3, above=0))[0] == told.last(PRODUCT).trade_id  # type: ignore[union-attr]
    assert ids(told.downwards(PRODUCT, NOW + 5, 1000, above=NOW - 2)) == list(range(NOW + 4, NOW - 2, -1))


def test_trades_from_a_time_are_those_of_the_ids_from_there_on() -> None:
    told = history(live=50)
    all_of_them = told.upwards(PRODUCT, NOW - 100, 1000)

    for time in (NOW - 100 * MICROS_PER_SECOND, NOW, NOW + 31 * MICROS_PER_SECOND):
        wanted = [trade for trade in all_of_them if trade.time >= time]
        assert list(told.since(PRODUCT, time, len(wanted))) == wanted


def test_a_hidden_trade_is_told_in_no_way_and_leaves_its_neighbours() -> None:
    told = history(live=20)
    told.hide(PRODUCT, NOW + 3)

    assert ids(told.upwards(PRODUCT, NOW + 1, 4)) == [NOW + 1, NOW + 2, NOW + 4, NOW + 5]
    assert NOW + 3 not in ids(told.downwards(PRODUCT, None, 100))
    assert NOW + 3 not in ids(list(told.since(PRODUCT, NOW)))


def test_candles_are_those_of_the_trades_across_the_start() -> None:
    told = history(live=200)
    start = NOW // MINUTE * MINUTE - 3 * MINUTE

    candles = list(told.candles(PRODUCT, 60, start, start + 5 * MINUTE))

    assert [candle.start for candle in candles] == list(range(start, start + 5 * MINUTE, MINUTE))
    for candle in candles:
        trades = [t for t in told.since(PRODUCT, candle.start) if t.time < candle.start + MINUTE]
        bought = [t for t in trades if t.side == "buy"]
        prices = [t.price for t in trades]
        assert (candle.open, candle.high, candle.low, candle.close) == (
            prices[0], max(prices), min(prices), prices[-1],
        )  # fmt: skip
        assert candle.volume == sum(t.size for t in trades)
        assert candle.quote_volume == sum(t.price * t.size for t in trades)
        assert (candle.buy_volume, candle.trades) == (sum(t.size for t in bought), len(trades))
        assert (candle.first_id, candle.last_id) == (trades[0].trade_id, trades[-1].trade_id)


def test_minutes_without_a_trade_have_a_candle_only_if_wanted() -> None:
    told = History(["A-B"])
    for number, minute in enumerate((0, 3), start=1):
        told.publish([Trade("A-B", number, number, NOW + minute * MINUTE, 500 + number, 2, 10**UNIT_DIGITS, "buy")])

    with_trades = list(told.candles("A-B", 60, NOW, NOW + 10 * MINUTE))
    everything = list(told.candles("A-B", 60, NOW, NOW + 10 * MINUTE, empty=True))

    assert [(c.start - NOW) // MINUTE for c in with_trades] == [0, 3]
    assert [(c.start - NOW) // MINUTE for c in everything] == [0, 1, 2, 3]
    assert [(c.open, c.close, c.trades) for c in everything] == [
        (501, 501, 1),
        (501, 501, 0),
        (501, 501, 0),
        (502,) * 2 + (1,),
    ]


def test_memory_is_bounded_and_the_newest_trades_are_kept() -> None:
    told = History(["A-B"], limit=1000)
    made = [Trade("A-B", number, number, NOW + number, 5, 2, 7, "sell", number) for number in range(1, 5001)]

    told.publish(made)

    kept = told.downwards("A-B", None, 10_000)
    assert 1000 <= len(kept) < 2000
    assert kept == made[::-1][: len(kept)]


def test_a_trade_that_comes_twice_is_kept_once() -> None:
    told = history(live=3)
    again = told.last(PRODUCT)
    assert again is not None

    told.publish([again])

    assert ids(told.downwards(PRODUCT, None, 2)) == [again.trade_id, again.trade_id - 1]


def test_a_product_without_trades_has_no_history() -> None:
    told = history()

    assert told.last("NEW-USD") is None
    assert told.upwards("NEW-USD", 0, 10) == []
    assert list(told.candles("NEW-USD", 60, 0, NOW, empty=True)) == []
