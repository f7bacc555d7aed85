"""Rows of one table that were encoded together. Pure.

To whoever stores them they are a sequence of rows like any other, which can be halved around a culprit; an object for
one of them is made when somebody asks for it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import overload

import numpy as np

from schemas.columns import Ints
from sinks.copy_binary import HEADER, TRAILER, stream
from sinks.rows import Row, event_time


@dataclass(frozen=True, slots=True, eq=False)
class ColumnRows(Sequence[Row]):
    """Row i lies in `octets` from bounds[i] to before bounds[i + 1].

    `times`: the event time of each in microseconds; `places`: what `read` makes the row's object of.
    """

    octets: bytes
    bounds: Ints
    times: Ints
    places: Ints
    read: Callable[[int], Row]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "ColumnRows": ...

    def __getitem__(self, index: int | slice) -> "Row | ColumnRows":
        if isinstance(index, int):
            return self.read(self.places[index].item())
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("rows are taken one after the other")
        stop = max(start, stop)
        bounds = self.bounds[start : stop + 1]
        return replace(self, bounds=bounds, times=self.times[start:stop], places=self.places[start:stop])

    def stream(self) -> bytes:
        """Return the rows as one whole COPY stream."""
        first, last = self.bounds[0].item(), self.bounds[-1].item()
        return b"".join((HEADER, memoryview(self.octets)[first:last], TRAILER))

    def without(self, indices: Sequence[int]) -> "ColumnRows":
        """Return the rows but those at some indices, which rise."""
        kept = np.ones(len(self), np.bool_)
        kept[indices] = False
        edges = [-1, *indices, len(self)]
        runs = [(self.bounds[one + 1].item(), self.bounds[two].item()) for one, two in pairwise(edges)]
        octets = b"".join(memoryview(self.octets)[start:stop] for start, stop in runs)
        bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.diff(self.bounds)[kept])))
        return replace(self, octets=octets, bounds=bounds, times=self.times[kept], places=self.places[kept])

    def with_rows(self, rows: Sequence[tuple[int, Row, int]]) -> "ColumnRows":
        """Return these rows and others, each with its place, which says where it belongs, and its event time."""
        if not rows:
            return self
        places = np.array([place for place, _, _ in rows], np.int64)
        cuts = np.searchsorted(self.places, places)
        octets = np.frombuffer(self.octets, np.uint8)
        pieces: list[bytes | memoryview] = []
        done = 0
        for cut, (_, row, _) in zip(self.bounds[cuts].tolist(), rows, strict=True):
            pieces += [octets[done:cut].data, row.encoded]
            done = cut
        pieces.append(octets[done:].data)
        sizes = np.insert(np.diff(self.bounds), cuts, [len(row.encoded) for _, row, _ in rows])
        return ColumnRows(
            b"".join(pieces),
            np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes))),
            np.insert(self.times, cuts, [time for _, _, time in rows]),
            np.insert(self.places, cuts, places),
            self.read,
        )


def copy_stream(rows: Sequence[Row]) -> bytes:
    """Return rows, however they were encoded, as one whole COPY stream."""
    return rows.stream() if isinstance(rows, ColumnRows) else stream(row.encoded for row in rows)


def event_times(rows: Sequence[Row]) -> list[int]:
    """Return the event times of ticks or trades in microseconds."""
    if isinstance(rows, ColumnRows):
        times: list[int] = rows.times.tolist()
        return times
    return [event_time(row.record) for row in rows]


def first_of_each(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the first of ticks or trades with the same tenant, time and id."""
    seen: set[tuple[int, bytes]] = set()
    repeated = []
    for index, identity in enumerate(zip(event_times(rows), _identities(rows), strict=True)):
        if identity in seen:
            repeated.append(index)
        seen.add(identity)
    if not repeated:
        return rows
    if isinstance(rows, ColumnRows):
        return rows.without(repeated)
    again = set(repeated)
    return [row for index, row in enumerate(rows) if index not in again]


def _identities(rows: Sequence[Row]) -> Iterator[bytes]:
    """Return tenant and id of each row, encoded: its first two fields."""
    if isinstance(rows, ColumnRows):
        return (_identity(rows.octets, at) for at in rows.bounds[:-1].tolist())
    return (_identity(row.encoded, 0) for row in rows)


def _identity(octets: bytes, at: int) -> bytes:
    begin = at + 2
    second = begin + 4 + int.from_bytes(octets[begin : begin + 4])
    return octets[begin : second + 4 + int.from_bytes(octets[second : second + 4])]
