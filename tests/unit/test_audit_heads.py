"""Published ends of chains: which chains do not fit, and what is published of the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.audit.heads import PublishedHead, encode, misfits, newest, news


def head(tenant: str, seq: int, hash_: str = "") -> PublishedHead:
    return PublishedHead(tenant, seq, hash_ or f"{seq:064x}")


def by_tenant(*heads: PublishedHead) -> dict[str, PublishedHead]:
    return {each.tenant: each for each in heads}


@pytest.mark.parametrize(
    ("end", "held", "reason"),
    [
        (None, None, "the last one now is none"),
        (head("acme", 4), None, "the last one now is row 4"),
        (head("acme", 4), head("acme", 5).hash, "the last one now is row 4"),
        (head("acme", 5, "f" * 64), "f" * 64, "it was made anew"),
        (head("acme", 9), "f" * 64, "it was made anew"),
        (head("acme", 9), None, "is missing"),
    ],
)
def test_a_chain_that_lost_its_end_or_has_another_does_not_fit_and_is_not_covered(
    end: PublishedHead | None, held: str | None, reason: str
) -> None:
    published = by_tenant(head("acme", 5))
    ends = {} if end is None else by_tenant(end)

    [wrong] = misfits(published, ends, {"acme": held})

    assert reason in wrong.reason
    assert news(published, ends, [wrong]) == []


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=8))
def test_chains_that_grew_fit_and_what_is_new_is_published_once(grown: list[tuple[int, int]]) -> None:
    published = by_tenant(*(head(f"t{number}", seq) for number, (seq, _) in enumerate(grown)))
    ends = by_tenant(*(head(f"t{number}", seq + more) for number, (seq, more) in enumerate(grown)), head("new", 1))
    held = {tenant: each.hash for tenant, each in published.items()}

    wrong = list(misfits(published, ends, held))
    new = news(published, ends, wrong)

    assert wrong == []
    assert {each.tenant for each in new} == {f"t{number}" for number, (_, more) in enumerate(grown) if more} | {"new"}
    assert news(published | by_tenant(*new), ends, wrong) == []


def test_the_last_record_of_a_tenant_counts_and_a_removed_one_does_not() -> None:
    records = [
        ("acme", encode(head("acme", 1))),
        ("other", encode(head("other", 2))),
        ("gone", encode(head("gone", 4))),
    ]

    assert newest([*records, ("acme", encode(head("acme", 3))), ("gone", None)]) == by_tenant(
        head("acme", 3), head("other", 2)
    )


def test_a_record_that_is_no_end_is_told() -> None:
    with pytest.raises(ValueError, match="truncated"):
        newest([("acme", b"{")])
