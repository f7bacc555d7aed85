"""Which alerts a channel is told of, and which of them together. Pure.

Every matcher of a channel has to fit an alert; of the values that one lists, any. No matcher fits everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pulsestream.core.clock import format_rfc3339
from schemas.notification import ShownAlert, ShownPrice
from schemas.records import Alert

LABEL: Final = "label:"
"""Begins the name of a rule's label in `group_by`."""
FIRING: Final = "firing"
RESOLVED: Final = "resolved"
_TOLD_OF: Final = frozenset({FIRING, RESOLVED})
Head = tuple[str, str, int, str, str]
"""A state machine: tenant, rule, version, exchange, product."""


class Matchers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an alert has to be; an empty list asks nothing."""

    severities: list[str] = []
    rule_ids: list[str] = []
    exchanges: list[str] = []
    products: list[str] = []
    labels: dict[str, list[str]] = {}


@dataclass(frozen=True, slots=True)
class Route:
    """A channel, as far as it decides what it is told of; times in seconds."""

    tenant: str
    id: str
    enabled: bool
    matchers: Matchers
    group_by: tuple[str, ...]
    group_wait: float
    group_interval: float


@dataclass(frozen=True, slots=True)
class Transition:
    """A transition of a tenant's alert."""

    tenant: str
    alert: Alert

    @property
    def head(self) -> Head:
        """The state machine that it is of."""
        alert = self.alert
        return self.tenant, alert.rule_id, alert.rule_version, alert.exchange, alert.product

    @property
    def key(self) -> str:
        """The state machine, among those of the tenant."""
        return alert_key(self.alert)


def alert_key(alert: Alert) -> str:
    """Return the name of an alert's state machine among those of its tenant."""
    return f"{alert.rule_id}:{alert.rule_version}:{alert.exchange}:{alert.product}"


def fresh(transitions: Iterable[Transition], heads: Mapping[Head, int]) -> tuple[list[Transition], dict[Head, int]]:
    """Return those that were not taken before and tell of something, and the new heads of their machines.

    A worker of the streams that takes up after a crash sends alerts again, with the same seq.
    """
    taken: list[Transition] = []
    moved: dict[Head, int] = {}
    for transition in transitions:
        last = moved.get(transition.head, heads.get(transition.head))
        if last is not None and transition.alert.seq <= last:
            continue
        moved[transition.head] = transition.alert.seq
        if transition.alert.state in _TOLD_OF:
            taken.append(transition)
    return taken, moved


def fits(matchers: Matchers, alert: Alert) -> bool:
    """Say whether an alert is one that a channel wants."""
    wanted: Sequence[tuple[Sequence[str], str | None]] = (
        (matchers.severities, alert.severity),
        (matchers.rule_ids, alert.rule_id),
        (matchers.exchanges, alert.exchange),
        (matchers.products, alert.product),
    )
    named = all(not values or value in values for values, value in wanted)
    return named and all(alert.labels.get(name) in values for name, values in matchers.labels.items())


def group_labels(group_by: Iterable[str], alert: Alert) -> dict[str, str]:
    """Return what the alerts of this one's group have in common."""
    fields = {
        "rule": alert.rule_id,
        "exchange": alert.exchange,
        "product": alert.product,
        "severity": alert.severity,
    }
    return {
        name: alert.labels.get(name.removeprefix(LABEL), "") if name.startswith(LABEL) else fields[name]
        for name in group_by
    }


def group_key(labels: Mapping[str, str]) -> str:
    """Return the key of a group among those of its channel."""
    return msgspec.json.encode(labels, order="deterministic").decode()


def labels_of(key: str) -> dict[str, str]:
    """Return what `group_key` made a key of."""
    return msgspec.json.decode(key, type=dict[str, str])


def shown(alert: Alert) -> ShownAlert:
    """Return an alert that fires as messages show it."""
    return ShownAlert(
        alert_id=alert.alert_id,
        rule_id=alert.rule_id,
        rule_name=alert.rule_name,
        rule_version=alert.rule_version,
        exchange=alert.exchange,
        product=alert.product,
        status="firing",
        severity=alert.severity,
        labels=alert.labels,
        started_at=format_rfc3339(alert.at),
        value=alert.value,
        threshold=alert.threshold,
        reason=alert.reason,
        window=alert.window,
        last_prices=_prices(alert),
    )


def ended(alert: Alert) -> dict[str, object]:
    """Return the members of what is shown that the end of an alert changes."""
    return {
        "alert_id": alert.alert_id,
        "status": RESOLVED,
        "ended_at": format_rfc3339(alert.at),
        "value": alert.value,
        "threshold": alert.threshold,
        "reason": alert.reason,
        "last_prices": msgspec.to_builtins(_prices(alert)),
    }


def _prices(alert: Alert) -> list[ShownPrice]:
    return [ShownPrice(format_rfc3339(point.time), point.price) for point in alert.last_prices]
