"""Records for tests of the alert engine: rows, the same as columns, and books that they were read into."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from schemas.records import Alert
from streams.engine.alerts import AlertBook, AlertFold
from streams.engine.inputs import Columns, Row
from streams.engine.rules import ActiveRule
from tests.support.ticking import EXCHANGE, PRODUCT, SECOND, micros, rule

DURATIONS = st.sampled_from(["0s", "0s", "1us", "1s", "2500ms", "10s"])
LEVELS: tuple[dict[str, Any], ...] = (
    {"above": 100},
    {"above": 100, "clear": 99},
    {"below": 100},
    {"below": 100, "clear": 100.5},
)
CROSSES: tuple[dict[str, Any], ...] = (
    {"crosses": 100},
    {"crosses": 100, "direction": "up"},
    {"crosses": 99.5, "direction": "down"},
)
SPREADS: tuple[dict[str, Any], ...] = (
    {"type": "spread", "above_bps": 20},
    {"type": "spread", "above_bps": 20, "clear_bps": 10},
)


def row(seconds: float, price: float, offset: int = 0, **fields: Any) -> Row:
    """Return a row `seconds` after START, appended when it happened unless said otherwise."""
    time = micros(seconds)
    named: dict[str, Any] = {
        "offset": offset,
        "appended_at": time,
        "time": time,
        "price": price,
        "size": None,
        "buy": False,
        "identity": offset,
        "bid": None,
        "ask": None,
        "quote_time": time,
    }
    return Row(**named | fields)


def columns(rows: Sequence[Row]) -> Columns:
    """Return rows as columns."""

    def floats(name: str) -> Any:
        return np.array([np.nan if getattr(r, name) is None else getattr(r, name) for r in rows], np.float64)

    def ints(name: str) -> Any:
        return np.array([getattr(r, name) for r in rows], np.int64)

    return Columns(
        ints("offset"),
        ints("appended_at"),
        ints("time"),
        floats("price"),
        floats("size"),
        np.array([r.buy for r in rows], np.bool_),
        ints("identity"),
        floats("bid"),
        floats("ask"),
        ints("quote_time"),
    )


@dataclass
class Reading:
    """A book that batches of records are read into, as rows or as columns."""

    rules: Sequence[ActiveRule]
    as_columns: bool = False
    first_seq: int = 0
    book: AlertBook = field(default_factory=AlertBook)
    alerts: list[Alert] = field(default_factory=list)

    def read(self, batch: Sequence[Row]) -> "Reading":
        fold = AlertFold(self.book, EXCHANGE, PRODUCT, first_seq=self.first_seq)
        fold.records(columns(batch) if self.as_columns else batch, self.rules)
        self.book = fold.finish()
        self.alerts += fold.alerts
        return self

    @property
    def transitions(self) -> list[tuple[str, float]]:
        """States and times, in seconds after START."""
        return [(alert.state, (alert.at - micros(0)) / SECOND) for alert in self.alerts]


@st.composite
def rows(draw: st.DrawFn, max_size: int = 60) -> list[Row]:
    """Draw records as alerts take them: in order of time, with ties, pauses and missing quotes."""
    time, appended, drawn = 0, 0.0, list[Row]()
    for offset in range(draw(st.integers(1, max_size))):
        time += draw(st.sampled_from([0, 0, 1, 250_000, SECOND, 2_500_000, 11 * SECOND]))
        appended = max(appended, time / SECOND + draw(st.sampled_from([0, 0, 0, -3, 4])))
        price = draw(st.sampled_from([98.0, 99.0, 99.5, 100.0, 100.5, 101.0]))
        half = draw(st.sampled_from([None, 0.0, 0.0005, 0.001, 0.0011, 0.002]))
        drawn.append(
            row(
                time / SECOND,
                price,
                offset,
                appended_at=micros(appended),
                bid=None if half is None else price * (1 - half),
                ask=draw(st.sampled_from([None, 1, 1, 1])) and (None if half is None else price * (1 + half)),
            )
        )
    return drawn


@st.composite
def record_rules(draw: st.DrawFn) -> list[ActiveRule]:
    """Draw rules over single records, some of which begin or end among the records."""
    drawn = []
    for number in range(draw(st.integers(1, 4))):
        begin = draw(st.sampled_from([0, 0, micros(3), micros(15)]))
        drawn.append(
            rule(
                draw(st.sampled_from([*LEVELS, *CROSSES, *SPREADS])),
                f"rule-{number}",
                for_=draw(DURATIONS),
                keep_firing_for=draw(DURATIONS),
                cooldown=draw(DURATIONS),
                effective_at=begin,
                ended_at=draw(st.sampled_from([None, None, micros(16), micros(30)])),
            )
        )
    return drawn


@st.composite
def cuts(draw: st.DrawFn, records: Sequence[Row]) -> list[list[Row]]:
    """Draw a way to cut records into batches."""
    edges = [0, *sorted(draw(st.sets(st.integers(1, max(len(records) - 1, 1)), max_size=6))), len(records)]
    return [list(records[start:end]) for start, end in itertools.pairwise(edges) if end > start]
