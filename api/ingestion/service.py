"""Events to the tenant's topic: what is accepted is on the topic, what is unknown may be, what is rejected is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from confluent_kafka import KafkaError

from api import errors
from api.ingestion.events import Accepted
from api.ingestion.publisher import Outgoing, Publisher, Report
from api.topics import EventsTopicGate
from pulsestream.core.headers import cloud_event
from pulsestream.core.log import logger
from pulsestream.core.metrics import INGESTED
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Event

_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event: `accepted`, `rejected` (never stored) or `unknown` (send it again, same id)."""

    status: str
    reason: str | None = None


ACCEPTED: Final = Outcome("accepted")
_NOT_SENT: Final = Outcome("unknown", "not sent: the queue is full")


class Ingestion:
    """Publishes events for tenants."""

    def __init__(self, publisher: Publisher, gate: EventsTopicGate) -> None:
        self._publisher = publisher
        self._gate = gate

    async def publish(self, tenant: str, events: Sequence[Accepted], trace: str | None = None) -> list[Outcome]:
        """Return what became of each event once all are settled; raises Problem 503 when none could be tried."""
        if not self._gate.is_open(tenant):
            await self._gate.pass_through(tenant)
        deliveries = self._publisher.deliveries(len(events))
        sent = self._publisher.queue(_events_topic(tenant), _outgoing(events, trace), deliveries)
        if not sent:
            raise errors.overloaded(self._publisher.fill())
        await deliveries.done
        if deliveries.delivered == len(events):
            INGESTED.inc(len(events))
            return [ACCEPTED] * len(events)
        outcomes = [_outcome(report) for report in deliveries.reports[:sent]]
        outcomes += [_NOT_SENT] * (len(events) - sent)
        self._account(tenant, outcomes)
        return outcomes

    def _account(self, tenant: str, outcomes: Sequence[Outcome]) -> None:
        INGESTED.inc(outcomes.count(ACCEPTED))
        unknown = next((outcome for outcome in outcomes if outcome.status == "unknown"), None)
        if unknown is not None:
            self._gate.doubt(tenant)
            _log.warning("events not confirmed", tenant=tenant, reason=unknown.reason, events=len(outcomes))


_codec: Final = codec(Event)


@lru_cache(maxsize=4096)
def _events_topic(tenant: str) -> str:
    return tenant_topic(tenant, "events")


def _outgoing(events: Sequence[Accepted], trace: str | None) -> list[Outgoing]:
    encode = _codec.encode
    records = [event.record for event in events]
    outgoing: list[Outgoing] = [
        (
            (record.product or record.source).encode(),
            encode(record),
            cloud_event(record.event_id, record.type, record.source, record.time),
        )
        for record in records
    ]
    if trace is None:
        return outgoing
    traced = ("traceparent", trace.encode())
    return [(key, value, [*headers, traced]) for key, value, headers in outgoing]


def _outcome(error: Report) -> Outcome:
    if error is None:
        return ACCEPTED
    if error.code() in _TOO_LARGE:
        return Outcome("rejected", "the record is larger than the topic takes")
    return Outcome("unknown", f"{error.str()} ({error.name()})")
