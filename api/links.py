"""OpenAPI links: which answer gives the identifiers that another route asks for. Pure, made from the document's paths.

Most follow from how the routes are built: `/things` makes and lists what `/things/{thing_id}` and the routes below it
are about, and a page names the next one. The few that no path tells of are listed by hand. A client generator, a
reader of the document and the contract suite follow them (https://spec.openapis.org/oas/v3.1.0#link-object).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

Json = dict[str, Any]

_PAGES: Final = {"next_cursor": "cursor", "next_before": "before"}
"""What a page says of the next one, and the parameter that asks for it."""
_IF_MATCH: Final = "If-Match"
_SUBJECTS: Final = "/registry/subjects"
_SCHEMA_ID: Final[Json] = {"parameters": {"path.schema_id": "$response.body#/id"}}
_SCHEMA: Final[Json] = {
    "parameters": {"path.name": "$request.path.name"},
    "requestBody": {"schema": "$response.body#/schema", "schemaType": "AVRO"},
}
_BY_HAND: Final[dict[tuple[str, str], tuple[tuple[str, str, Json], ...]]] = {
    ("post", "/api/v1/live/tickets"): (
        ("get", "/api/v1/live/events", {"parameters": {"query.ticket": "$response.body#/ticket"}}),
    ),
    ("get", "/api/v1/alerts/current"): tuple(
        ("post", f"/api/v1/alerts/{mark}", {"requestBody": {"alert_id": "$response.body#/alerts/0/alert_id"}})
        for mark in ("acknowledge", "unacknowledge", "unsnooze")
    ),
    ("get", "/api/v1/dead-letters/{letter_id}"): tuple(
        ("post", f"/api/v1/dead-letters/{fate}", {"requestBody": {"ids": ["$response.body#/id"]} | more})
        for fate, more in (("replay", {}), ("discard", {"reason": "looked at"}))
    ),
    ("post", "/api/v1/channels/{channel_id}/test"): (
        (
            "get",
            "/api/v1/channels/{channel_id}/attempts",
            {
                "parameters": {
                    "path.channel_id": "$request.path.channel_id",
                    "query.message_id": "$response.body#/message_id",
                }
            },
        ),
    ),
    ("get", "/api/v1/channels/{channel_id}/messages"): (
        (
            "post",
            "/api/v1/channels/{channel_id}/resend",
            {
                "parameters": {"path.channel_id": "$request.path.channel_id"},
                "requestBody": {"message_id": "$response.body#/messages/0/id"},
            },
        ),
    ),
    ("get", _SUBJECTS): (
        ("get", f"{_SUBJECTS}/{{name}}/versions", {"parameters": {"path.name": "$response.body#/0"}}),
        ("get", "/registry/config/{name}", {"parameters": {"path.name": "$response.body#/0"}}),
    ),
    ("get", f"{_SUBJECTS}/{{name}}/versions"): tuple(
        (
            "get",
            f"{_SUBJECTS}/{{name}}/versions/{{version}}{rest}",
            {"parameters": {"path.name": "$request.path.name", "path.version": "$response.body#/0"}},
        )
        for rest in ("", "/schema")
    ),
    ("get", f"{_SUBJECTS}/{{name}}/versions/{{version}}"): (
        *(("get", f"/registry/schemas/ids/{{schema_id}}{rest}", _SCHEMA_ID) for rest in ("", "/schema", "/versions")),
        *(("post", f"{_SUBJECTS}/{{name}}{rest}", _SCHEMA) for rest in ("", "/versions")),
    ),
}

_NEED_MORE: Final = {
    (method, path) for links in _BY_HAND.values() for method, path, what in links if "requestBody" in what
}
"""What is asked for with more than the path names: only those who have that are led there."""


def add_links(document: Json) -> None:
    """Add to the answers of a whole document what can be asked for with what is in them."""
    paths = _Paths(document)
    for method, path, operation in paths.operations():
        for answer in (answer for status, answer in operation["responses"].items() if status.startswith("2")):
            links = dict(paths.links(method, path, answer))
            if links:
                answer["links"] = links


@dataclass(frozen=True)
class _Paths:
    """The routes of a document."""

    document: Json

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield method, path, operation

    @cached_property
    def items(self) -> Mapping[str, str]:
        """By `/things`, the name of the parameter in `/things/{name}`."""
        split = (path.rpartition("/") for path in self.document["paths"])
        return {
            above: last.strip("{}")
            for above, _, last in split
            if last.startswith("{") and above in self.document["paths"] and not above.startswith("/registry")
        }

    def links(self, method: str, path: str, answer: Json) -> Iterator[tuple[str, Json]]:
        """Yield the links of an answer, each with its name."""
        members = self._members(answer)
        if path in self.items:
            yield from self._of_collection(method, path, answer, members)
        for above in self.items:
            if path == f"{above}/{{{self.items[above]}}}" or path.startswith(f"{above}/{{{self.items[above]}}}/"):
                yield from self._of_item(method, path, above, answer, members)
        for said, asked in _PAGES.items():
            if said in members and method == "get":
                yield from self._to_next_page(path, said, asked)
        for target_method, target, what in _BY_HAND.get((method, path), ()):
            yield self._link(target_method, target, what)

    def _of_collection(self, method: str, path: str, answer: Json, members: Json) -> Iterator[tuple[str, Json]]:
        """Yield what leads from what was made to all that can be done with it, from a list to the first in it."""
        parameter = self.items[path]
        if method == "post" and (member := _id_member(members, parameter)):
            yield from self._to_item(path, f"$response.body#/{member}", answer, skip=())
        for name, member in members.items() if method == "get" else ():
            listed = self._resolved(member.get("items", {})).get("properties", {}) if "items" in member else {}
            if id_member := _id_member(listed, parameter):
                what = {f"path.{parameter}": f"$response.body#/{name}/0/{id_member}"}
                yield self._link("get", f"{path}/{{{parameter}}}", {"parameters": what})

    def _of_item(self, method: str, path: str, above: str, answer: Json, members: Json) -> Iterator[tuple[str, Json]]:
        """Yield what leads from an item to all that can be done with it, from a changed one to how it is now."""
        parameter = self.items[above]
        item = f"{above}/{{{parameter}}}"
        made = _id_member(members, parameter)
        value = f"$response.body#/{made}" if made else f"$request.path.{parameter}"
        if path == item and method == "get":
            yield from self._to_item(above, value, answer, skip=(("get", path),))
        elif method not in {"get", "delete"}:
            yield self._link("get", item, {"parameters": {f"path.{parameter}": value}})

    def _to_item(
        self, above: str, value: str, answer: Json, skip: tuple[tuple[str, str], ...]
    ) -> Iterator[tuple[str, Json]]:
        item = f"{above}/{{{self.items[above]}}}"
        for method, path, operation in self.operations():
            below = path == item or path.startswith(item + "/")
            if below and path.count("{") == 1 and (method, path) not in (*skip, *_NEED_MORE):
                given = {f"path.{self.items[above]}": value}
                asked = {parameter["name"] for parameter in operation.get("parameters", ())}
                if _IF_MATCH in asked and "ETag" in answer.get("headers", {}):
                    given[f"header.{_IF_MATCH}"] = "$response.header.ETag"
                yield self._link(method, path, {"parameters": given})

    def _to_next_page(self, path: str, said: str, asked: str) -> Iterator[tuple[str, Json]]:
        parameters = self.document["paths"][path]["get"]["parameters"]
        same = {f"path.{one['name']}": f"$request.path.{one['name']}" for one in parameters if one["in"] == "path"}
        what = {"parameters": same | {f"query.{asked}": f"$response.body#/{said}"}}
        said_so = "The next page, where there is one; the other parameters as in this request."
        yield "next_page", self._link("get", path, what)[1] | {"description": said_so}

    def _link(self, method: str, path: str, what: Json) -> tuple[str, Json]:
        operation = self.document["paths"][path][method]
        name = operation.get("summary", operation["operationId"]).lower().replace(" ", "_")
        return name, {"operationId": operation["operationId"], **what}

    def _members(self, answer: Json) -> Json:
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        members: Json = self._resolved(schema).get("properties", {})
        return members

    def _resolved(self, schema: Json) -> Json:
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema


def _id_member(members: Json, parameter: str) -> str | None:
    """Return which member holds what a path's parameter names."""
    return next((name for name in (parameter, "id") if name in members), None)
