"""What channels take for an address: nothing that the notifier could not use afterwards."""

from email.headerregistry import Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.channels.targets import EmailTarget

LETTERS = st.text("ab.-_+'@ <>\r\n\0é", max_size=20)


@given(LETTERS, LETTERS)
def test_an_address_that_is_taken_can_stand_in_a_header(local: str, host: str) -> None:
    text = f"{local}@{host}"
    try:
        target = EmailTarget(kind="email", to=[text])
    except ValidationError:
        return
    assert Address(addr_spec=target.to[0]).addr_spec == text


@pytest.mark.parametrize("text", ["desk@example.com", "o'neil+a.b@x-y.example", "a@localhost"])
def test_plain_addresses_are_taken(text: str) -> None:
    assert EmailTarget(kind="email", to=[text]).to == [text]


@pytest.mark.parametrize("text", ["a..b@x.y", ".a@x", "a.@x", "a@x..y", "a@x-.y", "a@-x", "a@", "@x", "a b@x", "a@x\n"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        EmailTarget(kind="email", to=[text])
