"""The oracle on both sources, its long windows and its bars, against closed forms and values added up by hand."""

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest

from schemas.records import Stat, Tick, Trade
from tests.support.oracle import (
    SECOND,
    Sourced,
    accepted,
    bar_trades,
    final_bars,
    final_stats,
    frame_trades,
    sourced,
)
from tests.support.oracle_bars import bars_of_bars
from tests.support.oracle_stats import log_ratio, root, sample_stddev

HOUR = 1_618_660_800 - 1_618_660_800 % 3_600
"""A whole hour in seconds; the tests count from it."""


def trade(seconds: float, price: float, *, size: float = 1.0, side: str = "buy", number: int | None = None) -> Trade:
    at = HOUR * SECOND + round(seconds * SECOND)
    identity = round(seconds * 1_000) if number is None else number
    return Trade(
        event_id=f"coinbase:BTC-USD:t{identity}",
        exchange="coinbase",
        product="BTC-USD",
        trade_id=identity,
        price=price,
        size=size,
        side=side,
        exchange_time=at,
        received_time=at,
    )


def tick(seconds: float, price: float) -> Tick:
    at = HOUR * SECOND + round(seconds * SECOND)
    return Tick(
        event_id=f"coinbase:BTC-USD:{round(seconds * 1_000)}",
        exchange="coinbase",
        product="BTC-USD",
        price=price,
        best_bid=price - 1,
        best_ask=price + 1,
        exchange_time=at,
        received_time=at,
    )


def found(
    records: Sequence[Sourced], window: str, seconds: int, *, on: str = "trades", until: float | None = None
) -> Stat | None:
    clock = None if until is None else HOUR * SECOND + round(until * SECOND)
    stats = final_stats(records, [window], basis="ticks" if on == "ticks" else "trades", until=clock)
    return stats.get(f"coinbase:BTC-USD:{window}:{HOUR + seconds}:{on}")


# ---- sources ----


def test_prices_come_from_trades_and_quotes_from_ticks_where_trades_are_the_basis() -> None:
    records = [*sourced([trade(0.2, 100), trade(0.4, 102)]), *sourced([tick(0.3, 500)])]

    prices, quotes = found(records, "1m", 1), found(records, "1m", 1, on="quotes")

    assert prices is not None
    assert quotes is not None
    assert (prices.count, prices.close, prices.as_of.offset) == (2, 102, 1)
    assert (quotes.count, quotes.spread_mean, quotes.close) == (1, 2, None)
    assert not [stat for stat in final_stats(records, ["1m"], basis="trades").values() if stat.basis == "ticks"]


def test_ticks_that_were_read_long_before_their_trades_make_none_of_them_late() -> None:
    ticks, trades = sourced([tick(0, 100), tick(900, 100)]), sourced([trade(1, 90), trade(2, 91)])

    for records in ([*ticks, *trades], [*trades, *ticks]):
        late = found(records, "1m", 3)
        assert late is not None
        assert late.count == 2


