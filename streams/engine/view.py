"""What a condition over a window may ask of a key's panes."""

from dataclasses import dataclass
from typing import Protocol

from streams.engine.inputs import Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class PaneRows:
    """Panes that hold records, ascending, as columns of one length; `second` is where each begins."""

    second: Ints
    count: Floats
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    quote_volume: Floats
    buy_volume: Floats

    def __len__(self) -> int:
        return len(self.second)


class Panes(Protocol):
    """The closed panes of one source of a product. Seconds are event time since 1970."""

    @property
    def first_time(self) -> int:
        """The time of the source's first record, micros."""

    def rows(self, seconds: int, at: int) -> PaneRows:
        """Return the panes with at - seconds <= second < at.

        Panes of 1 s for windows of up to 900 s; of 60 s for longer ones, whose `at` is a whole minute.
        """

    def reference(self, second: int) -> float | None:
        """Return the last price before a second; None: there is none."""

    def instants(self, seconds: int, after: int, until: int) -> list[int]:
        """Return the seconds in (after, until], ascending, at which a pane closes or leaves a window of that length.

        For windows of more than 900 s these are whole minutes.
        """
