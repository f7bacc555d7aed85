"""docs/rules.md: its rules are taken, and it names every condition and field that there is."""

import re
from pathlib import Path

from streams.engine.definitions import CONDITION_TYPES, WINDOW_SECONDS
from streams.engine.explain import explain
from streams.engine.rulefile import parse_rule_file
from streams.engine.rules import RuleDefinition

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "rules.md").read_text("utf-8")


def test_the_rules_that_it_shows_are_taken_and_are_one_of_each_type() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)

    file = parse_rule_file(block, "docs/rules.md")

    assert {rule.condition.type for rule in file.rules} == set(CONDITION_TYPES)
    assert all("For example" in explain(rule) for rule in file.rules)


def test_it_names_every_field_and_window() -> None:
    schema = RuleDefinition.model_json_schema()
    fields = set(schema["properties"]) | {
        name for one in schema["$defs"].values() for name in one.get("properties", {})
    }

    missing = {name for name in fields if not re.search(rf"\b{name}\b", TEXT)}

    assert not missing
    assert ", ".join(WINDOW_SECONDS) in TEXT


def test_readers_find_it() -> None:
    assert "docs/rules.md" in (DOCS.parent / "README.md").read_text("utf-8")
