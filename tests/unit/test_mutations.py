"""The declared mutations fit the tree as it is: a guard that moved has to take its mutation with it."""

import dataclasses

import pytest

from tests.mutations.declared import MUTATIONS
from tests.mutations.gate import DoesNotApplyError, Outcome, last_words, main, mutated, table, unfit


def test_each_declared_change_applies_to_exactly_one_place_and_its_tests_are_there() -> None:
    assert unfit(MUTATIONS) == []
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize(("text", "times"), [("nothing of the kind", 0), ("guard, and guard", 2)])
def test_a_change_that_applies_to_no_place_or_to_two_is_refused(text: str, times: int) -> None:
    mutation = dataclasses.replace(MUTATIONS[0], old="guard", new="")

    with pytest.raises(DoesNotApplyError, match=f"stands {times} times in {mutation.file}"):
        mutated(text, mutation)


def test_a_test_that_is_not_there_is_named() -> None:
    mutation = dataclasses.replace(MUTATIONS[0], tests=("tests/unit/test_mutations.py::test_nothing",))

    assert unfit([mutation]) == [f"{mutation.name}: tests/unit/test_mutations.py has no test test_nothing"]


def test_the_table_says_what_became_of_each_guard() -> None:
    shown = table([Outcome(MUTATIONS[0], "survived", 1.0)])

    assert f"| `{MUTATIONS[0].name}` | survived |" in shown


def test_the_error_that_a_test_failed_with_is_told() -> None:
    said = "..F\n    def test_it():\nE       AssertionError: lost\nE       assert 1 == 2\n1 failed, 2 passed in 3.10s\n"

    assert last_words(said) == "1 failed, 2 passed in 3.10s; AssertionError: lost"


def test_an_unknown_guard_is_an_error_that_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nonsense"])

    assert "offset-fence" in capsys.readouterr().err
