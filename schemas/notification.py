"""What a message about alerts says, whatever channel it goes to: the JSON of a webhook, and the words of the others.

The outer form is that of Standard Webhooks (type, timestamp, data). Times are RFC 3339 in UTC. A message is encoded
once and kept: every attempt sends the same bytes.
"""

from typing import Literal

import msgspec

ALERT_FIRING = "alert.firing"
ALERT_RESOLVED = "alert.resolved"
TEST = "channel.test"
DISABLED = "channel.disabled"
Status = Literal["firing", "resolved"]


class ShownPrice(msgspec.Struct, frozen=True):
    """A price and its event time."""

    time: str
    price: float


class ShownAlert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert; `value`, `threshold`, `reason` and `last_prices` are those of its last transition.

    `firings`: how often it has fired since the message before that told of it.
    """

    alert_id: str
    rule_id: str
    rule_name: str
    rule_version: int
    exchange: str
    product: str
    status: Status
    severity: str
    labels: dict[str, str]
    started_at: str
    ended_at: str | None = None
    value: float | None = None
    threshold: float | None = None
    reason: str
    window: str | None = None
    last_prices: list[ShownPrice] = []
    firings: int = 1


class Channel(msgspec.Struct, frozen=True):
    """The channel that a message goes to."""

    id: str
    name: str


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What a message is about; `text` says it in words. `more` counts alerts that found no room."""

    tenant: str
    channel: Channel
    text: str
    status: Status | None = None
    repeat: bool = False
    group: dict[str, str] = {}
    alerts: list[ShownAlert] = []
    more: int = 0


class Notification(msgspec.Struct, frozen=True):
    """A message."""

    type: str
    timestamp: str
    data: Data


def encode(message: Notification) -> str:
    """Return the JSON text of a message."""
    return msgspec.json.encode(message).decode()


def decode(document: str) -> Notification:
    """Return the message of a JSON text that `encode` gave."""
    return msgspec.json.decode(document, type=Notification)
