"""Encoders of flat records and of records of such, one written for each schema: an eighth of fastavro's cost.

`row_encoder` writes the source of one function from an Avro schema of strings, longs, ints, doubles and booleans, or
records of these, each perhaps in a union with null, and compiles it. What makes it quick: neighbouring doubles and
times are packed by one call, the bytes of longs come from tables, and texts that come again and again (exchange,
product) are encoded once. Whatever that function cannot take goes to the plain encoder, which so decides what is
refused, and how.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar, cast

from schemas.flat import (
    HIGH_SHIFT,
    LONG_BITS,
    LOW_BITS,
    MIDDLE_BITS,
    REPEATED,
    TIMES,
    Field,
    Nested,
    Seen,
    nested_fields,
    runs,
)

R = TypeVar("R")

_LOW, _MIDDLE = 1 << LOW_BITS, 1 << MIDDLE_BITS
_INT: Final = 1 << 31


def row_encoder(schema: Mapping[str, Any], prefix: bytes, plain: Callable[[R], bytes]) -> Callable[[R], bytes]:
    """Return the encoder of a record schema's records: `prefix`, then the Avro body.

    `plain` encodes what the written function cannot; it is what is returned for a schema that is not flat.
    """
    fields = nested_fields(schema)
    if fields is None:
        return plain
    names = _parts() | _packers(fields) | {"_prefix": prefix, "_plain": plain}
    exec(compile(source(fields), f"<encoder of {schema['name']}>", "exec"), names)  # noqa: S102 - of our own schemas
    return cast(Callable[[R], bytes], names["encode"])


# ---- writing the function ----

_CALLS: Final = {"string": "_text", "long": "_long", "int": "_int32", "double": "_double", "boolean": "_boolean"}
_FORMATS: Final = {"double": "d", "micros": "2s2s4s"}
_SPLIT: Final = f"_low[{{0}} & {_LOW - 1}], _middle[{{0}} >> {LOW_BITS} & {_MIDDLE - 1}], _high[{{0}} >> {HIGH_SHIFT}]"


def source(fields: Iterable[Field | Nested]) -> str:
    """Return the source of the function `encode` for a record of these fields.

    Names that are no field's begin with an underscore, so that no field can hide them.
    """
    loads, pieces = [], ["_prefix"]
    for number, run in runs(fields):
        packed = _packed_fields(run)
        if packed:
            loads += [f"{field.name} = record.{field.name}" for field in packed]
            pieces.append(_packed(number, packed))
        else:
            pieces += [_apart(field) for field in run]
    body = [*loads, "return _join((", *(f"    {piece}," for piece in pieces), "))"]
    lines = ["try:", *(f"    {line}" for line in body), "except Exception:", "    return _plain(record)"]
    return "\n".join(["def encode(record):", *(f"    {line}" for line in lines)])


def _packers(fields: Iterable[Field | Nested]) -> dict[str, Any]:
    return {f"_pack{number}": struct.Struct(f"<{_format(_packed_fields(run))}").pack for number, run in runs(fields)}


def _packed_fields(run: Iterable[Field | Nested]) -> list[Field]:
    return [field for field in run if isinstance(field, Field) and field.is_packed]


def _format(run: list[Field]) -> str:
    return "".join("B" * field.optional + _FORMATS[field.kind] for field in run)


def _apart(field: Field | Nested) -> str:
    """Return the source of the bytes of a field that is not packed."""
    value = f"record.{field.name}"
    if isinstance(field, Field):
        return _single(field, value)
    inner = "".join(f"{_single(each, f'{value}.{each.name}')}, " for each in field.fields)
    whole = f"_join(({inner}))"
    return f"(_null if {value} is None else _some + {whole})" if field.optional else whole


def _packed(number: int, run: list[Field]) -> str:
    """Return the source of a run's bytes: in one call, or one by one when a field has not its usual width."""
    usual = " and ".join(filter(None, map(_usual, run))) or "True"
    together = ", ".join("2, " * field.optional + _packed_value(field) for field in run)
    apart = ", ".join(_single(field, field.name) for field in run)
    return f"_pack{number}({together}) if {usual} else _join(({apart},))"


def _usual(field: Field) -> str:
    if field.kind == "micros":
        return f"{TIMES[0]} <= {field.name} < {TIMES[1]}"
    return f"{field.name} is not None" if field.optional else ""


def _packed_value(field: Field) -> str:
    return _SPLIT.format(field.name) if field.kind == "micros" else field.name


def _single(field: Field, value: str) -> str:
    """Return the source of one field's bytes."""
    if field.kind == "string" and field.name in REPEATED:
        return f"{'_optional_texts' if field.optional else '_texts'}[{value}]"
    encoded = f"{_CALLS.get(field.kind, '_long')}({value})"
    return f"(_null if {value} is None else _some + {encoded})" if field.optional else encoded


# ---- what it calls ----


@cache
def _parts() -> dict[str, Any]:
    """Return the functions and tables that written functions use, by name."""
    low = [bytes((n << 1 & 0x7F | 0x80, n >> 6 | 0x80)) for n in range(_LOW)]
    middle = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(_MIDDLE)]
    last = [_varint(n) for n in range(_MIDDLE)]
    small = [_varint(n << 1) for n in range(_LOW)]
    high: Mapping[int, bytes] = Seen(_high)
    double = struct.Struct("<d").pack

    def long(value: int) -> bytes:
        if value >= _LOW:
            if value >> HIGH_SHIFT:
                return low[value & _LOW - 1] + middle[value >> LOW_BITS & _MIDDLE - 1] + high[value >> HIGH_SHIFT]
            return low[value & _LOW - 1] + last[value >> LOW_BITS]
        return small[value] if value >= 0 else _negative(value)

    def int32(value: int) -> bytes:
        if not -_INT <= value < _INT:
            raise OverflowError(f"{value} has more than 32 bits")
        return long(value)

    def text(value: str) -> bytes:
        encoded = value.encode()
        length = len(encoded)
        return (small[length] if length < _LOW else long(length)) + encoded

    def boolean(value: bool) -> bytes:  # noqa: FBT001 - a field's value
        return b"\x01" if value else b"\x00"

    def optional_text(value: str | None) -> bytes:
        return b"\x00" if value is None else b"\x02" + text(value)

    calls = {"_long": long, "_int32": int32, "_text": text, "_double": double, "_boolean": boolean, "_join": b"".join}
    texts = {"_texts": Seen(text), "_optional_texts": Seen(optional_text)}
    return calls | texts | {"_low": low, "_middle": middle, "_high": high, "_null": b"\x00", "_some": b"\x02"}


def _varint(value: int) -> bytes:
    """Return an unsigned number in groups of seven bits, the lowest first (Avro specification, "Binary encoding")."""
    groups = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _high(value: int) -> bytes:
    if value >> LONG_BITS - HIGH_SHIFT:
        raise OverflowError("a number has more than 64 bits")
    return _varint(value)


def _negative(value: int) -> bytes:
    if value < -(1 << LONG_BITS):
        raise OverflowError(f"{value} has more than 64 bits")
    return _varint((-value << 1) - 1)
