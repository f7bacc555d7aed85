"""The writing end of the outbox: a control record, stored in the transaction that changes the row it is about.

The relay publishes these in order. All changes of one tenant take its lock first, so that this is the order of
commits.
"""

from api import errors
from api.database import Connection, execute, fetch_one
from pulsestream.core.topics import RULES, SUBSCRIPTIONS, TENANTS
from schemas.codec import codec
from schemas.records import Rule, Subscription, Tenant


async def lock_tenant(connection: Connection, tenant: str) -> None:
    """Wait for the tenant's turn to change what it wants, until the transaction ends; raises Problem 404."""
    if await fetch_one(connection, "lock_tenant", {"tenant": tenant}) is None:
        raise errors.not_found(f"There is no tenant {tenant}.")


async def publish_tenant(connection: Connection, tenant: Tenant) -> None:
    """Queue a tenant's newest version."""
    await _insert(connection, tenant.tenant, TENANTS, tenant.tenant, codec(Tenant).encode(tenant))


async def publish_subscription(connection: Connection, subscription: Subscription) -> None:
    """Queue a subscription."""
    key = subscription_key(subscription.tenant, subscription.exchange, subscription.product)
    await _insert(connection, subscription.tenant, SUBSCRIPTIONS, key, codec(Subscription).encode(subscription))


async def remove_subscription(connection: Connection, tenant: str, exchange: str, product: str) -> None:
    """Queue the end of a subscription."""
    await _insert(connection, tenant, SUBSCRIPTIONS, subscription_key(tenant, exchange, product), None)


async def publish_rule(connection: Connection, rule: Rule) -> None:
    """Queue a version of a rule."""
    await _insert(connection, rule.tenant, RULES, rule.rule_id, codec(Rule).encode(rule))


def subscription_key(tenant: str, exchange: str, product: str) -> str:
    """Return the key of a subscription on its topic."""
    return f"{tenant}:{exchange}:{product}"


async def _insert(connection: Connection, tenant: str, topic: str, key: str, value: bytes | None) -> None:
    row = {"tenant": tenant, "topic": topic, "key": key, "value": value}
    await execute(connection, "insert_outbox", row)
