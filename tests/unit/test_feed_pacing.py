"""When a feed connects again, when it gives a silent connection up, and what it never tries again."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
)
from websockets.http11 import Response

from producers.errors import ExchangeSaidError, FeedRefusedError, StaleFeedError
from producers.pacing import GOOD_DATA, Backoff, Pace, TokenBucket, Verdict, Watchdog, judge
from pulsestream.core.kafka import BrokerError


def _highest(low: float, high: float) -> float:
    assert low == 0.0
    return high


def test_the_highest_pause_doubles_up_to_the_cap() -> None:
    backoff = Backoff(Pace(base=1.0, cap=30.0), _highest)

    assert [backoff.next(0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_jitter_is_full() -> None:
    backoff = Backoff(Pace(base=1.0, cap=30.0), lambda low, high: low + (high - low) * 0.25)

    assert [backoff.next(0.0) for _ in range(3)] == [0.25, 0.5, 1.0]


def test_less_than_a_minute_of_good_data_does_not_reset_the_backoff() -> None:
    backoff = Backoff(Pace(base=1.0, cap=30.0), _highest)
    for _ in range(5):
        backoff.next(GOOD_DATA - 0.1)

    assert backoff.next(GOOD_DATA - 0.1) == 30
    assert backoff.next(GOOD_DATA) == 1


def test_a_retry_after_is_waited_for() -> None:
    assert Backoff(Pace(), lambda low, _: low).next(0.0, at_least=7.0) == 7.0


@given(st.integers(0, 5_000))
def test_the_pause_never_passes_the_cap(attempts: int) -> None:
    backoff = Backoff(Pace(base=1.0, cap=30.0), _highest)
    backoff.attempts = attempts

    assert backoff.next(0.0) <= 30.0


@given(
    st.integers(2, 40),
    st.floats(0.5, 60.0),
    st.lists(st.floats(0.0, 20.0), min_size=1, max_size=120),
)
def test_a_bucket_never_lets_more_through_in_any_window_than_it_says(
    per: int, window: float, arrivals: list[float]
) -> None:
    bucket, now, turns = TokenBucket(per, window, 0.0), 0.0, []
    for pause in arrivals:
        now += pause if pause < 10 else 0.0  # many at the same moment
        turns.append(now + bucket.reserve(now))

    assert turns == sorted(turns)
    for first in turns:
        assert sum(first <= turn < first + window * 0.999 for turn in turns) <= per + 1e-9


def test_a_bucket_lets_half_through_at_once_and_the_rest_evenly() -> None:
    bucket = TokenBucket(10.0, 1.0, 100.0)

    assert [round(bucket.reserve(100.0), 6) for _ in range(8)] == [0, 0, 0, 0, 0, 0.2, 0.4, 0.6]


def test_a_bucket_that_rests_fills_up_to_its_half_and_no_further() -> None:
    bucket = TokenBucket(4.0, 60.0, 0.0)
    bucket.reserve(0.0)

    assert [bucket.reserve(10_000.0) for _ in range(3)] == [0.0, 0.0, 30.0]


def test_a_connection_without_good_frames_becomes_stale() -> None:
    watchdog = Watchdog(stale_after=15.0, now=100.0)

    assert not watchdog.is_stale(115.0)
    assert watchdog.is_stale(115.1)


def test_a_good_frame_starts_the_wait_anew() -> None:
    watchdog = Watchdog(stale_after=15.0, now=100.0)
    watchdog.good(114.0)

    assert not watchdog.is_stale(129.0)
    assert watchdog.is_stale(129.1)


def test_a_reader_held_up_by_its_listener_is_not_stale() -> None:
    watchdog = Watchdog(stale_after=15.0, now=100.0)
    watchdog.good(101.0)
    watchdog.hold(101.0)

    assert not watchdog.is_stale(200.0)


def test_time_held_up_is_not_counted_as_silence() -> None:
    watchdog = Watchdog(stale_after=15.0, now=100.0)
    watchdog.good(101.0)
    watchdog.hold(101.0)
    watchdog.resume(200.0)

    assert not watchdog.is_stale(215.0)
    assert watchdog.is_stale(215.1)


def test_good_seconds_count_from_the_first_good_frame_to_the_last() -> None:
    watchdog = Watchdog(stale_after=15.0, now=100.0)
    assert watchdog.good_seconds == 0.0

    watchdog.good(110.0)
    watchdog.good(175.0)

    assert watchdog.good_seconds == 65.0


def _status(code: int, **headers: str) -> InvalidStatus:
    return InvalidStatus(Response(code, "", Headers(**headers)))


def _bad_message(cause: Exception) -> InvalidMessage:
    error = InvalidMessage("did not receive a valid HTTP response")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        OSError("no route to host"),
        EOFError(),
        ConnectionClosedOK(None, None),
        ConnectionClosedError(None, None),
        StaleFeedError(),
        ExchangeSaidError(),
        _status(429),
        _status(503),
        _bad_message(EOFError()),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert not judge(error).fatal


@pytest.mark.parametrize(
    "error",
    [
        _status(401),
        _status(403),
        _status(404),
        InvalidURI("nonsense", "no scheme"),
        InvalidUpgrade("Upgrade", "none"),
        _bad_message(ValueError("SSH-2.0")),
        ssl.SSLCertVerificationError("self-signed certificate"),
        FeedRefusedError(),
        BrokerError("the Kafka producer has failed for good"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_what_cannot_pass_ends_the_feed(error: Exception) -> None:
    assert judge(error).fatal


@pytest.mark.parametrize("status", [200, 403, 404])
def test_a_page_in_place_of_a_feed_passes_where_data_came_from_before(status: int) -> None:
    assert judge(_status(status)).fatal
    assert not judge(_status(status), proven=True).fatal


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("86400", 300.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("-5", 0.0)]
)
def test_a_busy_exchange_says_how_long_to_wait(header: str, seconds: float) -> None:
    assert judge(_status(429, **{"Retry-After": header})) == Verdict(fatal=False, at_least=seconds)
