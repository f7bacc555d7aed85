"""What the offline commands read, whatever it comes from: records of each key in its order, in slices.

The readers (frame_source, bar_source, row_source) give slices of bounded size; `sources` finds the reader.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from pulsestream.core.errors import UsageError
from streams.engine.reading import Slice

SHOWN: Final = 5
"""Skipped records that are told one by one; the others are only counted."""

QUOTES: Final = (
    "FDUSD", "BUSD", "TUSD", "USDT", "USDC", "USDP",
    "USD", "EUR", "GBP", "JPY", "AUD", "CAD", "CHF", "TRY", "BRL", "DAI", "BTC", "ETH", "BNB", "XBT",
)  # fmt: skip
"""Currencies that a symbol such as btcusd may end with, the longer ones first."""


class SourceError(UsageError):
    """A source that cannot be read; the message says which, why, and what would do."""


@dataclass(slots=True)
class Skipped:
    """Records that could not be used: how many, and what was wrong with the first."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{where}: {reason}")

    def include(self, other: "Skipped") -> None:
        """Count what was skipped elsewhere."""
        self.count += other.count
        self.shown = [*self.shown, *other.shown][:SHOWN]


class Source(Protocol):
    """Something that records are read from; it can be read more than once."""

    skipped: Skipped
    """Of the last reading."""

    def traded(self) -> set[tuple[str, str]]:
        """Return the (exchange, product) pairs of which it holds trades."""

    def slices(self, span: int | None) -> Iterator[Slice]:
        """Yield its records.

        With `span`, slices follow one another in time, and each covers about so many microseconds, or a number of
        records; None: in whatever order is quickest to read.
        """


def product_of(symbol: str) -> str | None:
    """Return the product that a symbol such as btcusd means, BTC-USD; None where no known currency ends it."""
    name = symbol.upper()
    quote = next((quote for quote in QUOTES if name.endswith(quote) and name != quote), None)
    return None if quote is None else f"{name.removesuffix(quote)}-{quote}"
