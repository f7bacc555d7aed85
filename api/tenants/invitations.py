"""Invitations: `ps_invite_<id>_<secret>_<crc32>`, made by operators, each good for a number of tenants of one tier.

The text is shown once; stored is the SHA-256 of the secret, which is 256 random bits and needs no pepper. Operators
make them over the database (`pulsestream tenant invite`); a registration uses one in its own transaction.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from api import database, errors, keys, relay_database


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an operator hands on; nobody can see its text again."""

    id: str
    text: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Used:
    """What a registration got by an invitation."""

    id: str
    tier: str


def make(connection: relay_database.Connection, tier: str, life: timedelta, uses: int, note: str) -> Invitation:
    """Store a new invitation."""
    made = keys.generate()
    row = {"id": made.id, "hash": _hash(made.secret), "tier": tier, "uses": uses, "note": note, "life": life}
    stored = relay_database.fetch_one(connection, "insert_invitation", **row)
    return Invitation(made.id, keys.joined(keys.INVITATION, made.id, made.secret), stored["expires_at"])


async def use(connection: database.Connection, text: str) -> Used:
    """Use an invitation once, unless this transaction fails; raises Problem 403."""
    parts = keys.parts(text, keys.INVITATION)
    if parts is None:
        raise errors.invitation_refused()
    invitation, secret = parts
    row = await database.fetch_one(connection, "use_invitation", {"id": invitation, "hash": _hash(secret)})
    if row is None or row["tier"] is None:
        raise errors.invitation_refused()
    return Used(invitation, row["tier"])


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
