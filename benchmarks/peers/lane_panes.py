"""Windows over columns of ticks, as a program on the lane keeps them: panes of a product, joined when a window closes.

A window closes when a tick of its product passes its end; a tick of a closed one is dropped. Pure; the loop below runs
once for the ticks of a product that a batch has in one pane.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import SECOND, Window, closed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """Columns of one length: the product by its place in `products`, event time (micros), price and size."""

    products: list[str]
    product: Ints
    time: Ints
    price: Floats
    size: Floats


class Panes(msgspec.Struct, gc=False):
    """What is open of one product: panes by start (micros), in order, and the start of the newest."""

    open: dict[int, Window] = msgspec.field(default_factory=dict)
    newest: int = -1


@dataclass(slots=True)
class Fold:
    """The panes of every product; `size` and `step` of the windows in seconds."""

    size: int
    step: int
    panes: dict[str, Panes] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def take(self, ticks: Ticks) -> list[tuple[str, bytes]]:
        """Take a batch in; return the windows that it closes as product and record."""
        said: list[tuple[str, bytes]] = []
        for product, start, window in _segments(ticks, self.step * SECOND):
            panes = self.panes.get(product)
            if panes is None:
                panes = self.panes[product] = Panes()
            if start > panes.newest:
                said += [(product, record) for record in self._close(product, panes, start)]
                panes.newest = start
            elif start + self.size * SECOND <= panes.newest:
                continue
            known = panes.open.get(start)
            panes.open[start] = window if known is None else joined(known, window)
            self.changed.add(product)
        return said

    def cut(self) -> dict[str, bytes]:
        """Return the state of every product that changed since the last cut."""
        entries = {product: msgspec.msgpack.encode(self.panes[product]) for product in self.changed}
        self.changed.clear()
        return entries

    def restore(self, entries: dict[str, bytes]) -> None:
        """Go on from what cuts returned."""
        self.panes = {product: msgspec.msgpack.decode(entry, type=Panes) for product, entry in entries.items()}

    def _close(self, product: str, panes: Panes, now: int) -> Iterator[bytes]:
        """Yield the windows that end at or before the pane that begins `now`, and drop the panes nobody needs more."""
        size, step = self.size * SECOND, self.step * SECOND
        if not panes.open:
            return
        first = panes.newest - size + step
        for start in range(first, min(now - size, panes.newest) + 1, step):
            parts = [panes.open[at] for at in range(start, start + size, step) if at in panes.open]
            yield closed(product, start, _whole(parts))
        panes.open = {at: pane for at, pane in panes.open.items() if at > now - size}


def joined(one: Window, other: Window) -> Window:
    """Return a window that holds the ticks of both, those of `one` before the others."""
    return [
        one[0] + other[0],
        one[1],
        max(one[2], other[2]),
        min(one[3], other[3]),
        other[4],
        one[5] + other[5],
    ]


def _whole(parts: list[Window]) -> Window:
    whole, *others = parts
    for part in others:
        whole = joined(whole, part)
    return whole


def _segments(ticks: Ticks, step: int) -> Iterator[tuple[str, int, Window]]:
    """Yield product, pane and what it holds for each run of one product's ticks in one pane; a product's in order."""
    if not len(ticks.product):
        return
    order = np.argsort(ticks.product.astype(_NARROW), kind="stable")
    product, time = ticks.product[order], ticks.time[order]
    price, size = ticks.price[order], ticks.size[order]
    start = time - time % step
    first = np.flatnonzero(np.r_[True, (product[1:] != product[:-1]) | (start[1:] != start[:-1])])
    last = np.r_[first[1:], len(order)] - 1
    rows = zip(
        product[first].tolist(),
        start[first].tolist(),
        (last - first + 1).tolist(),
        price[first].tolist(),
        np.maximum.reduceat(price, first).tolist(),
        np.minimum.reduceat(price, first).tolist(),
        price[last].tolist(),
        np.add.reduceat(size, first).tolist(),
        strict=True,
    )
    for place, begin, *window in rows:
        yield ticks.products[place], begin, window


_NARROW: Final = np.uint16
"""Places are sorted by their digits when they are this narrow, which takes a tenth of the time."""
