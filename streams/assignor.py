"""Which worker gets which partitions: partition i of every topic goes to the same worker.

A key's state lies in partition i of the state topic, whatever tenant it belongs to, and a state partition has one
owner. aiokafka's own assignors deal topic by topic and would give partition i of two tenants to two workers.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

_VERSION: Final = 0


class Cluster(Protocol):
    """What an assignor asks of aiokafka's ClusterMetadata."""

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions of a topic; None when it is not known."""


class CoPartitionAssignor:
    """Assigns partition i of all topics to member i modulo the number of members, in the order of their ids.

    A topic with another number of partitions than `partitions` is given to nobody. Stands where aiokafka expects a
    subclass of AbstractPartitionAssignor, but as an object: it carries the partition count.
    """

    name: Final = "pulsestream-copartition"

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def assign(
        self, cluster: Cluster, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Return each member's share. Called on the group's leader only."""
        topics = {topic for metadata in members.values() for topic in metadata.subscription}
        sound = sorted(topic for topic in topics if self._fits(cluster, topic))
        shares = owned_partitions(sorted(members), self._partitions)
        return {
            member: ConsumerProtocolMemberAssignment(_VERSION, [(topic, share) for topic in sound if share], b"")
            for member, share in shares.items()
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what this member tells the leader when it joins."""
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), b"")

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing to remember: the next assignment depends on the members alone."""

    def _fits(self, cluster: Cluster, topic: str) -> bool:
        return len(cluster.partitions_for_topic(topic) or ()) == self._partitions


def owned_partitions(members: list[str], partitions: int) -> dict[str, list[int]]:
    """Return the state partitions of each member; the shares differ by at most one."""
    return {member: list(range(place, partitions, len(members))) for place, member in enumerate(members)}
