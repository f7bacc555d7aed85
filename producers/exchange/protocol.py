"""Frames of Coinbase Exchange's WebSocket feed as the exchange writes them, and the channel that each one belongs to.

Source: Coinbase Exchange's documents "WebSocket Overview" and "WebSocket Channels", and answers of the exchange as
clients have published them. Pure: text in, values out; nothing here raises on what an exchange or a client sends.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

CHANNELS: Final = frozenset({"ticker", "matches", "heartbeat", "status", "level2", "level2_batch"})
"""Channels that a client may subscribe to. The exchange asks for a key for level2; the simulator does not."""
KEYED_CHANNELS: Final = frozenset({"full", "level3"})
"""Channels that exist but need a key, which the simulator never gives."""
CHANNELS_OF_ALL_PRODUCTS: Final = frozenset({"status"})
"""Channels without products."""
ANSWERS: Final = frozenset({"subscriptions", "error"})
"""Types of frames that answer one client's message and are nobody else's."""

_CHANNEL_OF_TYPE: Final[Mapping[str, str]] = {
    "ticker": "ticker",
    "match": "matches",
    "last_match": "matches",
    "heartbeat": "heartbeat",
    "status": "status",
    "snapshot": "level2",
    "l2update": "level2",
}


class Head(msgspec.Struct, frozen=True):
    """The fields of a frame that decide where it goes and what heartbeats say afterwards."""

    type: str
    product_id: str | None = None
    sequence: int | None = None
    trade_id: int | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class FeedFrame:
    """One frame of the market: its channel, product (None: all), text, and the ids that a heartbeat reports."""

    channel: str
    product: str | None
    text: str
    sequence: int | None = None
    trade_id: int | None = None


_head: Final = msgspec.json.Decoder(Head)


def decode_head(text: str) -> Head:
    """Return a frame's head; raises msgspec.DecodeError for a text that is no frame of this exchange."""
    return _head.decode(text)


def feed_frame(text: str, head: Head) -> FeedFrame:
    """Return the frame to publish; a type that belongs to no public channel gets its own name as channel."""
    channel = _CHANNEL_OF_TYPE.get(head.type, head.type)
    return FeedFrame(channel, head.product_id, text, head.sequence, head.trade_id)


def encode(fields: Mapping[str, object]) -> str:
    """Return a frame's JSON text, fields in their order."""
    return msgspec.json.encode(fields).decode()


def error_frame(message: str, reason: str | None = None) -> str:
    """Return the exchange's error frame."""
    frame = {"type": "error", "message": message}
    return encode(frame if reason is None else {**frame, "reason": reason})


def subscriptions_frame(channels: Mapping[str, Iterable[str]]) -> str:
    """Return the confirmation that lists everything a session is subscribed to."""
    listed = [{"name": name, "product_ids": list(products)} for name, products in channels.items()]
    return encode({"type": "subscriptions", "channels": listed})


def heartbeat_frame(product: str, sequence: int, last_trade_id: int, time: str) -> FeedFrame:
    """Return a heartbeat; a last_trade_id of 0 means that no trade is known. `time` is RFC 3339 in UTC."""
    fields = {
        "type": "heartbeat",
        "last_trade_id": last_trade_id,
        "product_id": product,
        "sequence": sequence,
        "time": time,
    }
    return FeedFrame("heartbeat", product, encode(fields), sequence, last_trade_id)
