"""Rows of API keys. What is stored of a key's text is its hash, which is written here and never read."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from api import keys
from api.cursor import Position
from api.database import Connection, execute, fetch_all, fetch_one
from pulsestream.core.clock import to_datetime, to_micros

STATES: Final = ("active", "expired", "revoked")
WALK: Final = "keys"
"""What a cursor of keys names as its dataset."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A stored key, without its hash."""

    id: str
    name: str
    role: str
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    last_used_at: datetime | None

    def state(self, now: datetime) -> str:
        """Return active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    @property
    def position(self) -> Position:
        """Return where a walk stands after this key."""
        return Position(to_micros(self.created_at), WALK, self.id)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make. `expires_at` None: it does not end; `created_by` None: at registration."""

    name: str
    role: str
    expires_at: datetime | None = None
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a tenant's keys: those that work now, and among them Owner keys without an end."""

    active: int
    lasting_owners: int


async def insert_key(
    connection: Connection, tenant: str, key: keys.ApiKey, peppers: keys.Peppers, made: NewKey
) -> KeyRow:
    """Store what is kept of a key under the newest pepper; its text is not among it."""
    version = max(peppers)
    row = await fetch_one(
        connection,
        "insert_key",
        {
            "tenant": tenant,
            "id": key.id,
            "name": made.name,
            "role": made.role,
            "hmac": keys.digest(key, peppers[version]),
            "pepper_version": version,
            "created_by": made.created_by,
            "expires_at": made.expires_at,
        },
    )
    if row is None:
        raise RuntimeError("INSERT INTO api_keys returned no row")
    return KeyRow(**row)


async def find_key(connection: Connection, tenant: str, key_id: str) -> KeyRow | None:
    """Return a key of the tenant."""
    row = await fetch_one(connection, "find_key", {"tenant": tenant, "id": key_id})
    return None if row is None else KeyRow(**row)


async def list_keys(
    connection: Connection, tenant: str, state: str | None, now: datetime, *, behind: Position | None, limit: int
) -> list[KeyRow]:
    """Return at most `limit` keys that are in a state (None: in any) at `now`, the newest first, behind a position."""
    bound = {
        "tenant": tenant,
        "state": state,
        "now": now,
        "time": None if behind is None else to_datetime(behind.time),
        "id": None if behind is None else behind.event_id,
        "limit": limit,
    }
    return [KeyRow(**row) for row in await fetch_all(connection, "list_keys", bound)]


async def count_keys(connection: Connection, tenant: str, now: datetime) -> Counts:
    """Count the tenant's keys."""
    row = await fetch_one(connection, "count_keys", {"tenant": tenant, "now": now})
    if row is None:
        raise RuntimeError("SELECT count(*) returned no row")
    return Counts(**row)


async def change_key(connection: Connection, tenant: str, key: KeyRow) -> None:
    """Write a key's name, end and successor."""
    changed = {"name": key.name, "expires_at": key.expires_at, "replaced_by": key.replaced_by}
    await execute(connection, "change_key", {"tenant": tenant, "id": key.id, **changed})


async def revoke_key(connection: Connection, tenant: str, key_id: str, now: datetime) -> None:
    """End a key as of `now`, unless it was revoked before."""
    await execute(connection, "revoke_key", {"tenant": tenant, "id": key_id, "now": now})
