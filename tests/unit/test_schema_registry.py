"""What a tenant finds in the schema registry, and how odd numbers and schemas are refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.schema_registry.errors import RegistryError
from api.schema_registry.subjects import schema, subject, subjects
from pulsestream.core.topics import DATASETS
from schemas import registry

TICKS = "ps.acme.ticks.v1-value"
LETTERS = "ps.acme.dlq.v1-value"
names = st.sampled_from(["record", "enum", "array", "map", "fixed", "string", "long", "null", "a", "b.c", ""])
members = st.sampled_from(["type", "name", "namespace", "fields", "items", "values", "symbols", "size", "logicalType"])
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(members, inner, max_size=5),
    max_leaves=20,
)


def code(excinfo: pytest.ExceptionInfo[RegistryError]) -> tuple[int, int]:
    return excinfo.value.code, excinfo.value.status


def test_every_topic_of_a_tenant_is_a_subject() -> None:
    found = {each.name for each in subjects("acme")}

    assert found == {f"ps.acme.{dataset}.v1-value" for dataset in DATASETS}
    assert all(subject("acme", name).name == name for name in found)


@pytest.mark.parametrize(
    "name",
    [
        "ps.acme2.ticks.v1-value",
        "ps.acme.ticks.v2-value",
        "ps.acme.ticks.v1-key",
        "ps.acme.ticks.v1",
        "ps._platform.rules.v1-value",
        "ps.acme.ticks.v1-value-value",
        "",
        "\x00" * 500,
    ],
)
def test_what_is_not_a_topic_of_the_tenant_is_no_subject(name: str) -> None:
    with pytest.raises(RegistryError) as excinfo:
        subject("acme", name)

    assert code(excinfo) == (40401, 404)
    assert len(str(excinfo.value)) < 500


def test_versions_count_the_releases_of_a_record() -> None:
    letters = subject("acme", LETTERS)

    assert len(letters.versions) > 1
    assert [letters.number(letters.version(str(number))) for number in letters.numbers()] == letters.numbers()
    assert letters.version("latest") == letters.version("-1") == registry.current("dead_letter")


@pytest.mark.parametrize(
    ("number", "expected"),
    [("99", 40402), ("0", 42202), ("-2", 42202), ("1.0", 42202), ("٣", 42202), ("9" * 20, 42202), ("Latest", 42202)],
)
def test_a_version_that_does_not_exist_or_cannot_is_refused(number: str, expected: int) -> None:
    with pytest.raises(RegistryError) as excinfo:
        subject("acme", TICKS).version(number)

    assert excinfo.value.code == expected


@pytest.mark.parametrize("number", ["0", "999", "-1", "x", "٣", "9" * 5000])
def test_an_id_that_was_never_released_is_not_found(number: str) -> None:
    with pytest.raises(RegistryError) as excinfo:
        schema(number)

    assert excinfo.value.code == 40403


def test_a_schema_is_found_whatever_its_layout_and_documentation() -> None:
    ticks = subject("acme", TICKS)
    newest = ticks.version("latest")
    reordered = dict(reversed(newest.json.items())) | {"doc": "another text"}

    assert ticks.equal(json.dumps(reordered, indent=3)) == newest


def test_a_schema_with_another_field_or_type_is_another_one() -> None:
    ticks = subject("acme", TICKS)
    fields: Any = ticks.version("latest").json["fields"]
    fewer = ticks.version("latest").json | {"fields": fields[1:]}
    other = ticks.version("latest").json | {"fields": [fields[0] | {"type": "bytes"}, *fields[1:]]}

    assert ticks.equal(json.dumps(fewer)) is None
    assert ticks.equal(json.dumps(other)) is None


@pytest.mark.parametrize("text", ["", "{", '{"type": "record"}', "[" * 5000 + "]" * 5000, '"nowhere"', "1"])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(RegistryError) as excinfo:
        subject("acme", TICKS).equal(text)

    assert code(excinfo) == (42201, 422)


@given(jsons)
def test_any_json_is_a_schema_or_refused(value: Any) -> None:
    try:
        assert subject("acme", TICKS).equal(json.dumps(value)) is None
    except RegistryError as error:
        assert error.code == 42201  # noqa: PT017 - both ends are right
