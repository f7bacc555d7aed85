"""The writing end of the outbox: a control record, stored in the transaction that changes the row it is about.

The relay publishes these in order. All changes of one tenant take its lock first, so that this is the order of
commits.
"""

from typing import Any

from api import errors
from api.database import Connection, execute, fetch_one
from pulsestream.core.topics import RULES, SUBSCRIPTIONS, TENANTS
from schemas.codec import codec
from schemas.records import Rule, Subscription, Tenant

OutboxRow = dict[str, Any]
"""What statement `insert_outbox` takes."""


async def lock_tenant(connection: Connection, tenant: str) -> None:
    """Wait for the tenant's turn to change what it wants, until the transaction ends; raises Problem 403 or 404.

    A tenant that was suspended since its key was looked up changes nothing any more.
    """
    found = await fetch_one(connection, "lock_tenant", {"tenant": tenant})
    if found is None:
        raise errors.not_found(f"There is no tenant {tenant}.")
    if found["status"] != "active":
        raise errors.tenant_inactive(tenant, found["status"])


async def publish_tenant(connection: Connection, tenant: Tenant) -> None:
    """Queue a tenant's newest version."""
    await execute(connection, "insert_outbox", of_tenant(tenant))


async def publish_subscription(connection: Connection, subscription: Subscription) -> None:
    """Queue a subscription."""
    await execute(connection, "insert_outbox", of_subscription(subscription))


async def remove_subscription(connection: Connection, tenant: str, exchange: str, product: str) -> None:
    """Queue the end of a subscription."""
    await execute(connection, "insert_outbox", of_no_subscription(tenant, exchange, product))


async def publish_rule(connection: Connection, rule: Rule) -> None:
    """Queue a version of a rule."""
    await execute(connection, "insert_outbox", _row(rule.tenant, RULES, rule.rule_id, codec(Rule).encode(rule)))


def of_tenant(tenant: Tenant) -> OutboxRow:
    """Return the row of a tenant's version."""
    return _row(tenant.tenant, TENANTS, tenant.tenant, codec(Tenant).encode(tenant))


def of_subscription(subscription: Subscription) -> OutboxRow:
    """Return the row of a subscription."""
    key = subscription_key(subscription.tenant, subscription.exchange, subscription.product)
    return _row(subscription.tenant, SUBSCRIPTIONS, key, codec(Subscription).encode(subscription))


def of_no_subscription(tenant: str, exchange: str, product: str) -> OutboxRow:
    """Return the row of a subscription's end."""
    return _row(tenant, SUBSCRIPTIONS, subscription_key(tenant, exchange, product), None)


def of_no_rule(tenant: str, rule_id: str) -> OutboxRow:
    """Return the row of a rule's end."""
    return _row(tenant, RULES, rule_id, None)


def of_no_tenant(tenant: str) -> OutboxRow:
    """Return the row of a tenant's end."""
    return _row(tenant, TENANTS, tenant, None)


def subscription_key(tenant: str, exchange: str, product: str) -> str:
    """Return the key of a subscription on its topic."""
    return f"{tenant}:{exchange}:{product}"


def _row(tenant: str, topic: str, key: str, value: bytes | None) -> OutboxRow:
    return {"tenant": tenant, "topic": topic, "key": key, "value": value}
