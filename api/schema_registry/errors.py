"""What the registry refuses, in the form and with the codes of Confluent's API, which its clients read.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html#errors
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from api.errors import Problem
from pulsestream.core.errors import PulseStreamError


@dataclass(slots=True, eq=False)
class RegistryError(PulseStreamError):
    """An answer of the registry that is an error; its first three digits are the HTTP status."""

    code: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(str(self.code)[:3])


def of_problem(problem: Problem) -> RegistryError:
    """Return what a client of the registry is told of a refusal that is not the registry's own."""
    headers = dict(problem.headers)
    if problem.status == 401:  # noqa: PLR2004 - HTTP's status
        headers["WWW-Authenticate"] = 'Basic realm="PulseStream", charset="UTF-8"'
    return RegistryError(problem.status * 100 + 1, problem.detail, headers)


def subject_not_found(name: str) -> RegistryError:
    """40401."""
    return RegistryError(40401, f"Subject '{name[:200]}' not found: those of your topics are <topic>-value.")


def version_not_found(name: str, number: str) -> RegistryError:
    """40402."""
    return RegistryError(40402, f"Version {number} of '{name}' not found.")


def schema_not_found(number: str) -> RegistryError:
    """40403."""
    return RegistryError(40403, f"Schema {number[:20]} not found: PulseStream has never released it.")


def no_such_schema(name: str) -> RegistryError:
    """40403, where a schema was asked for by its text."""
    return RegistryError(40403, f"'{name}' has no version with this schema.")


def invalid_schema(why: str) -> RegistryError:
    """42201."""
    return RegistryError(42201, f"That is no Avro schema: {why[:200]}")


def invalid_version(number: str) -> RegistryError:
    """42202."""
    return RegistryError(42202, f"{number[:20]!r} is not a version: use a number from 1 on, or latest.")


def read_only(name: str) -> RegistryError:
    """42205, as a registry in mode READONLY answers."""
    return RegistryError(
        42205,
        f"'{name}' is read-only: PulseStream releases its schemas itself. Set auto.register.schemas=false and "
        "use.latest.version=true in your serialiser.",
    )
