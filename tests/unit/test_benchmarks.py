"""The benchmarks run, compare equal work, and say what they are."""

import pytest

from benchmarks.__main__ import main
from benchmarks.feed_codec import measure
from benchmarks.rounds import Rounds, percentile


def test_help_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "feed " in capsys.readouterr().out


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
