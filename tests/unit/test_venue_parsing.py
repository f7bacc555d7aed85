"""What the exchanges' languages share: the quick reading of times equals the plain one, for any text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producers.venues.parsing import price, rfc3339, shown, size
from pulsestream.core.clock import format_rfc3339, parse_rfc3339


def read(parse: object, text: str) -> int | str:
    try:
        return parse(text)  # type: ignore[operator,no-any-return]  # both are functions of a text
    except (ValueError, OverflowError) as error:
        return type(error).__name__


@given(st.integers(-(2**55), 2**57).map(format_rfc3339))
@example("2021-04-17T16:43:30.244075Z")
def test_a_time_of_six_digits_is_read_as_the_plain_parser_reads_it(text: str) -> None:
    assert rfc3339(text) == parse_rfc3339(text)


@given(
    st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}[.,][-+_ 0-9\u0660-\u0669]{6}[Zz+]", fullmatch=True
    )
)
@example("2021-04-17T16:43:30.+44075Z")
@example("2021-04-17T16:43:30.2_4075Z")
@example("2021-04-17T16:43:30.24407٣Z")
@example("2021-04-17T16:43:30,244075Z")
@example("2021-04-17T16:43:30.244075z")
def test_a_text_that_looks_like_a_time_is_read_or_refused_as_by_the_plain_parser(text: str) -> None:
    assert read(rfc3339, text) == read(parse_rfc3339, text)


@given(st.text(max_size=30) | st.text("0123456789-:.TZ+", max_size=30))
@example("")
@example("2021-04-17T16:43:30Z")
@example("2021-04-17T16:43:30.24Z")
@example("2021-04-17T16:43:30.123456789Z")
@example("2021-04-17T18:43:30.244075+02:00")
@example("2021-W15-6T16:43:30.244075Z")
@example("2021-04-17T24:00:00.000000Z")
def test_any_text_is_read_or_refused_as_by_the_plain_parser(text: str) -> None:
    assert read(rfc3339, text) == read(parse_rfc3339, text)


@pytest.mark.parametrize(("said", "as_price", "as_size"), [(1.5, 1.5, 1.5), (0.0, None, 0.0), ("", None, None)])
def test_zero_is_a_size_but_no_price(said: float, as_price: float | None, as_size: float | None) -> None:
    assert (price(said), size(said)) == (as_price, as_size)


def test_what_is_shown_is_short_and_can_be_written() -> None:
    assert shown("\ud800" + "x" * 1_000).encode() == b"\\ud800" + b"x" * 199
