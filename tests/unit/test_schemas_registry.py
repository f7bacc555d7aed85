"""Released schemas never change meaning, and an incompatible change is refused."""

import json

import pytest

from schemas import registry
from schemas.codec import NAMES

RECORD_NAMES = sorted(NAMES.values())


@pytest.mark.parametrize("name", RECORD_NAMES)
def test_the_working_schema_is_the_newest_release(name: str) -> None:
    assert json.loads(registry.working_text(name)) == registry.current(name).json


@pytest.mark.parametrize("name", RECORD_NAMES)
def test_every_pair_of_releases_reads_each_other(name: str) -> None:
    releases = registry.versions(name)

    faults = [
        fault
        for index, first in enumerate(releases)
        for second in releases[index:]
        for fault in registry.incompatibilities(first.text, second.text)
    ]

    assert faults == []


def test_every_release_belongs_to_a_record() -> None:
    assert {schema.name for schema in registry.released().values()} == set(RECORD_NAMES)


def _changed_tick(field: str, **change: object) -> str:
    schema = json.loads(registry.current("tick").text)
    for item in schema["fields"]:
        if item["name"] == field:
            item.update(change)
    return json.dumps(schema)


def test_a_changed_type_is_refused() -> None:
    faults = registry.incompatibilities(registry.current("tick").text, _changed_tick("price", type="string"))

    assert any("price" in fault or "string" in fault for fault in faults)


def test_a_renamed_field_is_refused() -> None:
    assert registry.incompatibilities(registry.current("tick").text, _changed_tick("price", name="last_price"))


def test_a_new_field_without_a_default_is_refused() -> None:
    schema = json.loads(registry.current("tick").text)
    schema["fields"].append({"name": "venue", "type": "string"})

    faults = registry.incompatibilities(registry.current("tick").text, json.dumps(schema))

    assert [fault.split(":")[0] for fault in faults] == ["forward"]


def test_a_new_field_with_a_default_is_accepted() -> None:
    schema = json.loads(registry.current("tick").text)
    schema["fields"].append({"name": "venue", "type": ["null", "string"], "default": None})

    assert registry.incompatibilities(registry.current("tick").text, json.dumps(schema)) == []
