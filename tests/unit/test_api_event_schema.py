"""The schema of an event in the OpenAPI document takes what the parser takes, and little more."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("jsonschema", reason="jsonschema checks events against the document: make install")

from api.errors import Problem
from api.ingestion import document
from api.ingestion.app import BATCH, SINGLE
from api.ingestion.events import Accepted, parse_batch, parse_single
from tests.support.contract import Operation

NOW = 1_618_677_817_056_746
WHOLE = {"components": {"schemas": document.SCHEMAS | {"Problem": {"properties": {"errors": {}}}}}}
DESCRIBED = Operation(WHOLE, document.paths()[SINGLE]["post"])
EVENT_IN = {"$ref": "#/components/schemas/EventIn"}

ODD = [None, 1, 1.5, True, "", "a", "A-B", "btc", "a\nb", "\x7f", "é", "x" * 255, "x" * 256, "x" * 257, [], {}]
TIMES = ["2021-04-17T16:43:37Z", "2021-04-17T16:43:37.1+02:00", "2021-04-17T16:43:37", "1969-12-31T23:59:59Z", "now"]
VALUES = st.sampled_from([*ODD, *TIMES]) | st.text(max_size=5)
MEMBERS = st.sampled_from(["id", "type", "source", "product", "time", "data", "exchange"])
EVENT = {"id": "fill-17", "type": "a", "source": "b", "product": "A-B", "time": TIMES[0], "data": 1}
BEYOND_A_SCHEMA = {"/id", "/time"}
"""Members of which more is asked than a schema can say: id and source together, and a time near the clock."""


def refusal(event: Any) -> Problem | None:
    try:
        parse_single(json.dumps(event).encode(), lambda: NOW)
    except Problem as problem:
        return problem
    return None


@given(st.dictionaries(MEMBERS, VALUES, max_size=3), st.lists(MEMBERS, max_size=2))
def test_an_event_is_taken_as_the_schema_says(changes: dict[str, Any], left_out: list[str]) -> None:
    event = {name: value for name, value in (EVENT | changes).items() if name not in left_out}

    refused = refusal(event)
    disagreements = DESCRIBED.disagreements(EVENT_IN, event)

    assert refused is not None or disagreements == []
    if refused is not None and disagreements == []:
        assert {error.pointer for error in refused.errors} <= BEYOND_A_SCHEMA, refused


@pytest.mark.parametrize("value", [1, [], None, "event"])
def test_what_is_no_object_is_no_event(value: object) -> None:
    assert refusal(value) is not None
    assert DESCRIBED.disagreements(EVENT_IN, value)


def test_the_examples_of_bodies_are_taken() -> None:
    def bodies(path: str) -> list[bytes]:
        examples = document.paths()[path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        return [json.dumps(example["value"]).encode() for example in examples.values()]

    assert [type(parse_single(body, lambda: NOW)) for body in bodies(SINGLE)] == [Accepted] * 2
    assert [type(event) for body in bodies(BATCH) for event in parse_batch(body, lambda: NOW)] == [Accepted] * 2
