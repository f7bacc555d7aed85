"""What a tenant's user may do at the broker, how much of it, and what is still to be done about that. Pure.

A user reads its tenant's topics, writes to two of them, and uses consumer groups under its own prefix. It has no
transactional ids: a transaction that is left open would hold up everybody who reads the topic's committed records.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, but not in its __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from api.kafka_credentials.login import PREFIX, Salted, group_prefix, user_name
from api.limits.tiers import Tier, Tiers
from pulsestream.core.topics import tenant_topic

WRITABLE: Final = ("events", "own-ticks")
"""Datasets that tenants write to; the platform's own come from nobody else."""
QUOTA_NAMES: Final = ("producer_byte_rate", "consumer_byte_rate", "request_percentage")

Quota = Mapping[str, float]
"""Kafka's client quotas of a user by name; empty: none."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A row as the relay sees it. `siblings` of its tenant's credentials work, it included; `kept` until it is known.

    `welcome`: the tenant is active. `wanted` names the rights that all this leads to.
    """

    tenant: str
    id: str
    tier: str
    siblings: int
    welcome: bool
    known: bool
    ended: bool
    wanted: str
    kept: Salted | None = field(repr=False, default=None)

    @property
    def user(self) -> str:
        """The broker's user."""
        return user_name(self.tenant, self.id)


@dataclass(frozen=True, slots=True)
class Found:
    """What the broker knows of tenants' users."""

    users: frozenset[str]
    acls: frozenset[AclBinding]
    quotas: Mapping[str, Quota]


@dataclass(frozen=True, slots=True)
class Repair:
    """What to do so that the broker knows what it should, and nothing else of tenants' users.

    `gone`: credentials that the broker should know and does not.
    """

    strangers: frozenset[str]
    forbid: frozenset[AclBinding]
    allow: frozenset[AclBinding]
    quotas: Mapping[str, Quota]
    gone: Collection[Credential]


def acls_of(credential: Credential) -> frozenset[AclBinding]:
    """Return the access rules of a credential; none while its tenant is suspended."""
    if not credential.welcome:
        return frozenset()
    prefixed, literal = ResourcePatternType.PREFIXED, ResourcePatternType.LITERAL
    topic, read, write = ResourceType.TOPIC, AclOperation.READ, AclOperation.WRITE  # each lets describe, too
    rules = [
        (topic, topic_prefix(credential.tenant), prefixed, read),
        (ResourceType.GROUP, group_prefix(credential.tenant), prefixed, read),
        *((topic, tenant_topic(credential.tenant, dataset), literal, write) for dataset in WRITABLE),
    ]
    principal = f"User:{credential.user}"
    return frozenset(
        AclBinding(kind, name, pattern, principal, "*", operation, AclPermissionType.ALLOW)
        for kind, name, pattern, operation in rules
    )


def quota_of(credential: Credential, tiers: Tiers | None) -> Quota:
    """Return the client quotas of a credential: an equal part, so that a tenant's never have more than its tier."""
    if tiers is None:
        return {}
    tier: Tier = tiers[credential.tier]
    whole = (tier.kafka_produce, tier.kafka_consume, tier.kafka_percent)
    return {name: amount / credential.siblings for name, amount in zip(QUOTA_NAMES, whole, strict=True)}


def repair(credentials: Iterable[Credential], found: Found, tiers: Tiers | None) -> Repair:
    """Compare what the broker should know with what it knows."""
    live = [credential for credential in credentials if not credential.ended]
    there = {credential.user for credential in live}
    seen = {user for user in found.users | found.quotas.keys() if user.startswith(PREFIX)}
    strangers = (seen | {_user_of(rule) for rule in found.acls}) - there
    wanted = frozenset(rule for credential in live for rule in acls_of(credential))
    quotas = {credential.user: quota_of(credential, tiers) for credential in live}
    return Repair(
        strangers=frozenset(strangers),
        forbid=frozenset(rule for rule in found.acls - wanted if _user_of(rule) not in strangers),
        allow=wanted - found.acls,
        quotas={user: quota for user, quota in quotas.items() if quota != found.quotas.get(user, {})},
        gone=[credential for credential in live if credential.known and credential.user not in found.users],
    )


def topic_prefix(tenant: str) -> str:
    """Return what the names of a tenant's topics begin with; the last dot keeps acme out of acme2's."""
    return tenant_topic(tenant, "events").removesuffix("events.v1")


def _user_of(rule: AclBinding) -> str:
    return str(rule.principal).removeprefix("User:")
