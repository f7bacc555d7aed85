"""Rows of tenants."""

from datetime import datetime, timedelta

from psycopg.errors import UniqueViolation

from api import errors
from api.database import Connection, fetch_all, fetch_one
from api.outbox import publish_tenant, remove_subscription
from pulsestream.core.clock import to_micros
from schemas.records import Tenant


async def insert_tenant(connection: Connection, slug: str, name: str, tier: str) -> Tenant:
    """Store a new tenant and return it as the control topic shows it; raises Problem 409 for a taken slug."""
    try:
        row = await fetch_one(connection, "insert_tenant", {"tenant": slug, "name": name, "tier": tier})
    except UniqueViolation as error:
        raise errors.conflict(
            "tenant-exists", "Tenant exists", f"The slug {slug} is taken, now or in the past: choose another."
        ) from error
    if row is None:
        raise RuntimeError("INSERT INTO tenants returned no row")
    return Tenant(**row | {"created_at": to_micros(row["created_at"])})


async def delete_tenant(connection: Connection, tenant: str, grace: timedelta) -> datetime:
    """Mark a tenant as being deleted, end what it is fed with, and return until when it can be restored."""
    row = await fetch_one(connection, "delete_tenant", {"tenant": tenant, "grace": grace})
    if row is None:
        raise RuntimeError(f"there is no tenant {tenant}, though it is locked")
    delete_after: datetime = row.pop("delete_after")
    await publish_tenant(connection, Tenant(**row | {"created_at": to_micros(row["created_at"])}))
    for held in await fetch_all(connection, "list_subscriptions", {"tenant": tenant}):
        await remove_subscription(connection, tenant, held["exchange"], held["product"])
    return delete_after
