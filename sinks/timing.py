"""How long records took on their way, into a histogram: counted by columns, a few operations for a whole batch.

Clocks of several machines take part, so a stage may seem to end before it began: that counts as no time at all. The
broker's time has milliseconds only. What is stored long after it happened, such as a backfill, counts as slow: compare
the stages.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from pulsestream.core.metrics import SINK_STAGE_SECONDS
from schemas.columns import Ints
from sinks.column_rows import all_moments
from sinks.rows import Row
from sinks.tables import ALERTS, BARS, EVENTS, STATS, TICKS, TRADES

_BOUNDS: Final = np.array([round(bound * MICROS_PER_SECOND) for bound in SINK_STAGE_SECONDS.BOUNDS], np.int64)
_WHOLE: Final = frozenset({TICKS.name, TRADES.name, EVENTS.name})
"""Datasets that come from outside, whose records tell when they happened and when they were received."""
_TIMED: Final = _WHOLE | {STATS.name, BARS.name, ALERTS.name}


def observe(rows: Mapping[str, Sequence[Row]], committed_at: int) -> None:
    """Count the stages of rows that were committed at this time, in microseconds."""
    for table, those in rows.items():
        if table in _TIMED and len(those):
            for stage, micros in _stages(table, those, committed_at):
                past = np.maximum(micros, 0)
                counts = np.bincount(np.searchsorted(_BOUNDS, past), minlength=len(_BOUNDS) + 1)
                SINK_STAGE_SECONDS.add((table, stage), counts.tolist(), past.sum().item() / MICROS_PER_SECOND)


def _stages(table: str, rows: Sequence[Row], committed_at: int) -> Iterator[tuple[str, Ints]]:
    event, received, appended = all_moments(rows)
    if table in _WHOLE:
        yield "exchange_to_receipt", received - event
        yield "receipt_to_append", appended - received
        yield "exchange_to_commit", committed_at - event
    yield "append_to_commit", committed_at - appended
