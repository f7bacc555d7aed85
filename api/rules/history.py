"""What a version of a rule did to the one before it. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from api.rules.repository import VersionRow

Change = Literal["created", "changed", "paused", "resumed", "deleted"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One place of a definition, as a JSON pointer, and what stood and stands there; None: nothing."""

    pointer: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a rule, what it did, and where it differs from the one before."""

    row: VersionRow
    change: Change
    differences: list[Difference]


def told(row: VersionRow) -> Version:
    """Return what a version did."""
    found = [] if row.before is None else list(differences(row.before, row.definition))
    return Version(row, _change(row, found), found)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[Difference]:
    """Give the places where two definitions differ, in the order of their names; lists are one place."""
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        pointer = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, pointer)
        elif one != other:
            yield Difference(pointer, one, other)


def _change(row: VersionRow, found: list[Difference]) -> Change:
    if row.deleted:
        return "deleted"
    if row.before is None:
        return "created"
    if [one.pointer for one in found] == ["/enabled"]:
        return "resumed" if row.enabled else "paused"
    return "changed"
