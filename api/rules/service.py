"""Rules: made, shown, deleted; each change is a version: stored, queued and audited in one transaction."""

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
from api.rules.repository import RuleRow
from pulsestream.core.clock import Clock
from streams.engine.rules import RuleDefinition


class Rules:
    """What can be done with rules."""

    def __init__(self, database: Database, quotas: Quotas, clock: Clock) -> None:
        self._database = database
        self._quotas = quotas
        self._clock = clock

    async def create(self, caller: Caller, definition: RuleDefinition) -> RuleRow:
        """Make a rule; raises Problem 403 (quota), or 409 when the tenant has one of that name."""
        tenant = caller.tenant
        rule_id = uuid7(self._clock())
        text = definition.model_dump_json(exclude_none=True)
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = await repository.list_rules(connection, tenant)
            _refuse_namesake(held, definition.name)
            await self._quotas.check(connection, tenant, "rules", len(held), len(held) + 1)
            row, record = await repository.insert_rule(
                connection, tenant, rule_id, 1, text, created_by=caller.key_id, deleted=False
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

    async def delete(self, caller: Caller, rule_id: str) -> None:
        """Delete a rule: a last version closes what it has open. Raises Problem 404."""
        tenant = caller.tenant
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = await _found(connection, tenant, rule_id)
            text = msgspec.json.encode(held.definition).decode()
            _, record = await repository.insert_rule(
                connection, tenant, rule_id, held.version + 1, text, created_by=caller.key_id, deleted=True
            )
            await publish_rule(connection, record)
            actor = Actor.of(caller)
            await append_change(connection, actor, Action.RULE_DELETE, f"rule:{rule_id}", before=_audited(held))


def _audited(rule: RuleRow) -> dict[str, Any]:
    return {"version": rule.version, "definition": rule.definition}


async def _found(connection: Connection, tenant: str, rule_id: str) -> RuleRow:
    row = await repository.find_rule(connection, tenant, rule_id)
    if row is None:
        raise errors.not_found(f"There is no rule {rule_id[:60]!r}: GET /api/v1/rules lists the tenant's rules.")
    return row


def _refuse_namesake(rules: "list[RuleRow]", name: str) -> None:
    for rule in rules:
        if rule.name == name:
            raise errors.conflict(
                "rule-exists",
                "Rule exists",
                f"Rule {name!r} exists as {rule.rule_id}: choose another name, or delete it first.",
                rule_id=rule.rule_id,
            )
