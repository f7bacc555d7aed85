"""The chain of the audit: whatever is done to its rows or its head shows, and the first bad row is named."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from api.audit.chain import BrokenChainError, Head, Place, Row, held_against, sealed, verified, verify_end
from api.audit.entry import without_secrets
from api.keys import generate
from pulsestream.core.clock import format_rfc3339, to_datetime

TENANT = "acme"
NOW = 1_618_677_817_056_746
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["rule.create", "rule.delete", "access.denied"]),
        st.sampled_from([None, "03kV8sLq2ZxYb", "7aB"]),
        st.text(max_size=5),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


def chain(changes: Sequence[tuple[str, str | None, str, int]]) -> list[Row]:
    """Return the rows that a database would have made of these changes."""
    rows: list[Row] = []
    place, at = Place(), NOW
    for seq, (action, actor, target, later) in enumerate(changes, 1):
        at += later
        members = {"tenant": TENANT, "seq": seq, "at": format_rfc3339(at), "action": action, "target": target}
        entry = json.dumps(members | {"actor": {"id": actor, "role": "owner"}, "after": {"n": later}})
        place = Place(seq, sealed(place.hash, entry))
        rows.append(Row(TENANT, seq, to_datetime(at), action, actor, target, entry, place.hash))
    return rows


def head_of(rows: Sequence[Row]) -> Head:
    place = Place(rows[-1].seq, rows[-1].hash) if rows else Place()
    return Head(place, place.seq)


def fault(rows: Iterable[Row], head: Head, tenant: str = TENANT) -> int | None:
    """Return the number of the first bad row, None where the chain is whole."""
    try:
        verify_end(verified(tenant, Place(), rows), head)
    except BrokenChainError as error:
        return error.seq
    return None


def sealed_again(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with every hash computed anew, and numbers as they stand."""
    made: list[Row] = []
    for row in rows:
        made.append(replace(row, hash=sealed(made[-1].hash if made else bytes(32), row.entry)))
    return made


def another(row: Row, name: str, text: str) -> Row:
    """Return the row with another value in one column."""
    value = getattr(row, name)
    made: Any = text
    if isinstance(value, int):
        made = value + len(text) + 1
    elif isinstance(value, bytes):
        made = sealed(value, text)
    elif name == "at":
        made = value + timedelta(microseconds=len(text) + 1)
    assume(made != value)
    return replace(row, **{name: made})


@given(CHANGES)
def test_a_chain_that_nobody_touched_is_whole(changes: list[Any]) -> None:
    rows = chain(changes)

    assert fault(rows, head_of(rows)) is None


@given(CHANGES, st.data())
def test_a_chain_is_verified_in_parts_as_in_one(changes: list[Any], data: st.DataObject) -> None:
    rows = chain(changes)
    cut = data.draw(st.integers(0, len(rows)))

    reached = verified(TENANT, verified(TENANT, Place(), rows[:cut]), rows[cut:])

    assert reached == head_of(rows).place


@given(CHANGES, st.sampled_from([field.name for field in fields(Row)]), st.text(max_size=5), st.data())
def test_an_edit_of_any_column_shows_at_its_row(changes: list[Any], name: str, text: str, data: st.DataObject) -> None:
    rows = chain(changes)
    index = data.draw(st.integers(0, len(rows) - 1))
    edited = [*rows[:index], another(rows[index], name, text), *rows[index + 1 :]]

    assert fault(edited, head_of(rows)) == index + 1


@given(CHANGES, st.data())
def test_an_entry_that_is_written_anew_with_its_hash_shows_at_the_row_behind_or_at_the_head(
    changes: list[Any], data: st.DataObject
) -> None:
    rows = chain(changes)
    index = data.draw(st.integers(0, len(rows) - 1))
    row = rows[index]
    entry = row.entry.replace('"owner"', '"viewer"')
    before = rows[index - 1].hash if index else bytes(32)
    edited = [*rows[:index], replace(row, entry=entry, hash=sealed(before, entry)), *rows[index + 1 :]]

    assert fault(edited, head_of(rows)) == min(index + 2, len(rows))


@given(CHANGES, st.data())
def test_a_tail_that_is_written_anew_with_every_hash_shows_at_the_head(changes: list[Any], data: st.DataObject) -> None:
    rows = chain(changes)
    index = data.draw(st.integers(0, len(rows) - 1))
    forged = [replace(row, entry=row.entry.replace('"owner"', '"viewer"')) for row in rows[index:]]

    assert fault(sealed_again([*rows[:index], *forged]), head_of(rows)) == len(rows)


