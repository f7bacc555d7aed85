"""How far a search by contents looks next: by how close to each other its rows were."""

from datetime import UTC, datetime, timedelta

from api.search import steps
from api.search.steps import Span, Step, next_step

LAST = datetime(2026, 1, 1, tzinfo=UTC)
NEAR = Span(steps.NEAR, LAST + timedelta(seconds=steps.NEAR), LAST, "id")
"""A row a second, the newest first."""


def after(found: int, seen: int = steps.NEAR, *, near: Span = NEAR, up: bool = False) -> Step | None:
    return next_step(near, LAST, found, seen, 100, ascending=up)


def test_what_many_rows_contain_is_looked_for_row_by_row_a_little_further() -> None:
    step = after(80)

    assert step == Step(steps.NEAR, LAST - timedelta(seconds=steps.NEAR))
    assert not step.is_by_index


def test_what_some_rows_contain_is_looked_for_by_the_index_as_far_as_a_page_should_lie() -> None:
    step = after(4)

    assert step == Step(12_000, LAST - timedelta(seconds=12_000))
    assert step.is_by_index


def test_an_ascending_walk_looks_the_other_way() -> None:
    ascending = Span(steps.NEAR, LAST - timedelta(seconds=steps.NEAR), LAST, "id")

    assert after(4, near=ascending, up=True) == Step(12_000, LAST + timedelta(seconds=12_000))


def test_what_no_near_row_contains_is_looked_for_among_some_more_and_then_everywhere() -> None:
    assert after(0) == Step(steps.WALKED, LAST - timedelta(seconds=steps.WALKED))
    assert after(1, seen=steps.NEAR + steps.WALKED) is None


def test_each_step_looks_at_as_many_rows_as_all_before_it_so_that_few_are_enough() -> None:
    seen, taken = steps.NEAR, 0
    while (step := after(99, seen)) is not None:
        seen, taken = seen + step.rows, taken + 1

    assert taken < 10


def test_rows_of_one_time_and_times_beyond_the_calendar_have_an_answer() -> None:
    at_once = Span(steps.NEAR, LAST, LAST, "id")
    sparse = Span(steps.NEAR, LAST, LAST - timedelta(days=20_000), "id")

    assert after(4, near=at_once) == Step(12_000, LAST - timedelta(milliseconds=60))
    assert after(0, near=sparse) is None
