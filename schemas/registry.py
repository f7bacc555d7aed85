"""The schemas that have ever been written, by id, and the one in force for each record name.

A schema is released by putting it into `avro/released/` as `{id:04d}-{name}.avsc`; its id never changes meaning. The
file `avro/{name}.avsc` is the newest version; a test holds it equal to the newest release, and every pair of releases
of a name compatible in both directions (FULL_TRANSITIVE).
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.schema import parse

from schemas.errors import DecodeError

_AVRO: Final = files("schemas") / "avro"
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Released:
    """A released schema: its id on the wire, the record's name (file stem), and the Avro JSON text."""

    schema_id: int
    name: str
    text: str

    @property
    def json(self) -> Json:
        """The schema as parsed JSON."""
        parsed: Json = json.loads(self.text)
        return parsed


@cache
def released() -> dict[int, Released]:
    """Return every released schema by id."""
    found = {}
    for file in (_AVRO / "released").iterdir():
        number, name = file.name.removesuffix(".avsc").split("-", 1)
        found[int(number)] = Released(int(number), name, file.read_text("utf-8"))
    return dict(sorted(found.items()))


@cache
def _learned() -> dict[int, Released]:
    """Return the schemas of other versions that this process was told of: facts that do not change, as those above."""
    return {}


def learn(schema: Released) -> None:
    """Know a schema of another version from now on; one that was released here stays as it is."""
    _learned()[schema.schema_id] = schema


def by_id(schema_id: int) -> Released:
    """Return a schema, released here or learned; raises DecodeError `unknown_schema`."""
    found = released().get(schema_id) or _learned().get(schema_id)
    if found is None:
        raise DecodeError("unknown_schema", f"schema id {schema_id} was never released here")
    return found


def names() -> list[str]:
    """Return the names of all records."""
    return sorted({schema.name for schema in released().values()})


def versions(name: str) -> list[Released]:
    """Return the released versions of a record name, oldest first."""
    return [schema for schema in released().values() if schema.name == name]


def current(name: str) -> Released:
    """Return the newest released version of a record name; raises KeyError for an unknown name."""
    found = versions(name)
    if not found:
        raise KeyError(name)
    return found[-1]


def working_text(name: str) -> str:
    """Return the text of `avro/{name}.avsc`, which the next release will be made from."""
    return (_AVRO / f"{name}.avsc").read_text("utf-8")


def reads(reader: str, writer: str) -> bool:
    """Return whether records written with one schema text can be read with another."""
    try:
        result = ReaderWriterCompatibilityChecker().get_compatibility(parse(reader), parse(writer))  # type: ignore[no-untyped-call]  # avro has no annotation there
    except AvroException:
        return False
    return result.compatibility is SchemaCompatibilityType.compatible


def incompatibilities(first: str, second: str) -> list[str]:
    """Return why two schema texts cannot read each other's records, in both directions; empty when they can."""
    one, other = parse(first), parse(second)
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # avro has no annotation there
    faults = []
    for reader, writer, direction in ((one, other, "backward"), (other, one, "forward")):
        result = checker.get_compatibility(reader, writer)
        if result.compatibility is not SchemaCompatibilityType.compatible:
            faults += [f"{direction}: {message}" for message in sorted(result.messages)]
    return faults