@given(CHANGES, st.data())
def test_rows_that_are_removed_show_at_the_first_of_them_also_at_the_end(
    changes: list[Any], data: st.DataObject
) -> None:
    rows = chain(changes)
    first = data.draw(st.integers(0, len(rows) - 1))
    last = data.draw(st.integers(first, len(rows) - 1))

    assert fault([*rows[:first], *rows[last + 1 :]], head_of(rows)) == first + 1


@given(CHANGES, st.data())
def test_rows_in_another_order_show_at_the_first_of_them(changes: list[Any], data: st.DataObject) -> None:
    rows = chain(changes)
    moved = data.draw(st.permutations(rows))
    assume(moved != rows)
    first = next(place for place, (one, other) in enumerate(zip(moved, rows, strict=True)) if one != other)
    renumbered = [replace(row, seq=row_there.seq) for row, row_there in zip(moved, rows, strict=True)]

    for shuffled in (moved, renumbered, sealed_again(renumbered)):
        assert fault(shuffled, head_of(rows)) == first + 1


@given(CHANGES, CHANGES, st.data())
def test_rows_that_are_put_in_between_show(changes: list[Any], more: list[Any], data: st.DataObject) -> None:
    rows = chain(changes)
    index = data.draw(st.integers(0, len(rows)))
    extra = [*rows[:index], *chain(more)[:1], *rows[index:]]
    numbered = [replace(row, seq=seq) for seq, row in enumerate(extra, 1)]

    assert fault(extra, replace(head_of(rows), last=len(extra))) is not None
    assert fault(numbered, replace(head_of(rows), last=len(extra))) is not None


def test_a_row_that_is_removed_shows_though_every_hash_and_the_head_were_made_to_fit() -> None:
    rows = chain([("rule.create", None, "x", 0)] * 4)
    forged = sealed_again([*rows[:1], *rows[2:]])

    assert fault(forged, head_of(forged)) == 2


@given(CHANGES, st.data())
def test_a_chain_that_was_made_anew_as_a_whole_shows_at_a_hash_that_was_kept(
    changes: list[Any], data: st.DataObject
) -> None:
    rows = chain(changes)
    index = data.draw(st.integers(0, len(rows) - 1))
    kept = {rows[place].seq: rows[place].hash.hex() for place in {index, len(rows) - 1}}
    edited = replace(rows[index], entry=rows[index].entry.replace('"owner"', '"viewer"'))
    forged = sealed_again([*rows[:index], edited, *rows[index + 1 :]])

    assert fault(forged, head_of(forged)) is None, "nothing in the chain itself tells"
    assert list(held_against(kept, rows)) == rows
    assert fault(held_against(kept, forged), head_of(forged)) == index + 1


def test_a_row_before_the_first_one_shows() -> None:
    rows = chain([("rule.create", None, "x", 0)])

    assert fault([replace(rows[0], seq=0), *rows], head_of(rows)) == 1


def test_a_row_behind_the_head_shows_though_it_continues_the_chain() -> None:
    rows = chain([("rule.create", None, "x", 0)] * 3)
    head = head_of(rows[:2])

    assert fault(rows[:2], replace(head, last=3)) == 3


def test_another_tenants_whole_chain_is_not_this_ones() -> None:
    rows = chain([("rule.create", None, "x", 0)])

    assert fault(rows, head_of(rows), tenant="other") == 1


@pytest.mark.parametrize("entry", ["", "[]", "null", "{", '"text"'])
def test_an_entry_that_is_no_json_object_is_a_fault_and_no_crash(entry: str) -> None:
    rows = sealed_again([replace(row, entry=entry) for row in chain([("rule.create", None, "x", 0)])])

    assert fault(rows, head_of(rows)) == 1


@given(st.text(max_size=10), st.text(max_size=10))
def test_a_key_in_what_is_audited_loses_its_secret_and_keeps_its_public_part(before: str, behind: str) -> None:
    key = generate()
    held = {"labels": {"desk": f"{before} {key.text} {behind}"}}

    told = without_secrets(held)

    assert key.secret not in told
    assert key.id in told
    assert json.loads(told)["labels"]["desk"].startswith(before)
