"""Decoders of flat records, one written out for each schema: what fastavro and msgspec give, at a third of the cost.

The counterpart of `schemas.row_encoder`, for bytes of the newest schema. It takes only what it is certain of: whatever
else comes (another schema's bytes, long texts, damage) goes to the plain decoder, which so decides what is refused,
and how.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar, cast

from schemas.flat import HIGH_SHIFT, LOW_BITS, REPEATED, Field, Seen, flat_fields, runs

R = TypeVar("R")

_FORMATS: Final = {"double": "d", "micros": "HHI"}
_WIDTH: Final = 8
"""Bytes of a double, and of a time."""
_CONTINUED: Final = 0x80
_SHIFTS: Final = 56
"""Bits that a long of the usual kind has at most; the others are left to the plain decoder."""


def row_decoder(
    schema: Mapping[str, Any], prefix: bytes, record_type: type[R], plain: Callable[[bytes | None], R]
) -> Callable[[bytes | None], R]:
    """Return the decoder of a record schema's records: `prefix`, then the Avro body.

    `plain` decodes what the written function cannot; it is what is returned for a schema that is not flat.
    """
    fields = flat_fields(schema)
    if fields is None:
        return plain
    names = _parts() | _unpackers(fields) | {"_prefix": prefix, "_plain": plain, "_record": record_type}
    exec(compile(source(fields), f"<decoder of {schema['name']}>", "exec"), names)  # noqa: S102 - of our own schemas
    return cast(Callable[[bytes | None], R], names["decode"])


# ---- writing the function ----


def source(fields: list[Field]) -> str:
    """Return the source of the function `decode` for a record of these fields.

    Names that are no field's begin with an underscore, so that no field can hide them.
    """
    lines = ["if value[:5] != _prefix:", "    raise ValueError", "_at = 5"]
    for number, run in runs(fields):
        lines += _packed(number, run) if run[0].is_packed else [line for field in run for line in _single(field)]
    arguments = ", ".join(f"{field.name}=f_{field.name}" for field in fields)
    lines += ["if _at == len(value):", f"    return _record({arguments})"]
    written = ["def decode(value):", "    try:", *_indented(lines, 2), "    except Exception:", "        _at = None"]
    return "\n".join([*written, "    return _plain(value)"])


def _packed(number: int, run: list[Field]) -> list[str]:
    """Return the source of a run: read in one call, or one by one when a field has not its usual width."""
    targets = ", ".join(target for field in run for target in _targets(field))
    times = [
        f"f_{field.name} = _low[_low_{field.name}] + _middle[_middle_{field.name}] + _high[_high_{field.name}]"
        for field in run
        if field.kind == "micros"
    ]
    tags, width = _tags(run)
    together = [f"{targets}, = _unpack{number}(value, _at)", *times, f"_at += {width}"]
    if not tags:
        return together
    present = " == ".join(f"value[_at + {tag}]" for tag in tags)
    apart = [line for field in run for line in _single(field)]
    condition = f"if len(value) >= _at + {width} and 2 == {present}:"
    return [condition, *_indented(together), "else:", *_indented(apart)]


def _tags(run: list[Field]) -> tuple[list[int], int]:
    """Return where in a run that is there whole its unions' tags lie, and its width."""
    tags, at = [], 0
    for field in run:
        if field.optional:
            tags.append(at)
        at += field.optional + _WIDTH
    return tags, at


def _targets(field: Field) -> list[str]:
    if field.kind == "micros":
        return [f"_{part}_{field.name}" for part in ("low", "middle", "high")]
    return [f"f_{field.name}"]


def _single(field: Field) -> list[str]:
    """Return the source that reads one field at `_at`."""
    read = _read(field)
    if not field.optional:
        return read
    return [
        "if value[_at] == 2:",
        *_indented(["_at += 1", *read]),
        "elif value[_at] == 0:",
        *_indented([f"f_{field.name} = None", "_at += 1"]),
        "else:",
        "    raise ValueError",
    ]


def _read(field: Field) -> list[str]:
    name = f"f_{field.name}"
    if field.kind == "double":
        return [f"{name}, = _double(value, _at)", "_at += 8"]
    if field.kind == "boolean":
        return [f"{name} = _booleans[value[_at]]", "_at += 1"]
    if field.kind != "string":
        return [f"{name}, _at = _long(value, _at)"]
    text = "_texts[value[_at:_end]]" if field.name in REPEATED else "value[_at:_end].decode()"
    return [
        "_size = value[_at]",
        "if _size & 0x81:",
        "    raise ValueError",
        "_at += 1",
        "_end = _at + (_size >> 1)",
        f"{name} = {text}",
        "_at = _end",
    ]


def _indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    return ["    " * depth + line for line in lines]


# ---- what it calls ----


def _unpackers(fields: Iterable[Field]) -> dict[str, Any]:
    packed = [(number, run) for number, run in runs(fields) if run[0].is_packed]
    return {f"_unpack{number}": struct.Struct(f"<{_format(run)}").unpack_from for number, run in packed}


def _format(run: list[Field]) -> str:
    return "".join("x" * field.optional + _FORMATS[field.kind] for field in run)


@cache
def _parts() -> dict[str, Any]:
    """Return the functions and tables that written functions use, by name.

    A table of a long's first parts holds what is possible there: two bytes that go on, and in the first no minus.
    """
    middle = {_joined(value): value << LOW_BITS for value in range(1 << 2 * 7)}
    low = {_joined(value << 1): value for value in range(1 << LOW_BITS)}
    texts: Mapping[bytes, str] = Seen(bytes.decode)
    high: Mapping[int, int] = Seen(_high)
    tables = {"_low": low, "_middle": middle, "_high": high, "_texts": texts, "_booleans": {0: False, 1: True}}
    return tables | {"_long": _long, "_double": struct.Struct("<d").unpack_from}


def _joined(value: int) -> int:
    """Return the two bytes of 14 bits that go on, as they are read: little-endian."""
    return value & 0x7F | _CONTINUED | (value >> 7 | _CONTINUED) << 8


def _high(four: int) -> int:
    """Return the last part of a time from its four bytes; raises ValueError when it does not end with the fourth."""
    if four & 0x80808080 != 0x00808080:  # noqa: PLR2004 - the bits that say whether a byte goes on
        raise ValueError("not a long of eight bytes")
    groups = (four >> 8 * number & 0x7F for number in range(4))
    return sum(group << 7 * number for number, group in enumerate(groups)) << HIGH_SHIFT


def _long(value: bytes, at: int) -> tuple[int, int]:
    """Return a long and where it ends; raises ValueError for one of more than eight bytes, IndexError at the end."""
    number, shift = 0, 0
    while True:
        byte = value[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < _CONTINUED:
            return number >> 1 ^ -(number & 1), at
        shift += 7
        if shift >= _SHIFTS:
            raise ValueError("a long of more than eight bytes")
