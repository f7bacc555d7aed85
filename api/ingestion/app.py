"""POST /api/v1/ingestion/events and /events/batch: a small ASGI application, because they are the hot path.

It parses with msgspec, waits for Kafka, and answers; routing, middleware and models of a framework would cost as much
as the work. 202 means that every event of the request is on its topic.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from api import errors
from api.auth import Authenticator, Caller, Permission
from api.errors import Problem
from api.ingestion.body import ClientGoneError, Receive, Scope, Send, check_nesting, header, read_body
from api.ingestion.events import (
    MAX_BATCH,
    MAX_EVENT,
    Accepted,
    Rejected,
    parse_batch,
    parse_single,
    rejections,
)
from api.ingestion.service import ACCEPTED, Ingestion, Outcome
from pulsestream.core.clock import Clock

SINGLE: Final = "/api/v1/ingestion/events"
BATCH: Final = "/api/v1/ingestion/events/batch"
ROUTES: Final = frozenset({SINGLE, BATCH})

_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON: Final = b"application/json"
_encoder: Final = msgspec.json.Encoder()
Answer = tuple[int, bytes, dict[str, str]]


class IngestionApp:
    """Answers the two routes; `scope["path"]` must be one of ROUTES."""

    def __init__(self, authenticator: Authenticator, ingestion: Ingestion, clock: Clock) -> None:
        self._authenticator = authenticator
        self._ingestion = ingestion
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, body, headers = await self._answer(scope, receive)
        except ClientGoneError:
            return
        except Problem as problem:
            await send_problem(send, problem)
            return
        await send_answer(send, status, body, _JSON, headers)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        if scope["method"] != "POST":
            raise errors.method_not_allowed(scope["method"], "POST")
        caller = await self._authenticator.caller(header(scope, b"x-api-key"))
        caller.require(Permission.EVENTS_WRITE)
        if scope["path"] == SINGLE:
            body = await read_body(scope, receive, MAX_EVENT)
            check_nesting(body)
            return await self._single(caller, body, _trace(scope))
        body = await read_body(scope, receive, MAX_BATCH)
        check_nesting(body)
        return await self._batch(caller, body, _trace(scope))

    async def _single(self, caller: Caller, body: bytes, trace: str | None) -> Answer:
        event = parse_single(body, self._clock)
        outcome = (await self._ingestion.publish(caller.tenant, [event], trace))[0]
        shown = _result(event, outcome)
        if outcome is ACCEPTED:
            return 202, _encoder.encode(shown), {}
        if outcome.status == "rejected":
            raise errors.too_large(f"The event cannot be stored: {outcome.reason}.")
        raise _unknown(f"Kafka did not confirm the event: {outcome.reason}", id=event.id)

    async def _batch(self, caller: Caller, body: bytes, trace: str | None) -> Answer:
        parsed = parse_batch(body, self._clock)
        fit = [event for event in parsed if isinstance(event, Accepted)]
        if not fit:
            raise errors.invalid_body(rejections(parsed))
        outcomes = iter(await self._ingestion.publish(caller.tenant, fit, trace))
        results = [
            _rejection(event) if isinstance(event, Rejected) else _result(event, next(outcomes)) for event in parsed
        ]
        counts = _counts(results)
        if counts["unknown"]:
            raise _unknown(f"Kafka did not confirm {counts['unknown']} of {len(results)} events", results=results)
        return (207 if counts["rejected"] else 202), _encoder.encode(counts | {"results": results}), {}


async def send_problem(send: Send, problem: Problem) -> None:
    """Send a problem as the answer."""
    await send_answer(send, problem.status, problem.encoded(), errors.MEDIA_TYPE.encode(), problem.headers)


async def send_answer(send: Send, status: int, body: bytes, content_type: bytes, headers: Any) -> None:
    """Send a whole answer."""
    raw = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    raw += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _trace(scope: Scope) -> str | None:
    found = header(scope, b"traceparent")
    return found if found is not None and _TRACEPARENT.fullmatch(found) else None


def _result(event: Accepted, outcome: Outcome) -> dict[str, Any]:
    shown = {"id": event.id, "event_id": event.record.event_id, "status": outcome.status}
    return shown if outcome.reason is None else shown | {"detail": outcome.reason}


def _rejection(event: Rejected) -> dict[str, Any]:
    return {
        "id": event.id,
        "status": "rejected",
        "errors": [{"pointer": event.fault.pointer, "message": event.fault.message}],
    }


def _counts(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    statuses = [result["status"] for result in results]
    return {status: statuses.count(status) for status in ("accepted", "rejected", "unknown")}


def _unknown(what: str, **extensions: Any) -> Problem:
    return errors.unavailable(
        "unconfirmed",
        "Not confirmed by Kafka",
        f"{what}. It may be stored or not: send it again with the same id, which has one effect.",
        **extensions,
    )
