"""The race of the streams benchmark: windows are compared with a plain loop's, and only whole turns count."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers.backlog import CHUNK, encoded
from benchmarks.peers.job import SECOND, add, begin, closed
from benchmarks.peers.lane_panes import Fold, Ticks
from benchmarks.peers.race import Mark, Span, Windows, chosen
from benchmarks.peers.ticks import (
    BEGIN,
    PER_SECOND,
    PRODUCTS,
    Closed,
    Oracle,
    WindowKey,
    differences,
    facts,
    plain_windows,
    tick,
    ticks_before,
)
from schemas.codec import codec
from schemas.records import Tick

_MINUTES = 2
_UNTIL = BEGIN + _MINUTES * 60 * SECOND


def _columns(first: int, stop: int) -> Ticks:
    told = [facts(number) for number in range(first, stop)]
    return Ticks(
        list(PRODUCTS),
        np.array([PRODUCTS.index(one.product) for one in told], np.int64),
        np.array([one.time for one in told], np.int64),
        np.array([one.price for one in told]),
        np.array([one.size for one in told]),
    )


def _read(record: bytes) -> tuple[WindowKey, Closed]:
    said = json.loads(record)
    return (said.pop("product"), said.pop("start")), Closed(**said)


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.lists(st.integers(1, _MINUTES * 60 * PER_SECOND - 1), max_size=6, unique=True),
    step=st.sampled_from([10, 20, 30, 60]),
)
def test_windows_folded_by_columns_are_those_of_a_plain_loop_however_batched(cuts: list[int], step: int) -> None:
    beyond = ticks_before(_UNTIL) + len(PRODUCTS)
    bounds = [0, *sorted(cuts), beyond]
    fold, records = Fold(60, step), []

    for first, stop in pairwise(bounds):
        records += [record for _, record in fold.take(_columns(first, stop))]
        continued = Fold(60, step)
        continued.restore({**_whole_state(fold), **fold.cut()})
        fold = continued

    found = dict(map(_read, records))
    assert len(found) == len(records)
    assert differences(found, plain_windows(60, step, _UNTIL)) == []


def _whole_state(fold: Fold) -> dict[str, bytes]:
    every = Fold(fold.size, fold.step, fold.panes, set(fold.panes))
    return every.cut()


def test_a_tick_of_a_closed_window_is_dropped() -> None:
    fold = Fold(60, 60)
    fold.take(_columns(0, 20_000))
    before = fold.cut()

    assert before
    assert fold.take(_columns(0, 1)) == []
    assert fold.cut() == {}


def test_the_functions_that_other_peers_fold_with_make_the_same_windows() -> None:
    windows: dict[WindowKey, list[object]] = {}
    for number in range(ticks_before(_UNTIL)):
        told = facts(number)
        tick = {"price": told.price, "size": told.size}
        key = told.product, told.time - told.time % (60 * SECOND)
        windows[key] = add(windows[key], tick) if key in windows else begin(tick)

    found = dict(_read(closed(product, start, window)) for (product, start), window in windows.items())

    assert differences(found, plain_windows(60, 60, _UNTIL)) == []


def test_the_oracle_of_slices_is_the_plain_loop() -> None:
    oracle = Oracle()

    assert oracle.windows(60, 10, BEGIN + 60 * SECOND) == plain_windows(60, 10, BEGIN + 60 * SECOND)
    assert oracle.windows(60, 60, _UNTIL) == plain_windows(60, 60, _UNTIL)


def test_a_window_that_is_missing_different_unexpected_or_told_twice_spoils_a_turn() -> None:
    expected = plain_windows(60, 60, BEGIN + 60 * SECOND)
    until = BEGIN + 60 * SECOND
    key = PRODUCTS[0], BEGIN

    for told in (
        {name: window for name, window in expected.items() if name != key},
        {**expected, key: replace(expected[key], close=0.0)},
        {**expected, ("another", BEGIN): expected[key]},
    ):
        assert len(_taken(told).faults(Oracle(), 60, until)) == 1
    twice = _taken(expected)
    twice.take(key, expected[key], 0.0, lambda: 0.0)
    assert twice.faults(Oracle(), 60, until) == [f"{key}: twice"]
    assert _taken(expected).faults(Oracle(), 60, until) == []


def _taken(told: dict[WindowKey, Closed]) -> Windows:
    windows = Windows(60)
    for key, window in told.items():
        windows.take(key, window, 0.0, lambda: 0.0)
    return windows


def test_a_turn_counts_from_the_first_mark_after_the_warm_up_for_its_seconds_or_records() -> None:
    marks = [Mark(BEGIN + minute * 60 * SECOND, 10.0 + minute, 0.0) for minute in range(20)]
    minute = 60 * PER_SECOND

    by_time = chosen(marks, Span(3.0, 5.0, 10**9), whole=False)
    by_records = chosen(marks, Span(3.0, 1000.0, 2 * minute), whole=False)

    assert by_time == (marks[3], marks[8])
    assert by_records == (marks[3], marks[5])
    assert chosen(marks, Span(3.0, 1000.0, 10**9), whole=False) is None
    assert chosen(marks, Span(3.0, 1000.0, 10**9), whole=True) == (marks[3], marks[19])
    assert chosen(marks, Span(100.0, 5.0, 10**9), whole=True) is None


def test_a_count_that_is_not_told_is_not_compared() -> None:
    expected = plain_windows(60, 60, BEGIN + 60 * SECOND)

    assert differences({key: replace(window, count=None) for key, window in expected.items()}, expected) == []


def test_the_backlog_is_the_ticks_in_the_codecs_own_bytes() -> None:
    count = CHUNK + 777

    written = list(encoded(count))

    assert len(written) == count
    for number in (*range(100), *range(CHUNK - 50, CHUNK + 50), count - 1):
        whole = tick(number)
        assert written[number] == (whole.product.encode(), codec(Tick).encode(whole))
