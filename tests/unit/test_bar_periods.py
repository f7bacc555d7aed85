"""Periods of series of bars, and how series are filled."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.search.periods import parse
from api.search.series import Bar, SeriesRequest, fill, window
from pulsestream.core.clock import format_rfc3339, to_datetime, to_micros
from schemas.validate import PERIODS

MINUTE = 60_000_000
TEXTS = st.sampled_from(["1s", "7s", "90s", "1m", "3m", "5m", "15m", "45m", "1h", "4h", "1d", "3d", "1w"])
TIMES = st.integers(-(10**16), 10**16)


@pytest.mark.parametrize(
    ("text", "stored", "multiple"),
    [
        ("1s", "1s", 1),
        ("90s", "1s", 90),
        ("60s", "1m", 1),
        ("3m", "1m", 3),
        ("10m", "5m", 2),
        ("30m", "15m", 2),
        ("90m", "15m", 6),
        ("4h", "1h", 4),
        ("36h", "1h", 36),
        ("24h", "1d", 1),
        ("1w", "1d", 7),
    ],
)
def test_a_period_is_made_of_the_longest_stored_one_that_divides_it(text: str, stored: str, multiple: int) -> None:
    period = parse(text)

    assert (period.stored, period.multiple) == (stored, multiple)
    assert period.length == PERIODS[stored] * multiple * 1_000_000


@pytest.mark.parametrize("text", ["", "0m", "m", "1", "1M", "1.5h", "-1m", "1 m", "100000s", "7201s", "\uff11m"])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a period|is the most"):
        parse(text)


@given(TEXTS, TIMES)
def test_a_time_lies_in_the_period_that_begins_below_it_and_the_next_begins_at_or_above(text: str, time: int) -> None:
    period = parse(text)

    assert period.floor(time) <= time < period.floor(time) + period.length
    assert period.ceil(time) - period.length < time <= period.ceil(time)
    assert (period.floor(time) - period.anchor) % period.length == 0


def test_weeks_begin_on_monday_and_days_at_midnight() -> None:
    time = to_micros(datetime(2026, 1, 31, 12, 30, tzinfo=UTC))

    assert to_datetime(parse("1w").floor(time)) == datetime(2026, 1, 26, tzinfo=UTC)
    assert to_datetime(parse("1d").floor(time)) == datetime(2026, 1, 31, tzinfo=UTC)
    assert to_datetime(parse("4h").floor(time)) == datetime(2026, 1, 31, 12, tzinfo=UTC)


def request(
    how: str = "previous", *, up: bool = True, limit: int = 3, begin: int = 0, end: int | None = None
) -> SeriesRequest:
    return SeriesRequest("BTC-USD", parse("1m"), "coinbase", None, begin, end, up, limit, how)  # type: ignore[arg-type]


@given(
    begin=st.integers(0, 400),
    span=st.integers(1, 400),
    limit=st.integers(1, 7),
    now=st.integers(0, 500),
    up=st.booleans(),
)
def test_the_pages_of_a_filled_series_hold_every_period_once(
    begin: int, span: int, limit: int, now: int, *, up: bool
) -> None:
    asked = request(up=up, limit=limit, begin=begin * 30_000_000, end=(begin + span) * 30_000_000)
    now *= 30_000_000
    starts: list[int] = []
    behind: int | None = None
    for _ in range(1000):
        page, is_last = window(asked, behind, now)
        assert len(page) <= limit
        starts += page
        if is_last:
            break
        behind = page[-1]

    wanted = [
        start
        for start in range(0, 10**11, MINUTE)
        if asked.from_time <= start < min(asked.to_time or 0, now)  # type: ignore[operator]
    ]
    assert starts == (wanted if up else wanted[::-1])


def bar(minute: int, close: float) -> Bar:
    return {"start": format_rfc3339(minute * MINUTE), "close": close, "filled": False}


def filled(how: str, close: float | None) -> list[tuple[str, float | None, bool]]:
    known = {minute * MINUTE: bar(minute, close) for minute, close in ((1, 10.0), (4, 40.0))}
    bars = fill([minute * MINUTE for minute in range(6)], known, close, request(how), 5 * MINUTE)
    return [(one["start"][14:16], one["close"], one["filled"]) for one in bars]


def test_a_period_without_a_bar_has_the_close_before_it() -> None:
    made = filled("previous", 5.0)

    assert made == [
        ("00", 5.0, True),
        ("01", 10.0, False),
        ("02", 10.0, True),
        ("03", 10.0, True),
        ("04", 40.0, False),
        ("05", 40.0, True),
    ]


def test_before_the_first_close_there_is_nothing_to_fill_with() -> None:
    assert [minute for minute, _, _ in filled("previous", None)] == ["01", "02", "03", "04", "05"]


def test_nulls_are_filled_in_whatever_came_before() -> None:
    assert filled("null", 5.0)[0] == ("00", None, True)
    assert len(filled("null", None)) == 6


def test_a_filled_bar_has_one_price_and_no_volume_and_is_complete_once_it_is_over() -> None:
    first, *_, last = fill([0, MINUTE], {}, 5.0, request(), MINUTE)

    assert (first["open"], first["high"], first["low"], first["volume"], first["trades"]) == (5.0, 5.0, 5.0, 0, 0)
    assert (first["vwap"], first["bars"], first["complete"]) == (None, 0, True)
    assert not last["complete"]
