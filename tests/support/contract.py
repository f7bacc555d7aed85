"""What the OpenAPI document says of an operation, held against an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

Json = Any


@dataclass(frozen=True)
class Got:
    """An answer as a client got it."""

    status: int
    headers: Mapping[str, str]
    body: Json

    @property
    def problem(self) -> str:
        """The code of the problem that it is, or an empty text."""
        return str(self.body.get("type", "")).rpartition(":")[2] if isinstance(self.body, dict) else ""


@dataclass(frozen=True)
class Operation:
    """One operation of a document."""

    document: Json
    described: Json
    checker: FormatChecker = field(default_factory=FormatChecker)

    def answers(self) -> set[tuple[int, str]]:
        """Return what it may answer: a status, and the code of a problem."""
        return {
            (int(status), str(example["value"].get("type", "")).rpartition(":")[2])
            for status, response in self.described["responses"].items()
            for content in response["content"].values()
            for example in content["examples"].values()
        }

    def faults(self, got: Got) -> list[str]:
        """Return where an answer is not as described."""
        response = self.described["responses"].get(str(got.status))
        if response is None:
            return [f"status {got.status} is not described"]
        if "content" not in response:
            return [] if got.body is None else [f"a body is not described for {got.status}"]
        said = got.headers["content-type"]
        media_type = said if said in response["content"] else said.partition(";")[0]
        if media_type not in response["content"]:
            return [f"content type {media_type} is not described for {got.status}"]
        missing = [
            f"header {name} is missing"
            for name, header in response.get("headers", {}).items()
            if header.get("required") and name.lower() not in got.headers
        ]
        return missing + self.disagreements(response["content"][media_type]["schema"], got.body)

    def disagreements(self, schema: Json, value: Json) -> list[str]:
        """Return where a value disagrees with a schema of the document."""
        whole = {**schema, "components": self.document["components"]}
        found = Draft202012Validator(whole, format_checker=self.checker).iter_errors(value)
        return [f"{error.json_path}: {error.message}" for error in found]

    def examples(self) -> list[tuple[Json, Json]]:
        """Return every example of bodies and answers, with its schema."""
        contents = [
            self.described["requestBody"]["content"],
            *(r["content"] for r in self.described["responses"].values()),
        ]
        return [
            (content["schema"], example["value"])
            for by_type in contents
            for content in by_type.values()
            for example in content["examples"].values()
        ]
