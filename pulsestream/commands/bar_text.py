"""The text of bar files as numbers: a whole file at once where every row has its shape, and else row by row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pulsestream.commands.reading import SourceError
from streams.engine.inputs import Ints

FIELDS: Final = 6
"""Milliseconds since midnight, open, high, low, close, volume."""
_OF_NUMBERS: Final = b"0123456789.eE+-"
_LINE: Final = b"," * (FIELDS - 1) + b"\n"
_SHOWN: Final = 60
_numbers: Final = msgspec.json.Decoder(list[float])


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a file holds: a column of `values` for each row that is six numbers, the lines they stand on, the faults.

    A fault is the line of a row that is none, and what is wrong with it.
    """

    values: NDArray[np.float64]
    lines: Ints
    faults: list[tuple[int, str]]


def read_rows(path: Path) -> Rows:
    """Read a file; raises SourceError if that cannot be done."""
    try:
        text = path.read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not text:
        return Rows(np.empty((FIELDS, 0)), np.empty(0, np.int64), [])
    values = _at_once(text) if _is_regular(text) else None
    if values is None:
        return _row_by_row(text)
    return Rows(values, np.arange(1, values.shape[1] + 1), [])


def _is_regular(text: bytes) -> bool:
    """Tell whether every line has six fields of characters that numbers are made of."""
    shape = text.translate(None, _OF_NUMBERS)
    return shape == _LINE * (len(shape) // len(_LINE)) + _LINE.rstrip(b"\n")


def _at_once(text: bytes) -> NDArray[np.float64] | None:
    """Return the fields of all lines, or None if one of them is no number."""
    try:
        numbers = _numbers.decode(b"[%s]" % text.replace(b"\n", b","))
    except msgspec.DecodeError:
        return None
    return np.fromiter(numbers, np.float64, len(numbers)).reshape(-1, FIELDS).T.copy()


def _row_by_row(text: bytes) -> Rows:
    lines: list[int] = []
    rows: list[list[float]] = []
    faults: list[tuple[int, str]] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        try:
            row = _numbers.decode(b"[%s]" % line)
        except msgspec.DecodeError:
            row = []
        if len(row) == FIELDS:
            lines.append(number)
            rows.append(row)
        else:
            faults.append((number, f"is not {FIELDS} numbers with commas between: {_shown(line)}"))
    values = np.array(rows, np.float64).reshape(-1, FIELDS).T
    return Rows(values.copy(), np.array(lines, np.int64), faults)


def _shown(line: bytes) -> str:
    return repr(line[:_SHOWN].decode(errors="replace"))
