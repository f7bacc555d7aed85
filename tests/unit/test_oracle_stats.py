import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from schemas.records import Stat, Tick
from tests.support.oracle import (
    SECOND,
    Sourced,
    assert_one_content_each,
    assert_stats_equal,
    by_key,
    final_stats,
    frame_ticks,
    passing_stats,
    sourced,
)

NOON = 1_618_660_800
"""A whole second; the tests count from it."""


def tick(seconds: float, price: float, sequence: int | None = None, **fields: float | str | None) -> Tick:
    at = NOON * SECOND + round(seconds * SECOND)
    number = round(seconds * 1_000) if sequence is None else sequence
    values = {"size": 1.0, "side": "buy", "best_bid": price - 1, "best_ask": price + 1} | fields
    return msgspec.convert(
        {
            "event_id": f"coinbase:BTC-USD:{number}",
            "exchange": "coinbase",
            "product": "BTC-USD",
            "sequence": number,
            "price": price,
            "exchange_time": at,
            "received_time": at,
            **values,
        },
        Tick,
    )


def stat_id(window: str, seconds: int, basis: str = "ticks") -> str:
    return f"coinbase:BTC-USD:{window}:{NOON + seconds}:{basis}"


def stats(*ticks: Tick, until: float | None = None, windows: tuple[str, ...] = ("1m",)) -> dict[str, Stat]:
    clock = None if until is None else NOON * SECOND + round(until * SECOND)
    return final_stats(sourced(ticks), windows, until=clock)


def test_one_tick_gives_one_statistic_a_window_and_basis_at_its_panes_end() -> None:
    found = stats(tick(0.5, 100), windows=("1m", "5m"))

    assert set(found) == {stat_id(window, 1, basis) for window in ("1m", "5m") for basis in ("ticks", "quotes")}
    assert found[stat_id("1m", 1)].coverage_seconds == 0.5


def test_a_tick_on_a_whole_second_belongs_to_the_pane_that_begins_there() -> None:
    assert set(stats(tick(5, 100))) == {stat_id("1m", 6), stat_id("1m", 6, "quotes")}


def test_price_fields_of_a_window_are_those_of_its_ticks() -> None:
    found = stats(
        tick(0.1, 100, size=2.0), tick(0.2, 106, size=1.0, side="sell"), tick(0.3, 98, size=None), tick(0.4, 104)
    )[stat_id("1m", 1)]

    assert (found.count, found.open, found.high, found.low, found.close) == (4, 100, 106, 98, 104)
    assert (found.volume, found.buy_volume, found.quote_volume) == (4, 3, 200 + 106 + 104)
    assert found.vwap == 410 / 4
    assert found.mean == 102
    assert found.stddev == pytest.approx(math.sqrt((4 + 16 + 16 + 4) / 3))
    assert found.range_position == 6 / 8
    assert (found.reference_price, found.change, found.change_pct) == (100, 4, 4)


def test_reference_is_the_last_price_before_the_window() -> None:
    found = stats(tick(0, 100), tick(0.9, 120), tick(60.5, 90))[stat_id("1m", 61)]

    assert (found.count, found.open, found.reference_price) == (1, 90, 120)
    assert (found.change, found.change_pct) == (-30, -25)
    assert found.coverage_seconds == 60


def test_quote_fields_come_from_ticks_with_both_sides() -> None:
    found = stats(tick(0.1, 100, best_bid=99.0, best_ask=101.0), tick(0.25, 100, best_bid=None))
    quotes = found[stat_id("1m", 1, "quotes")]

    assert quotes.count == 1
    assert quotes.spread_mean == 2
    assert quotes.spread_bps == pytest.approx(200)
    assert quotes.quote_age == pytest.approx(0.9)
    assert quotes.close is None


def test_volatility_is_null_under_ten_returns() -> None:
    ticks = [tick(second + 0.5, 100 + second) for second in range(10)]

    found = stats(*ticks)

    assert found[stat_id("1m", 9)].volatility is None
    assert found[stat_id("1m", 10)].volatility is not None


def test_volatility_of_a_price_that_grows_evenly_is_its_growth_times_the_root_of_the_year() -> None:
    growth = 1.001
    ticks = [tick(second, 100 * growth**second) for second in range(120)]

    found = stats(*ticks)[stat_id("1m", 120)]

    assert found.volatility == pytest.approx(math.log(growth) * math.sqrt(365 * 86_400), rel=1e-9)
    assert found.stddev_log_return == pytest.approx(0, abs=1e-12)


def test_volatility_fills_silent_seconds_with_the_previous_price() -> None:
    ticks = [tick(0, 100), tick(70, 110), tick(89.5, 110)]

    found = stats(*ticks)[stat_id("1m", 90)]

    one_jump = math.log(1.1)
    assert found.volatility == pytest.approx(math.sqrt(one_jump**2 * 365 * 86_400 / 60))
    assert found.stddev_log_return == pytest.approx(math.sqrt((one_jump**2 - one_jump**2 / 60) / 59))


