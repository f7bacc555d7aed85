"""What the API refuses, as RFC 9457 problems.

Problem                one answer of application/problem+json: a stable `type`, a status, and what to do about it

Every refusal of every route is made by one of the functions below, so that a type means one thing everywhere.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pulsestream.core.errors import PulseStreamError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:pulsestream:problem:"
RETRY_SOON: Final = 1
"""Seconds in Retry-After where the obstacle usually passes at once."""
REFUSED_RETRY: Final = 60
"""The same where an operator has to act."""
_CLOSE: Final[Mapping[str, str]] = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a request; `pointer` is a JSON pointer into the body, or the parameter's name."""

    pointer: str
    message: str


@dataclass(frozen=True, slots=True)
class Denial:
    """What the audit keeps of a refusal: whose key was refused what (None: anything), and why."""

    tenant: str
    key_id: str
    role: str
    permission: str | None
    reason: str


@dataclass(slots=True, eq=False)
class Problem(PulseStreamError):  # noqa: N818 - RFC 9457's own word
    """An answer of application/problem+json, raised anywhere below a route."""

    status: int
    code: str
    title: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)
    denial: Denial | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def body(self) -> dict[str, Any]:
        """Return the members of the problem document."""
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [{"pointer": error.pointer, "message": error.message} for error in self.errors]
        return document | dict(self.extensions)

    def encoded(self) -> bytes:
        """Return the document as JSON, in ASCII: a detail may quote text that UTF-8 cannot hold."""
        return json.dumps(self.body()).encode()


def unauthorized(detail: str, denial: Denial | None = None) -> Problem:
    """401: no key, or one that is not valid; `denial` where it is one that is known."""
    challenge = {"WWW-Authenticate": 'ApiKey header="X-API-Key"'}
    return Problem(401, "unauthorized", "API key required", detail, headers=challenge, denial=denial)


def forbidden(detail: str, denial: Denial | None = None) -> Problem:
    """403: the key is valid and may not do this."""
    return Problem(403, "forbidden", "Not allowed with this key", detail, denial=denial)


def tenant_inactive(tenant: str, status: str, denial: Denial | None = None) -> Problem:
    """403: the tenant is suspended or deleted, so none of its keys may do anything."""
    told = {"deleting": "is being deleted; until it is erased an operator can restore it"}.get(status, f"is {status}")
    return forbidden(f"Tenant {tenant} {told}. Ask the operator.", denial)


def quota_exceeded(quota: str, limit: int, use: int, tier: str) -> Problem:
    """403: the tenant has as many of something as its tier allows."""
    return Problem(
        403,
        "quota-exceeded",
        "Quota exceeded",
        f"Tier {tier} allows {limit} {quota}, and the tenant has {use}: nothing of this request was done. Remove some, "
        "or ask the operator for a higher tier.",
        extensions={"quota": quota, "limit": limit, "use": use, "tier": tier},
    )


def registration_closed() -> Problem:
    """403: this installation takes no new tenants by itself."""
    return Problem(
        403, "registration-closed", "Registration is closed", "Ask the operator of this installation for a tenant."
    )


def invitation_required() -> Problem:
    """403: registration asks for an invitation, and the request has none."""
    return Problem(
        403,
        "invitation-required",
        "Registration by invitation",
        "Put an invitation (ps_invite_…) into `token`. The operator of this installation makes one with "
        "`pulsestream tenant invite`.",
    )


def invitation_refused() -> Problem:
    """403: the invitation is not good; it is not told why, since who asks may be guessing."""
    return Problem(
        403,
        "invitation-refused",
        "Invitation refused",
        "This invitation is mistyped, unknown, used up, expired or revoked: nothing was made. Ask the operator of this "
        "installation for another.",
    )


def not_found(what: str) -> Problem:
    """404: it does not exist, or belongs to another tenant."""
    return Problem(404, "not-found", "Not found", what)


def method_not_allowed(method: str, allowed: str) -> Problem:
    """405."""
    return Problem(
        405,
        "method-not-allowed",
        "Method not allowed",
        f"{method} is not possible here: use {allowed}.",
        headers={"Allow": allowed},
    )


