"""Rows of rules: every version of every rule; the newest is in force."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from psycopg.rows import DictRow

from api.database import Connection, fetch_all, fetch_one
from pulsestream.core.clock import to_micros
from schemas.records import Rule


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A version of a rule. `effective_at` is None until it is on its topic."""

    rule_id: str
    version: int
    name: str
    enabled: bool
    deleted: bool
    definition: dict[str, Any]
    created_by: str
    created_at: datetime
    effective_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version with what it replaced: `before` is None for the first one; `ended_at` for the one in force."""

    version: int
    name: str
    enabled: bool
    deleted: bool
    definition: dict[str, Any]
    created_by: str
    created_at: datetime
    effective_at: datetime | None
    before: dict[str, Any] | None
    ended_at: datetime | None


async def list_rules(connection: Connection, tenant: str) -> list[RuleRow]:
    """Return the newest version of every rule that is not deleted, oldest rule first."""
    return [_row(row) for row in await fetch_all(connection, "list_rules", {"tenant": tenant})]


async def find_rule(connection: Connection, tenant: str, rule_id: str) -> RuleRow | None:
    """Return the newest version of a rule; None when there is none, or it is deleted."""
    row = await fetch_one(connection, "find_rule", {"tenant": tenant, "rule_id": rule_id})
    return None if row is None or row["deleted"] else _row(row)


async def list_versions(
    connection: Connection, tenant: str, rule_id: str, *, below: int | None, limit: int
) -> list[VersionRow]:
    """Return versions of a rule, the newest first; `below` None: from the newest on."""
    asked = {"tenant": tenant, "rule_id": rule_id, "below": below, "limit": limit}
    return [
        VersionRow(**row | {name: _json(row[name]) for name in ("definition", "before")})
        for row in await fetch_all(connection, "list_rule_versions", asked)
    ]


async def insert_rule(
    connection: Connection, tenant: str, rule_id: str, version: int, definition: str, *, created_by: str, deleted: bool
) -> tuple[RuleRow, Rule]:
    """Store a version and return it with its control record; `definition` is the rule's JSON."""
    named = msgspec.json.decode(definition, type=_Named)
    row = {
        "tenant": tenant,
        "rule_id": rule_id,
        "version": version,
        "name": named.name,
        "enabled": named.enabled,
        "deleted": deleted,
        "definition": definition,
        "created_by": created_by,
    }
    stored = await fetch_one(connection, "insert_rule", row)
    if stored is None:
        raise RuntimeError("INSERT INTO rules returned no row")
    record = Rule(
        rule_id=rule_id,
        tenant=tenant,
        name=named.name,
        enabled=named.enabled,
        deleted=deleted,
        definition=definition,
        created_at=to_micros(stored["created_at"]),
        version=version,
    )
    return _row(stored), record


class _Named(msgspec.Struct):
    name: str
    enabled: bool = True


def _json(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _row(row: DictRow) -> RuleRow:
    return RuleRow(**row | {"definition": msgspec.json.decode(row["definition"])})