def test_the_window_that_becomes_empty_has_a_statistic_once_a_later_record_reaches_it() -> None:
    found = stats(tick(0.5, 100), tick(200, 101))

    empty = found[stat_id("1m", 61)]
    assert (empty.count, empty.close, empty.reference_price) == (0, None, 100)
    assert sorted(stat.at // SECOND - NOON for stat in found.values() if stat.basis == "ticks") == [1, 61, 201]


def test_the_window_that_becomes_empty_has_a_statistic_once_the_clock_is_two_seconds_past_it() -> None:
    assert stat_id("1m", 61) not in stats(tick(0.5, 100), until=62.9)
    assert stat_id("1m", 61) in stats(tick(0.5, 100), until=63)


def test_a_window_that_does_not_become_empty_has_no_such_statistic() -> None:
    assert stat_id("1m", 61) not in stats(tick(0.5, 100), tick(59.9, 101), until=100)


def test_a_repeated_record_counts_once() -> None:
    assert stats(tick(0.5, 100), tick(0.5, 100))[stat_id("1m", 1)].count == 1


def test_a_late_record_within_grace_is_taken_in_event_order() -> None:
    found = stats(tick(0.5, 100), tick(10, 101), tick(0.2, 99))[stat_id("1m", 1)]

    assert (found.count, found.open, found.close) == (2, 99, 100)
    assert found.as_of.offset == 2


def test_a_record_more_than_ten_seconds_behind_the_watermark_is_dropped() -> None:
    found = stats(tick(10.5, 100), tick(0.5, 98), tick(0.4, 99))

    assert found[stat_id("1m", 1)].count == 1
    assert found[stat_id("1m", 1)].close == 98


def test_records_of_one_microsecond_are_ordered_by_offset() -> None:
    found = stats(tick(0.5, 100, sequence=1), tick(0.5, 101, sequence=2))[stat_id("1m", 1)]

    assert (found.open, found.close) == (100, 101)


def test_ill_formed_and_backfilled_records_are_skipped() -> None:
    good, bad, old = sourced([tick(0.5, 100), tick(0.6, math.nan), tick(0.7, 102)])

    assert final_stats([good, bad, replace(old, backfill=True)], ("1m",))[stat_id("1m", 1)].count == 1


def test_a_window_that_only_looked_empty_is_allowed_with_its_last_revision() -> None:
    ticks = [tick(0.5, 100), tick(62, 101), tick(55, 99)]

    found = passing_stats(sourced(ticks), ("1m",))

    assert stat_id("1m", 61) not in stats(*ticks)
    assert found[stat_id("1m", 61)].count == 1


def test_every_statistic_over_the_recording_equals_a_second_plain_computation(shared_data: Path) -> None:
    keys = by_key(sourced(frame_ticks(shared_data / "coinbase" / "2021-04-17.frames")))

    assert sum(len(records) for records in keys.values()) == 45
    for records in keys.values():
        for stat in final_stats(records).values():
            start = stat.at - {"1m": 60, "5m": 300}[stat.window] * SECOND
            inside = [r.record for r in records if start <= r.record.exchange_time < stat.at]
            assert stat.count == len(inside)
            if stat.basis == "ticks" and inside:
                assert stat.high == max(t.price for t in inside)
                assert stat.quote_volume == pytest.approx(sum(t.price * (t.size or 0) for t in inside), rel=1e-12)


# ---- comparison ----


def changed(found: dict[str, Stat], name: str, **fields: float) -> list[Stat]:
    return [msgspec.structs.replace(stat, **fields) if key == name else stat for key, stat in found.items()]


@pytest.mark.parametrize("fields", [{"mean": 100.5 * (1 + 5e-13)}, {"stddev": math.sqrt(0.5) * (1 + 5e-10)}])
def test_sums_compare_equal_within_a_relative_trillionth_and_what_is_derived_within_a_billionth(
    fields: dict[str, float],
) -> None:
    found = stats(tick(0.5, 100), tick(0.6, 101))

    assert_stats_equal(changed(found, stat_id("1m", 1), **fields), found)


@pytest.mark.parametrize(
    "fields", [{"mean": 100.5 * (1 + 2e-12)}, {"stddev": math.sqrt(0.5) * (1 + 2e-9)}, {"count": 3}, {"vwap": None}]
)
def test_a_different_field_is_named(fields: dict[str, float]) -> None:
    found = stats(tick(0.5, 100), tick(0.6, 101))

    with pytest.raises(AssertionError, match=f"{next(iter(fields))} is"):
        assert_stats_equal(changed(found, stat_id("1m", 1), **fields), found)


def test_a_missing_and_an_unexpected_statistic_are_named() -> None:
    found, other = stats(tick(0.5, 100)), stats(tick(5, 100))

    with pytest.raises(AssertionError, match=r"(?s)missing: .*not expected: "):
        assert_stats_equal(found.values(), other)
    assert_stats_equal(found.values(), {}, allowed=found)


def test_the_revision_with_the_greatest_as_of_is_compared() -> None:
    early, final = stats(tick(0.5, 100)), stats(tick(0.5, 100), tick(0.6, 101))

    assert_stats_equal([*final.values(), *early.values()], final)
    with pytest.raises(AssertionError, match="is included"):
        assert_stats_equal(
            [msgspec.structs.replace(stat, as_of=early[name].as_of) for name, stat in final.items()], final
        )


def test_two_contents_of_one_id_and_position_are_refused() -> None:
    found = stats(tick(0.5, 100))

    assert_one_content_each([*found.values(), *found.values()])
    with pytest.raises(AssertionError, match="close is"):
        assert_one_content_each([*found.values(), *changed(found, stat_id("1m", 1), close=1.0)])


def test_positions_of_another_topic_are_refused() -> None:
    records = sourced([tick(0.5, 100)])
    elsewhere = [Sourced(r.record, msgspec.structs.replace(r.as_of, topic_id="other")) for r in records]

    with pytest.raises(AssertionError, match="as_of is"):
        assert_stats_equal(final_stats(elsewhere).values(), final_stats(records))
