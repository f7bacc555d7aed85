"""Rule files: what they hold, what is wrong in them and where, and the tests in them."""

import json
import textwrap
from typing import Any

import pytest

from streams.engine.expectations import compare, counted, product_of, ticks_of, transitions_of
from streams.engine.rulefile import RuleFile, parse_rule_file
from streams.engine.rules import RuleError

FILE = """\
rules:
  - name: btc-below-15000
    product: BTC-USD
    condition: {type: price, below: 15000, clear: 15100}
    for: 60s
  - name: wide
    product: "*"
    condition: {type: spread, above_bps: 20}
tests:
  - name: fires after a minute
    rules: [btc-below-15000]
    ticks:
      - {at: 0s, price: 14990}
      - {at: 61s, price: 15200}
    expect:
      - {at: 0s, state: pending}
      - {at: 60s, state: firing, value: 14990, reason: below 15000}
      - {at: 61s, state: resolved}
"""


def parsed(text: str) -> RuleFile:
    return parse_rule_file(textwrap.dedent(text), "rules.yaml")


def differences(text: str) -> list[str]:
    file = parsed(text)
    return [compare(test, transitions_of(test, file.tried(test))) for test in file.tests]


def refused(text: str) -> list[str]:
    with pytest.raises(RuleError) as error:
        parsed(text)
    return str(error.value).splitlines()


def with_test(**fields: Any) -> str:
    """Return FILE's rules with one test more."""
    content = {"name": "t", "ticks": [], "expect": []} | fields
    return FILE + textwrap.indent(f"- {json.dumps({k: v for k, v in content.items() if v is not None})}\n", "  ")


def test_a_file_holds_rules_and_tests_of_them() -> None:
    file = parsed(FILE)

    assert [rule.name for rule in file.rules] == ["btc-below-15000", "wide"]
    assert [test.name for test in file.tests] == ["fires after a minute"]
    assert [rule.name for rule in file.tried(file.tests[0])] == ["btc-below-15000"]
    assert differences(FILE) == [""]


def test_json_and_a_bare_list_are_read_too() -> None:
    rule = {"name": "r", "product": "BTC-USD", "condition": {"type": "price", "above": 1}}

    assert [one.name for one in parsed(json.dumps({"rules": [rule]}, indent=2)).rules] == ["r"]
    assert [one.name for one in parsed(json.dumps([rule])).rules] == ["r"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "clear: 15100",
            "clear: 14000",
            ":4: rule 1 'btc-below-15000': condition.clear: clear 14000.0 must not lie below",
        ),
        ("for: 60s", "for: 60", ":5: rule 1 'btc-below-15000': for: 60 is not a duration"),
        ("for: 60s", "forr: 60s", ":5: rule 1 'btc-below-15000': forr: Extra inputs are not permitted"),
        ("type: spread", "type: spreat", ":8: rule 2 'wide': condition: condition type 'spreat' is not available"),
        ("    product: BTC-USD\n", "", ":2: rule 1 'btc-below-15000': product: Field required"),
        ("name: wide", "name: btc-below-15000", ":6: rule 2: name 'btc-below-15000' stands twice"),
        (
            "rules: [btc-below-15000]",
            "rules: [nobody]",
            ":11: test 1 'fires after a minute': rules: no rule is named 'nobody'",
        ),
        ("state: pending", "state: pendin", ":16: test 1 'fires after a minute': expect.0.state: Input should be"),
        ("at: 61s, price", "at: 61s, prize", ":14: test 1 'fires after a minute': ticks.1."),
        ("tests:", "test:", ":9: test: is unknown"),
        ("for: 60s", "for: 60s\n    for: 5s", ":6: cannot be read as YAML: 'for' stands twice"),
        ("rules:\n", "rules: [\n", ": cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(old: str, new: str, message: str) -> None:
    assert old in FILE

    lines = refused(FILE.replace(old, new, 1))

    assert any(line.startswith("rules.yaml:") and message in line for line in lines), lines


def test_every_fault_of_a_file_is_told() -> None:
    text = FILE.replace("for: 60s", "for: 60").replace("above_bps: 20", "above_bps: -1")

    assert [line.split(": ")[0] for line in refused(text)] == ["rules.yaml:5", "rules.yaml:8"]


@pytest.mark.parametrize("text", ["", "5", "{}", "rules: 5", "rules: []\ntests: 5"])
def test_what_is_no_rule_file_is_refused(text: str) -> None:
    assert refused(text) == ["rules.yaml: holds no list of rules: begin it with `rules:` and `  - name: …`"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "x.csv"}, "give exactly one of ticks and source"),
        ({"ticks": None}, "give exactly one of ticks and source"),
        ({"from": "2021-04-17T00:00:00Z"}, "`from` and `to` choose of a source"),
        ({"ticks": None, "source": "x.csv", "until": "5s"}, "a source ends with its last record"),
        ({"start": "2021-04-17"}, "'2021-04-17' is not a time: write it as 2021-04-17T16:43:37Z"),
        ({"ticks": [{"at": "0s", "price": [1, 2]}]}, "several prices need `every` and `to`"),
        ({"ticks": [{"at": "0s", "price": 1, "every": "1s"}]}, "give `every` and `to` together"),
        ({"ticks": [{"at": "9s", "price": 1, "every": "1s", "to": "5s"}]}, "`to` not before `at`"),
        ({"ticks": [{"at": "0s", "price": 1, "every": "1us", "to": "1h"}]}, "a test holds at most 200000 ticks"),
        ({"expect": [{"at": "yesterday", "state": "firing"}]}, "'yesterday' is not a duration"),
    ],
)
def test_a_test_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    assert any(
        message in line and line.startswith("rules.yaml:19: test 2 't'") for line in refused(with_test(**fields))
    )


