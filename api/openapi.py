"""The OpenAPI document's parts that FastAPI cannot derive: problems, and the two routes that are not its own."""

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import MEDIA_TYPE, TYPE_PREFIX
from api.ingestion.app import BATCH, SINGLE
from api.ingestion.events import MAX_EVENTS

Json = dict[str, Any]

_MEANINGS: Final = {
    400: "Something in the URL or the body cannot be read",
    401: "No API key, or one that is not valid",
    403: "The key may not do this",
    404: "It does not exist, or belongs to another tenant",
    405: "The method is not possible here",
    409: "Something of that name exists",
    413: "Too many bytes, events or levels of nesting",
    415: "The body is not JSON",
    422: "The body is JSON and says something impossible",
    503: "Not possible now, or not known to have happened: send the same request again after Retry-After",
}
_PROBLEM: Final[Json] = {
    "type": "object",
    "description": "RFC 9457 problem",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": [TYPE_PREFIX + "unauthorized"]},
        "title": {"type": "string", "examples": ["API key required"]},
        "status": {"type": "integer", "examples": [401]},
        "detail": {"type": "string", "description": "what happened, and what to do"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "message"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body, or a parameter's name"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
_EVENT: Final[Json] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "source", "data"],
    "properties": {
        "id": {
            "type": "string",
            "minLength": 1,
            "description": "with `source` unique for the tenant; default: a UUIDv7",
        },
        "type": {"type": "string", "minLength": 1, "maxLength": 256, "examples": ["order.filled"]},
        "source": {"type": "string", "minLength": 1, "maxLength": 256, "examples": ["/desk/1"]},
        "product": {"type": ["string", "null"], "pattern": "^[A-Z0-9][A-Z0-9._/-]{0,63}$", "examples": ["BTC-USD"]},
        "time": {"type": ["string", "null"], "format": "date-time", "description": "default: when it was received"},
        "data": {"description": "any JSON", "examples": [{"order": 17, "size": 0.25}]},
    },
    "example": {
        "id": "fill-17",
        "type": "order.filled",
        "source": "/desk/1",
        "product": "BTC-USD",
        "data": {"size": 0.25},
    },
}
_RESULT: Final[Json] = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        "id": {"type": ["string", "null"], "examples": ["fill-17"]},
        "event_id": {"type": "string", "description": "as stored and searched", "examples": ["/desk/1:fill-17"]},
        "status": {"type": "string", "enum": ["accepted", "rejected", "unknown"]},
        "detail": {"type": "string"},
        "errors": {"$ref": "#/components/schemas/Problem/properties/errors"},
    },
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
_BATCH_RESULT: Final[Json] = {
    "type": "object",
    "required": ["accepted", "rejected", "unknown", "results"],
    "properties": {
        "accepted": {"type": "integer"},
        "rejected": {"type": "integer"},
        "unknown": {"type": "integer"},
        "results": {"type": "array", "items": {"$ref": "#/components/schemas/EventResult"}},
    },
}
_SCHEMAS: Final[Json] = {
    "Problem": _PROBLEM,
    "EventIn": _EVENT,
    "EventResult": _RESULT,
    "EventBatch": _BATCH,
    "EventBatchResult": _BATCH_RESULT,
}


def problems(*statuses: int) -> dict[int | str, Json]:
    """Return the `responses` of a route that may answer with these problems."""
    return {status: {"description": _MEANINGS[status], "content": _problem_content()} for status in statuses}


def documented(app: FastAPI) -> Callable[[], Json]:
    """Return the function that makes the whole document, once."""

    def document() -> Json:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            made["components"]["schemas"] |= _SCHEMAS
            _drop_framework_errors(made)
            made["paths"] |= {SINGLE: {"post": _single()}, BATCH: {"post": _batch()}}
            app.openapi_schema = made
        return app.openapi_schema

    return document


def _drop_framework_errors(document: Json) -> None:
    """Every route answers with problems: FastAPI's own validation error never shows."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            invalid = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in invalid:
                del operation["responses"]["422"]


def _single() -> Json:
    return _operation("EventIn") | {
        "operationId": "ingest_event",
        "summary": "Ingest an event",
        "description": "202 means that Kafka has it. 503 means unknown: send it again with the same `id`, which has "
        "one effect.",
        "responses": {"202": _answer("Kafka has the event", "EventResult")} | _REFUSALS,
    }


def _batch() -> Json:
    return _operation("EventBatch") | {
        "operationId": "ingest_events",
        "summary": f"Ingest up to {MAX_EVENTS} events",
        "description": "Each event is judged by itself. 202: Kafka has them all. 207: it has those `accepted`, and "
        "those `rejected` will never be taken as they are. 503: some are `unknown`; send the batch again with the "
        "same ids.",
        "responses": {
            "202": _answer("Kafka has every event", "EventBatchResult"),
            "207": _answer("Kafka has the accepted events, the others are rejected", "EventBatchResult"),
        }
        | _REFUSALS,
    }


def _operation(body: str) -> Json:
    return {
        "tags": ["ingestion"],
        "security": [{"ApiKey": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(body)}}},
    }


def _answer(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema)}}}


def _problem_content() -> Json:
    return {MEDIA_TYPE: {"schema": _reference("Problem")}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_REFUSALS: Final[Json] = {str(status): answer for status, answer in problems(400, 401, 403, 413, 415, 422, 503).items()}
