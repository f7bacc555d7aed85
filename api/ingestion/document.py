"""What the OpenAPI document says of the two ingestion routes, which FastAPI does not know.

A contract test holds it and the behaviour together: each answer that is listed here is produced there, and each one
that is produced is listed here.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from api import errors
from api.auth import KEY_HEADER
from api.body import ARRIVE_WITHIN, MAX_NESTING
from api.encodings import ENCODINGS
from api.errors import FieldError, Problem
from api.http_protocol import HEAD_WITHIN, MAX_HEAD, MAX_HEADERS
from api.ingestion.app import BATCH, SINGLE, unconfirmed
from api.ingestion.events import MAX_AHEAD, MAX_BATCH, MAX_EVENT, MAX_EVENTS
from api.ingestion.idempotency import HEADER as IDEMPOTENCY_HEADER
from api.ingestion.idempotency import MAX_KEY, WINDOW_HOURS
from api.limits import document as limits
from pulsestream.core.clock import MICROS_PER_SECOND

Json = dict[str, Any]

_EVENT_EXAMPLE: Final[Json] = {
    "id": "fill-17",
    "type": "order.filled",
    "source": "/desk/1",
    "product": "BTC-USD",
    "time": "2021-04-17T16:43:37.056746Z",
    "data": {"size": 0.25},
}
_NAMELESS_EXAMPLE: Final[Json] = {"type": "note", "source": "/desk/1", "data": "rolled the book"}
_ACCEPTED_EXAMPLE: Final[Json] = {"id": "fill-17", "event_id": "/desk/1:fill-17", "status": "accepted"}
_REJECTED_EXAMPLE: Final[Json] = {
    "id": "fill-18",
    "status": "rejected",
    "errors": [{"pointer": "/type", "message": "expected `str`, got `int`"}],
}
_TOO_MANY: Final = 429
_PRINTABLE: Final = "^[^\\u0000-\\u001f\\u007f]+$"
_ERRORS: Final[Json] = {"$ref": "#/components/schemas/Problem/properties/errors"}

_EVENT: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "source", "data"],
    "properties": {
        "id": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": 255,
            "pattern": _PRINTABLE,
            "description": "With `source` unique for the tenant, and together at most 256 characters; the same id "
            "again has one effect. Default: a UUID, derived from the idempotency key where there is one.",
        },
        "type": {"type": "string", "maxLength": 256, "pattern": _PRINTABLE, "examples": ["order.filled"]},
        "source": {"type": "string", "maxLength": 256, "pattern": _PRINTABLE, "examples": ["/desk/1"]},
        "product": {"type": ["string", "null"], "pattern": "^[A-Z0-9][A-Z0-9._/-]{0,63}$", "examples": ["BTC-USD"]},
        "time": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "RFC 3339 with a zone; from 1970 to "
            f"{MAX_AHEAD // MICROS_PER_SECOND} s ahead of the server's clock. Default: when it was received.",
        },
        "data": {
            "description": "Any JSON, stored as it is written; numbers of up to 400 digits, no \\u0000.",
            "examples": [{"order": 17, "size": 0.25}],
        },
    },
    "example": _EVENT_EXAMPLE,
}
_RESULT: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "status"],
    "properties": {
        "id": {
            "type": ["string", "null"],
            "description": "the event's own, or the one made for it; null where it could not be read",
            "examples": ["fill-17"],
        },
        "event_id": {"type": "string", "description": "as stored and searched", "examples": ["/desk/1:fill-17"]},
        "status": {
            "type": "string",
            "enum": ["accepted", "rejected", "unknown"],
            "description": "accepted: Kafka has it. rejected: never taken as it is. unknown: perhaps; send it again.",
        },
        "detail": {"type": "string", "description": "why it is unknown or rejected"},
        "errors": _ERRORS,
    },
    "if": {"properties": {"status": {"const": "rejected"}}},
    "then": {"anyOf": [{"required": ["errors"]}, {"required": ["detail"]}]},
    "else": {"required": ["event_id"], "properties": {"id": {"type": "string"}}},
}
_BATCH: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["events"],
    "properties": {
        "events": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
            "items": {"$ref": "#/components/schemas/EventIn"},
        }
    },
}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_BATCH_RESULT: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["accepted", "rejected", "unknown", "results"],
    "properties": {
        "accepted": _COUNT,
        "rejected": _COUNT,
        "unknown": _COUNT,
        "results": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
            "description": "one for each event, in their order",
            "items": {"$ref": "#/components/schemas/EventResult"},
        },
    },
}
_UNCONFIRMED: Final[Json] = {
    "allOf": [{"$ref": "#/components/schemas/Problem"}],
    "properties": {
        "id": {"type": "string", "description": "of a single event that is not confirmed"},
        "results": {
            "type": "array",
            "description": "of a batch with events that are not confirmed: one for each event, in their order",
            "items": {"$ref": "#/components/schemas/EventResult"},
        },
    },
}
SCHEMAS: Final[Json] = {
    "EventIn": _EVENT,
    "EventResult": _RESULT,
    "EventBatch": _BATCH,
    "EventBatchResult": _BATCH_RESULT,
    "Unavailable": _UNCONFIRMED,
}

_MEANINGS: Final = {
    400: "The body is no JSON, or not what its encoding says; or something names a tenant; or the idempotency key is "
    "none; or it is no HTTP request",
    401: "No API key, or one that is not valid",
    403: "The key may not do this, or its tenant is suspended",
    408: "The request did not arrive in time",
    413: "Too many bytes, on the way or unfolded; too many events; too many levels of nesting",
    415: "The body is not JSON, or compressed in another way",
    422: "The body is JSON and says something impossible: `errors` names each member. Or the idempotency key was used "
    "for another request",
    429: "A limit of the tenant or of the key is reached, or too many bad keys came from this address: nothing was "
    "done. Send the same again after `Retry-After`",
    431: "Request line and headers are too large or too many",
    500: "A fault of the server; what became of the events is unknown",
    503: "`unconfirmed`: perhaps done. Any other type: nothing was done. Send the same again after `Retry-After`",
}


def _refusals() -> list[Problem]:
    return [
        errors.malformed("JSON is malformed: invalid character (byte 1)."),
        errors.malformed_encoding("gzip", "it is cut off"),
        errors.tenant_not_allowed("The body"),
        errors.invalid_parameters([FieldError(IDEMPOTENCY_HEADER, f"is not 1 to {MAX_KEY} printable characters")]),
        errors.malformed_request("Invalid HTTP request received."),
        errors.unauthorized(f"Send your API key in the header {KEY_HEADER}."),
        errors.forbidden("This key has role viewer; events:write needs one of: owner, admin."),
        errors.body_timeout(ARRIVE_WITHIN),
        errors.head_timeout(HEAD_WITHIN),
        errors.body_too_large(MAX_EVENT, close=False),
        errors.unsupported_media_type("text/plain"),
        errors.unsupported_encoding("br", ", ".join(sorted(ENCODINGS))),
        errors.invalid_body([FieldError("/type", "is missing")]),
        errors.idempotency_key_reused("8e03978e-40d5-43dd", "2021-04-17T16:43:37+00:00", WINDOW_HOURS),
        errors.rate_limited(["events", "key-events"], 3),
        errors.too_many_bad_keys(3),
        errors.head_too_large(MAX_HEAD, MAX_HEADERS),
        errors.internal(),
        errors.overloaded("50000 records wait for the broker"),
        unconfirmed("Kafka did not confirm the event: Local: Message timed out (_MSG_TIMED_OUT)", id="fill-17"),
        errors.topics_provisioning(),
        errors.topics_refused("ps.acme.events.v1", "the partition budget is spent"),
        errors.database_away(),
    ]


def paths() -> Json:
    """Return the two paths of the document."""
    return {SINGLE: {"post": _single()}, BATCH: {"post": _batch()}}


def _single() -> Json:
    return _operation("EventIn", {"event": _EVENT_EXAMPLE, "without an id": _NAMELESS_EXAMPLE}) | {
        "operationId": "ingest_event",
        "summary": "Ingest an event",
        "description": f"Up to {MAX_EVENT} bytes. {_SEMANTICS}",
        "responses": {"202": _answer("Kafka has the event", "EventResult", {"accepted": _ACCEPTED_EXAMPLE})}
        | _refused(),
    }


def _batch() -> Json:
    accepted = {"accepted": 1, "rejected": 0, "unknown": 0, "results": [_ACCEPTED_EXAMPLE]}
    partly = {"accepted": 1, "rejected": 1, "unknown": 0, "results": [_ACCEPTED_EXAMPLE, _REJECTED_EXAMPLE]}
    return _operation("EventBatch", {"batch": {"events": [_EVENT_EXAMPLE, _NAMELESS_EXAMPLE]}}) | {
        "operationId": "ingest_events",
        "summary": f"Ingest up to {MAX_EVENTS} events",
        "description": f"Up to {MAX_EVENTS} events and {MAX_BATCH} bytes, each event up to {MAX_EVENT}. Each is judged "
        f"by itself: those that can never be taken are `rejected`, with reasons, and the others go on. {_SEMANTICS}",
        "responses": {
            "202": _answer("Kafka has every event", "EventBatchResult", {"accepted": accepted}),
            "207": _answer(
                "Kafka has the accepted events; the others are rejected, and sending them again as they are is in vain",
                "EventBatchResult",
                {"partly accepted": partly},
            ),
        }
        | _refused(),
    }


_SEMANTICS: Final = (
    f"At most {MAX_NESTING} levels of nesting. The answer comes once Kafka has reported the delivery. After 503 or no "
    "answer at all, send the same request again with the same ids or the same idempotency key: the effect is one."
)
_PARAMETERS: Final[Sequence[Json]] = (
    {
        "name": IDEMPOTENCY_HEADER,
        "in": "header",
        "description": "A string (RFC 8941) of 1 to 255 printable ASCII characters, such as a UUID; quotes may be left "
        f"out. For {WINDOW_HOURS} hours it belongs to this route and body: the same request again has one effect, also "
        "for events without an id; another one is 422.",
        "schema": {"type": "string"},
        "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
    },
    {
        "name": "Content-Encoding",
        "in": "header",
        "description": "The body is bounded as it arrives and as it unfolds.",
        "schema": {"type": "string", "enum": ["identity", *sorted(ENCODINGS)]},
    },
    {
        "name": "traceparent",
        "in": "header",
        "description": "W3C Trace Context; travels with the records. What is none is passed over, as that says.",
        "schema": {"type": "string", "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]},
    },
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "1 to 64 of A-Z, a-z, 0-9, dot, hyphen and underscore: comes back in the answer. Where it is "
        "anything else, or left out, one is made here.",
        "schema": {"type": "string", "examples": ["fill-17"]},
    },
)
_REQUEST_ID: Final[Json] = {
    "X-Request-ID": {"description": "names the request in the log", "schema": {"type": "string"}}
}


def _operation(body: str, examples: Json) -> Json:
    content = {"schema": _reference(body), "examples": _named(examples)}
    return {
        "tags": ["ingestion"],
        "security": [{"ApiKey": []}],
        "parameters": list(_PARAMETERS),
        "requestBody": {"required": True, "content": {"application/json": content}},
    }


def _answer(description: str, schema: str, examples: Json) -> Json:
    content = {"schema": _reference(schema), "examples": _named(examples)}
    return {
        "description": description,
        "headers": _REQUEST_ID | limits.FIELDS,
        "content": {"application/json": content},
    }


def _refused() -> Json:
    """Return the refusals by status, each with an example of every type."""
    status = attrgetter("status")
    return {
        str(number): _refusal(number, [*found]) for number, found in groupby(sorted(_refusals(), key=status), status)
    }


def _refusal(status: int, found: Sequence[Problem]) -> Json:
    examples = _named({problem.code: problem.body() for problem in found})
    schema = "Unavailable" if any(problem.extensions for problem in found) else "Problem"
    return {
        "description": _MEANINGS[status],
        "headers": _REQUEST_ID | _headers(found) | (limits.FIELDS if status == _TOO_MANY else {}),
        "content": {errors.MEDIA_TYPE: {"schema": _reference(schema), "examples": examples}},
    }


def _headers(found: Iterable[Problem]) -> Json:
    sent = [problem.headers for problem in found]
    return {
        name: {"required": all(name in headers for headers in sent), "schema": {"type": "string"}, "example": value}
        for headers in sent
        for name, value in headers.items()
    }


def _named(examples: Json) -> Json:
    return {name: {"value": value} for name, value in examples.items()}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
