"""What the OpenAPI document says of every route at once: links, parameters, and the answers of the edge."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from api.app import create_app
from api.dependencies import Services
from pulsestream.core.clock import wall_clock

Json = Any
API = Path(__file__).parents[2] / "api"
MAKERS = {"Problem": 1, "conflict": 0, "unavailable": 0}
"""What makes a problem, and which argument is its code; the title is the next one."""
OF_NO_OPERATION = {"method-not-allowed", "http-error"}
NAME = re.compile(r"[a-zA-Z0-9._-]+")
"""OpenAPI 3.1, Components Object."""


class NoServices:
    """Stands where the services are, and whatever they have: the document is made of routes alone."""

    def __getattr__(self, name: str) -> "NoServices":
        return self


@pytest.fixture(scope="module")
def document() -> Json:
    return create_app(cast(Services, NoServices()), wall_clock).openapi()


@pytest.fixture(scope="module")
def operations(document: Json) -> dict[str, Json]:
    """Every operation by its id, with its method and path."""
    return {
        one["operationId"]: one | {"method": method, "path": path}
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    }


def links(operations: dict[str, Json]) -> list[tuple[str, str, Json]]:
    return [
        (source, name, link)
        for source, one in operations.items()
        for answer in one["responses"].values()
        for name, link in answer.get("links", {}).items()
    ]


def test_every_link_gives_what_an_operation_takes(operations: dict[str, Json]) -> None:
    found = links(operations)

    assert len(found) > 50
    for source, name, link in found:
        target = operations[link["operationId"]]
        taken = {f"{each['in']}.{each['name']}" for each in target["parameters"]} if "parameters" in target else set()
        assert NAME.fullmatch(name), (source, name)
        assert set(link.get("parameters", {})) <= taken, (source, name)
        assert "requestBody" not in link or "requestBody" in target, (source, name)


def test_a_rule_that_was_made_leads_to_its_change_with_its_version(operations: dict[str, Json]) -> None:
    made = operations["create_rule_api_v1_rules_post"]["responses"]["201"]["links"]

    assert made["replace_rule"] == {
        "operationId": "replace_rule_api_v1_rules__rule_id__put",
        "parameters": {"path.rule_id": "$response.body#/rule_id", "header.If-Match": "$response.header.ETag"},
    }


def test_a_page_leads_to_the_next(operations: dict[str, Json]) -> None:
    paged = [one for one in operations.values() if "next_page" in one["responses"].get("200", {}).get("links", {})]

    assert {one["path"] for one in paged} == {
        one["path"]
        for one in operations.values()
        if {"cursor", "before"} & {each["name"] for each in one.get("parameters", ())}
    }


def test_no_parameter_is_said_to_be_null(operations: dict[str, Json]) -> None:
    parameters = [each for one in operations.values() for each in one.get("parameters", ())]

    assert [each["name"] for each in parameters if {"type": "null"} in each["schema"].get("anyOf", ())] == []


def test_if_match_is_required_where_its_absence_is_a_problem(operations: dict[str, Json]) -> None:
    required = {
        one["operationId"]: each["required"]
        for one in operations.values()
        for each in one.get("parameters", ())
        if each["name"] == "If-Match"
    }

    assert [name for name, needed in required.items() if needed] == ["replace_rule_api_v1_rules__rule_id__put"]
    assert len(required) > 1


def test_every_operation_tells_of_what_comes_before_it_is_asked(operations: dict[str, Json]) -> None:
    for name, one in operations.items():
        assert {"400", "408", "431", "500"} <= set(one["responses"]), name
        assert "requestBody" not in one or {"413", "415"} <= set(one["responses"]), name


def test_the_registry_takes_either_login(operations: dict[str, Json]) -> None:
    ways = [one["security"] for one in operations.values() if one["path"].startswith("/registry/")]

    assert all(way == [{"RegistryLogin": []}, {"ApiKey": []}] for way in ways)


def test_every_body_and_every_good_answer_has_an_example(document: Json, operations: dict[str, Json]) -> None:
    for name, one in operations.items():
        contents = [one["requestBody"]["content"]] if "requestBody" in one else []
        contents += [answer.get("content", {}) for status, answer in one["responses"].items() if status[0] == "2"]
        for media_type, told in [(kind, told) for content in contents for kind, told in content.items()]:
            assert has_example(document, told) or has_example(document, told["schema"]), (name, media_type)
        assert contents != [{}] or "204" in one["responses"], name


def has_example(document: Json, schema: Json) -> bool:
    """Return whether a schema, or any member of it, has an example."""
    if {"example", "examples"} & set(schema):
        return True
    if "$ref" in schema:
        return has_example(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    below = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return any(has_example(document, each) for each in (*below, *([schema["items"]] if "items" in schema else ())))


def test_every_type_of_problem_that_the_code_raises_has_an_example(document: Json) -> None:
    shown = {example["value"]["type"].rpartition(":")[2]: example["value"]["title"] for example in examples(document)}

    assert len(shown) > 40
    assert {code for code, title in raised() if shown.get(code) != title} == OF_NO_OPERATION


def test_every_answer_that_is_a_problem_shows_one(operations: dict[str, Json]) -> None:
    for name, one in operations.items():
        for status, answer in one["responses"].items():
            for content in (told for kind, told in answer.get("content", {}).items() if "problem" in kind):
                assert content["examples"], (name, status)


def examples(node: Json) -> Iterator[Json]:
    """Yield every example of a problem in a document."""
    if isinstance(node, dict):
        if isinstance(node.get("value"), dict) and "urn:pulsestream:problem" in str(node["value"].get("type")):
            yield node
        for value in node.values():
            yield from examples(value)


def raised() -> Iterator[tuple[str, str]]:
    """Yield code and title of every problem that the API's code makes."""
    for path in API.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                at = MAKERS.get(getattr(node.func, "id", getattr(node.func, "attr", "")))
                given = [each.value if isinstance(each, ast.Constant) else None for each in node.args]
                if at is not None and isinstance(given[at], str):
                    yield str(given[at]), str(given[at + 1])
