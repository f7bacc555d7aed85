"""What the exchanges' languages share: numbers that may be missing, and texts fit to be shown."""

import pytest

from producers.venues.parsing import price, shown, size


@pytest.mark.parametrize(("said", "as_price", "as_size"), [(1.5, 1.5, 1.5), (0.0, None, 0.0), ("", None, None)])
def test_zero_is_a_size_but_no_price(said: float, as_price: float | None, as_size: float | None) -> None:
    assert (price(said), size(said)) == (as_price, as_size)


def test_what_is_shown_is_short_and_can_be_written() -> None:
    assert shown("\ud800" + "x" * 1_000).encode() == b"\\ud800" + b"x" * 199
