"""Which statistics carry a forecast, and that it is a function of the records alone, late ones included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Stat
from streams.engine.forecast import HAR_MINUTES, forecast
from streams.engine.snapshot import entries, restore
from tests.support.oracle import Sourced, assert_one_content_each, assert_stats_equal, final_stats, passing_stats
from tests.support.ticking import EXCHANGE, PRODUCT, SECOND, START, Run, inputs, splits, tick

WINDOWS = ("1m", "5m", "15m")
FIRST_MINUTE = 20
"""START + 20 s is a whole minute."""
KEY = f"acme/ticks/{EXCHANGE}/{PRODUCT}"


def market(seed: int, records: int) -> list[Sourced]:
    """Ticks of a market that is quiet for up to two minutes, some of them up to 14 s late."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([0.0, 0.3, 1.0, 7.0, 29.0, 59.0, 121.0], records))
    late = rng.choice([0.0, 0.0, 0.0, 0.4, 3.0, 14.0], records)
    prices = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, records)))
    at = 500 + times - late
    return inputs([tick(float(time), float(price), n) for n, (time, price) in enumerate(zip(at, prices, strict=True))])


def steady(minutes: int, *, second: float = 59.5, without: int | None = None) -> list[Sourced]:
    """A tick in every minute, at that second of it."""
    numbers = [number for number in range(minutes) if number != without]
    return inputs([tick(FIRST_MINUTE + 60 * n + second, 100 + n % 7, n) for n in numbers])


def forecasts(stats: list[Stat]) -> dict[tuple[str, int], tuple[float | None, ...]]:
    """Return what statistics forecast, by window and seconds after the first whole minute."""
    return {
        (one.window, one.at // SECOND - START - FIRST_MINUTE): (one.forecast_low, one.forecast_high)
        for one in stats
        if one.forecast_volatility is not None
    }


@settings(max_examples=10)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_forecasts_are_those_of_the_records_however_they_were_batched(data: st.DataObject, seed: int) -> None:
    records = market(seed, 90)
    run = Run()
    for batch in data.draw(splits(records)):
        run.fold(batch)
        for step in data.draw(st.lists(st.integers(0, 90 * SECOND), max_size=1)):
            run.advance(run.state.watermark + step)
    end = max(run.state.watermark, run.state.series.until * SECOND) + 1_000 * SECOND
    run.advance(end)

    shown = [stat for stat in run.stats if stat.window in WINDOWS]
    assert_stats_equal(
        shown, final_stats(records, WINDOWS, until=end), allowed=passing_stats(records, WINDOWS, until=end)
    )
    assert_one_content_each(run.stats)
    assert forecasts(shown)


@pytest.mark.parametrize("second", [0.0, 30.0, 59.5])
def test_the_first_statistic_of_a_minute_carries_it_and_no_other(second: float) -> None:
    ticks = [*steady(40, second=second), *inputs([tick(FIRST_MINUTE + 2_400 + n, 101.0, 900 + n) for n in range(50)])]

    found = forecasts(Run().fold(ticks).stats)

    of_a_minute = [at // 60 for window, at in found if window == "5m"]
    assert of_a_minute == sorted(set(of_a_minute))
    assert {window for window, _ in found} == set(WINDOWS)
    assert min(of_a_minute) == 30


def test_a_late_record_takes_it_to_the_statistic_that_is_first_now() -> None:
    run = Run().fold([*steady(40, second=58.5), *inputs([tick(FIRST_MINUTE + 2_405.5, 101.0, 900)], first_offset=40)])
    run.fold(inputs([tick(FIRST_MINUTE + 2_406.5, 101.0, 901)], first_offset=41))
    assert ("1m", 2_406) in forecasts(run.stats)

    run.fold(inputs([tick(FIRST_MINUTE + 2_401.5, 102.0, 899)], first_offset=42))

    found = forecasts(list(run.final.values()))
    assert ("1m", 2_402) in found
    assert ("1m", 2_406) not in found


def test_it_is_made_of_the_minutes_of_the_day_before() -> None:
    minutes = 1_600
    run = Run().fold(steady(minutes))
    closes = np.array([100.0 + number % 7 for number in range(minutes - 1)])
    starts = START + FIRST_MINUTE + 60 * np.arange(minutes - 1)

    expected = forecast(starts, closes, int(starts[-1]) + 60)

    assert expected is not None
    assert expected.method == "har"
    found = forecasts(run.stats)
    at = 60 * (minutes - 1)
    assert [found[window, at] for window in WINDOWS] == [(one.low, one.high) for one in expected.outlooks]


def test_a_restored_state_forecasts_the_same() -> None:
    ticks = steady(HAR_MINUTES + 60, without=400)
    run = Run().fold(ticks[:500])

    again = Run(state=restore(entries(KEY, None, run.state))[KEY]).fold(ticks[500:])  # type: ignore[arg-type] # no value is removed

    assert again.stats == run.fold(ticks[500:]).stats[-len(again.stats) :]
    assert forecasts(again.stats)


def test_quotes_and_long_windows_carry_none() -> None:
    ticks = [tick(60.0 * n, 100 + n % 7, n, best_bid=99.0, best_ask=110.0) for n in range(100)]

    stats = Run().fold(inputs(ticks)).stats

    assert {(one.basis, one.window) for one in stats if one.forecast_low is not None} == {
        ("ticks", window) for window in WINDOWS
    }
