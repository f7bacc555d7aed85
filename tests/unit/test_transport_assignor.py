"""Partition i of every topic goes to one worker, whoever subscribes, and a topic with another count to nobody."""

from hypothesis import given
from hypothesis import strategies as st

from streams.assignor import CoPartitionAssignor, owned_partitions

TOPICS = {"ps.acme.ticks.v1": 4, "ps.zeta.ticks.v1": 4, "ps.zeta.own-ticks.v1": 4, "ps.odd.ticks.v1": 3}


class Cluster:
    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(TOPICS[topic])) if topic in TOPICS else None


def assigned(members: list[str]) -> dict[str, dict[str, list[int]]]:
    assignor = CoPartitionAssignor(4)
    metadata = {member: assignor.metadata([*TOPICS, "ps.unknown.ticks.v1"]) for member in members}
    return {
        member: {topic: list(partitions) for topic, partitions in share.assignment}
        for member, share in assignor.assign(Cluster(), metadata).items()
    }


def test_a_partition_number_has_one_owner_across_all_topics() -> None:
    shares = assigned(["b", "a", "c"])

    owned = {member: list(share.values()) for member, share in shares.items()}
    assert owned == {"a": [[0, 3]] * 3, "b": [[1]] * 3, "c": [[2]] * 3}


def test_a_topic_with_another_partition_count_is_given_to_nobody() -> None:
    assert "ps.odd.ticks.v1" not in assigned(["a"])["a"]


def test_more_members_than_partitions_leave_some_without() -> None:
    shares = assigned([f"m{number}" for number in range(6)])

    assert [len(share) for share in shares.values()] == [3, 3, 3, 3, 0, 0]


def test_what_a_member_says_can_be_read_by_the_library() -> None:
    assignor = CoPartitionAssignor(4)

    metadata = assignor.metadata(["b", "a"])

    assert type(metadata).decode(metadata.encode()).subscription == ["a", "b"]


@given(st.sets(st.text("abcdef", min_size=1, max_size=5), min_size=1, max_size=12), st.integers(1, 40))
def test_every_partition_is_owned_once_and_the_shares_are_even(names: set[str], partitions: int) -> None:
    shares = owned_partitions(sorted(names), partitions)

    assert sorted(number for share in shares.values() for number in share) == list(range(partitions))
    sizes = [len(share) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1
