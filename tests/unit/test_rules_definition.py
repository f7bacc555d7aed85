import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine.definitions import CONDITION_TYPES, PriceCross, PriceLevel
from streams.engine.durations import MAX_DURATION, format_duration, parse_duration
from streams.engine.rules import RuleDefinition, RuleError, applies, parse_rule
from tests.support.ticking import rule

WHOLE = {
    "name": "btc-below-15000",
    "product": "BTC-USD",
    "exchange": "coinbase",
    "condition": {"type": "price", "below": 15000, "clear": 15100},
    "for": "60s",
    "keep_firing_for": "1.5s",
    "cooldown": "5m",
    "severity": "critical",
    "labels": {"desk": "spot"},
    "enabled": False,
}


def parsed(**fields: Any) -> RuleDefinition:
    return parse_rule(json.dumps({"name": "r", "product": "*", "condition": {"type": "price", "above": 1}} | fields))


def refusal(**fields: Any) -> str:
    with pytest.raises(RuleError) as refused:
        parsed(**fields)
    return str(refused.value)


def test_a_rule_file_entry_is_read_whole() -> None:
    found = parse_rule(json.dumps(WHOLE))

    assert found.condition == PriceLevel(type="price", below=15000, clear=15100)
    assert (found.for_, found.keep_firing_for, found.cooldown) == (60_000_000, 1_500_000, 300_000_000)
    assert (found.severity, found.labels, found.enabled) == ("critical", {"desk": "spot"}, False)


def test_what_is_left_out_has_the_documented_default() -> None:
    found = parsed()

    assert (found.exchange, found.for_, found.keep_firing_for, found.cooldown) == (None, 0, 0, 0)
    assert (found.severity, found.labels, found.enabled) == ("warning", {}, True)
    assert parsed(condition={"type": "price", "crosses": 5}).condition == PriceCross(
        type="price", crosses=5, direction="both"
    )


@pytest.mark.parametrize("value", [0, 1, "no", "true"])
def test_enabled_is_true_or_false_and_nothing_that_could_mean_it(value: object) -> None:
    assert "enabled: Input should be a valid boolean" in refusal(enabled=value)


def test_the_schema_says_how_many_names_a_list_holds() -> None:
    schema = RuleDefinition.model_json_schema()["properties"]["product"]

    assert {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 200} in schema["anyOf"]


@pytest.mark.parametrize(
    "fields", [WHOLE, {"name": "r", "product": ["A", "B"], "condition": {"type": "price", "crosses": 1e-9}}]
)
def test_a_rule_written_out_reads_back_equal(fields: dict[str, Any]) -> None:
    found = parse_rule(json.dumps(fields))

    assert parse_rule(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json()).keys() >= fields.keys()


def test_bytes_are_read_as_text_is() -> None:
    assert parse_rule(json.dumps(WHOLE).encode()) == parse_rule(json.dumps(WHOLE))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"name": "a\u0000b"}, "name: String should match pattern"),
        ({"product": "btc"}, "product: product 'btc' is not a product name such as BTC-USD"),
        ({"product": []}, "product: a list holds 1 to 200 names, not 0"),
        ({"product": ["BTC-USD", 5]}, "product: '5' is neither a name nor a list of names"),
        ({"product": None}, "product: 'None' is neither a name nor a list of names"),
        ({"exchange": "Coinbase"}, "exchange: exchange 'Coinbase' is not a name such as coinbase"),
        (
            {"condition": {"type": "sentiment", "above": 1}},
            f"condition type 'sentiment' is not available; there is: {', '.join(CONDITION_TYPES)}",
        ),
        ({"condition": {"above": 1}}, "condition type None is not available; there is: price"),
        ({"condition": 5}, "condition: Input should be an object"),
        ({"condition": {"type": "price"}}, "condition: give exactly one of above, below and crosses"),
        ({"condition": {"type": "price", "above": 1, "below": 2}}, "give exactly one of above, below and crosses"),
        ({"condition": {"type": "price", "above": 1, "crosses": 2}}, "condition.above: Extra inputs are not permitted"),
        ({"condition": {"type": "price", "above": 1, "clear": 2}}, "clear 2.0 must not lie above the threshold 1.0"),
        ({"condition": {"type": "price", "below": 2, "clear": 1}}, "clear 1.0 must not lie below the threshold 2.0"),
        ({"condition": {"type": "price", "above": 0}}, "condition.above: Input should be greater than 0"),
        ({"condition": {"type": "price", "above": "5"}}, "condition.above: Input should be a valid number"),
        ({"condition": {"type": "price", "above": True}}, "condition.above: Input should be a valid number"),
        (
            {"condition": {"type": "price", "crosses": 5, "direction": "left"}},
            "condition.direction: Input should be 'up'",
        ),
        ({"for": 60}, 'for: 60 is not a duration: write a number and us, ms, s, m, h or d, as in "60s"'),
        ({"for": "-1s"}, "for: '-1s' is not a duration"),
        ({"cooldown": "32d"}, "cooldown: '32d' is not a whole number of microseconds up to 31d"),
        ({"keep_firing_for": "0.5us"}, "'0.5us' is not a whole number of microseconds"),
        ({"severity": "bad"}, "severity: Input should be 'info', 'warning' or 'critical'"),
        ({"labels": {"a b": "c"}}, "labels.a b"),
        ({"labels": {"a": "c\r\nBcc: x"}}, "labels.a: String should match pattern"),
        ({"labels": {f"l{n}": "" for n in range(17)}}, "labels: Dictionary should have at most 16 items"),
        ({"for_": "5s"}, "for_: Extra inputs are not permitted"),
        ({"tenant": "acme"}, "tenant: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    assert message in refusal(**fields)


def test_the_schema_tells_clients_what_is_taken() -> None:
    schema = RuleDefinition.model_json_schema()

    assert schema["additionalProperties"] is False
    assert schema["required"] == ["name", "product", "condition"]
    hold = schema["properties"]["for"]
    assert (hold["type"], hold["default"]) == ("string", "0s")
    assert all(re.match(hold["pattern"], example) for example in hold["examples"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": NaN}', b"\xff"])
def test_what_is_no_rule_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(RuleError, match="the rule cannot be taken"):
        parse_rule(text)


@pytest.mark.parametrize("price", [float("nan"), float("inf"), 1e16])
def test_a_threshold_is_a_price(price: float) -> None:
    with pytest.raises(RuleError, match="the rule cannot be taken"):
        parse_rule(f'{{"name": "r", "product": "*", "condition": {{"type": "price", "above": {price}}}}}')


@given(st.integers(0, MAX_DURATION))
def test_durations_are_exact_both_ways(micros: int) -> None:
    assert parse_duration(format_duration(micros)) == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0s"), (1, "1us"), (1_500, "1500us"), (90_000_000, "90s"), (300_000_000, "5m"), (86_400_000_000, "1d")],
)
def test_a_duration_is_written_in_the_largest_unit_that_divides_it(micros: int, text: str) -> None:
    assert format_duration(micros) == text


def test_a_rule_applies_to_what_it_names() -> None:
    condition = {"above": 1}

    assert applies(rule(condition), "coinbase", "BTC-USD")
    assert applies(rule(condition, product=["A", "B"], exchange=["kraken"]), "kraken", "B")
    assert not applies(rule(condition, product=["A", "B"]), "kraken", "C")
    assert not applies(rule(condition, product="BTC-USD"), "kraken", "BTC-USDT")
    assert not applies(rule(condition, exchange="kraken"), "coinbase", "BTC-USD")
    assert not applies(rule(condition, enabled=False), "coinbase", "BTC-USD")
