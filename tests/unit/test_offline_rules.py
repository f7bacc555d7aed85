"""`pulsestream rules`: files checked, and their tests run."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pulsestream.cli import app
from pulsestream.commands.rules import load_rules
from pulsestream.core.errors import UsageError
from streams.engine.explain import explain

RULES = """
rules:
  - name: low
    product: BTC-USD
    condition: {type: price, below: 15000, clear: 15100}
    for: 60s
"""
TESTS = """
tests:
  - name: fires after a minute
    ticks:
      - {at: 0s, price: 15200}
      - {at: 10s, price: 14900, every: 10s, to: 90s}
    expect:
      - {at: 10s, state: pending}
      - {at: 70s, state: firing, rule: low, value: 14900}
  - name: a day of bars
    source: btcusd-second-20161007-trade.csv
    from: 2016-10-07T00:00:01Z
    expect:
      - {at: "2016-10-07T00:00:01.999999Z", state: pending}
"""
FAILING = """
  - name: never
    ticks: [{at: 0s, price: 14000}]
    expect: []
"""


def rules(command: str, folder: Path, *texts: str, options: Sequence[str] = ()) -> Result:
    (folder / "btcusd-second-20161007-trade.csv").write_text("0,10,10,10,10,1\n1000,11,11,11,11,1\n")
    path = folder / "rules.yaml"
    path.write_text("".join(texts))
    return CliRunner().invoke(app, ["rules", command, str(path), *options], catch_exceptions=False)


def test_a_valid_file_is_counted(tmp_path: Path) -> None:
    assert rules("check", tmp_path, RULES, TESTS).stdout == f"{tmp_path}/rules.yaml: 1 rule and 2 tests, all valid\n"


def test_a_fault_is_told_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/rules.yaml:5: rule 1 'low': condition.clear: ")):
        rules("check", tmp_path, RULES.replace("15100", "14900"))


def test_tests_over_ticks_and_over_a_source_beside_the_file_hold(tmp_path: Path) -> None:
    done = rules("test", tmp_path, RULES, TESTS)

    assert done.exit_code == 0
    assert done.stdout == "ok    fires after a minute\nok    a day of bars\n2 of 2 tests hold\n"


def test_a_test_that_does_not_hold_is_told_with_the_difference_and_exit_code_1(tmp_path: Path) -> None:
    done = rules("test", tmp_path, RULES, TESTS, FAILING)

    assert done.exit_code == 1
    failed, difference, total = done.stdout.splitlines()[2:]
    assert failed.startswith("FAIL  'never': 1 of 1 transitions differ")
    assert difference.split()[:3] == ["+", "0s", "pending"]
    assert total == "2 of 3 tests hold; not: never"


def test_rules_are_explained_all_or_one_by_name(tmp_path: Path) -> None:
    other = """
  - name: high
    product: BTC-USD
    condition: {type: price, above: 20000}
"""

    both = rules("explain", tmp_path, RULES, other).stdout
    one = rules("explain", tmp_path, RULES, other, options=["--rule", "high"]).stdout

    assert both == f"{explain(load_rules(tmp_path / 'rules.yaml')[0])}\n\n{one}"
    assert one == f"{explain(load_rules(tmp_path / 'rules.yaml')[1])}\n"
    with pytest.raises(UsageError, match="no rule is named 'height'; there is low, high"):
        rules("explain", tmp_path, RULES, other, options=["--rule", "height"])


def test_the_last_second_of_a_test_closes_as_at_the_end_of_a_source(tmp_path: Path) -> None:
    text = """
rules:
  - {name: jump, product: BTC-USD, condition: {type: change, window: 1m, above_pct: 1}}
tests:
  - name: jump
    ticks: [{at: 0s, price: 100}, {at: 1s, price: 102}]
    expect: [{at: 2s, state: firing, value: 2}]
"""

    assert rules("test", tmp_path, text).stdout == "ok    jump\n1 of 1 tests hold\n"


def test_two_tests_of_one_name_are_told_apart(tmp_path: Path) -> None:
    tests = "tests:\n  - {name: n, ticks: [{at: 0s, price: 99999}], expect: []}\n"
    done = rules("test", tmp_path, RULES, tests, tests.removeprefix("tests:\n"))

    assert done.stdout == "ok    n\nok    n (2)\n2 of 2 tests hold\n"


@pytest.mark.parametrize(
    ("command", "texts", "reason"),
    [
        ("test", [RULES], "holds no tests"),
        ("test", [RULES, TESTS.replace("btcusd-second-20161007-trade", "missing")], "missing.csv is not there"),
        ("check", ["- {name: "], "cannot be read as YAML"),
        ("check", ["nothing"], "holds no list of rules"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path, command: str, texts: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        rules(command, tmp_path, *texts)
