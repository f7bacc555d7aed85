"""Rows of tenants."""

from psycopg.errors import UniqueViolation

from api import errors
from api.database import Connection, fetch_one
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
