"""What the OpenAPI document shows of problems: an example of every type, and which of them a route may answer with.

Each stands once, under `components/examples`; a test finds there every type that the code raises, and its title.
"""

from collections.abc import Iterator
from typing import Any, Final

from api import errors
from api.errors import MEDIA_TYPE, FieldError, Problem

Json = dict[str, Any]

_ID: Final = "019c1f6e-2b7a-7c3e-9f00-1b2c3d4e5f60"
_KEY: Final = "03kV8sLq2ZxYb"
_EVERYWHERE: Final = (
    errors.invalid_parameters([FieldError("limit", "Input should be less than or equal to 1000")]),
    errors.invalid_cursor("The cursor was not given by this service for this tenant. Use next_cursor unchanged."),
    errors.refused_value("a text holds \\u0000"),
    errors.unauthorized("Send the key in X-API-Key."),
    errors.forbidden("This needs rules:write, which role viewer does not have."),
    errors.not_found(f"There is no rule {_ID}."),
    errors.precondition_failed("The newest version is 3.", version=3),
    errors.precondition_required("Send If-Match with the rule's ETag, or *."),
    errors.invalid_body([FieldError("/condition/below", "Input should be greater than 0")]),
    errors.rate_limited(["key-requests"], 3),
    errors.too_many_bad_keys(30),
    errors.database_away(),
    errors.overloaded("10 exports of this tenant are under way"),
    errors.too_slow(),
)
_IN_BODIES: Final = (
    errors.malformed("Expecting value."),
    errors.tenant_not_allowed("The body"),
    errors.too_large("The body has more than 262144 bytes: send less at once."),
    errors.unsupported_media_type("text/plain"),
)
_OF_WRITES: Final = (errors.quota_exceeded("rules", 20, 20, "free"),)
_OF_TAGS: Final[dict[str, tuple[Problem, ...]]] = {
    "tenants": (
        errors.registration_closed(),
        errors.invitation_required(),
        errors.invitation_refused(),
        errors.conflict(
            "tenant-exists", "Tenant exists", "The slug acme is taken, now or in the past: choose another."
        ),
    ),
    "keys": (
        errors.conflict("key-ended", "Key ended", f"Key {_KEY} is revoked and stays so: make a new key."),
        errors.conflict("key-rotated", "Key was rotated", f"Key {_KEY} was rotated before.", key_id="0cUnJRZxW5zYa"),
        errors.conflict("last-owner-key", "Last owner key", "Make another Owner key without expires_at first."),
    ),
    "kafka credentials": (
        errors.conflict(
            "kafka-not-offered", "Kafka is not offered", "This installation has no broker address for tenants."
        ),
        errors.conflict(
            "kafka-credential-ended",
            "Kafka credential ended",
            "Kafka credential 803ee30d5637 is revoked and stays so: make a new one.",
        ),
        errors.conflict(
            "kafka-credential-rotated",
            "Kafka credential was rotated",
            "Kafka credential 803ee30d5637 was rotated before.",
            credential_id="579bbcbb9e03",
        ),
    ),
    "rules": (
        errors.conflict("rule-exists", "Rule exists", f"Rule 'btc-low' exists as {_ID}.", rule_id=_ID),
        errors.trial_too_large("3,000,000 records are stored in that time", "2026-01-31T12:00:00.000000Z"),
        errors.trial_broken(),
    ),
    "channels": (
        errors.conflict("channel-exists", "Channel exists", f"Channel 'desk' exists as {_ID}.", channel_id=_ID),
        errors.conflict(
            "channel-not-enabled", "Channel is not enabled", "Channel 'desk' is disabled: enable it first."
        ),
    ),
    "alerts": (
        errors.conflict(
            "alert-moved-on",
            "Alert has moved on",
            "The newest one of this rule and product is resolved.",
            alert_id=f"{_ID}:1:coinbase:BTC-USD:resolved:1769860800000000",
            state="resolved",
        ),
    ),
    "live": (errors.too_many_connections("Tier free has 5 live connections, and all are in use"),),
}


def add_problems(document: Json) -> None:
    """Add to a document an example of every type of problem, and to each of its operations those that may come."""
    special = [problem for problems in _OF_TAGS.values() for problem in problems]
    every = (*_EVERYWHERE, *_IN_BODIES, *_OF_WRITES, *special)
    document["components"]["examples"] = {
        problem.code: {"summary": problem.title, "value": problem.body()} for problem in every
    }
    for method, operation in _operations(document):
        possible = _possible(method, operation)
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get(MEDIA_TYPE, {})
            if content and "examples" not in content:
                content["examples"] = _examples([each for each in possible if str(each.status) == status])


def _operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path in document["paths"].values():
        yield from path.items()


def _possible(method: str, operation: Json) -> tuple[Problem, ...]:
    bodied = _IN_BODIES if "requestBody" in operation else ()
    writes = _OF_WRITES if method in {"post", "put", "patch"} else ()
    return (*_EVERYWHERE, *bodied, *writes, *(each for tag in operation["tags"] for each in _OF_TAGS.get(tag, ())))


def _examples(problems: list[Problem]) -> Json:
    return {problem.code: {"$ref": f"#/components/examples/{problem.code}"} for problem in problems}
