"""Panes as conditions over windows see them, worked out anew from raw records at each question."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from streams.engine.inputs import Row
from streams.engine.view import PaneRows

SECOND = 1_000_000
LONG = 900
"""Seconds; longer windows are served by panes of a minute."""


@dataclass
class RawPanes:
    """The records so far, of which no pane is open."""

    records: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.records.append(row)
        self.records.sort(key=lambda record: (record.time, record.offset))

    @property
    def first_time(self) -> int:
        return self.records[0].time

    def rows(self, seconds: int, at: int) -> PaneRows:
        pane = _pane(seconds)
        held: dict[int, list[Row]] = {}
        for record in self.records:
            second = record.time // SECOND // pane * pane
            if at - seconds <= second < at:
                held.setdefault(second, []).append(record)
        panes = [held[second] for second in sorted(held)]
        return PaneRows(
            np.array(sorted(held), np.int64),
            _floats(len(pane) for pane in panes),
            _floats(pane[0].price for pane in panes),
            _floats(max(row.price for row in pane) for pane in panes),
            _floats(min(row.price for row in pane) for pane in panes),
            _floats(pane[-1].price for pane in panes),
            _floats(sum(row.size or 0 for row in pane) for pane in panes),
            _floats(sum(row.price * (row.size or 0) for row in pane) for pane in panes),
            _floats(sum(row.size or 0 for row in pane if row.buy) for pane in panes),
        )

    def reference(self, second: int) -> float | None:
        before = [record.price for record in self.records if record.time < second * SECOND]
        return before[-1] if before else None

    def instants(self, seconds: int, after: int, until: int) -> list[int]:
        pane = _pane(seconds)
        ends = {(record.time // SECOND // pane + 1) * pane for record in self.records}
        return sorted({at for end in ends for at in (end, end + seconds) if after < at <= until})


def _pane(seconds: int) -> int:
    return 1 if seconds <= LONG else 60


def _floats(numbers: Iterable[float]) -> np.ndarray:
    return np.array(list(numbers), np.float64)
