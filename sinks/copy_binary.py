"""Rows in PostgreSQL's binary COPY format (PostgreSQL documentation, "COPY", section Binary Format). Pure.

Times go from microseconds since 1970 to the server's own integers, so no datetime object is ever made and nothing is
rounded. psycopg's row writer is the oracle in the tests.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from struct import Struct
from typing import Final, Literal

import msgspec

Kind = Literal["text", "double precision", "bigint", "integer", "boolean", "timestamptz", "jsonb", "bytea"]
"""A column's type, by the name it has in `schemas/sql`."""

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Signature, no flags, no header extension."""
TRAILER: Final = b"\xff\xff"

EPOCH_SHIFT: Final = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where the server's timestamps begin."""
_NULL: Final = b"\xff\xff\xff\xff"
_LENGTH: Final = Struct("!i").pack
_COUNT: Final = Struct("!h").pack
_LONG: Final = Struct("!iq").pack
_JSONB_VERSION: Final = b"\x01"

Pack = Callable[[object], bytes]


def encode_row(packers: Sequence[Pack], values: Iterable[object]) -> bytes:
    """Return one row; raises ValueError for a value that its column cannot hold (a lone surrogate, a huge integer)."""
    fields = [_NULL if value is None else pack(value) for pack, value in zip(packers, values, strict=True)]
    return _COUNT(len(fields)) + b"".join(fields)


def packers(kinds: Iterable[Kind]) -> tuple[Pack, ...]:
    """Return what encodes a value of each kind, for `encode_row`."""
    return tuple(_PACKERS[kind] for kind in kinds)


def stream(rows: Iterable[bytes]) -> bytes:
    """Return encoded rows as one whole COPY stream."""
    return b"".join((HEADER, *rows, TRAILER))


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


def _time(micros: int) -> bytes:
    return _LONG(8, micros - EPOCH_SHIFT)


def _json(value: object) -> bytes:
    encoded = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    return _LENGTH(len(encoded) + 1) + _JSONB_VERSION + encoded


def _bytes(value: bytes) -> bytes:
    return _LENGTH(len(value)) + value


_PACKERS: Final[dict[Kind, Callable[..., bytes]]] = {
    "text": _text,
    "double precision": partial(Struct("!id").pack, 8),
    "bigint": partial(_LONG, 8),
    "integer": partial(Struct("!ii").pack, 4),
    "boolean": partial(Struct("!i?").pack, 1),
    "timestamptz": _time,
    "jsonb": _json,
    "bytea": _bytes,
}
