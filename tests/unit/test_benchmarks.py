"""The benchmarks run, compare equal work, and say what they are."""

import pytest

from benchmarks import sink, sink_stand
from benchmarks.__main__ import main
from benchmarks.feed_codec import measure
from benchmarks.peers.race import Turn
from benchmarks.rounds import Rounds, percentile
from benchmarks.sink_stand import Filled
from benchmarks.streams_cost import BUSY_RATE, RATE, Load, capacity
from benchmarks.streams_windows import Outcome, figures


def test_help_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    told = capsys.readouterr().out
    assert "feed " in told
    assert "streams " in told


def test_the_streams_benchmark_knows_its_parts() -> None:
    with pytest.raises(SystemExit, match="no such part: flink"):
        main(["streams", "--quick", "--only", "flink"])


def test_the_sink_benchmark_knows_its_parts() -> None:
    with pytest.raises(SystemExit, match="no such part: flink"):
        main(["sink", "--quick", "--only", "flink"])


def test_the_sink_compares_within_each_round_and_says_why_a_peer_has_no_figure() -> None:
    fast, slow = Filled(1000, 1.0, 0.004), Filled(1000, 2.0)
    outcome = sink.Outcome({"psql": [fast, slow, slow], "sink": [fast, fast, fast]}, {"debezium": "not here\nat all"})

    told = sink.figures(outcome)

    assert told["vs_copy_binary"] == 2.0
    assert told["sink_cpu_us"] == pytest.approx(4.0)
    assert (told["vs_debezium"], told["vs_debezium_reason"]) == (None, "not here")


def test_a_hundredth_of_the_ticks_comes_twice_and_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_stand, "BEHIND", 300)
    records = [(b"key", b"%d" % number) for number in range(10_000)]

    sent = list(sink_stand.repeated(records))

    assert list(dict.fromkeys(sent)) == records
    assert len(sent) - len(records) == 97


def test_a_peer_that_cannot_be_had_is_reported_as_null_with_the_reason() -> None:
    outcome = Outcome({"lane": [Turn(100, 1.0, 0.5, 1)], "quix": [None]}, {"quix": "not here"})

    told = figures(outcome, ["lane", "quix"])

    assert told["tumbling_vs_quix"] is None
    assert told["tumbling_vs_quix_reason"] == "not here"
    assert "tumbling_vs_bytewax" not in told


def test_ratios_of_the_race_compare_within_each_round() -> None:
    fast, slow = Turn(1000, 1.0, 0.5, 1), Turn(1000, 10.0, 8.0, 1)
    outcome = Outcome({"lane": [fast, None, slow], "quix": [slow, slow, slow]})

    assert outcome.ratio("lane", "quix") == pytest.approx(5.5)
    assert outcome.cpu_ratio("lane", "quix") == pytest.approx(8.5)


def test_both_paths_of_the_feed_write_equal_bytes_and_are_timed() -> None:
    rounds = measure(50, 2)

    assert all(len(seconds) == 2 for seconds in rounds.seconds.values())
    assert rounds.median("whole path") > 0


def test_a_ratio_compares_within_each_round() -> None:
    rounds = Rounds({"one": [2.0, 40.0, 6.0], "other": [1.0, 10.0, 3.0]})

    assert rounds.ratio("one", "other") == 2.0


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_costs_of_a_record_and_of_a_busy_second_come_from_two_densities() -> None:
    record, second = 2.0, 50.0

    found = capacity(record + second / RATE, record + second / BUSY_RATE)

    assert found == pytest.approx((record, second))


def test_a_load_is_the_same_records_whoever_gets_them() -> None:
    one, many = Load(1_000, RATE).ticks(), Load(1_000, RATE, 200).ticks()

    assert [record[1:] for record in one] == [record[1:] for record in many]
    assert len({topic for topic, _, _ in Load(1_000, RATE, 200).ticks()}) == 200
