"""Times are exact to the microsecond, over all years, with any zone."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pulsestream.core.clock import format_rfc3339, parse_rfc3339, to_datetime, to_micros

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=ZONES)


@given(MOMENTS)
@example(datetime(1, 1, 1, tzinfo=UTC))
@example(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
@example(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
def test_a_moment_is_its_microseconds_since_1970(moment: datetime) -> None:
    exactly = (moment - EPOCH) // timedelta(microseconds=1)

    assert to_micros(moment) == parse_rfc3339(moment.isoformat()) == exactly
    assert to_datetime(exactly) == moment


@given(st.datetimes().map(lambda moment: to_micros(moment.replace(tzinfo=UTC))))
def test_what_is_formatted_is_parsed_back(micros: int) -> None:
    assert parse_rfc3339(format_rfc3339(micros)) == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2021-04-17T16:43:30.244075Z", 1_618_677_810_244_075),
        ("2021-04-17T18:43:30.244075+02:00", 1_618_677_810_244_075),
        ("2021-04-17T16:43:30.24Z", 1_618_677_810_240_000),
        ("2021-04-17T16:43:30.123456789Z", 1_618_677_810_123_456),
        ("2021-04-17T16:43:30Z", 1_618_677_810_000_000),
    ],
)
def test_an_exchanges_time_may_have_any_number_of_digits(text: str, micros: int) -> None:
    assert parse_rfc3339(text) == micros


@pytest.mark.parametrize("text", ["", "yesterday", "2021-04-17T16:43:30.244075", "2021-02-30T00:00:00Z", "1618677810"])
def test_what_is_no_time_with_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own words, or ours
        parse_rfc3339(text)
