"""What conditions over windows see of a series, against panes made of the raw records each time."""

from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.engine.fold import KeyState, fold, new_state
from streams.engine.inputs import Row
from streams.engine.lines import lines
from streams.engine.series import SeriesFold
from streams.engine.statistics import Subject
from tests.support.ticking import START, Run, inputs, rows, streams, tick

LENGTHS = st.sampled_from([60, 300, 900, 3_600, 86_400])


def view_of(state: KeyState) -> SeriesFold:
    subject = Subject(state.exchange, state.product, state.basis, state.topic_id, state.partition)
    return SeriesFold(state.series, subject, lines(prices=True, quotes=True))


def taken(records: Sequence[Row]) -> list[Row]:
    """Return the records that statistics take: each id once, none further behind than the grace; by time."""
    watermark, known, kept = 0, set[int | bytes](), list[Row]()
    for row in records:
        if row.time >= watermark - 10_000_000 and row.identity not in known:
            known.add(row.identity)
            kept.append(row)
            watermark = max(watermark, row.time)
    return sorted(kept, key=lambda row: (row.time, row.offset))


def panes(records: Sequence[Row], step: int) -> dict[int, list[Row]]:
    """Return records, ordered by time, by the second at which their pane of so many seconds begins."""
    return {start: list(held) for start, held in groupby(records, lambda row: row.time // 1_000_000 // step * step)}


@settings(max_examples=60)
@given(streams(), LENGTHS, st.integers(0, 90))
def test_windows_hold_the_panes_of_their_records(drawn: list, length: int, back: int) -> None:  # type: ignore[type-arg]
    records = rows(drawn)
    state = fold(new_state("coinbase", "BTC-USD"), records, ()).state
    step = 1 if length <= 900 else 60
    at = (state.watermark // 1_000_000 // step - back // step) * step

    found = view_of(state).rows(length, at)

    expected = {s: held for s, held in panes(taken(records), step).items() if at - length <= s < at}
    assert found.second.tolist() == list(expected)
    assert found.count.tolist() == [len(held) for held in expected.values()]
    assert found.open.tolist() == [held[0].price for held in expected.values()]
    assert found.close.tolist() == [held[-1].price for held in expected.values()]
    assert found.high.tolist() == [max(row.price for row in held) for held in expected.values()]
    assert found.low.tolist() == [min(row.price for row in held) for held in expected.values()]
    for column, amounts in (
        (found.volume, [[row.size or 0.0 for row in held] for held in expected.values()]),
        (found.buy_volume, [[(row.size or 0.0) * row.buy for row in held] for held in expected.values()]),
        (found.quote_volume, [[(row.size or 0.0) * row.price for row in held] for held in expected.values()]),
    ):
        assert column.tolist() == pytest.approx([sum(each) for each in amounts], rel=1e-12)


@settings(max_examples=60)
@given(streams(), LENGTHS, st.integers(0, 1_000), st.integers(0, 1_000))
def test_instants_are_when_panes_close_and_when_they_leave(
    drawn: list,
    length: int,
    early: int,
    span: int,  # type: ignore[type-arg]
) -> None:
    records = rows(drawn)
    state = fold(new_state("coinbase", "BTC-USD"), records, ()).state
    after = state.watermark // 1_000_000 - early
    step = 1 if length <= 900 else 60

    found = view_of(state).instants(length, after, after + span)

    kept = list(panes(taken(records), step))
    times = {start + step for start in kept} | {start + length + step for start in kept}
    reachable = {at for at in times if after < at <= after + span}
    if length <= 900:  # what left a window before the watermark's grace may be forgotten
        reachable = {at for at in reachable if at > state.watermark // 1_000_000 - 10}
        found = [at for at in found if at > state.watermark // 1_000_000 - 10]
    assert found == sorted(reachable)


@settings(max_examples=60)
@given(streams(), st.integers(0, 900))
def test_the_reference_is_the_last_price_before(drawn: list, back: int) -> None:  # type: ignore[type-arg]
    records = rows(drawn)
    state = fold(new_state("coinbase", "BTC-USD"), records, ()).state
    second = state.watermark // 1_000_000 - back

    before = [row.price for row in taken(records) if row.time < second * 1_000_000]

    assert view_of(state).reference(second) == (before[-1] if before else None)


def test_a_source_without_records_has_no_reference() -> None:
    assert view_of(new_state("coinbase", "BTC-USD")).reference(START) is None


def test_a_price_after_a_second_is_no_reference_before_it_however_panes_were_condensed() -> None:
    first = 239  # the last second of a minute, which is condensed when the watermark is 70 s further
    state = fold(new_state("coinbase", "BTC-USD"), rows(inputs([tick(first, 100.0, 1), tick(330, 99.0, 2)])), ()).state

    assert view_of(state).reference(START + first - 9) is None
    assert view_of(state).reference(START + first + 1) == 100.0


def test_panes_reach_back_over_a_window_and_the_baseline_before_it() -> None:
    run = Run()
    for start in range(0, 2_000, 100):
        run.fold(inputs([tick(second, 10.0, second) for second in range(start, start + 100)], first_offset=start))
    at = run.state.watermark // 1_000_000

    assert len(view_of(run.state).rows(900, at - 300)) == 900