def rate_limited(violated: Sequence[str], retry_after: int) -> Problem:
    """429: a token bucket is empty; `violated` names the policies, as RateLimit-Policy does. Nothing was done."""
    return Problem(
        429,
        "rate-limited",
        "Too many requests",
        f"The limit of {' and '.join(violated)} is reached, and nothing of this request was done. Send it again after "
        f"{retry_after} s.",
        headers={"Retry-After": str(retry_after)},
        extensions={"violated-policies": list(violated)},
    )


def too_many_bad_keys(retry_after: int) -> Problem:
    """429: this address has sent too many keys that are not valid."""
    return Problem(
        429,
        "too-many-bad-keys",
        "Too many bad API keys",
        f"Too many keys that are not valid came from this address: this one was not looked at. Check it, and send it "
        f"again after {retry_after} s.",
        headers={"Retry-After": str(retry_after)},
    )


def too_many_connections(detail: str) -> Problem:
    """429: the tenant has as many live connections as its tier allows."""
    return Problem(429, "too-many-connections", "Too many live connections", f"{detail}.", headers={"Retry-After": "5"})


def conflict(code: str, title: str, detail: str, **extensions: str) -> Problem:
    """409: something of that name exists."""
    return Problem(409, code, title, detail, extensions=extensions)


def precondition_failed(detail: str, **extensions: int) -> Problem:
    """412: what is to be changed is no longer what the client saw."""
    return Problem(412, "precondition-failed", "Changed by somebody else", detail, extensions=extensions)


def precondition_required(detail: str) -> Problem:
    """428: the client does not say what it saw of what it would change."""
    return Problem(428, "precondition-required", "If-Match required", detail)


def tenant_not_allowed(where: str) -> Problem:
    """400: the tenant comes from the key only."""
    return Problem(
        400,
        "tenant-not-allowed",
        "The tenant comes from the key",
        f"{where} names a tenant: leave it out. A request always concerns the tenant of its X-API-Key.",
    )


def malformed(detail: str) -> Problem:
    """400: the body is no JSON."""
    return Problem(400, "malformed-body", "Body is not JSON", detail)


def malformed_encoding(encoding: str, why: str) -> Problem:
    """400: the body is not what its content encoding says."""
    return Problem(400, "malformed-encoding", "Body cannot be unfolded", f"The body is not {encoding}: {why}.")


def invalid_parameters(errors: Sequence[FieldError]) -> Problem:
    """400: parameters in the URL."""
    return Problem(400, "invalid-parameters", "Invalid parameters", _summary(errors), errors)


def invalid_body(errors: Sequence[FieldError]) -> Problem:
    """422: the body is JSON and says something impossible."""
    return Problem(422, "invalid-body", "Invalid body", _summary(errors), errors)


def idempotency_key_reused(key: str, used_at: str, hours: int) -> Problem:
    """422: the key was used for another request."""
    return Problem(
        422,
        "idempotency-key-reused",
        "Idempotency key used for another request",
        f"Idempotency-Key {key[:60]!r} was used at {used_at} with another body or route: nothing of this request was "
        f"done. Send a new key with a new request, and the same body with the same key; a key is free after {hours} h.",
    )


def refused_value(detail: str) -> Problem:
    """400: a value that the database cannot hold, such as text with NUL."""
    return Problem(400, "refused-value", "Value cannot be stored", f"The database refuses a value: {detail}.")


def invalid_cursor(detail: str) -> Problem:
    """400: a cursor that this system did not give for this search."""
    return Problem(400, "invalid-cursor", "Invalid cursor", detail)


def too_large(detail: str) -> Problem:
    """413: more bytes, events or nesting than a request may have."""
    return Problem(413, "too-large", "Request too large", detail)


def body_too_large(limit: int, *, close: bool) -> Problem:
    """413: more bytes than the route takes; `close` ends the connection of a client that is still sending."""
    problem = too_large(f"The body has more than {limit} bytes: send less at once.")
    problem.headers = _CLOSE if close else {}
    return problem


def body_timeout(seconds: float) -> Problem:
    """408: the body did not arrive in time."""
    return Problem(
        408,
        "body-timeout",
        "Body did not arrive",
        f"The body was not complete within {seconds:.0f} s: send it again, faster.",
        headers=_CLOSE,
    )


