"""Many rows in PostgreSQL's binary COPY format at once, from columns. Pure.

What `sinks.copy_binary` gives row by row, at a twentieth of its cost: rows differ in size, so each field has a cursor a
row, and numpy writes it at all cursors. A field is written at its greatest width, from left to right: what is too much
of it lies under the fields that follow in its own row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Bools, Ints, Octets, words_of
from sinks.copy_binary import EPOCH_SHIFT, Kind

_COUNT: Final = 2
"""Bytes of the number of fields that a row begins with."""
_LENGTH: Final = 4
"""Bytes of the length that a field begins with."""
_NULL: Final = -1
_WORD: Final = 8
_TYPES: Final[dict[Kind, str]] = {
    "double precision": ">f8",
    "bigint": ">i8",
    "integer": ">i4",
    "boolean": "?",
    "timestamptz": ">i8",
}


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """A column of texts of up to 63 bytes: where each lies among octets; null where it is not `known`."""

    octets: Octets
    at: Ints
    sizes: Ints
    known: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A column of another kind; null where it is not `known`. Times are microseconds since 1970."""

    kind: Kind
    values: NDArray[Any]  # its dtype is the kind's
    known: Bools


Column: TypeAlias = Texts | Numbers


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Rows one behind the other: row i lies from bounds[i] to before bounds[i + 1]."""

    octets: bytes
    bounds: Ints


def encode(columns: Sequence[Column], count: int) -> Encoded:
    """Return `count` rows of these columns; raises ValueError where a row has no room for a field's greatest width."""
    sizes = np.full(count, _COUNT + _LENGTH * len(columns))
    for column in columns:
        sizes += _sizes(column)
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    writing = _Writing(bounds)
    writing.write(np.full(count, len(columns), ">i2"))
    for is_even, run in groupby(columns, key=_is_even):
        for block, widths in _even([*run]) if is_even else map(_uneven, run):
            writing.write(block, widths)
    return Encoded(writing.octets.tobytes(), bounds)


class _Writing:
    """The cursors of all rows in the bytes that they become."""

    def __init__(self, bounds: Ints) -> None:
        self.octets = np.empty(bounds[-1], np.uint8)
        self._at = bounds[:-1].copy()
        self._stops = bounds[1:]

    def write(self, block: NDArray[Any], widths: Ints | None = None) -> None:
        """Write a block's items at the cursors, which go on by `widths`: None for all that was written."""
        size = block.dtype.itemsize
        if len(block) and (self._at + size > self._stops).any():
            raise ValueError(f"no room for {size} bytes in a row")
        if len(block):
            room: NDArray[np.void] = np.ndarray((len(self.octets) - size + 1,), f"V{size}", self.octets, strides=(1,))
            room[self._at] = block.view(f"V{size}")
        self._at += size if widths is None else widths


def _sizes(column: Column) -> Ints:
    if isinstance(column, Texts):
        return column.sizes * column.known
    return column.known * np.int64(np.dtype(_TYPES[column.kind]).itemsize)


def _is_even(column: Column) -> bool:
    """Say whether all rows hold as many bytes of a column."""
    return isinstance(column, Numbers) and (bool(column.known.all()) or not column.known.any())


def _even(columns: Sequence[Column]) -> Iterator[tuple[NDArray[Any], None]]:
    """Return neighbours that are all even as one block."""
    numbers = [column for column in columns if isinstance(column, Numbers) and len(column.known)]
    layout: list[tuple[str, str]] = []
    for place, column in enumerate(numbers):
        layout.append((f"length {place}", ">i4"))
        if column.known[0]:
            layout.append((f"value {place}", _TYPES[column.kind]))
    block = np.empty(len(numbers[0].known) if numbers else 0, np.dtype(layout))
    for place, column in enumerate(numbers):
        block[f"length {place}"] = block.dtype[f"value {place}"].itemsize if column.known[0] else _NULL
        if column.known[0]:
            block[f"value {place}"] = _as_stored(column)
    yield block, None


def _uneven(column: Column) -> tuple[NDArray[Any], Ints]:
    """Return a column's items at their greatest width, and how many bytes of each count."""
    if isinstance(column, Texts):
        sizes = column.sizes * column.known
        width = words_of(sizes) * _WORD
        block = np.empty(len(sizes), [("length", ">i4"), ("value", f"V{width}")])
        if width:
            block["value"] = column.octets.runs(column.at, width)
    else:
        kind = np.dtype(_TYPES[column.kind])
        sizes = column.known * np.int64(kind.itemsize)
        block = np.empty(len(sizes), [("length", ">i4"), ("value", kind)])
        block["value"] = _as_stored(column)
    block["length"] = np.where(column.known, sizes, _NULL)
    return block, sizes + _LENGTH


def _as_stored(column: Numbers) -> NDArray[Any]:
    return column.values - EPOCH_SHIFT if column.kind == "timestamptz" else column.values
