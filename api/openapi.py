"""The OpenAPI document's parts that FastAPI cannot derive: problems, and the two routes that are not its own."""

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.edge_document import add_edge
from api.errors import MEDIA_TYPE, TYPE_PREFIX
from api.ingestion import document
from api.limits import document as limits
from api.links import add_links
from api.problem_document import add_problems

Json = dict[str, Any]

_MEANINGS: Final = {
    400: "Something in the URL or the body cannot be read",
    401: "No API key, or one that is not valid",
    403: "The key may not do this",
    404: "It does not exist, or belongs to another tenant",
    405: "The method is not possible here",
    409: "Not possible as things are: something of that name exists, or the change would leave what may not be",
    412: "What is to be changed is no longer what If-Match says",
    413: "Too many bytes, events or levels of nesting",
    415: "The body is not JSON",
    422: "The body is JSON and says something impossible",
    428: "If-Match is missing: a change says what it was made from",
    429: "A limit of the tenant or of the key is reached, or too many bad keys came from this address: nothing was "
    "done. Send the same request again after Retry-After",
    503: "Not possible now, or not known to have happened: send the same request again after Retry-After",
}
TAGS: Final = [
    {"name": name, "description": description}
    for name, description in {
        "tenants": "Making a tenant and its first key, and how it stands.",
        "keys": "Who may do what in the tenant's name, and until when.",
        "kafka credentials": "Logins to the broker for the tenant's own Kafka clients.",
        "subscriptions": "Which products of which exchange the tenant gets.",
        "rules": "What raises an alert.",
        "channels": "Where alerts go, and what became of the messages: docs/notifications.md.",
        "alerts": "How rules stand now, and who is told of it.",
        "silences": "Which alerts nobody is told of, and until when; maintenance windows.",
        "ingestion": "The tenant's own events, and how far the storing of records has come.",
        "search": "What is stored: pages, tails and exports.",
        "live": "What happens, as it happens; over a WebSocket too: docs/live.md.",
        "feeds": "How the exchanges are read, and what is missing.",
        "dead letters": "Records that were refused.",
        "audit": "What was changed, by whom, and that nobody altered the account of it.",
        "schema registry": "The schemas of the topics, for Confluent's clients.",
        "health": "For operators and their machines.",
    }.items()
]
"""What the routes' tags mean, in the order in which a newcomer meets them."""
_SERVERS: Final = [{"url": "/", "description": "where this document came from"}]
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


def problems(*statuses: int) -> dict[int | str, Json]:
    """Return the `responses` of a route that may answer with these problems."""
    return {status: {"description": _MEANINGS[status], "content": _problem_content()} for status in statuses}


def schema_like(example: Any) -> Json:  # parsed JSON
    """Return the schema of what is like this example: has all of its members, of their kinds; an empty one, any."""
    if isinstance(example, dict):
        if not example:
            return {"type": "object"}
        members = {name: schema_like(value) for name, value in example.items()}
        return {"type": "object", "required": list(example), "properties": members}
    if isinstance(example, list):
        return {"type": "array", "items": schema_like(example[0])}
    return {"type": "integer" if isinstance(example, int) else "string"}


def documented(app: FastAPI) -> Callable[[], Json]:
    """Return the function that makes the whole document, once."""

    def whole() -> Json:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                license_info=app.license_info,
                routes=app.routes,
                tags=TAGS,
                servers=_SERVERS,
            )
            made["components"]["schemas"] |= {"Problem": _PROBLEM} | document.SCHEMAS
            _drop_framework_errors(made)
            _add_limits(made)
            _state_parameters(made)
            add_problems(made)
            add_edge(made)
            made["paths"] |= document.paths()
            add_links(made)
            app.openapi_schema = made
        return app.openapi_schema

    return whole


def _drop_framework_errors(made: Json) -> None:
    """Every route answers with problems: FastAPI's own validation error never shows."""
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
    for path in made["paths"].values():
        for operation in path.values():
            invalid = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in invalid:
                del operation["responses"]["422"]


def _state_parameters(made: Json) -> None:
    """Say of no parameter that it may be null, and that it is required where its absence is a problem of its own."""
    for operation in (operation for path in made["paths"].values() for operation in path.values()):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
            schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
            if parameter["name"] == "If-Match":
                parameter["required"] = "428" in operation["responses"]


def _add_limits(made: Json) -> None:
    """Every route with a key tells of its limits, and refuses beyond them."""
    for operation in (operation for path in made["paths"].values() for operation in path.values()):
        if "security" in operation:
            answers = operation["responses"]
            answers.setdefault("429", problems(429)[429])["headers"] = limits.FIELDS | limits.RETRY_AFTER
            for answer in (answer for status, answer in answers.items() if status.startswith("2")):
                answer["headers"] = answer.get("headers", {}) | limits.FIELDS


def _problem_content() -> Json:
    return {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
