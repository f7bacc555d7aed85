"""What the OpenAPI document says of the answers that the edge gives on any route, before the route is asked.

They stand once, under `components/responses`, and each route points to them; a route that says more of a status of its
own keeps what it says.
"""

from typing import Any, Final

from api import errors
from api.body import ARRIVE_WITHIN, MAX_NESTING
from api.edge import MAX_BODY
from api.errors import MEDIA_TYPE, Problem
from api.http_protocol import HEAD_WITHIN, MAX_HEAD, MAX_HEADERS

Json = dict[str, Any]

_ANY: Final[dict[str, tuple[str, tuple[Problem, ...]]]] = {
    "400": (
        "No HTTP, or a tenant where only the key may say one",
        (errors.malformed_request("That is no request line."), errors.tenant_not_allowed("The URL")),
    ),
    "408": (
        "The request did not arrive in time",
        (errors.head_timeout(HEAD_WITHIN), errors.body_timeout(ARRIVE_WITHIN)),
    ),
    "431": ("The request line and headers are too large", (errors.head_too_large(MAX_HEAD, MAX_HEADERS),)),
    "500": ("A fault of the server", (errors.internal(),)),
}
_WITH_BODY: Final[dict[str, tuple[str, tuple[Problem, ...]]]] = {
    "413": (
        "Too many bytes or levels of nesting",
        (
            errors.body_too_large(MAX_BODY, close=False),
            errors.too_large(f"The body nests deeper than {MAX_NESTING} levels."),
        ),
    ),
    "415": (
        "The body is not JSON, or is compressed",
        (errors.unsupported_media_type("text/plain"), errors.unsupported_encoding("br", "identity")),
    ),
}
_RESPONSES: Final = "#/components/responses/"


def add_edge(document: Json) -> None:
    """Add to each operation of a document what the edge may answer in its place."""
    document["components"]["responses"] = {
        _name(status): _response(*told) for status, told in (_ANY | _WITH_BODY).items()
    }
    for path in document["paths"].values():
        for operation in path.values():
            for status in (*_ANY, *(_WITH_BODY if "requestBody" in operation else ())):
                _add(document, operation["responses"], status)


def _add(document: Json, answers: Json, status: str) -> None:
    """Point to the edge's answer; where the route has another form for this status, either may come."""
    own = answers.setdefault(status, {"$ref": _RESPONSES + _name(status)})
    if MEDIA_TYPE not in own.get("content", {MEDIA_TYPE: None}):
        own["content"] |= document["components"]["responses"][_name(status)]["content"]


def _name(status: str) -> str:
    told = (_ANY | _WITH_BODY)[status][1][0]
    return "".join(part.capitalize() for part in told.code.split("-"))


def _response(description: str, found: tuple[Problem, ...]) -> Json:
    examples = {problem.code: {"value": problem.body()} for problem in found}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}}}
