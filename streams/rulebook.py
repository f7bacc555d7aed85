"""The alert rules as the rules topic tells them: which version is in force, and since when. Pure.

A version takes effect with its record's append time and ends with that of the next version, of a record that deletes
or disables the rule, or of a null value.
"""

from dataclasses import dataclass
from typing import Final

from pulsestream.core.log import logger
from schemas.control import Change
from schemas.records import Rule
from streams.engine.rules import ActiveRule, RuleError, parse_rule

KEPT: Final = 86_400_000_000
"""Microseconds for which versions that have ended are kept: a day."""

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What a rule's newest record says. `rule` None: none is in force. Versions below `version` end at `at`, micros."""

    rule_id: str
    version: int
    at: int
    rule: ActiveRule | None


class RuleBook:
    """The changes of each rule, oldest first, as far back as `KEPT` before the newest of all.

    A shard that folds records again needs the versions of that time too.
    """

    def __init__(self) -> None:
        self._changes: dict[str, list[RuleChange]] = {}
        self._newest_at = 0

    @property
    def changes(self) -> list[RuleChange]:
        """The changes of all rules, each rule's in order."""
        return [change for changes in self._changes.values() for change in changes]

    @property
    def in_force(self) -> int:
        """The number of rules in force."""
        return sum(changes[-1].rule is not None for changes in self._changes.values())

    def take(self, change: Change[Rule]) -> RuleChange:
        """Take in what the topic said, in order, and return what follows from it."""
        known = self._changes.setdefault(change.key, [])
        taken = _read(change, known[-1].version if known else 0)
        if known and known[-1].version == taken.version and known[-1].rule is not None and taken.rule is not None:
            return known[-1]  # the same version again: it keeps its first append time
        known.append(taken)
        self._newest_at = max(self._newest_at, taken.at)
        while len(known) > 1 and known[1].at < self._newest_at - KEPT:
            del known[0]
        return taken


def _read(change: Change[Rule], held_version: int) -> RuleChange:
    record = change.record
    if record is None:
        return RuleChange(change.key, held_version + 1, change.appended_at, None)
    return RuleChange(record.rule_id, record.version, change.appended_at, _in_force(record, change.appended_at))


def _in_force(record: Rule, appended_at: int) -> ActiveRule | None:
    if record.deleted or not record.enabled:
        return None
    try:
        definition = parse_rule(record.definition)
    except RuleError as error:
        _log.error("rule cannot be evaluated", rule=record.rule_id, version=record.version, reason=str(error))
        return None
    if not definition.enabled:
        return None
    return ActiveRule(record.tenant, record.rule_id, record.version, definition, appended_at)
