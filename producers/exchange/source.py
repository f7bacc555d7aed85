"""Where events come from: a recording or a self-made market."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from producers.exchange.history import Past
from producers.exchange.market import Moment


class Market(Protocol):
    """A source of events: a recording or a self-made market."""

    @property
    def products(self) -> Sequence[str]:
        """Products that can be subscribed to."""

    def moments(self, started: int) -> Iterator[Moment]:
        """Yield the moments in order of `at`; `started` is the wall time from which new ids count."""

    def pasts(self, started: int) -> Mapping[str, Past]:
        """Return the products' trades before `started`, where there are any."""

    def time(self, at: int, anchor: int) -> int:
        """Return the exchange's time (microseconds since 1970) at a market time."""

    def __str__(self) -> str:
        """Return what is played, for the line that says so."""
