"""Rows of channels, and the log of their messages. Secrets are written here and never read."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from api.cursor import Position
from api.database import Connection, execute, fetch_all, fetch_one
from pulsestream.core.clock import to_datetime, to_micros

WALK = "attempts"
"""What a cursor of attempts names as its dataset."""


MESSAGES = "messages"
"""Likewise a cursor of messages."""


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A stored channel, without its secret; times of grouping in seconds."""

    id: str
    name: str
    kind: str
    target: dict[str, Any]
    matchers: dict[str, Any]
    group_by: list[str]
    group_wait: float
    group_interval: float
    repeat_interval: float
    send_resolved: bool
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_by: str
    created_at: datetime

    @property
    def state(self) -> str:
        """Return active, paused (by a person) or disabled (by the notifier)."""
        if self.enabled:
            return "active"
        return "paused" if self.disabled_reason is None else "disabled"


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt to deliver a message."""

    message_id: str
    type: str
    number: int
    at: datetime
    seconds: float
    outcome: str
    status: int | None
    error: str | None
    response: str | None

    @property
    def position(self) -> Position:
        """Return where a walk stands after this attempt."""
        return Position(to_micros(self.at), WALK, f"{self.message_id}:{self.number}")


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message, and what became of it. `document` is its JSON text."""

    id: str
    type: str
    state: str
    detail: str | None
    attempts: int
    created_at: datetime
    next_at: datetime | None
    settled_at: datetime | None
    document: str

    @property
    def position(self) -> Position:
        """Return where a walk stands after this message."""
        return Position(to_micros(self.created_at), MESSAGES, self.id)


def _channel(row: dict[str, Any]) -> ChannelRow:
    decoded = {name: msgspec.json.decode(row[name]) for name in ("target", "matchers")}
    return ChannelRow(**row | decoded)


async def insert(connection: Connection, tenant: str, secret: str | None, channel: ChannelRow) -> ChannelRow:
    """Store a channel and return it."""
    row = await fetch_one(connection, "insert_channel", _bound(tenant, channel) | {"secret": secret})
    if row is None:
        raise RuntimeError("INSERT INTO channels returned no row")
    return _channel(row)


async def change(connection: Connection, tenant: str, channel: ChannelRow) -> None:
    """Store what may change of a channel."""
    await execute(connection, "change_channel", _bound(tenant, channel))


async def change_secret(connection: Connection, tenant: str, channel_id: str, secret: str) -> None:
    """Store another secret."""
    await execute(connection, "change_channel_secret", {"tenant": tenant, "id": channel_id, "secret": secret})


async def find(connection: Connection, tenant: str, channel_id: str) -> ChannelRow | None:
    """Return a channel of the tenant."""
    row = await fetch_one(connection, "find_channel", {"tenant": tenant, "id": channel_id})
    return None if row is None else _channel(row)


async def lock(connection: Connection, tenant: str, channel_id: str) -> ChannelRow | None:
    """Return a channel that stays as it is until the transaction ends: the notifier may be about to disable it."""
    await execute(connection, "lock_channel", {"tenant": tenant, "id": channel_id})
    return await find(connection, tenant, channel_id)


async def list_all(connection: Connection, tenant: str) -> list[ChannelRow]:
    """Return the tenant's channels, oldest first."""
    return [_channel(row) for row in await fetch_all(connection, "list_channels", {"tenant": tenant})]


async def delete(connection: Connection, tenant: str, channel_id: str) -> None:
    """Delete a channel and all that is known of its messages."""
    await execute(connection, "delete_channel", {"tenant": tenant, "id": channel_id})


async def give_up(connection: Connection, tenant: str, channel_id: str, why: str) -> None:
    """Let the messages that wait count as failed."""
    await execute(connection, "give_up_messages", {"tenant": tenant, "channel": channel_id, "detail": why})


async def insert_message(
    connection: Connection, tenant: str, channel_id: str, *, message_id: str, kind: str, document: str
) -> None:
    """Have the notifier send a message at once."""
    bound = {"tenant": tenant, "channel": channel_id, "id": message_id, "type": kind, "document": document}
    await execute(connection, "insert_channel_message", bound)


async def resend(
    connection: Connection, tenant: str, channel_id: str, *, message_id: str | None, since: datetime | None, limit: int
) -> int:
    """Have one message, or at most `limit` that failed since a time, sent again; return how many."""
    bound = {"tenant": tenant, "channel": channel_id, "message_id": message_id, "since": since, "limit": limit}
    return await execute(connection, "resend_messages", bound)


async def has_message(connection: Connection, tenant: str, channel_id: str, message_id: str) -> bool:
    """Say whether a channel has a message."""
    bound = {"tenant": tenant, "channel": channel_id, "message_id": message_id}
    return await fetch_one(connection, "find_message", bound) is not None


async def messages(
    connection: Connection, tenant: str, channel_id: str, state: str | None, *, behind: Position | None, limit: int
) -> list[MessageRow]:
    """Return at most `limit` messages, the newest first, behind a position."""
    bound = {
        "tenant": tenant,
        "channel": channel_id,
        "state": state,
        "time": None if behind is None else to_datetime(behind.time),
        "id": None if behind is None else behind.event_id,
        "limit": limit,
    }
    return [MessageRow(**row) for row in await fetch_all(connection, "list_messages", bound)]


async def attempts(
    connection: Connection,
    tenant: str,
    channel_id: str,
    *,
    message_id: str | None,
    outcome: str | None,
    behind: Position | None,
    limit: int,
) -> list[AttemptRow]:
    """Return at most `limit` attempts, the newest first, behind a position."""
    message, _, number = ("", "", "0") if behind is None else behind.event_id.rpartition(":")
    bound = {
        "tenant": tenant,
        "channel": channel_id,
        "message_id": message_id,
        "outcome": outcome,
        "time": None if behind is None else to_datetime(behind.time),
        "message": message,
        "number": int(number),
        "limit": limit,
    }
    return [AttemptRow(**row) for row in await fetch_all(connection, "list_attempts", bound)]


def _bound(tenant: str, channel: ChannelRow) -> dict[str, Any]:
    row = {name: getattr(channel, name) for name in ChannelRow.__slots__}
    return row | {"tenant": tenant, "target": Jsonb(channel.target), "matchers": Jsonb(channel.matchers)}
