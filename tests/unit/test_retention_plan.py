"""What retention keeps, and how long chunks should be."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.retention import plan
from api.retention.plan import SPANS, Chunk, Growth, Share
from pulsestream.core.settings import Settings

NOW = datetime(2026, 1, 31, tzinfo=UTC)
DAY = timedelta(days=1)
MEBIBYTE = 1024 * 1024
KEPT = {"free": 30 * DAY, "pro": 365 * DAY, "enterprise": None}
CUTOFFS = plan.cutoffs({"acme": "free", "beta": "pro", "corp": "enterprise"}, KEPT, NOW)


def chunk(age: int) -> Chunk:
    """A chunk of a day that ends `age` days ago."""
    return Chunk("c", NOW - (age + 1) * DAY, NOW - age * DAY, 1)


def share(tenant: str, age: int = 400) -> Share:
    return Share(tenant, 1, NOW - age * DAY)


def growth(octets_a_second: float, span: timedelta = DAY, elapsed: timedelta = timedelta(hours=2)) -> Growth:
    return Growth("ticks", span, int(octets_a_second * elapsed.total_seconds()), elapsed)


def test_periods_are_those_of_the_settings_and_none_means_for_ever() -> None:
    assert plan.periods(Settings(retention_days_pro=90)) == {"free": 30 * DAY, "pro": 90 * DAY, "enterprise": None}


def test_ids_of_events_are_kept_for_as_long_as_one_can_come_again() -> None:
    assert plan.ids_kept(Settings(retention_hours=48, dead_letter_days=1)) == 3 * DAY
    assert plan.ids_kept(Settings(retention_hours=48, dead_letter_days=30)) == 31 * DAY


@pytest.mark.parametrize(
    ("age", "shares", "over"),
    [
        (30, [share("acme")], True),
        (29, [share("acme")], False),
        (30, [share("acme"), share("beta")], False),
        (365, [share("acme"), share("beta")], True),
        (4000, [share("corp")], False),
        (4000, [share("nobody")], False),
        (30, [share("acme", age=31)], True),
        (30, [share("acme", age=30)], False),
        (4000, [share("acme", age=29)], False),
        (4000, [], True),
    ],
    ids=str,
)
def test_a_chunk_is_over_when_nobody_needs_any_of_it(age: int, shares: list[Share], over: bool) -> None:  # noqa: FBT001
    assert plan.is_over(chunk(age), shares, CUTOFFS) is over


@given(st.integers(0, 500), st.lists(st.builds(share, st.sampled_from(["acme", "beta", "corp"]), st.integers(0, 500))))
def test_a_chunk_that_somebody_would_need_is_not_over(age: int, shares: list[Share]) -> None:
    needing = plan.needing(chunk(age), CUTOFFS)

    if any(each.tenant in needing for each in shares):
        assert not plan.is_over(chunk(age), shares, CUTOFFS)


def test_chunks_are_as_long_as_their_indexes_fit_into_memory_together() -> None:
    memory = 512 * MEBIBYTE
    a_day = memory / DAY.total_seconds()

    assert plan.fitting_span([growth(a_day)], memory, {}) == DAY
    assert plan.fitting_span([growth(a_day), growth(a_day)], memory, {}) == timedelta(hours=12)
    assert plan.fitting_span([growth(1_000 * a_day)], memory, {}) == SPANS[0]
    assert plan.fitting_span([growth(1, span=SPANS[-1])], memory, {}) == SPANS[-1]


def test_chunks_grow_only_when_there_is_room_for_more() -> None:
    memory = 512 * MEBIBYTE
    rate = memory / DAY.total_seconds()
    short = timedelta(hours=12)

    assert plan.fitting_span([growth(rate, span=short)], memory, {}) == short
    assert plan.fitting_span([growth(rate / 1.6, span=short)], memory, {}) == DAY


def test_chunks_are_at_most_a_tenth_of_the_shortest_period() -> None:
    assert plan.fitting_span([growth(1)], 512 * MEBIBYTE, KEPT) == 3 * DAY
    assert plan.fitting_span([growth(1)], 512 * MEBIBYTE, {"free": 5 * DAY}) == timedelta(hours=12)


def test_a_rate_is_not_believed_before_a_chunk_has_grown_for_a_while() -> None:
    assert plan.fitting_span([growth(1e6, elapsed=timedelta(minutes=9))], MEBIBYTE, KEPT) is None
    assert plan.fitting_span([], MEBIBYTE, KEPT) is None
