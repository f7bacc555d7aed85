"""The conditions that a rule may have: what is taken, what is refused, and where the message points."""

import json
from typing import Any

import pytest

from streams.engine.definitions import CONDITION_TYPES, compared_with, source_of
from streams.engine.measures import measure_of
from streams.engine.rules import RuleDefinition, RuleError, faults_of, parse_rule
from tests.support.ticking import definition

GOOD: tuple[dict[str, Any], ...] = (
    {"type": "price", "above": 5, "clear": 4},
    {"type": "price", "crosses": 5},
    {"type": "change", "window": "24h", "above_pct": 5, "clear_pct": -1},
    {"type": "change", "window": "5m", "below_pct": -2},
    {"type": "volatility", "window": "5m", "above": 1.2},
    {"type": "volatility", "window": "1h", "below": 0.2, "clear": 0.3},
    {"type": "volume", "window": "1m", "baseline": "1h", "above_ratio": 5, "clear_ratio": 2},
    {"type": "zscore", "window": "15m", "above": 4, "clear": 2},
    {"type": "spread", "above_bps": 20, "clear_bps": -1},
    {"type": "divergence", "exchanges": ["coinbase", "kraken"], "above_bps": 50},
    {"type": "no_data", "after": "90s"},
)


def refusal(condition: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(RuleError) as refused:
        parse_rule(json.dumps({"name": "r", "product": "*", "condition": condition} | fields))
    return str(refused.value).removeprefix("the rule cannot be taken: ")


@pytest.mark.parametrize("condition", GOOD)
def test_a_condition_of_each_type_is_taken_and_written_out_reads_back_equal(condition: dict[str, Any]) -> None:
    found = definition(condition)

    written = found.model_dump_json(exclude_none=True)

    assert parse_rule(written) == found
    assert json.loads(written)["condition"].items() >= condition.items()


def test_every_type_is_among_the_good_ones() -> None:
    assert {condition["type"] for condition in GOOD} == set(CONDITION_TYPES)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"type": "change", "window": "5m"}, "condition: give exactly one of above_pct and below_pct"),
        (
            {"type": "change", "window": "5m", "above_pct": 1, "below_pct": 1},
            "condition: give exactly one of above_pct",
        ),
        (
            {"type": "change", "window": "2m", "above_pct": 1},
            "condition.window: Input should be '1m', '5m', '15m', '1h'",
        ),
        ({"type": "change", "above_pct": 1}, "condition.window: Field required"),
        (
            {"type": "change", "window": "5m", "below_pct": -100},
            "condition.below_pct: Input should be greater than -100",
        ),
        (
            {"type": "change", "window": "5m", "above_pct": 2, "clear_pct": 3},
            "condition.clear_pct: clear_pct 3.0 must not lie above the threshold 2.0",
        ),
        (
            {"type": "change", "window": "5m", "below_pct": -2, "clear_pct": -3},
            "condition.clear_pct: clear_pct -3.0 must not lie below the threshold -2.0",
        ),
        ({"type": "volatility", "window": "5m"}, "condition: give exactly one of above and below"),
        (
            {"type": "volatility", "window": "5m", "above": -1},
            "condition.above: Input should be greater than or equal to 0",
        ),
        (
            {"type": "volatility", "window": "5m", "below": 2, "clear": 1},
            "condition.clear: clear 1.0 must not lie below the threshold 2.0",
        ),
        (
            {"type": "volume", "window": "1h", "baseline": "5m", "above_ratio": 2},
            "condition.baseline: the baseline 5m must be longer than the window 1h",
        ),
        (
            {"type": "volume", "window": "5m", "baseline": "5m", "above_ratio": 2},
            "condition.baseline: the baseline 5m must be longer than the window 5m",
        ),
        (
            {"type": "volume", "window": "1m", "baseline": "5m", "above_ratio": 2, "clear_ratio": 3},
            "condition.clear_ratio: clear_ratio 3.0 must not lie above the threshold 2.0",
        ),
        ({"type": "volume", "window": "1m", "above_ratio": 2}, "condition.baseline: Field required"),
        ({"type": "zscore", "window": "24h", "above": 4}, "condition.window: Input should be '1m', '5m'"),
        ({"type": "zscore", "window": "1m", "above": 4, "clear": 5}, "condition.clear: clear 5.0 must not lie above"),
        ({"type": "spread", "above_bps": 1, "clear_bps": 2}, "condition.clear_bps: clear_bps 2.0 must not lie above"),
        ({"type": "spread", "above_bps": "1"}, "condition.above_bps: Input should be a valid number"),
        (
            {"type": "divergence", "exchanges": ["a"], "above_bps": 1},
            "condition.exchanges: List should have at least 2",
        ),
        (
            {"type": "divergence", "exchanges": ["a", "a"], "above_bps": 1},
            "condition.exchanges: an exchange is named twice",
        ),
        (
            {"type": "divergence", "exchanges": ["a", "B"], "above_bps": 1},
            "condition.exchanges: exchange 'B' is not a name",
        ),
        ({"type": "no_data", "after": "0s"}, "condition.after: 0s is too short: at least 1s"),
        ({"type": "no_data", "after": 60}, "condition.after: 60 is not a duration"),
        ({"type": "spread", "above_bps": 1, "window": "5m"}, "condition.window: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_in_a_condition_is_told_of_its_field(condition: dict[str, Any], message: str) -> None:
    assert message in refusal(condition)


def test_a_divergence_takes_its_exchanges_from_the_condition_alone() -> None:
    condition = {"type": "divergence", "exchanges": ["a", "b"], "above_bps": 1}

    assert refusal(condition, exchange="a").startswith("condition: a divergence names its exchanges itself")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e10"])
def test_a_threshold_is_a_finite_number(text: str) -> None:
    for condition in GOOD:
        name = next((name for name in condition if name.startswith(("above_", "below_"))), None)
        if name is not None:
            body = json.dumps({"name": "r", "product": "*", "condition": condition | {name: 0.125}})
            with pytest.raises(RuleError, match="the rule cannot be taken"):
                parse_rule(body.replace("0.125", text))


def test_the_schema_has_a_branch_for_each_type_and_takes_nothing_else() -> None:
    schema = RuleDefinition.model_json_schema()

    branches = [schema["$defs"][one["$ref"].rsplit("/", 1)[1]] for one in schema["properties"]["condition"]["oneOf"]]

    assert {branch["properties"]["type"]["const"] for branch in branches} == set(CONDITION_TYPES)
    assert all(branch["additionalProperties"] is False and branch["description"] for branch in branches)


@pytest.mark.parametrize(
    ("condition", "source", "measured"),
    list(
        zip(GOOD, ["prices"] * 8 + ["quotes", "product", "clock"], [False] * 2 + [True] * 6 + [False] * 3, strict=True)
    ),
)
def test_each_condition_has_its_source(condition: dict[str, Any], source: str, *, measured: bool) -> None:
    parsed = definition(condition).condition

    assert source_of(parsed) == source
    assert (measure_of(parsed) is not None) is measured
    assert (compared_with(parsed) is None) is (source == "clock")


def test_faults_name_places_without_the_names_of_alternatives() -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (pydantic's own)
        RuleDefinition.model_validate_json('{"name": "", "product": "*", "condition": {"type": "spread", "x": 1}}')

    places = [place for place, _ in faults_of(refused.value)]  # type: ignore[arg-type]
    assert places == [("name",), ("condition", "above_bps"), ("condition", "x")]
