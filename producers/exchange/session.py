"""One client's session without I/O: its messages in, the exchange's answers out, and which frames it gets.

A message names channels, as text (with the message's product_ids) or as an object (with its own product_ids as
well). Each pair of channel and product that the exchange does not have is answered by an error frame, the others are
subscribed and confirmed. Sources: the exchange's "WebSocket Overview"; reasons as clients have published them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from producers.exchange.protocol import (
    ANSWERS,
    CHANNELS,
    CHANNELS_OF_ALL_PRODUCTS,
    KEYED_CHANNELS,
    FeedFrame,
    error_frame,
    subscriptions_frame,
)

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of a client's message; the connection is closed on a longer one."""
MAX_ERRORS: Final = 100
"""Error frames in answer to one message."""

_FAILED: Final = "Failed to subscribe"
_WRONG_TYPE: Final = "Type has to be either subscribe or unsubscribe"
_NO_CHANNELS: Final = "No channels provided"
_BAD_PRODUCTS: Final = "Invalid product ID provided"
_NEEDS_KEY: Final = "level2, level3, and full channels now require authentication."


class _RefusedError(Exception):
    """A message that is refused as a whole; its text is the exchange's reason."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A message that was understood: products by channel, each once, in the client's order."""

    subscribe: bool
    channels: dict[str, dict[str, None]]


class Session:
    """What one client has subscribed to."""

    def __init__(self, products: Collection[str], *, unfiltered: bool = False) -> None:
        """Take the products that the exchange has; `unfiltered`: a subscribed session gets every frame."""
        self._products = products
        self._unfiltered = unfiltered
        self._channels: dict[str, dict[str, None]] = {}
        self._subscribed = False

    @property
    def subscribed(self) -> bool:
        """Whether a subscription was ever accepted: who has none within five seconds is disconnected."""
        return self._subscribed

    @property
    def heartbeats(self) -> tuple[str, ...]:
        """The products whose heartbeats the session gets."""
        return tuple(self._channels.get("heartbeat", ()))

    def receive(self, message: str | bytes) -> list[str]:
        """Take a client's message and return the answers, in order. Never raises, whatever the message."""
        try:
            decoded = msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return [error_frame("Malformed JSON")]
        try:
            request = _parse(decoded)
        except _RefusedError as refusal:
            return [error_frame(_FAILED, str(refusal))]
        return self._subscribe(request) if request.subscribe else self._unsubscribe(request)

    def wants(self, frame: FeedFrame) -> bool:
        """Whether a frame of the market belongs to this session; not a recorded heartbeat: the server makes its own."""
        if frame.channel in ANSWERS or not self._subscribed:
            return False
        return self._unfiltered or (frame.channel != "heartbeat" and self._listed(frame.channel, frame.product))

    def _listed(self, channel: str, product: str | None) -> bool:
        if channel == "level2" and self._listed("level2_batch", product):
            return True
        products = self._channels.get(channel)
        return products is not None and (product is None or product in products)

    def _subscribe(self, request: _Request) -> list[str]:
        reasons: list[str] = []
        accepted = False
        for channel, products in request.channels.items():
            known = [product for product in products if product in self._products]
            reasons += _refusals(channel, products, self._products)
            if known or channel in CHANNELS_OF_ALL_PRODUCTS:
                self._channels.setdefault(channel, {}).update(dict.fromkeys(known))
                accepted = True
        self._subscribed = self._subscribed or accepted
        errors = [error_frame(_FAILED, reason) for reason in reasons[:MAX_ERRORS]]
        return [*errors, self._confirmation()] if accepted else errors

    def _unsubscribe(self, request: _Request) -> list[str]:
        for channel, products in request.channels.items():
            subscribed = self._channels.get(channel, {})
            for product in products:
                subscribed.pop(product, None)
            if not products or not subscribed:
                self._channels.pop(channel, None)
        return [self._confirmation()]

    def _confirmation(self) -> str:
        return subscriptions_frame(self._channels)


def _refusals(channel: str, products: Collection[str], known: Collection[str]) -> Iterator[str]:
    if channel in CHANNELS_OF_ALL_PRODUCTS:
        return
    for product in products or ("",):
        if product not in known:
            yield f"{product} is not a valid product"


def _parse(message: object) -> _Request:
    if not isinstance(message, dict) or message.get("type") not in ("subscribe", "unsubscribe"):
        raise _RefusedError(_WRONG_TYPE)
    listed = message.get("channels")
    if not isinstance(listed, list) or not listed:
        raise _RefusedError(_NO_CHANNELS)
    common = _product_ids(message)
    channels: dict[str, dict[str, None]] = {}
    for item in listed:
        own = _product_ids(item) if isinstance(item, dict) else {}
        channels.setdefault(_channel_name(item), {}).update(common | own)
    return _Request(message["type"] == "subscribe", channels)


def _product_ids(fields: dict[object, object]) -> dict[str, None]:
    listed = fields.get("product_ids")
    if listed is None:
        return {}
    if not isinstance(listed, list):
        raise _RefusedError(_BAD_PRODUCTS)
    products: dict[str, None] = {}
    for product in listed:
        if not isinstance(product, str):
            raise _RefusedError(_BAD_PRODUCTS)
        products[product] = None
    return products


def _channel_name(item: object) -> str:
    name = item.get("name") if isinstance(item, dict) else item
    if isinstance(name, str) and name in CHANNELS:
        return name
    if isinstance(name, str) and name in KEYED_CHANNELS:
        raise _RefusedError(_NEEDS_KEY)
    raise _RefusedError(f"{name if isinstance(name, str) else ''} is not a valid channel")
