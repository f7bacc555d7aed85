"""Rules: made, shown, changed, paused, deleted.

Each change is a version: stored, queued for the streams and audited in one transaction.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from api import errors
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.database import Connection, Database
from api.ids import uuid7
from api.limits.quotas import Quotas
from api.outbox import lock_tenant, publish_rule
from api.rules import repository
from api.rules.history import Version, told
from api.rules.repository import RuleRow
from api.rules.tags import ANY, Match
from pulsestream.core.clock import Clock
from streams.engine.rules import RuleDefinition


@dataclass(frozen=True, slots=True)
class Versions:
    """A page of a rule's versions, newest first; `next_before` is None after the first one."""

    versions: list[Version]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class _Turn:
    """A tenant's turn to change a rule, and the newest version of it."""

    connection: Connection
    caller: Caller
    held: RuleRow

    async def put(self, action: Action, definition: str, *, deleted: bool = False) -> RuleRow:
        """Make the next version, publish it and audit it."""
        tenant, held = self.caller.tenant, self.held
        row, record = await repository.insert_rule(
            self.connection,
            tenant,
            held.rule_id,
            held.version + 1,
            definition,
            created_by=self.caller.key_id,
            deleted=deleted,
        )
        await publish_rule(self.connection, record)
        after = None if deleted else _audited(row)
        actor, target = Actor.of(self.caller), f"rule:{held.rule_id}"
        await append_change(self.connection, actor, action, target, before=_audited(held), after=after)
        return row


class Rules:
    """What can be done with rules. A change that changes nothing makes no version."""

    def __init__(self, database: Database, quotas: Quotas, clock: Clock) -> None:
        self._database = database
        self._quotas = quotas
        self._clock = clock

    async def create(self, caller: Caller, definition: RuleDefinition) -> RuleRow:
        """Make a rule; raises Problem 403 (quota), or 409 when the tenant has one of that name."""
        tenant = caller.tenant
        rule_id = uuid7(self._clock())
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = await repository.list_rules(connection, tenant)
            _refuse_namesake(held, definition.name)
            await self._quotas.check(connection, tenant, "rules", len(held), len(held) + 1)
            row, record = await repository.insert_rule(
                connection, tenant, rule_id, 1, _text(definition), created_by=caller.key_id, deleted=False
            )
            await publish_rule(connection, record)
            await append_change(
                connection, Actor.of(caller), Action.RULE_CREATE, f"rule:{rule_id}", after=_audited(row)
            )
        return row

    async def list(self, tenant: str) -> list[RuleRow]:
        """Return the tenant's rules, oldest first."""
        async with self._database.tenant(tenant) as connection:
            return await repository.list_rules(connection, tenant)

    async def get(self, tenant: str, rule_id: str) -> RuleRow:
        """Return a rule; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            return await _found(connection, tenant, rule_id)

    async def versions(self, tenant: str, rule_id: str, limit: int, before: int | None) -> Versions:
        """Return versions of a rule, of a deleted one, too; raises Problem 404 where there was never one."""
        async with self._database.tenant(tenant) as connection:
            rows = await repository.list_versions(connection, tenant, rule_id, below=before, limit=limit + 1)
        if not rows and before is None:
            raise _no_rule(rule_id)
        return Versions([told(row) for row in rows[:limit]], rows[limit - 1].version if len(rows) > limit else None)

    async def replace(self, caller: Caller, rule_id: str, definition: RuleDefinition, match: Match | None) -> RuleRow:
        """Put another definition in a rule's place; raises Problem 404, 409 (namesake), 412 or 428.

        Where the rule is so already, that is the answer, whatever `match` says: the change may be one whose first
        answer was lost.
        """
        text = _text(definition)
        async with self._turn(caller, rule_id) as turn:
            if msgspec.json.decode(text) == turn.held.definition:
                return turn.held
            if match is None:
                raise errors.precondition_required(
                    f"Send If-Match with the rule's ETag, {turn.held.version} in quotes if it was made from the newest "
                    "version, or * to put it in the place of any."
                )
            match.check(rule_id, turn.held.version)
            others = await repository.list_rules(turn.connection, caller.tenant)
            _refuse_namesake([other for other in others if other.rule_id != rule_id], definition.name)
            return await turn.put(Action.RULE_CHANGE, text)

    async def set_enabled(self, caller: Caller, rule_id: str, match: Match | None, *, enabled: bool) -> RuleRow:
        """Pause a rule, or let it go on; raises Problem 404 or 412. A pause closes what the rule has open."""
        action = Action.RULE_RESUME if enabled else Action.RULE_PAUSE
        async with self._turn(caller, rule_id) as turn:
            if turn.held.enabled is enabled:
                return turn.held
            (match or ANY).check(rule_id, turn.held.version)
            return await turn.put(action, _json(turn.held.definition | {"enabled": enabled}))

    async def delete(self, caller: Caller, rule_id: str, match: Match | None) -> None:
        """Delete a rule: a last version closes what it has open. Raises Problem 404 or 412."""
        async with self._turn(caller, rule_id) as turn:
            (match or ANY).check(rule_id, turn.held.version)
            await turn.put(Action.RULE_DELETE, _json(turn.held.definition), deleted=True)

    @asynccontextmanager
    async def _turn(self, caller: Caller, rule_id: str) -> AsyncIterator[_Turn]:
        async with self._database.tenant(caller.tenant) as connection:
            await lock_tenant(connection, caller.tenant)
            yield _Turn(connection, caller, await _found(connection, caller.tenant, rule_id))


def _text(definition: RuleDefinition) -> str:
    return definition.model_dump_json(exclude_none=True)


def _json(definition: dict[str, Any]) -> str:
    return msgspec.json.encode(definition).decode()


def _audited(rule: RuleRow) -> dict[str, Any]:
    return {"version": rule.version, "definition": rule.definition}


async def _found(connection: Connection, tenant: str, rule_id: str) -> RuleRow:
    row = await repository.find_rule(connection, tenant, rule_id)
    if row is None:
        raise _no_rule(rule_id)
    return row


def _no_rule(rule_id: str) -> errors.Problem:
    return errors.not_found(f"There is no rule {rule_id[:60]!r}: GET /api/v1/rules lists the tenant's rules.")


def _refuse_namesake(rules: "list[RuleRow]", name: str) -> None:
    for rule in rules:
        if rule.name == name:
            raise errors.conflict(
                "rule-exists",
                "Rule exists",
                f"Rule {name!r} exists as {rule.rule_id}: choose another name, or delete it first.",
                rule_id=rule.rule_id,
            )
