"""A tenant's rules over the HTTP API: what there is, and made to be what a file says."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias

from api.rules.history import differences
from pulsestream.client import Client
from pulsestream.client.objects import Rule
from pulsestream.commands.rules import read_rule_file
from pulsestream.commands.shown import listing, printable
from pulsestream.core.errors import UsageError
from streams.engine.rules import RuleDefinition

Change: TypeAlias = Literal["create", "change", "keep", "delete"]
_COLUMNS: Final = ("name", "version", "state", "product", "condition", "rule_id")
_DONE: Final = {"create": "created", "change": "changed", "keep": "as it was", "delete": "deleted"}
_WOULD: Final = {"create": "would be created", "change": "would be changed", "keep": "as it is", "delete": "would go"}


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one rule; `wanted` None: it goes. `held` None: it is new."""

    name: str
    wanted: dict[str, Any] | None
    held: Rule | None

    @property
    def change(self) -> Change:
        """What is to be done."""
        if self.wanted is None:
            return "delete"
        if self.held is None:
            return "create"
        return "keep" if self.held["definition"] == self.wanted else "change"

    def places(self) -> list[str]:
        """Return where the definitions differ, as JSON pointers."""
        if self.change != "change" or self.held is None or self.wanted is None:
            return []
        return [each.pointer for each in differences(self.held["definition"], self.wanted)]


def plan(wanted: Sequence[RuleDefinition], held: Sequence[Rule], *, prune: bool) -> Iterator[Step]:
    """Give a step for each rule of a file, by name; with `prune` before that for each that is not in it."""
    by_name = {rule["name"]: rule for rule in held}
    if prune:  # first, so that what takes their place is within the quota
        for name in sorted(by_name.keys() - {rule.name for rule in wanted}):
            yield Step(name, None, by_name[name])
    for rule in wanted:
        yield Step(rule.name, json.loads(rule.model_dump_json(exclude_none=True)), by_name.get(rule.name))


def apply(api: Client, path: Path, *, prune: bool, dry_run: bool, out: TextIO) -> None:
    """Have the tenant's rules be those of a file, and write what became of each.

    A change is made from the version that was seen: one that somebody else makes meanwhile is not overwritten.
    Raises UsageError for a file that is not valid, or names a rule twice.
    """
    rules = read_rule_file(path).rules
    names = [rule.name for rule in rules]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: names rule {twice!r} twice: rules are told apart by their names")
    for step in [*plan(rules, api.rules.list(), prune=prune)]:
        if not dry_run:
            _do(api, step)
        where = "".join(f" {place}" for place in step.places())
        said = (_WOULD if dry_run else _DONE)[step.change]
        out.write(printable(f"{step.name}: {said}{where and ':'}{where}") + "\n")


def listed(api: Client, *, as_json: bool, out: TextIO) -> None:
    """Write the tenant's rules, oldest first."""
    rules = api.rules.list()
    listing(rules if as_json else map(_readable, rules), _COLUMNS, as_json=as_json, out=out)


def show(api: Client, named: str) -> str:
    """Return a rule as JSON."""
    return json.dumps(_found(api, named), ensure_ascii=False, indent=2)


def versions(api: Client, named: str, *, as_json: bool, out: TextIO) -> None:
    """Write the versions of a rule, the newest first: of a deleted one by its id."""
    held = [rule["rule_id"] for rule in api.rules.list() if rule["name"] == named]
    found = api.rules.versions(held[0] if held else named)
    if as_json:
        listing(found, (), as_json=True, out=out)
        return
    shown = [{**one, "differences": " ".join(each["pointer"] for each in one["differences"])} for one in found]
    columns = ("version", "change", "created_at", "created_by", "effective_at", "ended_at", "differences")
    listing(shown, columns, as_json=False, out=out)


def pause(api: Client, named: str) -> str:
    """Pause a rule; return what to show."""
    rule = api.rules.pause(_found(api, named)["rule_id"])
    return printable(f"rule {rule['name']} is paused since version {rule['version']}: it evaluates nothing")


def resume(api: Client, named: str) -> str:
    """Let a rule go on; return what to show."""
    rule = api.rules.resume(_found(api, named)["rule_id"])
    return printable(f"rule {rule['name']} works since version {rule['version']}, from nothing")


def delete(api: Client, named: str) -> str:
    """Delete a rule; return what to show."""
    rule = _found(api, named)
    api.rules.delete(rule["rule_id"])
    return printable(f"rule {rule['name']} deleted; what it had open is resolved")


def _do(api: Client, step: Step) -> None:
    if step.change == "create" and step.wanted is not None:
        api.rules.create(step.wanted)
    elif step.held is not None and step.wanted is None:
        api.rules.delete(step.held["rule_id"], version=step.held["version"])
    elif step.change == "change" and step.held is not None and step.wanted is not None:
        api.rules.replace(step.held["rule_id"], step.wanted, version=step.held["version"])


def _found(api: Client, named: str) -> Rule:
    """Return the rule of a name or an id; raises UsageError, which says what there is."""
    rules = api.rules.list()
    for rule in rules:
        if named in {rule["rule_id"], rule["name"]}:
            return rule
    names = ", ".join(rule["name"] for rule in rules) or "none so far"
    raise UsageError(printable(f"there is no rule of the name or id {named!r}; the tenant has {names}"))


def _readable(rule: Rule) -> dict[str, Any]:
    definition = rule["definition"]
    state = "enabled" if rule["enabled"] else "paused"
    return {**rule, "state": state, "product": definition["product"], "condition": _in_short(definition["condition"])}


def _in_short(condition: Mapping[str, Any]) -> str:
    """Return a condition as a list shows it: "price above 1.0"."""
    limits = (f"{name} {value}" for name, value in condition.items() if name != "type")
    return " ".join([condition["type"], *limits])
