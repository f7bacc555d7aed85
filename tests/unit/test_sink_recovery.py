"""How the sink comes back: rests that grow, batches that shrink, gaps that are named."""

import pytest

from sinks.plan import Gap, Move, Place, Position
from sinks.source import Overtaken
from sinks.writer import FIRST_BACKOFF, LONGEST_BACKOFF, Backoff, crossing

PLACE = Place("ps.acme.ticks.v1", "id", 1)


def test_rests_double_up_to_a_bound_with_jitter_in_the_upper_half() -> None:
    backoff = Backoff()

    rests = [backoff.next_delay() for _ in range(40)]

    bounds = [min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**number) for number in range(40)]
    assert all(bound / 2 <= rest <= bound for rest, bound in zip(rests, bounds, strict=True))
    assert len(set(rests[10:])) > 1


def test_a_batch_is_halved_for_each_failure_and_grows_again_with_each_success() -> None:
    backoff = Backoff()
    sizes = []

    for _ in range(3):
        backoff.next_delay()
        sizes.append(backoff.limit(5000))
    for _ in range(4):
        backoff.ease()
        sizes.append(backoff.limit(5000))

    assert sizes == [2500, 1250, 625, 1250, 2500, 5000, 5000]


def test_a_batch_is_never_empty() -> None:
    backoff = Backoff()
    for _ in range(100):
        backoff.next_delay()

    assert backoff.limit(5000) == 1


@pytest.mark.parametrize(
    ("low", "high", "gap", "next_offset"),
    [
        (25, 40, Gap(PLACE, 10, 25, "retention"), 25),
        (0, 4, Gap(PLACE, 4, 10, "truncated"), 4),
    ],
)
def test_a_position_outside_the_topic_moves_to_its_nearer_end(low: int, high: int, gap: Gap, next_offset: int) -> None:
    found = Overtaken(Position(PLACE, 10), low, high)

    assert crossing(found) == (gap, Move(PLACE, 10, next_offset))
