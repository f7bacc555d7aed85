"""Refusals of known keys: every one is counted, and the rows that tell of them are bounded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from api.audit import refusals
from api.audit.refusals import KINDS, OF_ALL, OF_TENANT, QUIET, Refusals
from api.errors import Denial


def denial(key_id: str = "k", tenant: str = "acme", permission: str = "rules:write", reason: str = "role") -> Denial:
    return Denial(tenant, key_id, "viewer", permission, reason)


def test_the_first_refusal_is_told_at_once_and_the_next_ones_together_after_a_minute() -> None:
    held = Refusals()

    held.add(denial(), "r-1")
    first = held.take(1000.0)
    for number in range(2, 6):
        held.add(denial(), f"r-{number}")
    soon, later = held.take(1000.0 + QUIET - 1), held.take(1000.0 + QUIET)

    assert [(row.times, row.request_id) for row in first] == [(1, "r-1")]
    assert soon == []
    assert [(row.times, row.request_id) for row in later] == [(4, "r-5")]


def test_another_key_permission_or_reason_is_told_by_itself() -> None:
    held = Refusals()
    kinds = [denial(), denial(key_id="k2"), denial(permission="audit:read"), denial(reason="key revoked")]

    for kind in kinds:
        held.add(kind, "r")

    assert [row.denial for row in held.take(0.0)] == kinds


def test_a_tenant_has_so_many_rows_a_minute_and_the_rest_in_the_next_one() -> None:
    held = Refusals()
    for number in range(OF_TENANT + 5):
        held.add(denial(key_id=f"k{number}"), "r")
    held.add(denial(tenant="other"), "r")

    first, second, next_minute = held.take(QUIET), held.take(QUIET + 1), held.take(2 * QUIET)

    assert Counter(row.denial.tenant for row in first) == {"acme": OF_TENANT, "other": 1}
    assert second == []
    assert len(next_minute) == 5


def test_all_tenants_have_so_many_rows_a_minute() -> None:
    held = Refusals()
    for number in range(OF_ALL + 1):
        held.add(denial(tenant=f"t{number}"), "r")

    assert (len(held.take(QUIET)), len(held.take(2 * QUIET))) == (OF_ALL, 1)


def test_there_is_room_for_so_many_kinds_and_for_new_ones_when_old_ones_are_told() -> None:
    held = Refusals()
    fit = [held.add(denial(key_id=f"k{number}"), "r") for number in range(KINDS + 1)]

    assert fit.count(False) == 1
    assert held.add(denial(key_id="k0"), "r"), "a kind that is there is counted on"
    held.take(0.0, everything=True)
    held.take(QUIET)
    assert held.add(denial(key_id="fresh"), "r")


def test_what_could_not_be_told_is_due_again() -> None:
    held = Refusals()
    held.add(denial(), "r-1")
    (row,) = held.take(0.0)
    held.add(denial(), "r-2")

    held.put_back(row)

    assert [row.times for row in held.take(1.0)] == [2]


STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from([0.0, 0.5, 20.0, 61.0])), max_size=60
)


@given(STEPS)
def test_whatever_comes_when_the_rows_count_every_refusal_and_no_kind_has_two_in_a_minute(
    steps: list[tuple[str, str, float]],
) -> None:
    held, now = Refusals(), 0.0
    came: Counter[Denial] = Counter()
    told: Counter[Denial] = Counter()
    last: dict[Denial, float] = {}
    for tenant, key_id, passes in steps:
        kind = denial(key_id, tenant)
        held.add(kind, "r")
        came[kind] += 1
        now += passes
        for row in held.take(now):
            assert row.times > 0
            assert now - last.get(row.denial, -QUIET) >= QUIET
            last[row.denial] = now
            told[row.denial] += row.times

    for row in held.take(now, everything=True):
        told[row.denial] += row.times

    assert told == came
    assert held.take(now, everything=True) == []


def test_the_bounds_are_those_that_the_documentation_gives() -> None:
    assert (refusals.QUIET, refusals.OF_TENANT, refusals.OF_ALL, refusals.KINDS) == (60.0, 60, 600, 10_000)
