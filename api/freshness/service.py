"""How far the database is behind a tenant's topics, and how old the newest rows are."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from api.cache import AnswerCache
from api.database import Database
from api.freshness import repository
from api.freshness.broker import Ends
from api.freshness.repository import NewestRow, PositionRow
from api.topics import TopicStatus, topic_statuses
from pulsestream.core.clock import Clock, to_datetime

FRESH: Final = 1.0
"""Seconds that an answer holds for a tenant, however often it asks."""

AskEnds = Callable[[Collection[str]], Awaitable[Mapping[str, Ends] | None]]


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition: stored up to before `stored`, written up to before `end`; null: the broker did not say."""

    partition: int
    stored: int
    end: int | None
    lag: int | None
    moved_at: datetime | None


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic, by partition."""

    dataset: str
    topic: str
    status: str
    lag: int | None
    lost: int
    partitions: list[PartitionState]


@dataclass(frozen=True, slots=True)
class Newest:
    """A dataset's newest row."""

    dataset: str
    time: datetime
    appended_at: datetime
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at a moment."""

    at: datetime
    lag: int | None
    topics: list[TopicState]
    newest: list[Newest]


@dataclass(frozen=True, slots=True)
class Held:
    """What the database says."""

    topics: Sequence[TopicStatus]
    positions: Sequence[PositionRow]
    lost: Mapping[str, int]
    newest: Sequence[NewestRow]


class Freshness:
    """What can be asked. `ends` asks the broker; `monotonic` gives seconds."""

    def __init__(self, database: Database, ends: AskEnds, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._ends = ends
        self._clock = clock
        self._answers: AnswerCache[Status] = AnswerCache(self._ask, monotonic, fresh=FRESH)

    async def show(self, tenant: str) -> Status:
        """Return a tenant's status; raises Problem 503 without the database."""
        return await self._answers.get(tenant)

    async def _ask(self, tenant: str) -> Status:
        async with self._database.tenant(tenant) as connection:
            held = Held(
                await topic_statuses(connection, tenant),
                await repository.positions(connection, tenant),
                await repository.lost(connection, tenant),
                await repository.newest(connection, tenant),
            )
        ends = await self._ends([topic.topic for topic in held.topics if topic.status == "active"])
        return status(held, ends, to_datetime(self._clock()))


def status(held: Held, ends: Mapping[str, Ends] | None, now: datetime) -> Status:
    """Put together what database and broker say; a topic's positions are those of its present life."""
    states = [_topic(topic, held, ends) for topic in held.topics]
    return Status(now, _sum([state.lag for state in states]), states, [_newest(row, now) for row in held.newest])


def _topic(topic: TopicStatus, held: Held, ends: Mapping[str, Ends] | None) -> TopicState:
    found = None if ends is None else ends.get(topic.topic)
    own = [row for row in held.positions if row.topic == topic.topic]
    if found is None:
        moved = max((row.updated_at for row in own), default=None)
        last = next((row.topic_id for row in own if row.updated_at == moved), None)
        partitions = [_unknown(row) for row in own if row.topic_id == last]
    else:
        present = {row.partition: row for row in own if row.topic_id == found.topic_id}
        partitions = [_known(number, present.get(number), end) for number, end in sorted(found.partitions.items())]
    nothing = None if topic.status == "active" else 0
    lag = _sum([each.lag for each in partitions]) if partitions else nothing
    return TopicState(topic.dataset, topic.topic, topic.status, lag, held.lost.get(topic.topic, 0), partitions)


def _unknown(row: PositionRow) -> PartitionState:
    return PartitionState(row.partition, row.next_offset, None, None, row.updated_at)


def _known(number: int, row: PositionRow | None, end: int) -> PartitionState:
    stored = 0 if row is None else row.next_offset
    return PartitionState(number, stored, end, max(0, end - stored), None if row is None else row.updated_at)


def _newest(row: NewestRow, now: datetime) -> Newest:
    return Newest(row.dataset, row.time, row.appended_at, max(0.0, (now - row.time).total_seconds()))


def _sum(lags: Sequence[int | None]) -> int | None:
    return None if None in lags else sum(lag for lag in lags if lag is not None)
