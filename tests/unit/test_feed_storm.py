"""The guard of one host's connection attempts, with time that passes only when somebody sleeps."""

import asyncio

from producers.storm import StormGuard


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def _attempts(guard: StormGuard, time: Time, *hosts: str, per_minute: float) -> list[float]:
    async def attempt() -> list[float]:
        made = []
        for host in hosts:
            await guard.turn(host, per_minute)
            made.append(time.now - 1_000.0)
        return made

    return asyncio.run(attempt())


def test_no_minute_has_more_attempts_than_the_host_allows() -> None:
    time = Time()

    made = _attempts(StormGuard(lambda: time.now, time.sleep), time, *["host"] * 40, per_minute=10.0)

    assert made[:5] == [0.0] * 5
    assert all(sum(first <= at < first + 60.0 for at in made) <= 10 for first in made)


def test_hosts_do_not_wait_for_each_other() -> None:
    time = Time()
    guard = StormGuard(lambda: time.now, time.sleep)
    _attempts(guard, time, *["busy"] * 3, per_minute=6.0)

    assert _attempts(guard, time, "other", per_minute=6.0) == [0.0]


def test_a_host_that_asks_for_time_gets_it_and_a_shorter_wish_does_not_cut_it() -> None:
    time = Time()
    guard = StormGuard(lambda: time.now, time.sleep)
    guard.hold("host", 30.0)
    guard.hold("host", 5.0)

    assert _attempts(guard, time, "host", "other", "host", per_minute=600.0) == [30.0, 30.0, 30.0]


def test_a_wish_for_time_reaches_those_who_wait_already() -> None:
    time, told = Time(), False

    async def sleep(seconds: float) -> None:
        nonlocal told
        if not told:
            told = True
            guard.hold("host", 100.0)
        time.now += seconds

    guard = StormGuard(lambda: time.now, sleep)

    assert _attempts(guard, time, *["host"] * 4, per_minute=6.0) == [0.0, 0.0, 0.0, 100.0]
