"""Rows of Kafka credentials, as the API sees them: what the broker is given is written here and never read."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from api.cursor import Position
from api.database import Connection, execute, fetch_all, fetch_one
from api.kafka_credentials.login import Salted
from pulsestream.core.clock import to_datetime, to_micros

STATES: Final = ("provisioning", "active", "ending", "revoked", "expired", "lost")
WALK: Final = "kafka-credentials"
"""What a cursor of credentials names as its dataset."""


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A stored credential, without what the broker is given of it."""

    id: str
    name: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    active_at: datetime | None
    lost_at: datetime | None
    removed_at: datetime | None

    def has_ended(self, now: datetime) -> bool:
        """Return whether it works no more, or is not to."""
        expired = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is not None or self.lost_at is not None or expired

    def state(self, now: datetime) -> str:
        """Return provisioning, active, ending (the broker is still to be told), or why it ended."""
        if not self.has_ended(now):
            return "provisioning" if self.active_at is None else "active"
        if self.removed_at is None:
            return "ending"
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.lost_at is None else "lost"

    @property
    def position(self) -> Position:
        """Return where a walk stands after this credential."""
        return Position(to_micros(self.created_at), WALK, self.id)


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A credential to make. `expires_at` None: it does not end."""

    id: str
    name: str
    created_by: str
    expires_at: datetime | None
    kept: Salted


async def insert_credential(connection: Connection, tenant: str, made: NewCredential) -> CredentialRow:
    """Store a credential, and wake the relay when the transaction commits."""
    row = await fetch_one(
        connection,
        "insert_kafka_credential",
        {
            "tenant": tenant,
            "id": made.id,
            "name": made.name,
            "created_by": made.created_by,
            "expires_at": made.expires_at,
            "salt": made.kept.salt,
            "iterations": made.kept.iterations,
            "salted_password": made.kept.salted_password,
        },
    )
    if row is None:
        raise RuntimeError("INSERT INTO kafka_credentials returned no row")
    await _wake_relay(connection)
    return CredentialRow(**row)


async def find_credential(connection: Connection, tenant: str, credential_id: str) -> CredentialRow | None:
    """Return a credential of the tenant."""
    row = await fetch_one(connection, "find_kafka_credential", {"tenant": tenant, "id": credential_id})
    return None if row is None else CredentialRow(**row)


async def list_credentials(
    connection: Connection, tenant: str, now: datetime, *, with_ended: bool, behind: Position | None, limit: int
) -> list[CredentialRow]:
    """Return at most `limit` credentials, the newest first, behind a position; those that ended too, if wanted."""
    bound = {
        "tenant": tenant,
        "now": now,
        "with_ended": with_ended,
        "time": None if behind is None else to_datetime(behind.time),
        "id": None if behind is None else behind.event_id,
        "limit": limit,
    }
    return [CredentialRow(**row) for row in await fetch_all(connection, "list_kafka_credentials", bound)]


async def count_credentials(connection: Connection, tenant: str, now: datetime) -> int:
    """Count the tenant's credentials that have not ended."""
    row = await fetch_one(connection, "count_kafka_credentials", {"tenant": tenant, "now": now})
    if row is None:
        raise RuntimeError("SELECT count(*) returned no row")
    count: int = row["count"]
    return count


async def end_credential(connection: Connection, tenant: str, ended: CredentialRow) -> None:
    """Write a credential's end and successor, and wake the relay when the transaction commits."""
    changed = {"expires_at": ended.expires_at, "revoked_at": ended.revoked_at, "replaced_by": ended.replaced_by}
    await execute(connection, "end_kafka_credential", {"tenant": tenant, "id": ended.id, **changed})
    await _wake_relay(connection)


async def _wake_relay(connection: Connection) -> None:
    await execute(connection, "notify_kafka_credentials", {})
