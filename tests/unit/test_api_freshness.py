"""What database and broker say of a tenant's topics, put together."""

from datetime import UTC, datetime, timedelta

import pytest

from api.freshness.broker import Ends
from api.freshness.repository import NewestRow, PositionRow
from api.freshness.service import Held, PartitionState, Status, status
from api.topics import TopicStatus

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BEFORE = NOW - timedelta(minutes=1)
TOPIC = "ps.acme.ticks.v1"
ACTIVE = TopicStatus("ticks", TOPIC, "active", None)


def shown(
    *rows: PositionRow,
    ends: dict[str, Ends] | None,
    topic: TopicStatus = ACTIVE,
    lost: dict[str, int] | None = None,
    newest: list[NewestRow] | None = None,
) -> Status:
    return status(Held([topic], rows, lost or {}, newest or []), ends, NOW)


def at(partition: int, next_offset: int, topic_id: str = "now", moved: datetime = NOW) -> PositionRow:
    return PositionRow(TOPIC, topic_id, partition, next_offset, moved)


def test_lag_is_what_the_topic_holds_beyond_the_position_and_all_of_it_where_nothing_was_read_yet() -> None:
    told = shown(at(0, 7), at(1, 9), ends={TOPIC: Ends("now", {0: 10, 1: 9, 2: 4})})

    assert told.topics[0].partitions == [
        PartitionState(0, 7, 10, 3, NOW),
        PartitionState(1, 9, 9, 0, NOW),
        PartitionState(2, 0, 4, 4, None),
    ]
    assert (told.topics[0].lag, told.lag) == (7, 7)


def test_positions_of_a_topics_former_life_say_nothing_of_the_present_one() -> None:
    told = shown(at(0, 1_000, topic_id="then"), ends={TOPIC: Ends("now", {0: 10})})

    assert told.topics[0].partitions == [PartitionState(0, 0, 10, 10, None)]


def test_a_position_beyond_an_end_that_was_read_before_it_moved_is_no_negative_lag() -> None:
    assert shown(at(0, 12), ends={TOPIC: Ends("now", {0: 10})}).lag == 0


def test_without_the_broker_the_positions_of_the_latest_life_are_told_and_lag_is_unknown() -> None:
    told = shown(at(0, 1_000, "then", BEFORE), at(0, 5), ends=None)

    assert told.topics[0].partitions == [PartitionState(0, 5, None, None, NOW)]
    assert (told.topics[0].lag, told.lag) == (None, None)


@pytest.mark.parametrize(("state", "lag"), [("active", None), ("provisioning", 0), ("refused", 0)])
def test_a_topic_that_the_broker_does_not_know_has_no_lag_unless_it_should_be_there(
    state: str, lag: int | None
) -> None:
    assert shown(ends={}, topic=TopicStatus("ticks", TOPIC, state, None)).lag == lag


def test_records_that_were_lost_and_the_age_of_the_newest_row_are_told() -> None:
    newest = [NewestRow("ticks", BEFORE, NOW), NewestRow("events", NOW + timedelta(seconds=1), NOW)]

    told = shown(ends={}, lost={TOPIC: 3}, newest=newest)

    assert told.topics[0].lost == 3
    assert [(each.dataset, each.age_seconds) for each in told.newest] == [("ticks", 60), ("events", 0)]
