"""What a shard has changed since its last checkpoint, by tenant, so that one tenant's part can be taken back. Pure.

States are immutable, so taking back is putting the former objects back; nothing is copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams import kinds
from streams.basis import BasisChange, Product
from streams.engine.rules import ActiveRule, RuleKey
from streams.entries import PendingAlert, Position, alert_entry, basis_entry, position_entry, rule_entry
from streams.kinds import State


@dataclass(slots=True)
class TenantChanges:
    """One tenant's states and positions as they were at the last checkpoint, and what has come and gone since.

    `alerts` are the numbers of pending alerts that came, `ended` the rules whose ends were worked off.
    """

    states: dict[str, State | None] = field(default_factory=dict)
    positions: dict[str, Position | None] = field(default_factory=dict)
    alerts: list[int] = field(default_factory=list)
    ended: list[ActiveRule] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """All tenants' changes, and what is never taken back: rules and bases learned, alerts acknowledged."""

    tenants: dict[str, TenantChanges] = field(default_factory=dict)
    rules: dict[RuleKey, ActiveRule] = field(default_factory=dict)
    bases: dict[Product, Sequence[BasisChange]] = field(default_factory=dict)
    entries: dict[str, bytes | None] = field(default_factory=dict)

    def of(self, tenant: str) -> TenantChanges:
        """Return a tenant's changes, to be added to."""
        return self.tenants.setdefault(tenant, TenantChanges())

    def __bool__(self) -> bool:
        return bool(self.tenants or self.rules or self.bases or self.entries)


@dataclass(slots=True)
class TenantCut:
    """One tenant's part of a checkpoint: from what each state came to what it is, positions, pending alerts.

    With each state stands when its clock next has something to do, as `kinds.entries` takes it.
    """

    former: TenantChanges
    states: Mapping[str, tuple[State, int]]
    positions: Mapping[str, Position]
    alerts: Mapping[int, PendingAlert]


@dataclass(slots=True)
class Cut:
    """A checkpoint to write: a consistent state between two batches."""

    tenants: dict[str, TenantCut]
    rules: Mapping[RuleKey, ActiveRule]
    bases: Mapping[Product, Sequence[BasisChange]]
    loose: dict[str, bytes | None]

    def entries(self) -> dict[str, bytes | None]:
        """Return the state entries to write, by name; a None value removes one."""
        written: dict[str, bytes | None] = dict(self.loose)
        written |= dict(rule_entry(rule, kept=True) for rule in self.rules.values())
        written |= dict(basis_entry(product, changes) for product, changes in self.bases.items())
        for cut in self.tenants.values():
            for key, (state, due) in cut.states.items():
                written |= kinds.entries(key, cut.former.states[key], state, due)
            written |= dict(position_entry(topic, position) for topic, position in cut.positions.items())
            written |= dict(alert_entry(number, alert) for number, alert in cut.alerts.items())
            written |= dict(rule_entry(rule, kept=False) for rule in cut.former.ended)
        return written

    @property
    def alerts(self) -> list[int]:
        """The numbers of the alerts that may be sent once this is written."""
        return [number for cut in self.tenants.values() for number in cut.alerts]
