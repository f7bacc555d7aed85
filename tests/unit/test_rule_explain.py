"""Rules in words: the example in them is what the live evaluator reports."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.engine.definitions import ZScore
from streams.engine.example import MOST_TICKS, example_of
from streams.engine.expectations import ticks_of, transitions_of
from streams.engine.explain import explain
from streams.engine.rules import RuleDefinition
from tests.support.ticking import definition

SECOND = 1_000_000


def sides(
    name: str, low: float, high: float, *, above: bool = True, below: bool = True
) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a threshold with or without a clear on its other side."""

    def limited(threshold: float, distance: float | None, side: str) -> dict[str, Any]:
        fields = {f"{side}{name}": threshold}
        if distance is not None:
            fields[f"clear{name}"] = threshold * (1 - distance if side == "above" else 1 + distance)
        return fields

    names = [*(["above"] if above else []), *(["below"] if below else [])]
    return st.builds(limited, st.floats(low, high), st.none() | st.floats(0.01, 0.9), st.sampled_from(names))


def of(kind: str, limits: st.SearchStrategy[dict[str, Any]], **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    drawn = {name: st.sampled_from(values) for name, values in fields.items()}
    return st.builds(lambda limit, named: {"type": kind} | named | limit, limits, st.fixed_dictionaries(drawn))


SHORT = ["1m", "5m", "15m"]
CONDITIONS = st.one_of(
    of("price", sides("", 1e-6, 1e9)),
    of("price", st.builds(lambda x: {"crosses": x}, st.floats(1e-6, 1e9)), direction=["up", "down", "both"]),
    of("change", sides("_pct", 0.05, 20, below=False), window=[*SHORT, "1h"]),
    of("change", st.builds(lambda x: {"below_pct": -x}, st.floats(0.05, 60)), window=SHORT),
    of("volatility", sides("", 0.05, 20), window=[*SHORT, "1h"]),
    of("volume", sides("_ratio", 0.5, 20, below=False), window=["1m"], baseline=["5m", "15m", "1h"]),
    of("volume", sides("_ratio", 0.5, 5, below=False), window=["5m"], baseline=["1h"]),
    of("zscore", sides("", 2, 50, below=False), window=[*SHORT, "1h"]),
    of("spread", sides("_bps", 0, 500, below=False)),
    of("divergence", sides("_bps", 0, 500, below=False), exchanges=[["kraken", "binance"], ["a", "b", "c"]]),
    of("no_data", st.just({}), after=["1s", "90s", "1d"]),
)
HOLDS = st.sampled_from(["0s", "0s", "1s", "2500ms", "30s", "3m"])


@st.composite
def definitions(draw: st.DrawFn) -> RuleDefinition:
    return definition(
        draw(CONDITIONS),
        product=draw(st.sampled_from(["*", "ETH-USD", ["ADA-USD", "BTC-USD"]])),
        for_=draw(HOLDS),
        keep_firing_for=draw(HOLDS),
        cooldown=draw(HOLDS),
    )


@settings(max_examples=60, deadline=None)
@given(definitions())
def test_the_example_of_any_rule_goes_through_its_states_at_the_exact_times(rule: RuleDefinition) -> None:
    example = example_of(rule)
    if example is None:
        assert rule.condition.type == "volume"
        return

    found = transitions_of(example.test, [rule])

    states = [alert.state for alert in found]
    held = {alert.state: alert.at for alert in found[:3]}
    step = 60 * SECOND if getattr(rule.condition, "window", "") == "1h" else SECOND
    if isinstance(rule.condition, ZScore) and rule.for_ > step:
        assert states == ["pending", "inactive"]
        return
    assert states == (["pending"] if rule.for_ else []) + ["firing", "resolved"]
    assert held["firing"] == held.get("pending", held["firing"]) + rule.for_
    cleared = held["resolved"] - rule.keep_firing_for
    assert cleared > held["firing"] or isinstance(rule.condition, ZScore)
    words = explain(rule)
    for alert in found:
        assert f"-> {alert.state}: {alert.reason}" in words


@settings(max_examples=30, deadline=None)
@given(definitions())
def test_an_example_is_of_what_the_rule_names_and_is_short(rule: RuleDefinition) -> None:
    example = example_of(rule)
    if example is None:
        return

    seen = ticks_of(example.test)

    assert len(seen) <= MOST_TICKS
    assert {one.exchange for one in seen} <= {"coinbase", *getattr(rule.condition, "exchanges", ())}
    assert example.test.product == {"*": "BTC-USD", "ETH-USD": "ETH-USD"}.get(str(rule.product), "ADA-USD")


def test_a_rule_in_words_says_what_it_watches_and_when_it_changes() -> None:
    rule = definition(
        {"below": 15000, "clear": 15100},
        name="btc-below-15000",
        product="BTC-USD",
        exchange="coinbase",
        for_="60s",
        keep_firing_for="30s",
        cooldown="5m",
    )

    assert (
        explain(rule)
        == """\
btc-below-15000 (warning) watches the price of BTC-USD on coinbase.
The condition is true while the price is below 15000.
It is clear while it is at or above 15100; in between nothing changes.
When it becomes true the rule is pending; it fires exactly 1m later, if it is not clear before.
If it is clear before, the rule is inactive again at that time.
Firing, it resolves exactly 30s after it became clear, if it stays clear until then.
For 5m after that nothing happens; if the condition is true when they end, it begins anew.

For example, times since the first record:
   0:00:00  price 14900
   0:00:00  -> pending: price 14900 is below 15000: fires if it is not at or above 15100 within 1m
   0:01:00  -> firing: price 14900 is below 15000, for 1m
   0:01:10  price 15100
   0:01:40  -> resolved: price 15100 is at or above 15100, for 30s"""
    )


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"type": "volume", "window": "1m", "baseline": "1h", "above_ratio": 5}, "after each minute with records"),
        ({"type": "change", "window": "15m", "above_pct": 5}, "after each second with records"),
        ({"type": "volume", "window": "5m", "baseline": "15m", "above_ratio": 5}, "Before 20m have been observed"),
        (
            {"type": "divergence", "exchanges": ["a", "b"], "above_bps": 5},
            "the last prices of every subscribed product",
        ),
        ({"crosses": 5, "direction": "down"}, "moved from above to below 5"),
        ({"type": "no_data", "after": "90s"}, "true 90s after a record"),
        ({"type": "spread", "above_bps": 5}, "with each tick that has bid and ask"),
    ],
)
def test_each_kind_of_condition_says_when_it_is_looked_at(condition: dict[str, Any], words: str) -> None:
    assert words in explain(definition(condition))


def test_a_rule_that_is_not_enabled_says_so_and_shows_its_example_all_the_same() -> None:
    words = explain(definition({"above": 5}, enabled=False))

    assert "It is not enabled" in words
    assert "-> firing" in words


@pytest.mark.parametrize(
    ("condition", "hold"),
    [
        ({"type": "volatility", "window": "1m", "above": 1}, "31d"),
        ({"type": "volatility", "window": "1m", "above": 1}, "1d"),
        ({"type": "change", "window": "1m", "above_pct": 60}, "6h"),
        ({"above": 1}, "31d"),
        ({"type": "no_data", "after": "31d"}, "0s"),
        ({"type": "volume", "window": "1m", "baseline": "5m", "above_ratio": 20}, "5m"),
    ],
)
def test_an_example_that_would_be_too_long_is_left_out(condition: dict[str, Any], hold: str) -> None:
    words = explain(definition(condition, for_=hold))

    assert words.endswith("An example of it would be too long to show.")
