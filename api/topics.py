"""The topics that a tenant needs: asked for here, made by the reconciler, waited for by whoever writes first."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api import errors
from api.cache import AnswerCache
from api.database import Connection, Database, execute, fetch_all
from pulsestream.core.topics import tenant_topic

OUTPUTS: Final = ("stats", "bars", "alerts", "dlq")
"""Requested with the first input: whoever reads an input can write its outputs."""
MAX_WAIT: Final = 5.0
"""Seconds that the first request of a tenant waits for its topics."""
FRESH: Final = 30.0
STALE: Final = 300.0
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """A topic that should exist: `status` is provisioning, active or refused; `detail` says why it is refused."""

    dataset: str
    topic: str
    status: str
    detail: str | None


async def request_topics(connection: Connection, tenant: str, *datasets: str) -> None:
    """Ask for input topics and the outputs that belong to them; asking again changes nothing."""
    await execute(connection, "request_topics", {"tenant": tenant, "datasets": [*OUTPUTS, *datasets]})


async def topic_statuses(connection: Connection, tenant: str) -> list[TopicStatus]:
    """Return every topic that was asked for, by dataset."""
    rows = await fetch_all(connection, "list_topics", {"tenant": tenant})
    return [TopicStatus(topic=tenant_topic(tenant, row["dataset"]), **row) for row in rows]


class EventsTopicGate:
    """Lets a tenant's events through once its topics are active; asks for them at the first event."""

    def __init__(self, database: Database, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._monotonic = monotonic
        self._active: AnswerCache[None] = AnswerCache(self._await_active, monotonic, fresh=FRESH, stale=STALE)

    def is_open(self, tenant: str) -> bool:
        """Return whether the tenant's events can be published, as far as is known without asking."""
        return self._active.fresh(tenant) is not None

    async def pass_through(self, tenant: str) -> None:
        """Return when the tenant's events can be published; raises Problem 503 when that takes too long."""
        await self._active.get(tenant)

    def doubt(self, tenant: str) -> None:
        """Look again before the next event: publishing failed."""
        self._active.forget(tenant)

    async def _await_active(self, tenant: str) -> None:
        deadline = self._monotonic() + MAX_WAIT
        pause = _FIRST_PAUSE
        while not await self._look(tenant):
            if self._monotonic() >= deadline:
                raise errors.topics_provisioning()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _look(self, tenant: str) -> bool:
        async with self._database.tenant(tenant) as connection:
            topics = {topic.dataset: topic for topic in await topic_statuses(connection, tenant)}
            events = topics.get("events")
            if events is None:
                await request_topics(connection, tenant, "events")
                return False
        if events.status == "refused":
            raise errors.topics_refused(events.topic, events.detail or "no reason given")
        return events.status == "active"
