"""Rows of one table that were encoded together. Pure.

To whoever stores them they are a sequence of rows like any other, which can be halved around a culprit; an object for
one of them is made when somebody asks for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from schemas.columns import Ints
from sinks.copy_binary import HEADER, TRAILER, stream
from sinks.moments import Moments, moments_of, of_row
from sinks.rows import Row


@dataclass(frozen=True, slots=True, eq=False)
class ColumnRows(Sequence[Row]):
    """Row i lies in `octets` from bounds[i] to before bounds[i + 1].

    `moments`: the times of each; `places`: what `read` makes the row's object of.
    """

    octets: bytes
    bounds: Ints
    moments: Moments
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
        return replace(self, bounds=bounds, moments=self.moments[:, start:stop], places=self.places[start:stop])

    def stream(self) -> bytes:
        """Return the rows as one whole COPY stream."""
        first, last = self.bounds[0].item(), self.bounds[-1].item()
        return b"".join((HEADER, memoryview(self.octets)[first:last], TRAILER))

    def with_rows(self, rows: Sequence[tuple[int, Row]]) -> "ColumnRows":
        """Return these rows and others, each with its place, which says where it belongs."""
        if not rows:
            return self
        places = np.array([place for place, _ in rows], np.int64)
        cuts = np.searchsorted(self.places, places)
        octets = np.frombuffer(self.octets, np.uint8)
        pieces: list[bytes | memoryview] = []
        done = 0
        for cut, (_, row) in zip(self.bounds[cuts].tolist(), rows, strict=True):
            pieces += [octets[done:cut].data, row.encoded]
            done = cut
        pieces.append(octets[done:].data)
        sizes = np.insert(np.diff(self.bounds), cuts, [len(row.encoded) for _, row in rows])
        return ColumnRows(
            b"".join(pieces),
            np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes))),
            np.insert(self.moments, cuts, np.array([of_row(row) for _, row in rows], np.int64).T, axis=1),
            np.insert(self.places, cuts, places),
            self.read,
        )


def copy_stream(rows: Sequence[Row]) -> bytes:
    """Return rows, however they were encoded, as one whole COPY stream."""
    return rows.stream() if isinstance(rows, ColumnRows) else stream(row.encoded for row in rows)


def event_times(rows: Sequence[Row]) -> list[int]:
    """Return the event times of ticks or trades in microseconds."""
    times: list[int] = all_moments(rows)[0].tolist()
    return times


def all_moments(rows: Sequence[Row]) -> Moments:
    """Return the times of rows, however they were encoded."""
    return rows.moments if isinstance(rows, ColumnRows) else moments_of(rows)
