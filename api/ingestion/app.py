"""POST /api/v1/ingestion/events and /events/batch: plain ASGI, because they are the hot path.

It parses with msgspec, waits for Kafka, and answers; routing, middleware and models of a framework would cost as much
as the work. 202 means that every event of the request is on its topic.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from api import errors
from api.admission import Admission
from api.asgi import Answer, Headers, Receive, Scope
from api.auth import Caller, Permission
from api.body import read_body
from api.encodings import ENCODINGS
from api.errors import Problem
from api.ingestion.events import (
    MAX_BATCH,
    MAX_EVENT,
    Accepted,
    IdMaker,
    Rejected,
    parse_batch,
    parse_single,
    rejections,
)
from api.ingestion.idempotency import HEADER, IdempotencyKeys, parse_key
from api.ingestion.service import ACCEPTED, Ingestion, Outcome
from api.limits.entrance import Entrance
from pulsestream.core.clock import Clock

SINGLE: Final = "/api/v1/ingestion/events"
BATCH: Final = "/api/v1/ingestion/events/batch"
PERMISSIONS: Final = {SINGLE: Permission.EVENTS_WRITE, BATCH: Permission.EVENTS_WRITE}
"""What each route requires."""
ROUTES: Final = frozenset(PERMISSIONS)

_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_KEY: Final = HEADER.lower().encode()
_encoder: Final = msgspec.json.Encoder()


class IngestionApp:
    """Answers the two routes."""

    def __init__(
        self,
        entrance: Entrance,
        ingestion: Ingestion,
        idempotency: IdempotencyKeys,
        admission: Admission,
        clock: Clock,
    ) -> None:
        self._entrance = entrance
        self._limiter = entrance.limiter
        self._ingestion = ingestion
        self._idempotency = idempotency
        self._admission = admission
        self._clock = clock

    async def answer(self, scope: Scope, headers: Headers, receive: Receive) -> Answer:
        """Return the answer to a request, whose path must be one of ROUTES; raises Problem and ClientGoneError."""
        if scope["method"] != "POST":
            raise errors.method_not_allowed(scope["method"], "POST")
        caller = await self._caller(scope, headers, PERMISSIONS[scope["path"]])
        held = self._admission.admit()
        try:
            if scope["path"] == SINGLE:
                body = await read_body(headers, receive, MAX_EVENT, held, ENCODINGS)
                return await self._single(caller, body, headers)
            body = await read_body(headers, receive, MAX_BATCH, held, ENCODINGS)
            return await self._batch(caller, body, headers)
        finally:
            held.release()

    async def _caller(self, scope: Scope, headers: Headers, permission: Permission) -> Caller:
        key = headers.get(b"x-api-key", b"")
        caller = self._entrance.recent(key, scope) or await self._entrance.caller(key.decode("latin-1"), scope)
        caller.require(permission)
        return caller

    async def _single(self, caller: Caller, body: bytes, headers: Headers) -> Answer:
        event = parse_single(body, self._clock)
        self._limiter.spend(caller, 1)
        if _KEY in headers:
            event = parse_single(body, self._clock, await self._claim(caller, headers, SINGLE, body))
        outcome = (await self._ingestion.publish(caller.tenant, [event], _trace(headers)))[0]
        if outcome is ACCEPTED:
            self._count(caller, 1, body)
            return Answer(202, _encoder.encode(_result(event, outcome)))
        if outcome.status == "rejected":
            raise errors.too_large(f"The event cannot be stored: {outcome.reason}.")
        raise unconfirmed(f"Kafka did not confirm the event: {outcome.reason}", id=event.id)

    async def _batch(self, caller: Caller, body: bytes, headers: Headers) -> Answer:
        parsed = parse_batch(body, self._clock)
        self._limiter.spend(caller, len(parsed))
        if _KEY in headers and _fit(parsed):
            parsed = parse_batch(body, self._clock, await self._claim(caller, headers, BATCH, body))
        fit = _fit(parsed)
        if not fit:
            raise errors.invalid_body(rejections(parsed))
        outcomes = await self._ingestion.publish(caller.tenant, fit, _trace(headers))
        accepted = outcomes.count(ACCEPTED)
        self._count(caller, accepted, body)
        if accepted == len(parsed):
            return Answer(202, _encoder.encode(_batch_result(accepted, 0, [_result(event, ACCEPTED) for event in fit])))
        settled = iter(outcomes)
        results = [
            _rejection(event) if isinstance(event, Rejected) else _result(event, next(settled)) for event in parsed
        ]
        rejected = sum(result["status"] == "rejected" for result in results)
        if accepted + rejected < len(parsed):
            unknown = len(parsed) - accepted - rejected
            raise unconfirmed(f"Kafka did not confirm {unknown} of {len(results)} events", results=results)
        return Answer(207, _encoder.encode(_batch_result(accepted, rejected, results)))

    def _count(self, caller: Caller, accepted: int, body: bytes) -> None:
        counts = self._limiter.usage.of(caller.tenant)
        counts.events += accepted
        counts.octets += len(body) if accepted else 0

    async def _claim(self, caller: Caller, headers: Headers, route: str, body: bytes) -> IdMaker:
        return await self._idempotency.claim(caller.tenant, parse_key(headers[_KEY]), route, body)


def _fit(parsed: Sequence[Accepted | Rejected]) -> list[Accepted]:
    return [event for event in parsed if isinstance(event, Accepted)]


def _trace(headers: Headers) -> str | None:
    found = headers.get(b"traceparent")
    if found is None:
        return None
    text = found.decode("latin-1")
    return text if _TRACEPARENT.fullmatch(text) else None


def _result(event: Accepted, outcome: Outcome) -> dict[str, Any]:
    shown = {"id": event.id, "event_id": event.record.event_id, "status": outcome.status}
    return shown if outcome.reason is None else shown | {"detail": outcome.reason}


def _rejection(event: Rejected) -> dict[str, Any]:
    return {
        "id": event.id,
        "status": "rejected",
        "errors": [{"pointer": event.fault.pointer, "message": event.fault.message}],
    }


def _batch_result(accepted: int, rejected: int, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"accepted": accepted, "rejected": rejected, "unknown": 0, "results": results}


def unconfirmed(what: str, **extensions: Any) -> Problem:
    """503: some events may be stored and others not."""
    return errors.unavailable(
        "unconfirmed",
        "Not confirmed by Kafka",
        f"{what}. It may be stored or not: send it again with the same id, which has one effect.",
        **extensions,
    )
