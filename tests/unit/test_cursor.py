"""Search cursors: sealed, and bound to tenant and search."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursor import CursorError, CursorSeal, Position

SEAL = CursorSeal({1: b"pepper of the tests"})
POSITIONS = st.builds(Position, st.integers(-(2**60), 2**60), st.sampled_from(["ticks", "events"]), st.text())
SEARCHES = st.lists(st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(), max_size=5)


@given(POSITIONS, SEARCHES)
def test_a_cursor_gives_back_the_position_it_was_made_from(position: Position, search: list[object]) -> None:
    assert SEAL.open(SEAL.seal(position, "acme", search), "acme", search) == position


@given(POSITIONS, SEARCHES, SEARCHES)
def test_a_cursor_is_refused_by_any_other_search(position: Position, search: list[object], other: list[object]) -> None:
    cursor = SEAL.seal(position, "acme", search)

    if other != search:
        with pytest.raises(CursorError, match="other filters"):
            SEAL.open(cursor, "acme", other)


@given(POSITIONS, st.data())
def test_a_cursor_with_one_changed_character_is_refused(position: Position, data: st.DataObject) -> None:
    cursor = SEAL.seal(position, "acme", [])
    place = data.draw(st.integers(0, len(cursor) - 1))
    wrong = data.draw(st.characters(max_codepoint=0x7F).filter(lambda character: character != cursor[place]))

    with pytest.raises(CursorError):
        SEAL.open(cursor[:place] + wrong + cursor[place + 1 :], "acme", [])


@given(st.text())
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        SEAL.open(text, "acme", [])


def test_a_cursor_is_refused_for_another_tenant() -> None:
    cursor = SEAL.seal(Position(1, "ticks", "a"), "acme", [])

    with pytest.raises(CursorError, match="for this tenant"):
        SEAL.open(cursor, "acme2", [])


def test_a_cursor_of_another_installation_is_refused() -> None:
    cursor = CursorSeal({1: b"another pepper"}).seal(Position(1, "ticks", "a"), "acme", [])

    with pytest.raises(CursorError):
        SEAL.open(cursor, "acme", [])


def test_a_cursor_made_before_a_restart_is_taken_after_it() -> None:
    position = Position(1_618_677_817_056_746, "ticks", "coinbase:BTC-USD:1")
    cursor = SEAL.seal(position, "acme", ["ticks"])

    assert CursorSeal({1: b"pepper of the tests"}).open(cursor, "acme", ["ticks"]) == position
