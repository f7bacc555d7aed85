"""A client that knows an API by its OpenAPI document alone: it gets to each operation along the document's links."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final
from urllib.parse import quote

import httpx

from tests.support.contract import Got, Operation

Json = Any
_EXPRESSION: Final = re.compile(r"\$(request|response)\.(path|body#|header)[./]?(.*)")


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the document."""

    source: str
    name: str
    described: Json

    @property
    def target(self) -> str:
        """The operation's id."""
        return str(self.described["operationId"])

    def __str__(self) -> str:
        return f"{self.source} -> {self.name}"


@dataclass(frozen=True, slots=True)
class Called:
    """A request that was made to an operation, and its answer."""

    operation: str
    path: Mapping[str, Any]
    answer: httpx.Response

    def value(self, expression: Any) -> Any:
        """Return what an expression of a link stands for (OpenAPI 3.1, Runtime Expressions), or the constant it is."""
        if isinstance(expression, list):
            return [self.value(each) for each in expression]
        found = _EXPRESSION.fullmatch(expression) if isinstance(expression, str) else None
        if found is None:
            return expression
        origin, place, rest = found.groups()
        if place == "header":
            return self.answer.headers[rest]
        if origin == "request":
            return self.path[rest]
        value = self.answer.json()
        for part in rest.split("/"):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value


@dataclass
class Explorer:
    """Calls operations of a document with its own examples."""

    document: Json
    http: httpx.Client
    key: str
    before: Mapping[str, Sequence[str]]
    """Operations to call first, on the same path, so that another has something to show."""
    numbers: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.operations = {
            one["operationId"]: (method, path, one)
            for path, methods in self.document["paths"].items()
            for method, one in methods.items()
        }
        self.links = [
            Link(source, name, described)
            for source, (_, _, one) in self.operations.items()
            for answer in one["responses"].values()
            for name, described in answer.get("links", {}).items()
        ]

    def follow(self, link: Link) -> Called:
        """Get to the link's source, and from there where it leads."""
        return self._along(link, self.reach(link.source))

    def lose(self, operation: str) -> Called:
        """Call an operation with a path that names nothing."""
        return self._call(
            operation, dict.fromkeys(re.findall(r"{(\w+)}", self.operations[operation][1]), "nothing"), {}
        )

    def faults(self, called: Called) -> list[str]:
        """Return where an answer is not as the document says."""
        answer, described = called.answer, self.operations[called.operation][2]
        shared = self.document["components"]["responses"]
        responses = {
            status: shared[told["$ref"].rpartition("/")[2]] if "$ref" in told else told
            for status, told in described["responses"].items()
        }
        body: Json = None
        if not answer.is_stream_consumed:
            body = ""  # of a stream that has no end
        elif answer.content:
            is_json = answer.headers["content-type"].endswith(("/json", "+json"))
            body = answer.json() if is_json else answer.text
        return Operation(self.document, {"responses": responses}).faults(Got(answer.status_code, answer.headers, body))

    def reach(self, operation: str) -> Called:
        """Call an operation; whatever its path names is made or found first."""
        if "{" not in self.operations[operation][1]:
            return self._call(operation, {}, {})
        leading = [link for link in self.links if link.target == operation and link.source != operation]
        made = [link for link in leading if self.operations[link.source][0] == "post"]
        roots = [link for link in made or leading if "{" not in self.operations[link.source][1]]
        return self.follow((roots or leading)[0])

    def _along(self, link: Link, called: Called) -> Called:
        given: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
        for name, expression in link.described.get("parameters", {}).items():
            place, _, parameter = name.partition(".")
            given[place][parameter] = called.value(expression)
        body = {name: called.value(each) for name, each in link.described.get("requestBody", {}).items()}
        return self._call(link.target, given["path"], given["query"], given["header"], body)

    def _call(
        self,
        operation: str,
        path: Mapping[str, Any],
        query: Mapping[str, Any],
        header: Mapping[str, Any] | None = None,
        body: Json | None = None,
    ) -> Called:
        for first in self.before.get(operation, ()):
            self._call(first, path, {})
        method, template, described = self.operations[operation]
        where = re.sub(r"\{(\w+)\}", lambda found: quote(str(path[found[1]]), safe=""), template)
        asked = {each["name"] for each in described.get("parameters", ())}
        wanted = ({"limit": 1} if "limit" in asked else {}) | dict(query)
        sent = None
        if "requestBody" in described:
            sent = body or self._example(described["requestBody"]["content"]["application/json"])
        named = {"X-API-Key": self.key} | dict(header or {})
        request = self.http.build_request(method, where, params=wanted, headers=named, json=sent)
        answer = self.http.send(request, stream=True)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.close()  # it has no end
        else:
            answer.read()
        return Called(operation, path, answer)

    def _example(self, content: Json) -> Json:
        """Return the body of an example, under a name that is not taken."""
        schema = content["schema"]
        examples = [each["value"] for each in content.get("examples", {}).values()] or schema.get("examples", [])
        made = dict(examples[0]) if examples else self._of_members(schema)
        if "name" in made:
            made["name"] = f"{made['name']} {next(self.numbers)}"
        return made

    def _of_members(self, schema: Json) -> dict[str, Json]:
        found = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return {name: found["properties"][name]["examples"][0] for name in found["required"]}
