"""One second of a source's records: what a pane holds exactly, and the row that statistics read of it.

A `Pane` keeps exact sums, so what it holds does not depend on the order or the batches its records came in. A
statistic counts each pane as its row: every number of it rounded once from the exact sums. So a statistic, too, is a
function of the records alone, bit for bit, and costs a few operations on columns whatever its window holds.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from streams.engine.exact import SCALE, SHIFT, rounded
from streams.engine.inputs import UNKNOWN_TIME, Row


class Totals(msgspec.Struct, frozen=True, gc=False):
    """Counts, and sums as multiples of 2**-180 (squares and turnover: of 2**-360)."""

    count: int = 0
    prices: int = 0
    squares: int = 0
    sizes: int = 0
    turnover: int = 0
    buys: int = 0
    quotes: int = 0
    spreads: int = 0
    spreads_bps: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Return the sum, field by field."""
        return Totals(
            self.count + other.count,
            self.prices + other.prices,
            self.squares + other.squares,
            self.sizes + other.sizes,
            self.turnover + other.turnover,
            self.buys + other.buys,
            self.quotes + other.quotes,
            self.spreads + other.spreads,
            self.spreads_bps + other.spreads_bps,
        )


class Pane(msgspec.Struct, frozen=True, gc=False):
    """What records of [second, second + 1) amount to. Times are micros.

    Of equal times the first in offset order opens and the last closes. `offset` and `appended_at` are those of the last
    record in offset order; `quote_seen` is the time of the last record with a quote, `quote_at` when that was observed.
    A bar that is read as one record brings its own open, high and low.
    """

    second: int
    open_time: int
    open: float
    close_time: int
    close: float
    high: float
    low: float
    totals: Totals
    offset: int
    appended_at: int
    quote_seen: int = UNKNOWN_TIME
    quote_at: int = UNKNOWN_TIME


PaneRow: TypeAlias = tuple[float, ...]
"""The floats of a pane, in the order of `FLOATS`."""

FLOATS: Final = (
    "count",
    "volume",
    "quote_volume",
    "buy_volume",
    "quotes",
    "spread",
    "spread_bps",
    "open",
    "high",
    "low",
    "close",
    "mean",
    "m2",
)
"""Columns of rows: sums first; `mean` is the mean price less `open`, `m2` the sum of squared deviations from it."""


def pane_of(second: int, rows: Sequence[Row]) -> Pane:
    """Return what records of one second, in offset order, amount to."""
    first, last = rows[0], rows[-1]
    open_time, opened, close_time, close = first.time, first.price, first.time, first.price
    quote_seen, quote_at = UNKNOWN_TIME, UNKNOWN_TIME
    for row in rows:
        if row.time < open_time:
            open_time, opened = row.time, row.price
        if row.time >= close_time:
            close_time, close = row.time, row.price
        if row.bid is not None and row.ask is not None and row.time >= quote_seen:
            quote_seen, quote_at = row.time, row.quote_time
    prices = [row.price for row in rows]
    return Pane(
        second,
        open_time,
        opened,
        close_time,
        close,
        max(prices),
        min(prices),
        totals_of(rows),
        last.offset,
        last.appended_at,
        quote_seen,
        quote_at,
    )


def merged(held: Pane | None, later: Pane) -> Pane:
    """Return what the records of both amount to; those of `later` come after the others in offset order."""
    if held is None:
        return later
    opens = later.open_time < held.open_time
    closes = later.close_time >= held.close_time
    quotes = later.quote_seen >= held.quote_seen
    return Pane(
        held.second,
        later.open_time if opens else held.open_time,
        later.open if opens else held.open,
        later.close_time if closes else held.close_time,
        later.close if closes else held.close,
        max(held.high, later.high),
        min(held.low, later.low),
        held.totals.plus(later.totals),
        later.offset,
        later.appended_at,
        later.quote_seen if quotes else held.quote_seen,
        later.quote_at if quotes else held.quote_at,
    )


def totals_of(rows: Sequence[Row]) -> Totals:
    """Return the totals of records; an unknown size adds nothing, quotes count where both sides are known."""
    prices = squares = sizes = turnover = buys = quotes = spreads = spreads_bps = 0
    scale = SCALE
    for row in rows:
        price = int(row.price * scale)
        prices += price
        squares += price * price
        if row.size:
            size = int(row.size * scale)
            sizes += size
            turnover += price * size
            if row.buy:
                buys += size
        bid, ask = row.bid, row.ask
        if bid is not None and ask is not None:
            quotes += 1
            spreads += int(ask * scale) - int(bid * scale)
            spreads_bps += int((ask - bid) / ((ask + bid) / 2) * 10_000 * scale)
    return Totals(len(rows), prices, squares, sizes, turnover, buys, quotes, spreads, spreads_bps)


def row_of(pane: Pane) -> PaneRow:
    """Return a pane's floats, each rounded once from the exact sums."""
    totals = pane.totals
    return (
        float(totals.count),
        rounded(totals.sizes),
        totals.turnover / (1 << 2 * SHIFT),
        rounded(totals.buys),
        float(totals.quotes),
        rounded(totals.spreads),
        rounded(totals.spreads_bps),
        pane.open,
        pane.high,
        pane.low,
        pane.close,
        *_moments(totals, pane.open),
    )


def _moments(totals: Totals, opened: float) -> tuple[float, float]:
    """Return the mean price less the first price, and the sum of squared deviations from the mean."""
    count = totals.count
    if count == 1 and totals.prices == int(opened * SCALE):
        return 0.0, 0.0
    shift = totals.prices - count * int(opened * SCALE)
    squares = count * totals.squares - totals.prices**2
    return shift / (count << SHIFT), squares / (count << 2 * SHIFT)
