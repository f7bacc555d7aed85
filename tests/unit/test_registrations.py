"""How many tenants may be registered in an hour."""

import pytest

from api.errors import Problem
from api.limits.bucket import SECOND
from api.limits.registrations import BY_ADDRESS, HOUR, IN_ALL, Registrations

MINUTE = 60 * SECOND


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = HOUR

    def __call__(self) -> int:
        return self.now


def refused(registrations: Registrations, address: str) -> tuple[list[str], int]:
    with pytest.raises(Problem) as caught:
        registrations.admit(address)
    assert caught.value.status == 429
    return caught.value.extensions["violated-policies"], int(caught.value.headers["Retry-After"])


def test_an_address_that_had_its_hour_waits_for_the_next_one_and_others_do_not() -> None:
    clock = Clock()
    registrations = Registrations(6, 1000, 1, clock)
    for _ in range(6):
        registrations.admit("203.0.113.7")

    assert refused(registrations, "203.0.113.7") == ([BY_ADDRESS], 600)
    registrations.admit("203.0.113.8")
    clock.now += 10 * MINUTE
    registrations.admit("203.0.113.7")
    refused(registrations, "203.0.113.7")


def test_a_host_with_a_whole_ipv6_network_is_one_address() -> None:
    registrations = Registrations(1, 1000, 1, Clock())
    registrations.admit("2001:db8::1")

    assert refused(registrations, "2001:db8::ffff:2")[0] == [BY_ADDRESS]


def test_all_addresses_together_are_bounded_and_who_is_refused_takes_nothing() -> None:
    clock = Clock()
    registrations = Registrations(1, 3, 1, clock)
    for host in range(3):
        registrations.admit(f"203.0.113.{host}")

    for host in range(3, 9):
        assert refused(registrations, f"203.0.113.{host}")[0] == [IN_ALL]
    clock.now += 20 * MINUTE
    registrations.admit("203.0.113.9")


def test_in_any_hour_no_more_pass_than_the_bucket_and_an_hours_worth() -> None:
    clock = Clock()
    registrations = Registrations(10, 1000, 1, clock)

    passed = 0
    for _ in range(720):
        try:
            registrations.admit("203.0.113.7")
        except Problem:
            pass
        else:
            passed += 1
        clock.now += 5 * SECOND

    assert passed == 19  # ten at once, and one each six minutes of the 59 min 55 s that follow, less the last


def test_processes_share_the_figures_and_each_gives_one_at_least() -> None:
    share, least = Registrations(10, 1000, 5, Clock()), Registrations(2, 1000, 5, Clock())
    share.admit("203.0.113.7")
    share.admit("203.0.113.7")
    least.admit("203.0.113.7")

    refused(share, "203.0.113.7")
    refused(least, "203.0.113.7")
