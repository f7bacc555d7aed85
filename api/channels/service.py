"""Channels made, changed, deleted and tried; each change under the tenant's lock, with its row of the audit."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from api import errors
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.channels import repository
from api.channels.repository import MESSAGES, WALK, AttemptRow, ChannelRow, MessageRow
from api.channels.targets import AnyTarget, reach_fault, without_path
from api.cursor import CursorError, CursorSeal, Position
from api.database import Connection, Database
from api.ids import uuid7
from api.limits.quotas import Quotas
from api.outbox import lock_tenant
from pulsestream.core.clock import Clock, format_rfc3339, to_micros
from pulsestream.core.targets import Network
from schemas.notification import TEST, Channel, Data, Notification, encode

_SECRET_BYTES: Final = 24
"""Of a signing secret: Standard Webhooks asks for 24 to 64."""


MAX_RESENT: Final = 10_000
"""Messages that one request has sent again."""


@dataclass(frozen=True, slots=True)
class Made:
    """A new channel and its signing secret, which nobody can see again (None: of another kind than webhook)."""

    channel: ChannelRow
    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Attempts, the newest first; `next_cursor` is None after the last one."""

    attempts: list[AttemptRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages, the newest first; `next_cursor` is None after the last one."""

    messages: list[MessageRow]
    next_cursor: str | None


class Channels:
    """What can be done with a tenant's channels. `allowed`: networks that are reached beside the public ones."""

    def __init__(
        self, database: Database, quotas: Quotas, seal: CursorSeal, allowed: tuple[Network, ...], clock: Clock
    ) -> None:
        self._database = database
        self._quotas = quotas
        self._seal = seal
        self._allowed = allowed
        self._clock = clock

    async def list(self, tenant: str) -> list[ChannelRow]:
        """Return the tenant's channels, oldest first."""
        async with self._database.tenant(tenant) as connection:
            return await repository.list_all(connection, tenant)

    async def get(self, tenant: str, channel_id: str) -> ChannelRow:
        """Return a channel; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            return await _found(connection, tenant, channel_id)

    async def create(self, caller: Caller, target: AnyTarget, wanted: dict[str, Any]) -> Made:
        """Make a channel; raises Problem 403 (quota), 409 (name) or 422."""
        tenant, now = caller.tenant, self._clock()
        self._check(target)
        stored = target.stored()
        secret = _signing_secret() if stored.kind == "webhook" else stored.secret
        row = _new(uuid7(now), stored.kind, stored.shown, caller.key_id, wanted)
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = await repository.list_all(connection, tenant)
            _refuse_namesake(held, row)
            await self._quotas.check(connection, tenant, "channels", len(held), len(held) + 1)
            made = await repository.insert(connection, tenant, secret, row)
            await _audit(connection, caller, Action.CHANNEL_CREATE, None, made)
        return Made(made, secret if stored.kind == "webhook" else None)

    async def change(
        self, caller: Caller, channel_id: str, target: AnyTarget | None, changes: dict[str, Any]
    ) -> ChannelRow:
        """Change a channel; raises Problem 404, 409 or 422."""
        tenant = caller.tenant
        if target is not None:
            self._check(target)
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = _required(await repository.lock(connection, tenant, channel_id), channel_id)
            changed = _changed(held, target, changes)
            _refuse_namesake(await repository.list_all(connection, tenant), changed)
            secret = None if target is None else target.stored().secret
            if changed != held:
                await repository.change(connection, tenant, changed)
            if secret is not None:
                await repository.change_secret(connection, tenant, channel_id, secret)
            if held.enabled and not changed.enabled:
                await repository.give_up(connection, tenant, channel_id, "the channel was paused")
            if changed != held or secret is not None:
                await _audit(connection, caller, Action.CHANNEL_CHANGE, held, changed)
        return changed

    async def delete(self, caller: Caller, channel_id: str) -> None:
        """Delete a channel, with its messages; raises Problem 404."""
        tenant = caller.tenant
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            held = await _found(connection, tenant, channel_id)
            await repository.delete(connection, tenant, channel_id)
            await _audit(connection, caller, Action.CHANNEL_DELETE, held, None)

    async def test(self, tenant: str, channel_id: str) -> str:
        """Have the notifier send a test message, once and at once; returns its id. Raises Problem 404."""
        now = self._clock()
        message_id = f"msg_{now:014x}{secrets.token_hex(8)}"
        async with self._database.tenant(tenant) as connection:
            channel = await _found(connection, tenant, channel_id)
            document = encode(_test_message(tenant, channel, format_rfc3339(now)))
            await repository.insert_message(
                connection, tenant, channel_id, message_id=message_id, kind=TEST, document=document
            )
        return message_id

    async def resend(self, caller: Caller, channel_id: str, *, message_id: str | None, since: datetime | None) -> int:
        """Have one message, or all that failed since a time, sent again; returns how many. Raises Problem 404, 409."""
        tenant = caller.tenant
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            channel = _required(await repository.lock(connection, tenant, channel_id), channel_id)
            if not channel.enabled:
                raise errors.conflict(
                    "channel-not-enabled",
                    "Channel is not enabled",
                    f"Channel {channel.name!r} is {channel.state}, and nothing is sent to it: enable it first.",
                )
            if message_id is not None and not await repository.has_message(connection, tenant, channel_id, message_id):
                raise errors.not_found(f"The channel has no message {message_id[:60]!r}: GET …/messages lists them.")
            sent = await repository.resend(
                connection, tenant, channel_id, message_id=message_id, since=since, limit=MAX_RESENT
            )
            if sent:
                after = {"messages": sent, "message_id": message_id, "failed_since": _time(since)}
                target = f"channel:{channel_id}"
                await append_change(connection, Actor.of(caller), Action.CHANNEL_RESEND, target, after=after)
        return sent

    async def messages(
        self, tenant: str, channel_id: str, state: str | None, limit: int, cursor: str | None
    ) -> MessagePage:
        """Return a page of a channel's messages; raises Problem 400 or 404."""
        walk = [MESSAGES, channel_id, state]
        behind = None if cursor is None else self._open(cursor, tenant, walk)
        async with self._database.tenant(tenant) as connection:
            await _found(connection, tenant, channel_id)
            rows = await repository.messages(connection, tenant, channel_id, state, behind=behind, limit=limit + 1)
        more = len(rows) > limit
        return MessagePage(rows[:limit], self._seal.seal(rows[limit - 1].position, tenant, walk) if more else None)

    async def attempts(
        self,
        tenant: str,
        channel_id: str,
        *,
        message_id: str | None,
        outcome: str | None,
        limit: int,
        cursor: str | None,
    ) -> Page:
        """Return a page of the log of attempts; raises Problem 400 or 404."""
        walk = [WALK, channel_id, message_id, outcome]
        behind = None if cursor is None else self._open(cursor, tenant, walk)
        async with self._database.tenant(tenant) as connection:
            await _found(connection, tenant, channel_id)
            rows = await repository.attempts(
                connection,
                tenant,
                channel_id,
                message_id=message_id,
                outcome=outcome,
                behind=behind,
                limit=limit + 1,
            )
        more = len(rows) > limit
        return Page(rows[:limit], self._seal.seal(rows[limit - 1].position, tenant, walk) if more else None)

    def _check(self, target: AnyTarget) -> None:
        for name, url in target.urls().items():
            fault = reach_fault(url, self._allowed)
            if fault is not None:
                raise errors.invalid_body([errors.FieldError(f"/target/{name}", fault)])

    def _open(self, cursor: str, tenant: str, walk: Sequence[object]) -> Position:
        try:
            return self._seal.open(cursor, tenant, walk)
        except CursorError as error:
            raise errors.invalid_cursor(
                f"{error}. Use next_cursor of an answer to this very request, unchanged."
            ) from error


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_rfc3339(to_micros(moment))


def _signing_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _new(channel_id: str, kind: str, shown: dict[str, Any], created_by: str, wanted: dict[str, Any]) -> ChannelRow:
    """Return a channel that is still to be stored: the database says when."""
    fixed: dict[str, Any] = {"id": channel_id, "kind": kind, "target": shown, "created_by": created_by}
    state = {"enabled": True, "disabled_reason": None, "failing_since": None, "created_at": None}
    return ChannelRow(**fixed | state | wanted)


def _changed(held: ChannelRow, target: AnyTarget | None, changes: dict[str, Any]) -> ChannelRow:
    changed = replace(held, **changes)
    if changes.get("enabled"):  # a person says that it works again
        changed = replace(changed, disabled_reason=None, failing_since=None)
    if target is None:
        return changed
    if target.kind != held.kind:
        raise errors.invalid_body(
            [errors.FieldError("/target/kind", f"the channel is a {held.kind} and stays one: make another channel")]
        )
    return replace(changed, target=target.stored().shown)


async def _found(connection: Connection, tenant: str, channel_id: str) -> ChannelRow:
    return _required(await repository.find(connection, tenant, channel_id), channel_id)


def _required(row: ChannelRow | None, channel_id: str) -> ChannelRow:
    if row is None:
        raise errors.not_found(f"There is no channel {channel_id[:60]!r}: GET /api/v1/channels lists the tenant's.")
    return row


def _refuse_namesake(held: Sequence[ChannelRow], wanted: ChannelRow) -> None:
    for channel in held:
        if channel.name == wanted.name and channel.id != wanted.id:
            raise errors.conflict(
                "channel-exists",
                "Channel exists",
                f"Channel {wanted.name!r} exists as {channel.id}: choose another name, or change that one.",
                channel_id=channel.id,
            )


async def _audit(
    connection: Connection, caller: Caller, action: Action, before: ChannelRow | None, after: ChannelRow | None
) -> None:
    channel = before or after
    if channel is None:
        raise RuntimeError("a change has a before or an after")
    shown = {name: None if row is None else _audited(row) for name, row in {"before": before, "after": after}.items()}
    await append_change(connection, Actor.of(caller), action, f"channel:{channel.id}", **shown)


def _audited(channel: ChannelRow) -> dict[str, Any]:
    """Return what the audit keeps: all but what may be a secret of the receiver."""
    names = (
        "name", "kind", "matchers", "group_by", "group_wait", "group_interval", "repeat_interval", "send_resolved",
        "enabled",
    )  # fmt: skip
    return {name: getattr(channel, name) for name in names} | {"target": without_path(channel.target)}


def _test_message(tenant: str, channel: ChannelRow, now: str) -> Notification:
    text = f"This is a test of channel {channel.name}: alerts of {tenant} arrive here."
    return Notification(TEST, now, Data(tenant=tenant, channel=Channel(channel.id, channel.name), text=text))
