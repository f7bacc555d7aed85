"""Events to the tenant's topic: what is accepted is on the topic, what is unknown may be, what is rejected is not."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError

from api import errors
from api.ingestion.events import Accepted
from api.ingestion.publisher import CONFIRM_WITHIN, Publisher, QueueFullError, Report
from api.topics import EventsTopicGate
from pulsestream.core.headers import Headers, cloud_event
from pulsestream.core.log import logger
from pulsestream.core.metrics import INGESTED
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Event

_BACKSTOP: Final = CONFIRM_WITHIN + 2.0
_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event: `accepted`, `rejected` (never stored) or `unknown` (send it again, same id)."""

    status: str
    reason: str | None = None


ACCEPTED: Final = Outcome("accepted")


class Ingestion:
    """Publishes events for tenants."""

    def __init__(self, publisher: Publisher, gate: EventsTopicGate) -> None:
        self._publisher = publisher
        self._gate = gate

    async def publish(self, tenant: str, events: Sequence[Accepted], trace: str | None = None) -> list[Outcome]:
        """Return what became of each event once all are settled; raises Problem 503 when none could be tried."""
        await self._gate.pass_through(tenant)
        topic = tenant_topic(tenant, "events")
        futures = self._send(topic, events, trace)
        outcomes = await _outcomes(futures)
        outcomes += [Outcome("unknown", "not sent: the queue is full")] * (len(events) - len(futures))
        self._account(tenant, outcomes)
        return outcomes

    def _send(self, topic: str, events: Sequence[Accepted], trace: str | None) -> list[asyncio.Future[Report]]:
        futures: list[asyncio.Future[Report]] = []
        for event in events:
            record = event.record
            try:
                future = self._publisher.send(
                    topic, (record.product or record.source).encode(), _codec.encode(record), _headers(record, trace)
                )
            except QueueFullError as error:
                if not futures:
                    raise errors.unavailable(
                        "overloaded", "Too many events wait for Kafka", f"{error}. Send the request again."
                    ) from error
                break
            futures.append(future)
        return futures

    def _account(self, tenant: str, outcomes: Sequence[Outcome]) -> None:
        INGESTED.inc(sum(outcome is ACCEPTED for outcome in outcomes))
        unknown = next((outcome for outcome in outcomes if outcome.status == "unknown"), None)
        if unknown is not None:
            self._gate.doubt(tenant)
            _log.warning("events not confirmed", tenant=tenant, reason=unknown.reason, events=len(outcomes))


_codec: Final = codec(Event)


def _headers(event: Event, trace: str | None) -> Headers:
    headers = cloud_event(event.event_id, event.type, event.source, event.time)
    return headers if trace is None else [*headers, ("traceparent", trace.encode())]


async def _outcomes(futures: Sequence[asyncio.Future[Report]]) -> list[Outcome]:
    """Wait for every report; the producer gives one within its bound, and the backstop holds should it not."""
    backstop = asyncio.get_running_loop().call_later(_BACKSTOP, _give_up, futures)
    try:
        return [_outcome(await future) for future in futures]
    finally:
        backstop.cancel()


def _give_up(futures: Sequence[asyncio.Future[Report]]) -> None:
    late = KafkaError(KafkaError._TIMED_OUT, "no delivery report")  # noqa: SLF001 - confluent-kafka's own name
    for future in futures:
        if not future.done():
            future.set_result(late)


def _outcome(error: Report) -> Outcome:
    if error is None:
        return ACCEPTED
    if error.code() in _TOO_LARGE:
        return Outcome("rejected", "the record is larger than the topic takes")
    return Outcome("unknown", f"{error.str()} ({error.name()})")
