"""The alert rules as the rules topic tells them: which version is in force, and since when. Pure.

A version takes effect with its record's append time and ends with that of the next version, of a record that deletes
or disables the rule, or of a null value.
"""

from dataclasses import dataclass

from pulsestream.core.log import logger
from schemas.control import Change
from schemas.records import Rule
from streams.engine.rules import ActiveRule, RuleError, parse_rule

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What a rule's newest record says. `rule` None: none is in force. Versions below `version` end at `at`, micros."""

    rule_id: str
    version: int
    at: int
    rule: ActiveRule | None


class RuleBook:
    """The newest change of each rule."""

    def __init__(self) -> None:
        self._newest: dict[str, RuleChange] = {}

    @property
    def changes(self) -> list[RuleChange]:
        """The newest change of each rule."""
        return list(self._newest.values())

    @property
    def in_force(self) -> int:
        """The number of rules in force."""
        return sum(change.rule is not None for change in self._newest.values())

    def take(self, change: Change[Rule]) -> RuleChange:
        """Take in what the topic said, in order, and return what follows from it."""
        held = self._newest.get(change.key)
        taken = _read(change, held.version if held else 0)
        if held is not None and held.version == taken.version and held.rule is not None and taken.rule is not None:
            return held  # the same version again: it keeps its first append time
        self._newest[change.key] = taken
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
