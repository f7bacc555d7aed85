from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Stat
from streams.engine import fold as engine
from tests.support.oracle import (
    Sourced,
    assert_one_content_each,
    assert_stats_equal,
    final_stats,
    passing_stats,
)
from tests.support.ticking import SECOND, START, Run, folded, inputs, micros, rows, splits, streams, tick, unrevised

SLOW = settings(max_examples=50)


def emitted(run: Run, window: str = "1m", basis: str = "ticks") -> list[tuple[int, int]]:
    """Return (seconds after START, count) of each emission, in order."""
    chosen = [stat for stat in run.stats if (stat.window, stat.basis) == (window, basis)]
    return [(stat.at // SECOND - START, stat.count) for stat in chosen]


# ---- closing ----


def test_a_pane_closes_when_a_later_record_reaches_its_end() -> None:
    run = Run().fold(inputs([tick(0.5, 10.0), tick(0.999_999, 11.0)]))
    assert run.stats == []

    run.fold(inputs([tick(1.0, 12.0)], first_offset=2))

    assert emitted(run) == [(1, 2)]


def test_each_window_and_basis_emits_for_each_closed_pane() -> None:
    run = folded([tick(0.5, 10.0, best_bid=9.0, best_ask=11.0), tick(3.5, 10.0), tick(4.5, 10.0)])

    assert [(stat.at // SECOND - START, stat.basis, stat.window) for stat in run.stats] == [
        *[(1, "ticks", window) for window in ("1m", "5m", "15m")],
        *[(1, "quotes", window) for window in ("1m", "5m", "15m")],
        *[(4, "ticks", window) for window in ("1m", "5m", "15m")],
    ]


def test_hours_and_days_emit_at_whole_minutes() -> None:
    run = folded(
        [
            tick(0.5, 10.0),
            tick(19.5, 10.0),
            tick(20.5, 11.0),
            tick(90.0, 10.0),
            tick(3_700.0, 10.0),
            tick(3_750.0, 10.0),
        ]
    )

    # a whole minute is 20 s after START
    assert emitted(run, "1h") == [(20, 2), (80, 3), (140, 4), (3_740, 1)]
    assert emitted(run, "24h") == [(20, 2), (80, 3), (140, 4), (3_740, 5)]


def test_the_clock_closes_a_pane_two_seconds_past_its_end() -> None:
    run = folded([tick(0.5, 10.0)])

    assert run.advance(micros(3) - 1).stats == []
    assert emitted(run.advance(micros(3))) == [(1, 1)]
    assert emitted(run.advance(micros(3.5))) == [(1, 1)]


def test_a_window_that_becomes_empty_says_so_once() -> None:
    run = folded([tick(0.5, 10.0), tick(60.5, 10.0), tick(200.0, 10.0)])

    assert emitted(run) == [(1, 1), (61, 1), (121, 0)]
    assert emitted(run, "5m") == [(1, 1), (61, 2)]


def test_a_window_whose_next_record_comes_just_in_time_is_not_empty() -> None:
    assert emitted(folded([tick(0.5, 10.0), tick(60.0, 10.0), tick(61.0, 10.0)])) == [(1, 1), (61, 1)]
    assert emitted(folded([tick(0.5, 10.0), tick(61.0, 10.0), tick(62.0, 10.0)])) == [(1, 1), (61, 0), (62, 1)]


def test_the_clock_empties_windows_and_then_has_nothing_more_to_do() -> None:
    run = folded([tick(0.5, 10.0)])
    deadlines = []
    while (deadline := engine.next_deadline(run.state, ())) is not None:
        deadlines.append(deadline)
        run.advance(deadline)

    ends = [1, 20, 61, 200, 301, 901, 2_000, 3_620, 86_420]
    assert {micros(end + 2) for end in ends} <= set(deadlines)
    assert emitted(run) == [(1, 1), (61, 0)]
    assert emitted(run, "5m") == [(1, 1), (301, 0)]
    assert emitted(run, "24h") == [(20, 1), (86_420, 0)]


def test_the_clock_changes_nothing_before_the_deadline() -> None:
    run = folded([tick(0.5, 10.0)])
    before = run.state

    assert engine.advance(before, micros(2.9), ()).state is before
    assert engine.next_deadline(engine.new_state("coinbase", "BTC-USD"), ()) is None


# ---- lateness ----


def test_a_late_record_revises_every_statistic_after_it() -> None:
    run = folded([tick(0.5, 10.0, size=1.0), tick(5.5, 11.0, size=1.0), tick(9.0, 12.0, size=1.0)])

    run.fold(inputs([tick(3.5, 20.0, size=1.0)], first_offset=3))

    assert emitted(run) == [(1, 1), (6, 2), (4, 2), (6, 3)]
    assert [(s.at // SECOND - START, s.revision) for s in run.final.values() if s.window == "1m"] == [
        (1, 0),
        (6, 1),
        (4, 0),
    ]
    assert run.stat("1m", 6).high == 20.0
    assert run.stat("1m", 6).as_of.offset == 3
    assert run.stat("1m", 1).as_of.offset == 0


def test_a_record_ten_seconds_behind_is_taken_and_one_further_behind_is_dropped() -> None:
    run = folded([tick(0.5, 10.0), tick(20.0, 10.0), tick(10.0, 10.0), tick(9.999_999, 10.0)])

    assert run.counts == {"folded": 3, "duplicate": 0, "late": 1, "late_for_alerts": 1}
    assert run.stat("1m", 11).count == 2


def test_a_record_within_the_open_pane_revises_nothing() -> None:
    run = folded([tick(0.5, 10.0), tick(0.2, 11.0), tick(1.0, 12.0)])

    assert emitted(run) == [(1, 2)]
    assert run.stat("1m", 1).open == 11.0


def test_a_record_that_the_clock_was_ahead_of_revises_what_it_closed() -> None:
    run = folded([tick(0.5, 10.0)]).advance(micros(70))
    assert emitted(run) == [(1, 1), (61, 0)]

    run.fold(inputs([tick(0.7, 20.0), tick(30.5, 30.0)], first_offset=1))

    assert emitted(run) == [(1, 1), (61, 0), (1, 2), (31, 3), (61, 1)]
    assert run.stat("1m", 61).reference_price == 20.0
    assert (run.stat("1m", 61).revision, run.stat("1m", 61).as_of.offset) == (2, 2)


def test_a_record_that_the_clock_was_ahead_of_empties_its_window_again_where_none_follows() -> None:
    run = folded([tick(0.5, 10.0)]).advance(micros(100))

    run.fold(inputs([tick(30.5, 30.0)], first_offset=1))
    assert emitted(run) == [(1, 1), (61, 0), (31, 2), (61, 1), (91, 0)]

    # its own window, [21, 81), holds the record before it in offset order: nothing is empty at 81
    run.fold(inputs([tick(20.5, 20.0)], first_offset=2))
    assert emitted(run)[5:] == [(21, 2), (31, 3), (61, 2), (91, 0)]


def test_a_record_as_late_as_can_be_finds_the_whole_of_the_longest_window() -> None:
    ticks = [tick(n + 0.5, 10.0 + n % 7, size=1.0) for n in range(320)]
    run = Run()
    for number, each in enumerate([*ticks, tick(309.6, 20.0, size=1.0)]):
        run.fold(inputs([each], first_offset=number))

    stat = run.stat("5m", 310)

    assert (stat.revision, stat.count, stat.volume, stat.high) == (1, 301, 301.0, 20.0)
    assert stat.reference_price == 10.0 + 9 % 7
    assert_stats_equal(
        [stat], {stat.event_id: final_stats(sourced(inputs([*ticks, tick(309.6, 20.0, size=1.0)])))[stat.event_id]}
    )


def test_revisions_of_one_batch_are_emitted_once() -> None:
    run = folded([tick(0.5, 10.0), tick(5.0, 10.0)])

    run.fold(inputs([tick(0.6, 11.0), tick(0.7, 12.0), tick(0.8, 13.0)], first_offset=2))

    assert emitted(run) == [(1, 1), (1, 4)]
    assert run.stat("1m", 1).revision == 3


# ---- duplicates ----


def test_a_record_read_again_at_another_offset_is_skipped() -> None:
    ticks = [tick(0.5, 10.0, 100), tick(0.6, 11.0, 110), tick(5.5, 12.0, 120)]

    run = folded([*ticks, *ticks, tick(6.0, 13.0, 130)])

    assert run.counts["duplicate"] == 3
    assert run.stat("1m", 6).count == 3


def test_ids_survive_from_batch_to_batch_with_and_without_a_sequence() -> None:
    for ticks in ([tick(0.5, 10.0, 100), tick(0.6, 10.0, 90)], [tick(0.5, 10.0), tick(0.6, 10.0)]):
        run = Run().fold(inputs(ticks))

        run.fold(inputs(ticks, first_offset=2))

        assert run.counts == {"folded": 2, "duplicate": 2, "late": 0, "late_for_alerts": 0}


def test_a_lower_sequence_that_was_not_seen_is_no_duplicate() -> None:
    run = folded([tick(0.5, 10.0, 100), tick(0.6, 10.0, 50), tick(1.6, 10.0, 75)])

    assert run.counts["folded"] == 3


def test_a_repeated_record_beyond_the_grace_is_late() -> None:
    run = folded([tick(0.5, 10.0, 100), tick(20.0, 10.0, 110), tick(0.5, 10.0, 100)])

    assert (run.counts["late"], run.counts["duplicate"]) == (1, 0)


# ---- bounds ----


def test_memory_does_not_grow_with_the_length_of_a_life() -> None:
    run, sizes = Run(), []
    for start in range(0, 4_000, 100):
        records = [tick(start + n, 10.0, 10 * (start + n), best_bid=9.0, best_ask=11.0) for n in range(100)]
        run.fold(inputs(records, first_offset=start))
        series = run.state.series
        sizes.append((len(series.seconds) + len(series.tail), len(series.emitted), len(run.state.seen)))

    assert max(panes for panes, _, _ in sizes) <= 1_200 + 12 + 16
    assert max(lines for _, lines, _ in sizes) <= 12 * 16
    assert max(seconds for _, _, seconds in sizes) <= 12


def test_a_fold_leaves_the_state_that_it_started_from_as_it_was() -> None:
    first = [tick(n * 0.7, 10.0 + n, n) for n in range(30)]
    second = [tick(20 + n * 0.7, 10.0 + n, 100 + n) for n in range(30)]
    run = folded(first)
    before = run.state

    once = engine.fold(before, rows(inputs([tick(15.5, 9.0, 99), *second], first_offset=30)), ())
    again = engine.fold(before, rows(inputs([tick(15.5, 9.0, 99), *second], first_offset=30)), ())

    assert once == again
    assert before == folded(first).state


# ---- records alone decide ----


@SLOW
@given(st.data())
def test_batches_make_no_difference(data: st.DataObject) -> None:
    records = data.draw(streams())
    whole = Run().fold(records)
    parts = Run()
    for batch in data.draw(splits(records)):
        parts.fold(batch)

    assert parts.state == whole.state
    assert parts.final == whole.final
    assert parts.counts == whole.counts


@SLOW
@given(st.data())
def test_whatever_the_clock_did_the_last_revisions_are_the_same(data: st.DataObject) -> None:
    records = data.draw(streams())
    plain, clocked = Run(), Run()
    for batch in data.draw(splits(records)):
        plain.fold(batch)
        clocked.fold(batch)
        for step in data.draw(st.lists(st.integers(0, 400 * SECOND), max_size=2)):
            clocked.advance(clocked.state.watermark + step)
    end = max(plain.state.watermark, clocked.state.series.until * SECOND) + 400 * SECOND
    expected, found = unrevised(plain.advance(end).stats), unrevised(clocked.advance(end).stats)

    assert expected.items() <= found.items()
    # what the clock gave besides is a window that was empty when it looked, and is right as well
    assert_stats_equal(
        short(found.values()),
        final_stats(sourced(records), until=end),
        allowed=passing_stats(sourced(records), until=end),
    )
    assert_one_content_each(clocked.stats)
    assert_newer_wins(clocked.stats)


@SLOW
@given(streams())
def test_the_brute_force_oracle_gives_the_same_statistics(records: list[Sourced]) -> None:
    run = Run().fold(records)

    expected, allowed = final_stats(sourced(records)), passing_stats(sourced(records))

    closed = {name: stat for name, stat in expected.items() if stat.at <= run.state.watermark}
    assert_stats_equal(short(run.stats), closed, allowed=allowed)
    assert_one_content_each(run.stats)
    assert_newer_wins(run.stats)


def short(stats: Iterable[Stat]) -> list[Stat]:
    """Return the statistics that the oracle gives unless it is asked for more."""
    return [stat for stat in stats if stat.window in {"1m", "5m"}]


def sourced(records: list[Sourced]) -> list[Sourced]:
    return [Sourced(record.record, record.as_of, record.appended_at) for record in records]


def assert_newer_wins(stats: list[Stat]) -> None:
    """Assert that each next revision of a statistic has a greater revision and a greater as_of."""
    last: dict[str, Stat] = {}
    for stat in stats:
        held = last.get(stat.event_id)
        assert held is None or (stat.revision > held.revision and stat.as_of.offset > held.as_of.offset)
        last[stat.event_id] = stat
