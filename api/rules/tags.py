"""Entity tags of rules: the version, so that a change can say which one it was made from. Pure.

RFC 9110, section 13.1.1.
"""

import re
from dataclasses import dataclass
from typing import Final

from api import errors

_TAG: Final = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e]*"\s*')
_VERSION: Final = re.compile(r'"([1-9][0-9]{0,17})"')
_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class Match:
    """The versions that a change is for; None: whatever there is."""

    versions: frozenset[int] | None

    def check(self, rule_id: str, version: int) -> None:
        """Raise Problem 412 where the rule is at another version."""
        if self.versions is not None and version not in self.versions:
            raise errors.precondition_failed(
                f"Rule {rule_id} is at version {version} and was changed since If-Match was true: get it, and make the "
                "change to what it is now.",
                version=version,
            )


ANY: Final = Match(None)


def tag_of(version: int) -> str:
    """Return the entity tag of a version."""
    return f'"{version}"'


def match_of(header: str | None) -> Match | None:
    """Return what If-Match says, None where it is not given; raises Problem 400. Weak tags match nothing."""
    if header is None:
        return None
    if header.strip() == "*":
        return ANY
    tags = header.split(",")
    if len(header) > _LONGEST or not all(_TAG.fullmatch(tag) for tag in tags):
        fault = f'{header[:60]!r} is no entity tag: send the ETag of the rule, such as "3", or *'
        raise errors.invalid_parameters([errors.FieldError("If-Match", fault)])
    found = (_VERSION.fullmatch(tag.strip()) for tag in tags)
    return Match(frozenset(int(one[1]) for one in found if one))
