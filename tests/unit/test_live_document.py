"""What /asyncapi.json says of the live view is what is sent: examples, schemas, codes of a close."""

import re
from pathlib import Path
from typing import Any, Union, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from api.asyncapi import document
from api.live.document import EXAMPLES
from api.live.messages import SAID, Close, Status, Subscribe, parse_subscribe
from api.live.rows import row_text
from api.live.websocket import PATH
from schemas.records import Alert, AsOf, PricePoint, Record, Stat, Tick
from schemas.render_schema import rendered_schema

TEXT = (Path(__file__).parents[2] / "docs" / "live.md").read_text("utf-8")
MADE = document()
KINDS = {kind.__name__: kind for kind in EXAMPLES}
SHOWN = {"tick": Tick, "stat": Stat, "alert": Alert}

numbers = st.integers(-(2**40), 2**40)
times = st.integers(0, 4 * 10**15)
floats = st.floats(allow_nan=False, allow_infinity=False)


def disagreements(schema: dict[str, Any], value: object) -> list[str]:
    whole = {**schema, "components": MADE["components"]}
    found = Draft202012Validator(whole, format_checker=FormatChecker()).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]


def test_every_message_is_on_the_channel() -> None:
    [channel] = [each for each in MADE["channels"].values() if each["address"] == PATH]
    shown = [MADE["components"]["messages"][each["$ref"].rpartition("/")[2]] for each in channel["messages"].values()]

    assert [message["title"] for message in shown] == [kind.__name__ for kind in (Subscribe, *SAID)]
    assert {each["summary"] for each in shown} >= {"Whether the broker can be read; while it is away nothing comes."}


@pytest.mark.parametrize("name", KINDS)
def test_the_example_of_a_message_is_one(name: str) -> None:
    kind = KINDS[name]
    [shown] = [one for one in MADE["components"]["messages"].values() if one["title"] == name and "examples" in one]
    [example] = shown["examples"]
    text = msgspec.json.encode(example["payload"])

    assert disagreements(shown["payload"], example["payload"]) == []
    if kind is Subscribe:
        assert parse_subscribe(text).products == ["BTC-USD"]
    else:
        assert type(msgspec.json.decode(text, type=Union[SAID])) is kind  # noqa: UP007 - of a tuple of types


def test_a_message_that_is_not_as_described_is_none() -> None:
    schema = {"$ref": "#/components/schemas/Status"}

    assert disagreements(schema, {"type": "status", "broker": "asleep"}) != []
    assert disagreements(schema, {"type": "state", "broker": "away"}) != []
    assert disagreements(schema, {"type": "status", "broker": "away", "since": "may be added"}) == []
    assert disagreements({"$ref": "#/components/schemas/Ticks"}, {"type": "ticks", "rows": [{"price": 1}]}) != []


@given(
    tick=st.builds(Tick, price=floats, exchange_time=times, received_time=times, quote_time=times | st.none()),
    stat=st.builds(Stat, at=times, count=numbers, mean=floats | st.none(), as_of=st.builds(AsOf)),
    alert=st.builds(Alert, at=times, last_prices=st.lists(st.builds(PricePoint, time=times, price=floats), max_size=3)),
)
def test_every_row_is_as_its_schema_says(tick: Tick, stat: Stat, alert: Alert) -> None:
    shown: dict[str, Record] = {"tick": tick, "stat": stat, "alert": alert}
    for name, record in shown.items():
        row = msgspec.json.decode(row_text(record))

        assert disagreements(rendered_schema(name), row) == []
        assert set(row) == set(rendered_schema(name)["properties"])


def test_every_code_of_a_close_is_told_of_here_and_in_the_document() -> None:
    told = MADE["channels"]["live"]["x-close-codes"]

    assert set(told) == {str(int(code)) for code in Close}
    assert {code for line in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE) for code in line.split(", ")} >= set(
        told
    )


def test_every_type_is_told_of_in_the_docs() -> None:
    types = {msgspec.json.decode(text)["type"] for kind, text in EXAMPLES.items() if kind is not Subscribe}

    table = "\n".join(line for line in TEXT.splitlines() if line.startswith("| `"))
    assert [name for name in types if f"`{name}`" not in table] == []
    assert set(get_args(msgspec.structs.fields(Status)[0].type)) == {"live", "away"}
