"""What is emitted about a source: statistics of each basis in each window, and bars of each period."""

from collections.abc import Iterator
from dataclasses import dataclass
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
    """A series of emissions. `seconds` is a window's length or a bar's period, `pane` the length of its panes."""

    kind: Kind
    name: str
    seconds: int
    pane: int
    window: Window | None = None

    @property
    def label(self) -> str:
        """The line's name in stored state."""
        return f"{self.kind}:{self.name}"

    def closes(self, second: int) -> int:
        """Return when the emission that a record of this second asks for is due: the end of its pane or period."""
        step = self.seconds if self.kind == "bar" else self.pane
        return (second // step + 1) * step

    def ends(self, newest: int | None) -> Iterator[int]:
        """Give when the line's newest pane, that of a second, closes, and when its window becomes empty."""
        if newest is not None:
            closes = self.closes(newest)
            yield closes
            if self.kind != "bar":
                yield closes + self.seconds


@cache
def lines(*, prices: bool, quotes: bool) -> tuple[Line, ...]:
    """Return what is emitted about a source on which prices, quotes or both live, in the order of emission."""
    wanted: dict[Kind, bool] = {"prices": prices, "quotes": quotes}
    kinds = [kind for kind, given in wanted.items() if given]
    windows = [Line(kind, w.name, w.seconds, w.pane, w) for kind in kinds for w in WINDOWS]
    bars = [Line("bar", name, period, min(period, MINUTE_PANES)) for name, period in PERIODS.items() if prices]
    return (*windows, *bars)
