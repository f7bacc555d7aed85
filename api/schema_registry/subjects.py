"""What a tenant finds in the registry: a subject for the values of each of its topics (TopicNameStrategy).

The schemas are PulseStream's own, with ids that are the same in every installation: only the subjects are a tenant's.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

from fastavro.schema import SchemaParseException, to_parsing_canonical_form

from api.schema_registry import errors
from pulsestream.core.topics import DATASETS, parse_tenant_topic, tenant_topic
from schemas import registry
from schemas.codec import DATASET_RECORDS, NAMES
from schemas.registry import Released

LATEST: Final = ("latest", "-1")
_SUFFIX: Final = "-value"
_NATURAL: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Subject:
    """The values of one topic; versions count from 1 in the order of their release."""

    name: str
    versions: tuple[Released, ...]

    def numbers(self) -> list[int]:
        """Return the numbers of its versions."""
        return list(range(1, len(self.versions) + 1))

    def number(self, schema: Released) -> int:
        """Return the number of a schema among its versions; raises ValueError."""
        return self.versions.index(schema) + 1

    def version(self, number: str) -> Released:
        """Return a version by its number, "latest" or "-1"; raises RegistryError 40402 and 42202."""
        if number in LATEST:
            return self.versions[-1]
        index = _natural(number)
        if not index:
            raise errors.invalid_version(number)
        if index > len(self.versions):
            raise errors.version_not_found(self.name, number)
        return self.versions[index - 1]

    def equal(self, text: str) -> Released | None:
        """Return the newest version that is the same schema on the wire; raises RegistryError 42201.

        The same is what has the same canonical form (Avro specification, "Parsing Canonical Form"): documentation,
        defaults and logical types may differ.
        """
        form = _canonical(text)
        return next((schema for schema in reversed(self.versions) if _canonical(schema.text) == form), None)


def subjects(tenant: str) -> list[Subject]:
    """Return a tenant's subjects in the order of their names."""
    return [_subject(name, dataset) for name, dataset in sorted((_name(tenant, each), each) for each in DATASETS)]


def subject(tenant: str, name: str) -> Subject:
    """Return one of a tenant's subjects; raises RegistryError 40401 for another's, as for one that nobody has."""
    topic = parse_tenant_topic(name.removesuffix(_SUFFIX)) if name.endswith(_SUFFIX) else None
    if topic is None or _name(tenant, topic.dataset) != name:
        raise errors.subject_not_found(name)
    return _subject(name, topic.dataset)


def schema(number: str) -> Released:
    """Return a schema by its id, of whatever record; raises RegistryError 40403."""
    found = registry.released().get(_natural(number))
    if found is None:
        raise errors.schema_not_found(number)
    return found


def _subject(name: str, dataset: str) -> Subject:
    return Subject(name, tuple(registry.versions(NAMES[DATASET_RECORDS[dataset]])))


def _name(tenant: str, dataset: str) -> str:
    return tenant_topic(tenant, dataset) + _SUFFIX


def _natural(text: str) -> int:
    """Return a number that clients can count to (Java's int), or 0."""
    return int(text) if _NATURAL.fullmatch(text) else 0


def _canonical(text: str) -> str:
    try:
        return to_parsing_canonical_form(json.loads(text))
    except (ValueError, TypeError, LookupError, RecursionError, SchemaParseException) as error:
        raise errors.invalid_schema(str(error)) from error
