"""Where a backfill's records go: the tenants' topics and, once the broker has them, its progress on the feeds topic.

A failure of any copy ends the backfill with an error: there is a person who can run it again, and nothing is skipped.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from confluent_kafka import KafkaError

from producers.ledger import Scope
from producers.publisher import Limits, MarketRecord, Publisher, Routes
from pulsestream.core import topics
from pulsestream.core.errors import UsageError
from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Feed

ACKNOWLEDGED_WITHIN: Final = 60.0
"""Seconds in which the broker has to take a page."""
_AGAIN: Final = "run the same command again to continue where this ended"


class _Losses:
    """Collects what a producer would write into the ledger as an interval without data."""

    def __init__(self) -> None:
        self.causes: list[str] = []

    def open(self, scope: Scope, opened: int, cause: str) -> None:  # noqa: ARG002 - a publisher's words for a ledger
        self.causes.append(cause if scope.tenant is None else f"{cause} ({scope.tenant})")

    def close(self, scope: Scope, closed: int) -> None:
        """Do nothing: one loss has ended the backfill already."""


class BackfillTopics:
    """Sends to every tenant of `routes` (dataset -> product -> tenants)."""

    def __init__(self, settings: Settings, routes: Routes, records: Mapping[str, Feed]) -> None:
        """Count versions on from what the feeds topic holds: `records`."""
        self._settings = settings
        self._routes = routes
        self._losses = _Losses()
        limits = Limits(settings.publish_buffer, block=ACKNOWLEDGED_WITHIN, topic_patience=5.0)
        self._publisher = Publisher(settings, self._losses, limits)
        self._publisher.route(routes)
        self._versions = {key: feed.version for key, feed in records.items()}
        self._encode = codec(Feed).encode

    def check(self) -> None:
        """Raise UsageError for a topic that is not there, BrokerError when the broker is away."""
        needed = {
            tenant_topic(tenant, dataset)
            for dataset, products in self._routes.items()
            for tenants in products.values()
            for tenant in tenants
        }
        missing = sorted(needed - Admin(self._settings, "ps-producer-backfill").topics().keys())
        if missing:
            raise UsageError(
                f"{', '.join(missing)} is not there yet: `pulsestream relay` makes a tenant's topics within seconds of "
                "its subscription"
            )

    async def send(self, records: Sequence[MarketRecord]) -> None:
        """Send records; returns when the broker has every copy. Raises BrokerError if it does not take one."""
        for record in records:
            await self._publisher.publish(record, backfill=True)
        settled = await self._publisher.drain(ACKNOWLEDGED_WITHIN)
        failed = dict(self._publisher.account.failed)
        if not settled or failed or self._losses.causes:
            why = ", ".join([*self._losses.causes, *failed]) or f"no answer within {ACKNOWLEDGED_WITHIN:g} s"
            raise BrokerError(f"the broker did not take every record ({why}): {_AGAIN}")

    async def note(self, key: str, record: Feed) -> None:
        """Write the backfill's progress; returns when the broker has it. Raises BrokerError."""
        errors: list[KafkaError] = []
        numbered = msgspec.structs.replace(record, version=self._versions.get(key, 0) + 1)
        self._versions[key] = numbered.version

        def done(error: KafkaError | None) -> None:
            if error is not None:
                errors.append(error)

        sent = self._publisher.send(topics.FEEDS, key, self._encode(numbered), done)
        if not sent or not await self._publisher.drain(ACKNOWLEDGED_WITHIN) or errors:
            why = errors[0].str() if errors else "no answer"
            raise BrokerError(f"the backfill's progress cannot be written ({why}): {_AGAIN}")
