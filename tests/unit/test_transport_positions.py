"""Where a fetch may begin: at the position, beyond it where offsets were left out for good, never before it."""

from types import SimpleNamespace

from faust.types import TP

from streams.errors import PositionError
from streams.transport import BatchConsumer

TICKS = TP("ps.acme.ticks.v1", 0)


class Reading:
    """A consumer with what the check needs: neither a broker nor an application."""

    def __init__(self, position: int) -> None:
        self.failures: list[Exception] = []
        self.consumer = object.__new__(BatchConsumer)
        owner = SimpleNamespace(failed=self.failures.append)
        self.consumer.transport = SimpleNamespace(owner=owner)  # type: ignore[assignment] # all that is asked of it
        self.consumer._readings, self.consumer._seeks, self.consumer._read_offset = {}, 0, {}
        self.consumer._expect({TICKS: position})

    def takes(self, first_offset: int) -> bool:
        """Return whether a fetch that begins there is taken."""
        fetched = SimpleNamespace(first_offset=first_offset)
        return self.consumer._continues(TICKS, self.consumer._readings[TICKS], fetched)  # type: ignore[arg-type] # likewise


def test_a_fetch_that_begins_at_the_position_is_taken() -> None:
    reading = Reading(7)

    assert reading.takes(7)
    assert reading.failures == []


def test_the_first_fetch_after_a_seek_is_asked_for_again_where_it_begins_beyond_and_then_taken() -> None:
    reading = Reading(7)

    assert not reading.takes(9)
    assert reading.takes(9)
    assert reading.failures == []


def test_a_later_fetch_may_leave_offsets_out_as_the_ends_of_transactions_do() -> None:
    reading = Reading(7)
    assert reading.takes(7)

    assert reading.takes(9)


def test_a_fetch_that_goes_back_is_asked_for_again_and_then_ends_the_process() -> None:
    reading = Reading(7)

    assert not reading.takes(3)
    assert reading.failures == []
    assert not reading.takes(3)

    [failure] = reading.failures
    assert isinstance(failure, PositionError)
    assert "went back from offset 7 to 3" in str(failure)
