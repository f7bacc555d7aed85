"""docs/guarantees.md names tests that there are, and every guard of the mutation gate."""

import re
from pathlib import Path

from tests.mutations.declared import MUTATIONS

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "guarantees.md").read_text("utf-8")


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    sources = (path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.MULTILINE)}

    assert len(named) > 20
    assert named - there == set()


def test_every_guard_that_the_gate_disables_is_told_of() -> None:
    told = re.findall(r"^\| (.+?) \| `([\w-]+)` \| killed \|", TEXT, re.MULTILINE)

    assert told == [(mutation.guard, mutation.name) for mutation in MUTATIONS]
