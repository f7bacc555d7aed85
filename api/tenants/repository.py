"""Rows of tenants and their keys."""

from psycopg.errors import UniqueViolation

from api import errors
from api.database import Connection, execute, fetch_one
from api.keys import CURRENT_PEPPER
from pulsestream.core.clock import to_micros
from schemas.records import Tenant


async def insert_tenant(connection: Connection, slug: str, name: str) -> Tenant:
    """Store a new tenant and return it as the control topic shows it; raises Problem 409 for a taken slug."""
    try:
        row = await fetch_one(connection, "insert_tenant", {"tenant": slug, "name": name})
    except UniqueViolation as error:
        raise errors.conflict(
            "tenant-exists", "Tenant exists", f"The slug {slug} is taken, now or in the past: choose another."
        ) from error
    if row is None:
        raise RuntimeError("INSERT INTO tenants returned no row")
    return Tenant(**row | {"created_at": to_micros(row["created_at"])})


async def insert_key(connection: Connection, tenant: str, key_id: str, digest: bytes, *, name: str, role: str) -> None:
    """Store what is kept of a key; its text is not among it."""
    row = {"tenant": tenant, "id": key_id, "name": name, "role": role, "hmac": digest, "pepper_version": CURRENT_PEPPER}
    await execute(connection, "insert_key", row)
