"""Rows as text: JSON Lines and CSV (RFC 4180), a batch at a time. Pure.

Numbers, times and nested JSON are written as in a page's JSON; in CSV what is null is an empty field.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

Format = Literal["ndjson", "csv"]
MEDIA_TYPES: Final[Mapping[Format, str]] = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
Record = Mapping[str, Any] | Sequence[Any]
Encode = Callable[[Sequence[Record]], bytes]
_encoder: Final = msgspec.json.Encoder()


def first_bytes(form: Format, header: Sequence[str]) -> bytes:
    """Return what an export begins with."""
    return _line_of_csv([header]) if form == "csv" else b""


def encoded(form: Format, header: Sequence[str], rows: Sequence[Record]) -> bytes:
    """Return rows as lines."""
    if form == "ndjson":
        return _encoder.encode_lines(rows)
    return _line_of_csv([_cells(header, row) for row in rows])


def _cells(header: Sequence[str], row: Record) -> list[object]:
    values = [row.get(name) for name in header] if isinstance(row, Mapping) else list(row)
    return [value if value is None or isinstance(value, str) else _encoder.encode(value).decode() for value in values]


def _line_of_csv(lines: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()
