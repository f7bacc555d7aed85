"""Rows of alerts as they stand, and the marks on them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import msgspec

from api.database import Connection, execute, fetch_all, fetch_one

Machine = tuple[str, str, str]
"""Rule id, exchange and product: what one state belongs to."""
START: Machine = ("", "", "")


@dataclass(frozen=True, slots=True)
class Mark:
    """What people said of a rule for one product. An acknowledgement covers alerts of a version up to a number."""

    acknowledged_version: int | None = None
    acknowledged_seq: int | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    acknowledged_comment: str | None = None
    snoozed_until: datetime | None = None
    snoozed_at: datetime | None = None
    snoozed_by: str | None = None
    snoozed_comment: str | None = None

    def covers(self, version: int, seq: int) -> bool:
        """Tell whether an alert is acknowledged."""
        return (
            self.acknowledged_version == version and self.acknowledged_seq is not None and seq <= self.acknowledged_seq
        )


_MARK = tuple(field.name for field in fields(Mark))


@dataclass(frozen=True, slots=True)
class CurrentAlert:
    """The newest alert of a rule for one product. `muted`: why nobody is told of it, None where they are."""

    alert_id: str
    seq: int
    rule_id: str
    rule_name: str
    rule_version: int
    exchange: str
    product: str
    state: str
    at: datetime
    value: float | None
    threshold: float | None
    reason: str
    severity: str
    labels: dict[str, str]
    window: str | None
    muted: str | None
    mark: Mark

    @property
    def machine(self) -> Machine:
        """Return what the state belongs to."""
        return self.rule_id, self.exchange, self.product


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which alerts: in these states, and of a rule, an exchange, a product, or what all matchers (JSON) hold for."""

    states: Sequence[str]
    rule_id: str | None = None
    exchange: str | None = None
    product: str | None = None
    matchers: str | None = None


async def current_alerts(
    connection: Connection, tenant: str, wanted: Wanted, now: datetime, *, behind: Machine, limit: int
) -> list[CurrentAlert]:
    """Return the newest alert of each rule and product, in the order of rule, exchange and product."""
    if wanted.rule_id is not None:
        behind = max(behind, (wanted.rule_id, "", ""))
    asked = {"tenant": tenant, "now": now, "limit": limit, **asdict(wanted), "states": list(wanted.states)}
    asked |= dict(zip(("after_rule", "after_exchange", "after_product"), behind, strict=True))
    return [_current(row) for row in await fetch_all(connection, "current_alerts", asked)]


async def find_mark(connection: Connection, tenant: str, machine: Machine) -> Mark:
    """Return the mark of a rule for one product; an empty one where there is none."""
    row = await fetch_one(connection, "find_mark", _named(tenant, machine))
    return Mark() if row is None else Mark(**row)


async def put_mark(connection: Connection, tenant: str, machine: Machine, mark: Mark) -> None:
    """Store a mark in the place of the one before."""
    await execute(connection, "put_mark", _named(tenant, machine) | asdict(mark))


def _named(tenant: str, machine: Machine) -> dict[str, Any]:
    return {"tenant": tenant, "rule_id": machine[0], "exchange": machine[1], "product": machine[2]}


def _current(row: dict[str, Any]) -> CurrentAlert:
    mark = Mark(**{name: row.pop(name) for name in _MARK})
    return CurrentAlert(**row | {"labels": msgspec.json.decode(row["labels"]), "mark": mark})