def test_ticks_repeat_take_turns_and_come_in_order_of_time() -> None:
    ticks = [
        {"at": "0s", "every": "2s", "to": "6s", "price": [1, 2, 3]},
        {"at": "3s", "price": 9, "exchange": "kraken", "bid": 8, "ask": 10, "size": 2, "side": "buy"},
    ]
    test = parsed(with_test(ticks=ticks, start="2021-04-17T00:00:00Z")).tests[1]

    seen = ticks_of(test)

    start = 1_618_617_600_000_000
    assert [(one.exchange, one.row.time - start, one.row.price) for one in seen] == [
        ("coinbase", 0, 1),
        ("coinbase", 2_000_000, 2),
        ("kraken", 3_000_000, 9),
        ("coinbase", 4_000_000, 3),
        ("coinbase", 6_000_000, 1),
    ]
    assert (seen[2].row.bid, seen[2].row.ask, seen[2].row.size, seen[2].row.buy) == (8, 10, 2, True)
    assert [one.row.offset for one in seen] == [0, 1, 2, 3, 4]


def test_a_difference_shows_what_is_missing_what_was_not_expected_and_what_differs() -> None:
    text = FILE.replace("at: 60s, state: firing, value: 14990", "at: 60s, state: firing, value: 14980")
    text = text.replace("at: 61s, state: resolved", "at: 62s, state: resolved")

    (difference,) = differences(text)

    assert [line[:38].rstrip() for line in difference.splitlines()[1:]] == [
        "    0s  pending   btc-below-15000  coi",
        "  ! 1m  firing    btc-below-15000  coi",
        "  + 61s  resolved  btc-below-15000  co",
        "  - 62s  resolved",
    ]
    title, _, differing, *_ = difference.splitlines()
    assert title.startswith("test 'fires after a minute': 3 of 4 transitions differ")
    assert differing.endswith("value 14990  (price 14990 is below 15000, for 1m); expected value 14980")


def test_a_test_that_expects_nothing_fails_where_something_comes() -> None:
    quiet, loud = differences(
        FILE.split("tests:", maxsplit=1)[0]
        + """\
tests:
  - {name: quiet, rules: [btc-below-15000], ticks: [{at: 0s, price: 15000}], expect: []}
  - {name: loud, rules: [btc-below-15000], ticks: [{at: 0s, price: 14000}], expect: []}
"""
    )

    assert quiet == ""
    assert "1 of 1 transitions differ" in loud
    assert counted({"quiet": quiet, "loud": loud}) == "1 of 2 tests hold; not: loud"


def test_every_kind_of_rule_can_be_tested() -> None:
    text = """\
    rules:
      - {name: drop, product: ETH-USD, condition: {type: change, window: 1m, below_pct: -2}}
      - {name: wide, product: ETH-USD, condition: {type: spread, above_bps: 20}}
      - {name: apart, product: ETH-USD, condition: {type: divergence, exchanges: [coinbase, kraken], above_bps: 50}}
      - {name: silent, product: ETH-USD, exchange: coinbase, condition: {type: no_data, after: 60s}}
    tests:
      - name: a change falls out of the window by the clock
        rules: [drop]
        ticks: [{at: 500ms, price: 100}, {at: 5200ms, price: 97}]
        until: 3m
        expect: [{at: 6s, state: firing, value: -3}, {at: 66s, state: resolved, value: 0}]
      - name: a spread
        rules: [wide]
        ticks: [{at: 0s, price: 100, bid: 99, ask: 101}, {at: 1s, price: 100, bid: 99.99, ask: 100.01}]
        expect: [{at: 0s, state: firing, value: 200}, {at: 1s, state: resolved}]
      - name: two exchanges
        rules: [apart]
        ticks: [{at: 0s, price: 100}, {at: 1s, price: 99, exchange: kraken}, {at: 2s, price: 99}]
        expect: [{at: 1s, state: firing, exchange: "*"}, {at: 2s, state: resolved}]
      - name: silence
        rules: [silent]
        ticks: [{at: 0s, price: 100}]
        until: 60s
        expect: [{at: 60s, state: firing, reason: quiet_market}]
      - name: all at once
        ticks: [{at: 0s, price: 100, bid: 99, ask: 101}]
        until: 60s
        expect: [{at: 0s, state: firing, rule: wide}, {at: 60s, state: firing, rule: silent, product: ETH-USD}]
    """

    assert differences(text) == [""] * 5


def test_the_product_of_a_test_is_what_its_rules_name() -> None:
    file = parsed(FILE)

    assert product_of(file.tests[0], file.rules) == "BTC-USD"
    assert product_of(file.tests[0], file.rules[1:]) == "BTC-USD"
    assert product_of(parsed(with_test(product="ADA-USD")).tests[1], file.rules) == "ADA-USD"


def test_times_of_a_test_over_a_source_are_dates() -> None:
    test = parsed(
        with_test(ticks=None, source="x.csv", expect=[{"at": "2021-04-17T16:43:37.5Z", "state": "firing"}])
    ).tests[1]

    assert "- 2021-04-17T16:43:37.500000Z  firing" in compare(test, [])
