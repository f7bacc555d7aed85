"""Idempotency keys: how they are read, and the ids that come of them."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Problem
from api.ingestion.idempotency import MAX_KEY, derived_ids, parse_key

USED = 1_618_677_817_056_746


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b' "a b" ', "a b"),
        (rb'"a\"b\\c"', r'a"b\c'),
        (b'"%s"' % (b"x" * MAX_KEY), "x" * MAX_KEY),
    ],
)
def test_a_key_is_read_with_and_without_quotes(value: bytes, key: str) -> None:
    assert parse_key(value) == key


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'""',
        b"x" * (MAX_KEY + 1),
        b'"a',
        b'a"',
        b'"a", "b"',
        b"a b",
        b"a,b",
        b"\xe9",
        b'"\xe9"',
        b'"a\\b"',
        b'"\t"',
    ],
)
def test_what_is_no_key_is_400_and_names_the_header(value: bytes) -> None:
    with pytest.raises(Problem) as raised:
        parse_key(value)

    assert (raised.value.status, raised.value.errors[0].pointer) == (400, "Idempotency-Key")


@given(st.text(), st.text(max_size=50), st.integers(0, 999))
def test_the_same_use_of_a_key_makes_the_same_ids_again(tenant: str, key: str, number: int) -> None:
    made = derived_ids(tenant, key, USED)(number)

    assert derived_ids(tenant, key, USED)(number) == made
    assert (uuid.UUID(made).version, uuid.UUID(made).variant, str(uuid.UUID(made))) == (8, uuid.RFC_4122, made)


def test_another_tenant_key_use_or_place_makes_other_ids() -> None:
    uses = [
        ("acme", "k", USED),
        ("beta", "k", USED),
        ("acme", "l", USED),
        ("acme", "k", USED + 1),
        ("acme", "k1", USED),
    ]

    made = [derived_ids(*use)(number) for use in uses for number in (0, 1, 10)]

    assert len(set(made)) == len(made)
