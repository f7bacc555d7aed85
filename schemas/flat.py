"""Flat record schemas, as the writers of `schemas.row_encoder` and `schemas.row_decoder` see them. Pure.

A record is flat when its fields are strings, longs, ints, doubles and booleans, each perhaps in a union with null.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

REPEATED: Final = frozenset(
    {
        "exchange",
        "product",
        "side",
        "source",
        "status",
        "tenant",
        "tier",
        "topic_id",
        "type",
        "window",
        "period",
        "basis",
    }
)
"""String fields whose values come again and again."""
_KINDS: Final = frozenset({"string", "long", "int", "double", "boolean"})
_TIME: Final = {"type": "long", "logicalType": "timestamp-micros"}
_KEPT: Final = 4096

# A long is split into three parts: two bytes of its lowest 13 bits and the sign, two of the next 14 bits, the rest.
LOW_BITS, MIDDLE_BITS, LONG_BITS = 13, 14, 63
HIGH_SHIFT: Final = LOW_BITS + MIDDLE_BITS
TIMES: Final = (1 << 48, 1 << 55)
"""Times (micros) from 1978 to 3111: these take eight bytes, four of them for the rest."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a flat record. `kind`: string, long, int, double, boolean, or micros for a time."""

    name: str
    kind: str
    optional: bool

    @property
    def is_packed(self) -> bool:
        """Whether it is packed together with its neighbours."""
        return self.kind == "double" or (self.kind == "micros" and not self.optional)


@dataclass(frozen=True, slots=True)
class Nested:
    """A field that is a flat record itself."""

    name: str
    optional: bool
    fields: tuple[Field, ...]

    @property
    def is_packed(self) -> bool:
        """Whether it is packed together with its neighbours: never."""
        return False


def nested_fields(schema: Mapping[str, Any]) -> list[Field | Nested] | None:
    """Return the fields of a record schema, records among them; None when one of those or another is not flat."""
    fields = [each for field in schema["fields"] if (each := flat_field(field) or _nested_field(field))]
    return fields if len(fields) == len(schema["fields"]) else None


def _nested_field(field: Mapping[str, Any]) -> Nested | None:
    kind, optional = _without_null(field["type"])
    if not isinstance(kind, dict) or kind["type"] != "record":
        return None
    fields = flat_fields(kind)
    return None if fields is None else Nested(field["name"], optional, tuple(fields))


def _without_null(kind: Any) -> tuple[Any, bool]:  # a schema as JSON
    if isinstance(kind, list) and len(kind) == len(("null", "the value")) and kind[0] == "null":
        return kind[1], True
    return kind, False


F = TypeVar("F", Field, Field | Nested)


def flat_fields(schema: Mapping[str, Any]) -> list[Field] | None:
    """Return the fields of a record schema; None when it is not flat."""
    fields = [flat for field in schema["fields"] if (flat := flat_field(field))]
    return fields if len(fields) == len(schema["fields"]) else None


def runs(fields: Iterable[F]) -> list[tuple[int, list[F]]]:
    """Return the fields in numbered runs: neighbours that are packed together, and those that are not."""
    return list(enumerate(list(run) for _, run in groupby(fields, key=lambda field: field.is_packed)))


def flat_field(field: Mapping[str, Any]) -> Field | None:
    """Return a field of a record schema; None when it is not flat."""
    kind, optional = _without_null(field["type"])
    if kind == _TIME:
        return Field(field["name"], "micros", optional)
    return Field(field["name"], kind, optional) if isinstance(kind, str) and kind in _KINDS else None


class Seen(dict[K, V]):
    """Results by value, made when a value is first asked for; bounded, and long values are not kept."""

    def __init__(self, make: Callable[[K], V], longest: int = 64) -> None:
        super().__init__()
        self._make = make
        self._longest = longest

    def __missing__(self, value: K) -> V:
        made = self._make(value)
        if not isinstance(value, str | bytes) or len(value) <= self._longest:
            if len(self) >= _KEPT:
                self.clear()
            self[value] = made
        return made