def test_after_a_change_of_basis_prices_are_what_was_appended_to_the_new_source_since() -> None:
    records = [*sourced([tick(0, 100), tick(10, 101), tick(20, 102)]), *sourced([trade(5, 90), trade(12, 91)])]

    stats = final_stats(records, ["1m"], basis=[(0, "ticks"), ((HOUR + 11) * SECOND, "trades")])

    priced = sorted((stat.at // SECOND - HOUR, stat.basis, stat.count) for stat in stats.values() if stat.close)
    assert priced == [(1, "ticks", 1), (11, "ticks", 2), (13, "trades", 1)]


# ---- windows from panes of a minute ----


def test_long_windows_have_a_statistic_at_the_end_of_each_minute_that_holds_records() -> None:
    records = sourced([trade(30, 100), trade(59, 101), trade(60, 102), trade(200, 103)])

    for window in ("1h", "24h"):
        stats = final_stats(records, [window], basis="trades").values()
        assert [(stat.at // SECOND - HOUR, stat.count) for stat in stats] == [(60, 2), (120, 3), (240, 4)]


def test_an_hour_becomes_empty_an_hour_after_the_end_of_its_last_minute() -> None:
    records = sourced([trade(30, 100)])

    assert found(records, "1h", 3_660, until=3_661.9) is None
    empty = found(records, "1h", 3_660, until=3_662)

    assert empty is not None
    assert (empty.count, empty.close, empty.reference_price, empty.coverage_seconds) == (0, None, 100, 3_600)
    assert empty.volatility == 0


@pytest.mark.parametrize(("window", "step", "length"), [("1h", 60, 3_600), ("24h", 300, 86_400)])
def test_volatility_of_a_long_window_is_that_of_its_own_grid(window: str, step: int, length: int) -> None:
    growth = 1.0002
    records = sourced([trade(step * number, 100 * growth**number) for number in range(2 * length // step)])

    stat = found(records, window, length * 2 - step + 60)

    assert stat is not None
    expected = math.log(growth) * math.sqrt(365 * 86_400 / step)
    assert stat.volatility == pytest.approx(expected, rel=1e-9)
    assert stat.coverage_seconds == length


def test_a_statistic_is_there_for_an_open_pane_only_where_the_source_has_ended() -> None:
    records = sourced([trade(0.5, 100), trade(1.5, 101)])

    ended = final_stats(records, ["1m"], basis="trades")
    goes_on = final_stats(records, ["1m"], basis="trades", ended=False)

    assert [stat.at // SECOND - HOUR for stat in ended.values()] == [1, 2]
    assert [stat.at // SECOND - HOUR for stat in goes_on.values()] == [1]


# ---- exact arithmetic ----


def test_deviations_at_a_billion_are_those_of_the_prices_themselves() -> None:
    prices = [1e9 + number * 2.0**-20 for number in (0, 1, 5, 3, 2)]

    assert sample_stddev(prices) == pytest.approx(math.sqrt(3.7) * 2.0**-20, rel=1e-15)


def test_a_deviation_that_no_double_could_be_squared_to_has_its_root() -> None:
    assert root(Fraction(10) ** -400) == pytest.approx(1e-200, rel=1e-15)
    assert root(Fraction(10) ** 400) == pytest.approx(1e200, rel=1e-15)
    assert root(Fraction(0)) == 0


@pytest.mark.parametrize("price", [100.0, 99.0, 1e-8, 1e15, math.nextafter(100.0, 101.0)])
def test_a_log_return_is_that_of_sixty_decimal_digits(price: float) -> None:
    with localcontext(prec=60):
        expected = float(Decimal(price).ln() - Decimal(100).ln())

    assert log_ratio(100.0, price) == pytest.approx(expected, rel=1e-13)


# ---- bars ----


def test_a_bar_holds_the_records_of_its_period_in_event_order() -> None:
    records = sourced(
        [
            trade(10, 100, size=2.0),
            trade(59.999999, 98, size=1.0, side="sell", number=1),
            trade(55, 105, size=0.5, number=2),
            trade(60, 50, number=3),
        ]
    )

    bar = final_bars(records, ["1m"], basis="trades")[f"coinbase:BTC-USD:1m:{HOUR * SECOND}:trades"]

    assert (bar.open, bar.high, bar.low, bar.close, bar.trades) == (100, 105, 98, 98, 3)
    assert (bar.volume, bar.buy_volume, bar.quote_volume) == (3.5, 2.5, 200 + 98 + 52.5)
    assert bar.vwap == 350.5 / 3.5
    assert bar.as_of is not None
    assert (bar.as_of.offset, bar.received_time, bar.complete) == (2, (HOUR + 55) * SECOND, False)


def test_a_bar_is_complete_where_the_source_was_seen_before_its_period() -> None:
    bars = final_bars(sourced([trade(0, 100), trade(61, 100), trade(130, 100)]), ["1m", "5m"], basis="trades")

    assert [(bar.period, bar.complete) for bar in bars.values()] == [("1m", True)] * 3 + [("5m", True)]
    assert not any(bar.complete for bar in final_bars(sourced([trade(1e-6, 1)]), ["1s"], basis="trades").values())


def test_bars_of_ticks_do_not_say_how_many_trades() -> None:
    [bar] = final_bars(sourced([tick(0, 100)]), ["1s"]).values()

    assert (bar.origin, bar.trades, bar.volume, bar.vwap) == ("ticks", None, 0, None)


def test_there_is_no_bar_before_its_period_is_known_to_be_over() -> None:
    records = sourced([trade(0, 100)])

    def periods(until: float) -> list[str]:
        clock = HOUR * SECOND + round(until * SECOND)
        return [bar.period for bar in final_bars(records, basis="trades", until=clock, ended=False).values()]

    assert periods(2.9) == []
    assert periods(3) == ["1s"]
    assert periods(62) == ["1s", "1m"]
    assert periods(3_602) == ["1s", "1m", "5m", "15m", "1h"]


def test_bars_of_a_recorded_day_put_together_are_the_longer_ones(shared_data: Path) -> None:
    records = sourced(bar_trades(shared_data / "coinbase" / "btcusd-minute-20170904-trade.csv"))

    bars = final_bars(records, ["1m", "15m", "1h", "1d"], basis="trades").values()

    minutes = [bar for bar in bars if bar.period == "1m"]
    assert len(minutes) == len(records) > 1_000
    for period in ("15m", "1h", "1d"):
        longer = {
            bar.start: (bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars if bar.period == period
        }
        merged = bars_of_bars(minutes, period)
        assert longer == {start: (*prices, pytest.approx(float(volume))) for start, (*prices, volume) in merged.items()}


def test_trades_of_a_recording_have_the_takers_side(shared_data: Path) -> None:
    trades = frame_trades(shared_data / "coinbase" / "2021-04-17.frames")

    assert len(trades) == 45
    first = trades[0]
    assert (first.event_id, first.side, first.price) == ("coinbase:BAND-GBP:t881613", "buy", 14.7775)


def test_the_watermark_of_a_source_decides_what_is_late() -> None:
    records = sourced([trade(20, 1), trade(10, 2), trade(9.999999, 3, number=7)])

    assert [record.price for record in accepted(records)] == [1, 2]
