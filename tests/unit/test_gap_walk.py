"""A walk over a gap against exchanges that page in different ways and lack different ids."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.gap_walk import GapWalk, Question
from producers.id_ranges import IdRanges
from schemas.records import Trade
from tests.support.trading import make_trade

PAGE = 10
Ask = Callable[[list[int], Question], list[int]]


def window_below(have: list[int], question: Question) -> list[int]:
    """Coinbase: the newest page below an id."""
    return [number for number in have if number < question.from_id + PAGE][-PAGE:]


def from_id(have: list[int], question: Question) -> list[int]:
    """Binance: the page from an id on, or from the next one that there is."""
    return [number for number in have if number >= question.from_id][:PAGE]


def from_time(have: list[int], question: Question) -> list[int]:
    """Kraken: the page from a time on."""
    return [number for number in have if number * 1_000 >= question.since][:PAGE]


def walk(ask: Ask, have: list[int], first: int, last: int) -> tuple[set[int], GapWalk, int]:
    """Walk over the gap; returns the ids that were found, the walk, and the number of questions."""
    walked, missing, found = GapWalk(first, last, (first - 1) * 1_000, PAGE), IdRanges([(first, last)]), set[int]()
    for count in range(10_000):
        question = walked.next(missing)
        if question is None:
            return found, walked, count
        page: list[Trade] = [make_trade("B", number, 0) for number in ask(have, question)]
        walked.answered(page)
        for trade in page:
            if missing.remove(trade.trade_id, trade.trade_id):
                found.add(trade.trade_id)
    raise AssertionError("the walk does not end")


@pytest.mark.parametrize("ask", [window_below, from_id, from_time])
@given(spans=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), max_size=6))
def test_a_walk_ends_and_calls_nothing_absent_that_it_was_given(ask: Ask, spans: list[tuple[int, int]]) -> None:
    have = sorted({number for first, size in spans for number in range(first, first + size)})

    found, walked, _ = walk(ask, have, 100, 250)

    assert found <= set(have)
    for number in found:
        assert number not in walked.absent
    assert all(number in found or number in walked.absent for number in range(100, 251))


@pytest.mark.parametrize("ask", [window_below, from_id, from_time])
@given(low=st.integers(1, 300), size=st.integers(0, 300), lone=st.sets(st.integers(100, 250), max_size=8))
def test_a_history_with_two_ends_and_lone_holes_is_found_whole(ask: Ask, low: int, size: int, lone: set[int]) -> None:
    have = [number for number in range(low, low + size) if number not in lone]

    found, _, _ = walk(ask, have, 100, 250)

    assert found == set(have) & set(range(100, 251))


def test_a_long_stretch_that_never_existed_costs_few_questions() -> None:
    _, walked, count = walk(window_below, list(range(1, 100)), 100, 10_000_000)

    assert count < 60
    assert walked.absent.count == 10_000_000 - 99


def test_what_begins_late_in_a_gap_is_found() -> None:
    have = list(range(900_000, 900_100))

    found, _, count = walk(window_below, have, 100, 1_000_000)

    assert found == set(have)
    assert count < 300


def test_pages_by_time_are_walked_up_to_a_gap_whose_last_trade_before_is_long_ago() -> None:
    walked, missing = GapWalk(200, 210, 100_000, PAGE), IdRanges([(200, 210)])
    questions = 0
    while (question := walked.next(missing)) is not None:
        page = from_time(list(range(1, 400)), question)
        walked.answered([make_trade("B", number, 0) for number in page])
        missing.remove(page[0], page[-1])
        questions += 1

    assert missing.count == 0
    assert walked.absent.count == 0
    assert questions < 20


def test_pages_by_time_are_asked_from_the_last_trade_seen() -> None:
    walked = GapWalk(100, 150, 99_000, PAGE)
    missing = IdRanges([(100, 150)])

    first = walked.next(missing)
    walked.answered([make_trade("B", number, 0) for number in range(99, 109)])
    missing.remove(100, 108)
    second = walked.next(missing)

    assert (first, second) == (Question(100, 99_000), Question(109, 108_000))
