"""The writing end of the audit: one row for a change, in the transaction that makes it, appended last.

Whoever changes something locks in this order: the tenant (`lock_tenant`), the rows, the head of the audit. Secrets stay
out: callers pass what may be shown, and what looks like an API key loses its secret here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from api.auth import Caller
from api.database import Connection, execute
from api.keys import INVITATION, PREFIX

_KEY: Final = re.compile(rf"((?:{PREFIX}|{INVITATION})_[0-9A-Za-z]+)_[0-9A-Za-z]+_[0-9A-Za-z]+")


class Action(StrEnum):
    """What a row tells of."""

    TENANT_CREATE = "tenant.create"
    TENANT_SUSPEND = "tenant.suspend"
    TENANT_RESUME = "tenant.resume"
    TENANT_TIER = "tenant.tier"
    TENANT_DELETE = "tenant.delete"
    TENANT_RESTORE = "tenant.restore"
    TENANT_ERASE = "tenant.erase"
    KEY_CREATE = "key.create"
    KEY_ROTATE = "key.rotate"
    KEY_CHANGE = "key.change"
    KEY_REVOKE = "key.revoke"
    KAFKA_CREDENTIAL_CREATE = "kafka-credential.create"
    KAFKA_CREDENTIAL_ROTATE = "kafka-credential.rotate"
    KAFKA_CREDENTIAL_REVOKE = "kafka-credential.revoke"
    SUBSCRIPTIONS_REPLACE = "subscriptions.replace"
    RULE_CREATE = "rule.create"
    RULE_CHANGE = "rule.change"
    RULE_PAUSE = "rule.pause"
    RULE_RESUME = "rule.resume"
    RULE_DELETE = "rule.delete"
    CHANNEL_CREATE = "channel.create"
    CHANNEL_CHANGE = "channel.change"
    CHANNEL_DELETE = "channel.delete"
    CHANNEL_RESEND = "channel.resend"
    CHANNEL_DISABLE = "channel.disable"
    ALERT_ACKNOWLEDGE = "alert.acknowledge"
    ALERT_UNACKNOWLEDGE = "alert.unacknowledge"
    ALERT_SNOOZE = "alert.snooze"
    ALERT_UNSNOOZE = "alert.unsnooze"
    SILENCE_CREATE = "silence.create"
    SILENCE_EXPIRE = "silence.expire"
    DEAD_LETTERS_REPLAY = "dead-letters.replay"
    DEAD_LETTERS_DISCARD = "dead-letters.discard"
    ACCESS_DENIED = "access.denied"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked for something, and in which request: a key with its role; None where nobody had one.

    That is at a registration, where an operator worked on the database (role `operator`), and where the relay did.
    """

    key_id: str | None
    role: str | None
    request_id: str

    @staticmethod
    def of(caller: Caller) -> "Actor":
        """Return the holder of a key."""
        return Actor(caller.key_id, caller.role, caller.request_id)


async def append_change(
    connection: Connection,
    actor: Actor,
    action: Action,
    target: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Append what was changed: `before` None for what is new, `after` None for what is gone.

    `connection` is in the transaction of the change, which sees the tenant that the row belongs to.
    """
    await append(connection, actor, action, target, {"before": before, "after": after})


async def append(connection: Connection, actor: Actor, action: Action, target: str, content: Mapping[str, Any]) -> None:
    """Append a row; `content` is what its entry says beside actor, action and target."""
    await execute(connection, "append_audit", _row(actor, action, target, content))


def change_row(
    actor: Actor, action: Action, target: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what statement `append_audit` takes of a change, for who has another way to the database."""
    return _row(actor, action, target, {"before": before, "after": after})


def _row(actor: Actor, action: Action, target: str, content: Mapping[str, Any]) -> dict[str, Any]:
    entry = {"actor": {"id": actor.key_id, "role": actor.role}, "request_id": actor.request_id, **content}
    return {"action": action, "actor": actor.key_id, "target": target, "content": without_secrets(entry)}


def without_secrets(entry: Mapping[str, Any]) -> str:
    """Return an entry as JSON in which API keys end after their public part."""
    return _KEY.sub(r"\1_…", msgspec.json.encode(entry).decode())
