"""Columns out of the bytes of many records at once: what the row codec gives, at a twentieth of its cost. Pure.

The counterpart of `schemas.row_decoder` for batches, with one cursor a record and every field read for all of them.
It takes only what it is certain of: whatever else comes (another schema's bytes, long texts, damage) is left to the
row codec, which so decides what is refused, and how. Reads go up to PADDING bytes beyond a record, never further.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.flat import Field, flat_field

Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]
"""Eight bytes each, little-endian; of texts one row a text."""

PADDING: Final = 8192
LONGEST: Final = 63
"""Bytes of a text that is read here."""
_TEXT_WIDTH: Final = 64
"""Bytes of a text and the byte before it that says how many they are."""
_WORD: Final = 8
_PREFIX_BYTES: Final = 5
_PRESENT, _NULL = 2, 0

_ONES: Final = np.uint64(0x0101010101010101)
_HIGHS: Final = np.uint64(0x8080808080808080)
_GROUPS: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_JOINS: Final = (
    (np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
)
"""The steps that bring the 7-bit groups of a varint together: what stays, what moves, and how far."""
_ONE: Final = np.uint64(1)
_MASKS: Final = np.frombuffer(
    b"".join(bytes([255] * size + [0] * (_TEXT_WIDTH - size)) for size in range(_TEXT_WIDTH + 1)), f"V{_TEXT_WIDTH}"
)
"""By size: ones over so many first bytes of a text."""


class Octets:
    """Bytes that are read at many positions at once."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._bytes = b"".join([*parts, bytes(PADDING)])
        self.bytes = np.frombuffer(self._bytes, np.uint8)
        self._words: Words = np.ndarray((len(self._bytes) - _WORD,), "<u8", self._bytes, strides=(1,))

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop`."""
        return self._bytes[start:stop]

    def words(self, at: Ints) -> Words:
        """Return the eight bytes at each position."""
        return self._words[at]

    def runs(self, at: Ints, width: int) -> NDArray[np.void]:
        """Return `width` bytes at each position."""
        runs: NDArray[np.void] = np.ndarray((len(self._bytes) - width,), f"V{width}", self._bytes, strides=(1,))
        return runs[at]

    def texts(self, at: Ints, sizes: Ints, width: int | None = None) -> Words:
        """Return up to 64 bytes at each position, zeros behind, in `width` words: as many as the longest takes."""
        width = words_of(sizes) if width is None else width
        return self.runs(at, _TEXT_WIDTH).view("<u8").reshape(-1, _WORD)[:, :width] & masks(sizes, width)


def words_of(sizes: Ints) -> int:
    """Return the words that the longest of texts takes."""
    return (int(sizes.max(initial=0)) + _WORD - 1) // _WORD


def masks(sizes: Ints, width: int) -> Words:
    """Return for each size, up to 64, ones over so many bytes, in `width` words."""
    return _MASKS[sizes].view("<u8").reshape(-1, _WORD)[:, :width]


def are_plain(texts: Words, sizes: Ints) -> Bools:
    """Say which texts are printable ASCII."""
    odd = texts | (texts + _ONES) | ~((texts << _ONE) | (texts << np.uint64(2)))
    plain: Bools = np.bitwise_or.reduce(odd & _HIGHS & masks(sizes, texts.shape[1]), axis=1) == 0
    return plain


def varints(words: Words) -> tuple[Ints, Ints, Bools]:
    """Return the zigzag numbers that words begin with, their sizes in bytes, and which of them end within the word."""
    stops = ~words & _HIGHS
    stops &= ~stops + _ONE
    below = stops - _ONE
    value = words & below & _GROUPS
    for stay, move, bits in _JOINS:
        value = (value & stay) | ((value & move) >> bits)
    numbers = (value >> _ONE).view(np.int64) ^ -(value & _ONE).view(np.int64)
    return numbers, (np.bitwise_count(below).astype(np.int64) + 1) >> 3, stops != 0


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One field of many records.

    `values`: float64 (null is NaN), int64 (null is 0), bool (null is False), or where a text begins; `known`: where
    it is not null; `sizes`: the bytes of a text, which nobody has looked at (`Octets.texts`, `are_plain`).
    """

    values: NDArray[Any]  # its dtype is the field's
    known: Bools
    sizes: Ints | None = None

    @property
    def ends(self) -> Ints:
        """Where a text ends; raises TypeError for what is none."""
        if self.sizes is None:
            raise TypeError("a number has no end")
        ends: Ints = self.values + self.sizes
        return ends


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The fields of many records by name; of a nested record `outer.inner`.

    `doubles`: all of that kind, a row for each of the names. Where it is not `certain`, a record's fields mean nothing.
    """

    columns: dict[str, Column]
    doubles: Floats
    names: tuple[str, ...]
    certain: Bools


class ColumnDecoder:
    """The decoder of one schema's records: `prefix`, then the Avro body."""

    def __init__(self, fields: Sequence["Node"], prefix: bytes) -> None:
        self._prefix = np.uint64(int.from_bytes(prefix, "little"))
        self._doubles = tuple(name for name, kind in _leaves(fields) if kind == "double")
        self._steps = _steps(fields, {name: row for row, name in enumerate(self._doubles)})

    def decode(self, octets: Octets, starts: Ints, stops: Ints) -> Decoded:
        """Return the records from `starts` to before `stops`; a stop before its start is a null value."""
        reading = _Reading(octets, starts, len(self._doubles))
        reading.certain &= octets.words(starts) & np.uint64((1 << 8 * _PREFIX_BYTES) - 1) == self._prefix
        for step in self._steps:
            step.read(reading, None)
        reading.certain &= reading.at == stops
        doubles = reading.doubles
        for row, name in enumerate(self._doubles):
            reading.columns[name] = Column(doubles[row], reading.known_doubles[row])
        reading.certain &= (np.isnan(doubles) != reading.known_doubles).all(axis=0)
        return Decoded(reading.columns, doubles, self._doubles, reading.certain)


def column_decoder(schema: Mapping[str, Any], prefix: bytes) -> ColumnDecoder | None:
    """Return the decoder of a record schema; None when it holds what is no record, text, number or boolean."""
    fields = _nodes(schema, "")
    return None if fields is None else ColumnDecoder(fields, prefix)


# ---- the plan: what is read one after the other ----


@dataclass(frozen=True, slots=True)
class Nested:
    """A record within a record."""

    optional: bool
    fields: Sequence["Node"]


Node: TypeAlias = Field | Nested


def _nodes(schema: Mapping[str, Any], outer: str) -> list[Node] | None:
    nodes = [_node(each, outer) for each in schema["fields"]]
    return None if None in nodes else [node for node in nodes if node is not None]


def _node(each: Mapping[str, Any], outer: str) -> Node | None:
    flat = flat_field(each)
    if flat is not None:
        return replace(flat, name=outer + flat.name)
    kind, optional = each["type"], False
    if isinstance(kind, list) and kind[0] == "null":
        kind, optional = kind[1], True
    if not isinstance(kind, dict) or kind["type"] != "record":
        return None
    fields = _nodes(kind, f"{outer}{each['name']}.")
    return None if fields is None else Nested(optional, fields)


def _leaves(nodes: Iterable[Node]) -> Iterable[tuple[str, str]]:
    for node in nodes:
        if isinstance(node, Field):
            yield node.name, node.kind
        else:
            yield from _leaves(node.fields)


def _steps(nodes: Sequence[Node], rows: Mapping[str, int]) -> list["_Step"]:
    steps: list[_Step] = []
    for are_doubles, run in groupby(nodes, key=lambda node: isinstance(node, Field) and node.kind == "double"):
        if are_doubles:
            doubles = [node for node in run if isinstance(node, Field)]
            steps.append(_Doubles(doubles, rows[doubles[0].name]))
        else:
            steps += [_step(node, rows) for node in run]
    return steps


def _step(node: Node, rows: Mapping[str, int]) -> "_Step":
    if isinstance(node, Nested):
        return _Record(node.optional, _steps(node.fields, rows))
    kinds: dict[str, type[_Text | _Boolean]] = {"string": _Text, "boolean": _Boolean}
    return kinds[node.kind](node) if node.kind in kinds else _Long(node)


# ---- the reading ----


class _Reading:
    """The cursors of many records, and what was read so far."""

    def __init__(self, octets: Octets, starts: Ints, doubles: int) -> None:
        self.octets = octets
        self.at = starts + _PREFIX_BYTES
        self.certain = np.ones(len(starts), np.bool_)
        self.columns: dict[str, Column] = {}
        self.doubles = np.empty((doubles, len(starts)), np.float64)
        self.known_doubles = np.ones((doubles, len(starts)), np.bool_)

    @cached_property
    def everywhere(self) -> Bools:
        """Return what is known of a field that is never null."""
        return np.ones(len(self.at), np.bool_)

    def branch(self, active: Bools | None, *, optional: bool) -> Bools | None:
        """Return where the next field is there, None for everywhere; reads its union's tag if it is `optional`."""
        if not optional:
            return active
        tags = self.octets.bytes[self.at]
        present = tags == _PRESENT
        sound = present | (tags == _NULL)
        if active is None:
            self.at += 1
        else:
            present &= active
            sound |= ~active
            self.at += active
        self.certain &= sound
        return None if present.all() else present

    def pass_over(self, sizes: Ints | int, present: Bools | None) -> None:
        """Move the cursors behind a field of these bytes."""
        self.at += sizes if present is None else sizes * present

    def need(self, sound: Bools, present: Bools | None) -> None:
        """Be certain only where a field is sound or not there."""
        self.certain &= sound if present is None else sound | ~present

    def known(self, present: Bools | None) -> Bools:
        """Return where a field has a value."""
        return self.everywhere if present is None else present


@dataclass(frozen=True, slots=True)
class _Text:
    field: Field

    def read(self, reading: _Reading, active: Bools | None) -> None:
        present = reading.branch(active, optional=self.field.optional)
        octets = reading.octets.bytes[reading.at]
        reading.need((octets & 0x81) == 0, present)
        sizes = ((octets & 0x7E) >> 1).astype(np.int64)
        reading.columns[self.field.name] = Column(reading.at + 1, reading.known(present), sizes)
        reading.pass_over(sizes + 1, present)


@dataclass(frozen=True, slots=True)
class _Long:
    field: Field

    def read(self, reading: _Reading, active: Bools | None) -> None:
        present = reading.branch(active, optional=self.field.optional)
        if present is not None and not present.any():
            reading.columns[self.field.name] = Column(np.zeros(len(present), np.int64), present)
            return
        numbers, sizes, ended = varints(reading.octets.words(reading.at))
        reading.need(ended, present)
        if present is not None:
            numbers *= present
        reading.columns[self.field.name] = Column(numbers, reading.known(present))
        reading.pass_over(sizes, present)


@dataclass(frozen=True, slots=True)
class _Boolean:
    field: Field

    def read(self, reading: _Reading, active: Bools | None) -> None:
        present = reading.branch(active, optional=self.field.optional)
        octets = reading.octets.bytes[reading.at]
        reading.need(octets <= 1, present)
        values = octets == 1 if present is None else (octets == 1) & present
        reading.columns[self.field.name] = Column(values, reading.known(present))
        reading.pass_over(1, present)


@dataclass(frozen=True, slots=True)
class _Doubles:
    """Neighbours that are doubles, the first of them in this row: read at once where none of them is null."""

    fields: Sequence[Field]
    first: int
    layout: np.dtype[np.void] = field(init=False)

    def __post_init__(self) -> None:
        parts = [
            part
            for each in self.fields
            for part in ([(f"tag of {each.name}", "u1")] if each.optional else []) + [(each.name, "<f8")]
        ]
        object.__setattr__(self, "layout", np.dtype(parts))

    def read(self, reading: _Reading, active: Bools | None) -> None:
        if active is None:
            together = reading.octets.runs(reading.at, self.layout.itemsize).view(self.layout)
            if all((together[f"tag of {each.name}"] == _PRESENT).all() for each in self.fields if each.optional):
                for row, each in enumerate(self.fields, self.first):
                    reading.doubles[row] = together[each.name]
                reading.at += self.layout.itemsize
                return
        for row, each in enumerate(self.fields, self.first):
            self._read_apart(reading, active, row, optional=each.optional)

    def _read_apart(self, reading: _Reading, active: Bools | None, row: int, *, optional: bool) -> None:
        present = reading.branch(active, optional=optional)
        numbers = reading.octets.words(reading.at).view(np.float64)
        if present is not None:
            numbers[~present] = np.nan
            reading.known_doubles[row] = present
        reading.doubles[row] = numbers
        reading.pass_over(_WORD, present)


@dataclass(frozen=True, slots=True)
class _Record:
    optional: bool
    steps: Sequence["_Step"]

    def read(self, reading: _Reading, active: Bools | None) -> None:
        present = reading.branch(active, optional=self.optional)
        for step in self.steps:
            step.read(reading, present)


_Step: TypeAlias = _Text | _Long | _Boolean | _Doubles | _Record
