"""Ranges of ids against a plain set."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from producers.id_ranges import IdRanges

ids = st.integers(0, 60)
spans = st.tuples(ids, st.integers(0, 12)).map(lambda span: (span[0], span[0] + span[1]))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), spans), max_size=40)


def members(ranges: IdRanges) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(steps, spans, ids)
def test_ranges_hold_what_a_set_would(
    changes: list[tuple[str, tuple[int, int]]], span: tuple[int, int], at: int
) -> None:
    ranges, plain = IdRanges(), set[int]()
    for change, (first, last) in changes:
        touched = set(range(first, last + 1))
        if change == "add":
            ranges.add(first, last)
            plain |= touched
        else:
            assert ranges.remove(first, last) == len(plain & touched)
            plain -= touched

    found = list(ranges)
    assert members(ranges) == plain
    assert ranges.count == len(plain)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))
    assert (at in ranges) == (at in plain)
    assert ranges.next(at) == min((number for number in plain if number >= at), default=None)
    assert members(IdRanges(ranges.within(*span))) == plain & set(range(span[0], span[1] + 1))
    if plain:
        assert (ranges.first, ranges.last) == (min(plain), max(plain))


@given(st.lists(spans, max_size=30), st.integers(1, 5))
def test_coalescing_keeps_every_id_and_the_bound(held: list[tuple[int, int]], most: int) -> None:
    ranges = IdRanges(held)
    before = members(ranges)

    ranges.coalesce(most)

    assert len(ranges) <= most
    assert before <= members(ranges)
    assert ranges.count == len(members(ranges))


def test_coalescing_joins_what_lies_nearest() -> None:
    ranges = IdRanges([(1, 2), (10, 11), (13, 14), (30, 30)])

    ranges.coalesce(3)

    assert list(ranges) == [(1, 2), (10, 14), (30, 30)]
