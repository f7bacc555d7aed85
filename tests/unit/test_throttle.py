"""How often a REST API may be asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.throttle import FIRST_REST, LONGEST_HOLD, LONGEST_REST, TRIP_AFTER, Circuit, Throttle, retry_after

WALL = 1_700_000_000.0


def longest(_low: float, high: float) -> float:
    return high


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.floats(0.5, 20), st.integers(1, 5))
def test_no_second_holds_more_than_the_rate_and_the_burst(pauses: list[float], rate: float, burst: int) -> None:
    throttle, now, starts = Throttle(rate, burst), 100.0, []
    for pause in pauses:
        now += pause
        starts.append(now + throttle.reserve(now))

    assert starts == sorted(starts)
    for at, start in enumerate(starts):
        assert sum(start <= other < start + 1 - 1e-6 for other in starts[at:]) <= rate + burst


def test_an_idle_throttle_lets_a_burst_go_at_once() -> None:
    throttle = Throttle(2, burst=3)

    assert [throttle.reserve(10.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]


def test_a_new_rate_holds_for_what_is_not_handed_out() -> None:
    throttle = Throttle(1)
    throttle.reserve(10.0)
    throttle.set_rate(10)

    assert [throttle.reserve(10.0), round(throttle.reserve(10.0), 6)] == [1.0, 1.1]


def test_nothing_starts_before_the_exchange_wants_it() -> None:
    throttle = Throttle(100)
    throttle.hold(15.0)

    assert throttle.held(12.0) == 3.0
    assert throttle.reserve(12.0) == 3.0
    assert throttle.held(15.0) == 0.0


def test_a_circuit_opens_after_failures_in_a_row_and_rests_longer_each_time() -> None:
    circuit = Circuit(longest)
    for _ in range(TRIP_AFTER - 1):
        circuit.failed(0.0)
    before = circuit.rest(0.0)
    rests = []
    now = 0.0
    for _ in range(8):
        circuit.failed(now)
        rests.append(circuit.rest(now))
        now += rests[-1]
        assert circuit.rest(now) == 0.0

    assert before == 0.0
    assert rests == [min(LONGEST_REST, FIRST_REST * 2**count) for count in range(8)]


def test_an_open_circuit_lets_one_request_look() -> None:
    circuit = Circuit(longest)
    for _ in range(TRIP_AFTER):
        circuit.failed(0.0)

    assert circuit.rest(FIRST_REST) == 0.0
    assert circuit.rest(FIRST_REST) > 0.0
    circuit.answered()
    assert circuit.rest(FIRST_REST) == 0.0


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("7", WALL) == 7.0
    assert retry_after("Tue, 14 Nov 2023 22:13:30 GMT", WALL) == 10.0
    assert retry_after("Tue, 14 Nov 2023 22:13:10 GMT", WALL) == 0.0
    assert retry_after("soon", WALL) == 0.0
    assert retry_after(None, WALL) == 0.0


@pytest.mark.parametrize("header", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_retry_after_holds_requests_up_for_good(header: str) -> None:
    assert retry_after(header, WALL) == LONGEST_HOLD


@pytest.mark.parametrize(
    "header", [f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", f"Wed, 21 Oct 2015 07:28:00 +{'9' * 20}", "²", "-1"]
)
def test_a_retry_after_that_is_no_time_at_all_is_none(header: str) -> None:
    assert retry_after(header, WALL) == 0.0
