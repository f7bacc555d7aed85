"""What is emitted about a source: statistics of each basis in each window, and bars of each period."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

SECOND_PANES: Final = 1
MINUTE_PANES: Final = 60
"""Lengths of panes, seconds."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window: its name, its length, its panes' and its grid of returns' step (all seconds)."""

    name: str
    seconds: int
    pane: int
    grid: int


WINDOWS: Final = (
    Window("1m", 60, SECOND_PANES, 1),
    Window("5m", 300, SECOND_PANES, 5),
    Window("15m", 900, SECOND_PANES, 5),
    Window("1h", 3_600, MINUTE_PANES, 60),
    Window("24h", 86_400, MINUTE_PANES, 300),
)
LONGEST: Final = {pane: max(w.seconds for w in WINDOWS if w.pane == pane) for pane in (SECOND_PANES, MINUTE_PANES)}
"""By length of panes: the longest window that reads them, seconds."""
PERIODS: Final = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "1d": 86_400}
"""Seconds of each bar's period."""

Kind = Literal["prices", "quotes", "bar"]


@dataclass(frozen=True, slots=True)
class Line:
    """A series of emissions. `seconds` is a window's length or a bar's period, `pane` the length of its panes.

    `label` is its name in stored state, `step` the seconds from one time that it may be due at to the next.
    """

    kind: Kind
    name: str
    seconds: int
    pane: int
    window: Window | None = None
    label: str = field(init=False)
    step: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"{self.kind}:{self.name}")
        object.__setattr__(self, "step", self.seconds if self.kind == "bar" else self.pane)

    def closes(self, second: int) -> int:
        """Return when the emission that a record of this second asks for is due: the end of its pane or period."""
        return (second // self.step + 1) * self.step


def ends(given: Sequence[Line], newest: int | None, quoted: int | None) -> list[tuple[int, int]]:
    """Return when each line's newest pane closes, and when its window becomes empty, with the line's index.

    `newest` is the second of the last record, `quoted` that of the last with a quote; None: there is none.
    """
    found = []
    for index, line in enumerate(given):
        second = quoted if line.kind == "quotes" else newest
        if second is not None:
            closes = line.closes(second)
            found.append((closes, index))
            if line.kind != "bar":
                found.append((closes + line.seconds, index))
    return found


@cache
def lines(*, prices: bool, quotes: bool) -> tuple[Line, ...]:
    """Return what is emitted about a source on which prices, quotes or both live, in the order of emission."""
    wanted: dict[Kind, bool] = {"prices": prices, "quotes": quotes}
    kinds = [kind for kind, given in wanted.items() if given]
    windows = [Line(kind, w.name, w.seconds, w.pane, w) for kind in kinds for w in WINDOWS]
    bars = [Line("bar", name, period, min(period, MINUTE_PANES)) for name, period in PERIODS.items() if prices]
    return (*windows, *bars)
