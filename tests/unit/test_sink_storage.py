"""What `/readyz` says of the database, from what happened to the sink."""

import pytest

from pulsestream.core.kafka import BrokerError
from pulsestream.core.metrics import REGISTRY
from sinks.errors import DatabaseAwayError
from sinks.storage import DOUBT, Storage


class Now:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


def state() -> list[str]:
    names = ("ready", "slow", "away", "full", "read_only")
    return [name for name in names if REGISTRY.get_sample_value("pulsestream_sink_storage", {"state": name}) == 1]


def paused() -> float | None:
    return REGISTRY.get_sample_value("pulsestream_sink_paused")


def test_it_is_away_until_it_is_connected(now: Now) -> None:
    storage = Storage(now)
    before = (storage.problem, state())

    storage.connected()

    assert before == ("not connected yet", ["away"])
    assert (storage.problem, state(), paused()) == (None, ["ready"], 0)


def test_a_silent_batch_is_told_until_it_is_dealt_with(now: Now) -> None:
    storage = Storage(now)
    storage.connected()

    storage.silent(7.4)
    told = (storage.problem, state(), paused())
    storage.answered()

    assert "7 s" in (told[0] or "")
    assert told[1:] == (["slow"], 1)
    assert (storage.problem, state(), paused()) == (None, ["ready"], 0)


def test_a_full_database_is_full_until_it_took_everything_for_a_while(now: Now) -> None:
    storage = Storage(now)
    told = []
    for _ in range(3):
        storage.failed(DatabaseAwayError("full", "full"))
        now.seconds += 5 * DOUBT  # it rests
        told.append((storage.problem, state()))
        storage.connected()
        storage.answered()
        now.seconds += DOUBT / 2
        told.append((storage.problem, state()))

    now.seconds += DOUBT
    after = storage.problem
    storage.answered()

    assert told == [("full", ["full"])] * 6
    assert after is None
    assert state() == ["ready"]


@pytest.mark.parametrize("kind", ["away", "read_only"])
def test_another_outage_ends_with_a_new_session(now: Now, kind: str) -> None:
    storage = Storage(now)

    storage.failed(DatabaseAwayError("gone", kind))  # type: ignore[arg-type]  # one of its states
    told = (storage.problem, state(), paused())
    storage.connected()

    assert told == ("gone", [kind], 1)
    assert (storage.problem, state(), paused()) == (None, ["ready"], 0)


def test_a_broker_that_takes_no_dead_letters_is_no_state_of_the_database(now: Now) -> None:
    storage = Storage(now)
    storage.connected()

    storage.failed(BrokerError("no acknowledgement"))

    assert (storage.problem, state(), paused()) == ("no acknowledgement", ["ready"], 1)