def head_timeout(seconds: float) -> Problem:
    """408: no request came in time."""
    return Problem(
        408,
        "head-timeout",
        "Request did not arrive",
        f"Request line and headers were not complete within {seconds:.0f} s: send them again, faster.",
        headers=_CLOSE,
    )


def head_too_large(size: int, count: int) -> Problem:
    """431: more bytes of headers, or more of them, than a request may have."""
    return Problem(
        431,
        "head-too-large",
        "Request head too large",
        f"Request line and headers have more than {size} bytes, or are more than {count}: send less.",
        headers=_CLOSE,
    )


def malformed_request(detail: str) -> Problem:
    """400: what came is no HTTP."""
    return Problem(400, "malformed-request", "Not an HTTP request", f"{detail} Send HTTP/1.1.", headers=_CLOSE)


def unsupported_media_type(content_type: str) -> Problem:
    """415: the body says that it is not JSON."""
    return Problem(
        415,
        "unsupported-media-type",
        "Unsupported media type",
        f"Content-Type {content_type[:100]!r} is not taken: send application/json.",
    )


def unsupported_encoding(encoding: str, accepted: str) -> Problem:
    """415: the body is compressed in a way that this route does not take; `accepted` lists those that it does."""
    return Problem(
        415,
        "unsupported-encoding",
        "Unsupported content encoding",
        f"Content-Encoding {encoding[:100]!r} is not taken here: send one of {accepted}.",
        headers={"Accept-Encoding": accepted},
    )


def unavailable(code: str, title: str, detail: str, retry_after: int = RETRY_SOON, **extensions: Any) -> Problem:
    """503: unknown or not possible now; the same request, with the same ids, can be sent again."""
    return Problem(503, code, title, detail, headers={"Retry-After": str(retry_after)}, extensions=extensions)


def overloaded(what: str, retry_after: int = RETRY_SOON) -> Problem:
    """503: there is no room for this request now; nothing of it was done."""
    detail = f"{what}, which is the most. Send the request again."
    return unavailable("overloaded", "Too much is under way", detail, retry_after)


def topics_provisioning() -> Problem:
    """503: the tenant's topics are on their way."""
    return unavailable(
        "topics-provisioning",
        "Topics are being made",
        "The topics of this tenant are being made for its first events. Send the request again.",
    )


def topics_refused(topic: str, why: str) -> Problem:
    """503: the tenant's topics cannot be made as things are."""
    return unavailable(
        "topics-refused",
        "Topics cannot be made",
        f"Topic {topic} is refused: {why}. The operator has to act.",
        REFUSED_RETRY,
    )


def database_away() -> Problem:
    """503: the database does not answer."""
    return unavailable(
        "database-unavailable", "Database unavailable", "The database does not answer. Send the request again.", 2
    )


def too_slow() -> Problem:
    """503: the database ended a statement that took too long."""
    return unavailable(
        "too-slow",
        "The answer takes too long",
        "The database would have to look through too much. Ask for less: a shorter time range, or more filters.",
    )


def trial_too_large(why: str, begin: str | None = None) -> Problem:
    """422: a rule cannot be tried on so much; `begin` is from where on it is little enough, where that is known."""
    advice = f"from {begin} on it fits" if begin else "ask for a later `from`, or for fewer products"
    return Problem(
        422,
        "trial-too-large",
        "Too much to try a rule on",
        f"{why}: {advice}.",
        [FieldError("/from", advice)],
        extensions={"from": begin} if begin else {},
    )


def trial_broken() -> Problem:
    """503: the process that tried a rule ended before it answered; the log has why."""
    return unavailable(
        "trial-ended",
        "The trial ended early",
        "The process that tried the rule ended before it had an answer. Send the request again; if that does not help, "
        "ask for less, and report it with the X-Request-ID of this answer.",
    )


def internal() -> Problem:
    """500: a fault of ours; the log has it under the request id."""
    return Problem(
        500,
        "internal-error",
        "Internal error",
        "This is a fault of the server. Report it with the X-Request-ID of this answer.",
    )


def _summary(errors: Sequence[FieldError]) -> str:
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{first.pointer}: {first.message}{more}"
