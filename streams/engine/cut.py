"""Cuts a table of records into what each second of each key amounts to, with a fixed number of operations on columns.

The sums are exact: values are taken apart into slices of so few bits that doubles add each up without rounding (the
extraction of Rump, Ogita and Oishi, "Accurate floating-point summation", 2008), and a product into two doubles
(Dekker 1971). `streams.engine.panes.pane_of` says the same of rows; the tests hold them against each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from streams.engine.exact import SCALE
from streams.engine.inputs import UNKNOWN_TIME, Bools, Columns, Floats, Ints, Row, Table
from streams.engine.panes import Pane, Totals

LEAST: Final = 2.0**-120
"""Of numbers below it a slice could lose bits; such records are folded one by one."""
_SPLIT: Final = 2.0**27 + 1
_MANTISSA: Final = 52


@dataclass(slots=True)
class KeyBatch:
    """The records of one key in a batch, and what each second of them amounts to.

    `panes[i]` holds the records from bounds[i] to before bounds[i + 1]. Not `tidy`: times or ids do not ascend, or a
    number is too small; then the panes say nothing, and the records are folded as rows.
    """

    exchange: str
    product: str
    columns: Columns
    panes: list[Pane]
    bounds: list[int]
    tidy: bool

    def rows(self) -> list[Row]:
        """Return the records one by one."""
        return self.columns.rows()

    def __len__(self) -> int:
        return len(self.columns)


def cut(table: Table) -> list[KeyBatch]:
    """Return the batch of each key of a table."""
    if not table.keys:
        return []
    columns, bounds = table.columns, np.asarray(table.bounds)
    untidy = _untidy(columns, bounds)
    starts = _starts(columns.time, bounds)
    panes = list(_panes(columns, starts))
    edges = starts.searchsorted(bounds).tolist()
    cuts = [*starts.tolist(), len(columns)]
    return [
        KeyBatch(
            exchange,
            product,
            columns.part(first, last),
            panes[edge:next_edge],
            [position - first for position in cuts[edge : next_edge + 1]],
            not is_untidy,
        )
        for (exchange, product), first, last, edge, next_edge, is_untidy in zip(
            table.keys, table.bounds, table.bounds[1:], edges, edges[1:], untidy, strict=False
        )
    ]


def exact_sums(values: Floats, starts: Ints, scale: float = SCALE) -> list[int]:
    """Return the exact sum of each segment as a multiple of 1 / scale; segments begin at `starts`, none is empty."""
    totals = [0] * len(starts)
    rest = values
    spare = len(values).bit_length()
    while largest := float(np.abs(rest).max()):
        sigma = 2.0 ** (np.frexp(largest)[1] + spare)
        slices = (rest + sigma) - sigma
        rest = rest - slices
        sums = (np.add.reduceat(slices, starts) * scale).tolist()
        totals = [total + int(part) for total, part in zip(totals, sums, strict=True)]
    return totals


def two_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return a x b as two doubles whose sum is exact."""
    product = a * b
    high_a, high_b = _high(a), _high(b)
    low_a, low_b = a - high_a, b - high_b
    return product, ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


def _high(x: Floats) -> Floats:
    scaled = _SPLIT * x
    high: Floats = scaled - (scaled - x)
    return high


def _untidy(columns: Columns, bounds: Ints) -> list[bool]:
    """Tell of each key whether a record goes back in time or id, or holds a number that is too small."""
    time, identity = columns.time, columns.identity
    bad = np.zeros(len(columns), np.bool_)
    bad[1:] = (time[1:] < time[:-1]) | (identity[1:] <= identity[:-1])
    bad[bounds[:-1]] = False
    for numbers in (columns.price, columns.size, columns.bid, columns.ask):
        bad |= (numbers < LEAST) & (numbers != 0)
    keys = bounds.searchsorted(np.flatnonzero(bad), "right") - 1
    untidy = np.zeros(len(bounds) - 1, np.bool_)
    untidy[keys] = True
    return [bool(each) for each in untidy]


def _starts(time: Ints, bounds: Ints) -> Ints:
    """Return where each run of records of one key and second begins."""
    seconds = time // MICROS_PER_SECOND
    begins = np.empty(len(time), np.bool_)
    begins[0] = True
    begins[1:] = seconds[1:] != seconds[:-1]
    begins[bounds[:-1]] = True
    return np.flatnonzero(begins)


def _panes(columns: Columns, starts: Ints) -> Iterator[Pane]:
    ends = np.append(starts[1:], len(columns))
    last = ends - 1
    quoted = ~(np.isnan(columns.bid) | np.isnan(columns.ask))
    latest = np.maximum.reduceat(np.where(quoted, np.arange(len(columns)), -1), starts)
    fields = zip(
        (columns.time[starts] // MICROS_PER_SECOND).tolist(),
        columns.time[starts].tolist(),
        columns.price[starts].tolist(),
        columns.time[last].tolist(),
        columns.price[last].tolist(),
        np.maximum.reduceat(columns.price, starts).tolist(),
        np.minimum.reduceat(columns.price, starts).tolist(),
        _totals(columns, quoted, starts, ends),
        columns.offset[last].tolist(),
        columns.appended_at[last].tolist(),
        np.where(latest < 0, UNKNOWN_TIME, columns.time[latest]).tolist(),
        np.where(latest < 0, UNKNOWN_TIME, columns.quote_time[latest]).tolist(),
        strict=True,
    )
    return (Pane(*each) for each in fields)


def _totals(columns: Columns, quoted: Bools, starts: Ints, ends: Ints) -> Iterator[Totals]:
    price = columns.price
    size = np.where(np.isnan(columns.size), 0.0, columns.size)
    bid = np.where(quoted, columns.bid, 0.0)
    ask = np.where(quoted, columns.ask, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_bps = np.where(quoted, (ask - bid) / ((ask + bid) / 2) * 10_000, 0.0)
    return map(
        Totals,
        (ends - starts).tolist(),
        exact_sums(price, starts),
        _exact_products(price, price, starts),
        exact_sums(size, starts),
        _exact_products(price, size, starts),
        exact_sums(np.where(columns.buy, size, 0.0), starts),
        np.add.reduceat(quoted.astype(np.int64), starts).tolist(),
        map(int.__sub__, exact_sums(ask, starts), exact_sums(bid, starts)),
        exact_sums(spread_bps, starts),
    )


def _exact_products(a: Floats, b: Floats, starts: Ints) -> list[int]:
    high, low = two_product(a, b)
    scale = SCALE * SCALE
    return [x + y for x, y in zip(exact_sums(high, starts, scale), exact_sums(low, starts, scale), strict=True)]
