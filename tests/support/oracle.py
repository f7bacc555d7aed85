"""What the platform must compute, by definition: statistics, bars and alerts of one key, brute force and sequential.

The key is one (tenant, exchange, product); its records come in offset order, those of both its sources in any
interleaving. Nothing here is shared with the product but the record types and the validator. The parts:
`oracle_records` (which records count), `oracle_stats`, `oracle_bars`, `oracle_alerts`, `oracle_compare`.
"""

from tests.support.oracle_alerts import applies, duration, transitions
from tests.support.oracle_bars import PERIODS, final_bars
from tests.support.oracle_compare import (
    assert_alerts_equal,
    assert_bars_equal,
    assert_one_content_each,
    assert_stats_equal,
    newest,
    newest_bars,
    stat_differences,
)
from tests.support.oracle_records import (
    GRACE,
    MINUTE,
    SECOND,
    Sourced,
    accepted,
    bar_trades,
    by_key,
    frame_ticks,
    frame_trades,
    micros,
    read_frames,
    sourced,
)
from tests.support.oracle_stats import WINDOWS, final_stats, passing_stats

__all__ = [
    "GRACE",
    "MINUTE",
    "PERIODS",
    "SECOND",
    "WINDOWS",
    "Sourced",
    "accepted",
    "applies",
    "assert_alerts_equal",
    "assert_bars_equal",
    "assert_one_content_each",
    "assert_stats_equal",
    "bar_trades",
    "by_key",
    "duration",
    "final_bars",
    "final_stats",
    "frame_ticks",
    "frame_trades",
    "micros",
    "newest",
    "newest_bars",
    "passing_stats",
    "read_frames",
    "sourced",
    "stat_differences",
    "transitions",
]
