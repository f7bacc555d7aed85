"""The Coinbase Exchange WebSocket protocol without I/O: messages to send, and what a received frame means.

Source: Coinbase Exchange documentation, "WebSocket Overview" and "WebSocket Channels" (ticker, heartbeat). Ticks keep
the ticker's side, which is the taker's. `receive` never raises, and every tick it yields passes the shared validator.
An illiquid product has price "0" and no time: that is no tick. A 24 h price or a quote of "0" means there is none.
"""

import json
import re
from collections.abc import Collection
from typing import Annotated, Final

import msgspec

from producers.protocol import ExchangeError, Frame, Heartbeat, Ignored, Malformed, Outcome, Subscriptions, TickFrame
from pulsestream.core.clock import parse_rfc3339
from schemas.records import Tick, tick_id
from schemas.validate import check

CHANNELS: Final = ("ticker", "heartbeat")
_DATA_CHANNEL: Final = "ticker"
_SHOWN: Final = 200

_NUMBER: Final = re.compile(r"[0-9]{1,32}(?:\.[0-9]{1,32})?(?:[eE][+-]?[0-9]{1,3})?")
_NEEDS_KEY: Final = re.compile(r"authenticat|signature|api key|passphrase", re.IGNORECASE)

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Frame(msgspec.Struct, tag_field="type", gc=False):
    pass


class _Ticker(_Frame, tag="ticker", gc=False):
    product_id: str
    sequence: _Count
    price: str
    time: str | None = None
    trade_id: _Count | None = None
    side: str | None = None
    last_size: str | None = None
    best_bid: str | None = None
    best_bid_size: str | None = None
    best_ask: str | None = None
    best_ask_size: str | None = None
    open_24h: str | None = None
    high_24h: str | None = None
    low_24h: str | None = None
    volume_24h: str | None = None
    volume_30d: str | None = None


class _Heartbeat(_Frame, tag="heartbeat", gc=False):
    product_id: str
    sequence: _Count
    time: str
    last_trade_id: _Count = 0


class _Channel(msgspec.Struct, gc=False):
    name: str
    product_ids: list[str] = []


class _Subscriptions(_Frame, tag="subscriptions"):
    channels: list[_Channel]


class _Error(_Frame, tag="error"):
    message: str
    reason: str = ""


class _AnyKind(msgspec.Struct):
    type: str


_frames = msgspec.json.Decoder(_Ticker | _Heartbeat | _Subscriptions | _Error)
_kinds = msgspec.json.Decoder(_AnyKind)
_KINDS: Final = frozenset({"ticker", "heartbeat", "subscriptions", "error"})


class CoinbaseProtocol:
    """Coinbase's language, spoken by the exchange itself (`coinbase`) or by the local simulator (`simulator`)."""

    def __init__(self, exchange: str = "coinbase") -> None:
        self.exchange = exchange

    def subscribe(self, products: Collection[str]) -> str:
        """Return the message that asks for these products on every channel."""
        return _request("subscribe", products)

    def unsubscribe(self, products: Collection[str]) -> str:
        """Return the message that ends these products on every channel."""
        return _request("unsubscribe", products)

    def receive(self, frame: Frame, received_time: int) -> Outcome:
        """Return what a frame is; never raises. `received_time` in microseconds, UTC."""
        try:
            decoded = _frames.decode(frame)
        except msgspec.ValidationError as error:
            return _other_kind(frame, error)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            return Malformed(_shown(f"not JSON: {error}"))
        try:
            return self._outcome(decoded, received_time)
        except (ValueError, OverflowError) as error:
            return Malformed(_shown(f"{type(decoded).__name__.strip('_').lower()}: {error}"))

    def is_fatal(self, error: ExchangeError) -> bool:
        """Say whether the error asks for credentials, which no new connection would bring."""
        return _NEEDS_KEY.search(f"{error.message} {error.reason}") is not None

    def _outcome(self, frame: _Ticker | _Heartbeat | _Subscriptions | _Error, received_time: int) -> Outcome:
        if isinstance(frame, _Ticker):
            return self._tick(frame, received_time)
        if isinstance(frame, _Heartbeat):
            return Heartbeat(frame.product_id, frame.sequence, frame.last_trade_id, parse_rfc3339(frame.time))
        if isinstance(frame, _Error):
            return ExchangeError(frame.message, frame.reason)
        confirmed = (channel.product_ids for channel in frame.channels if channel.name == _DATA_CHANNEL)
        return Subscriptions(frozenset().union(*confirmed))

    def _tick(self, frame: _Ticker, received_time: int) -> Outcome:
        price = _number("price", frame.price)
        if price == 0 and frame.time is None:
            return Ignored("ticker without a trade", alive=True)
        if frame.time is None:
            raise ValueError("a price without a time")
        best_bid, best_ask = _price("best_bid", frame.best_bid), _price("best_ask", frame.best_ask)
        tick = Tick(
            event_id=tick_id(self.exchange, frame.product_id, frame.sequence),
            exchange=self.exchange,
            product=frame.product_id,
            sequence=frame.sequence,
            trade_id=frame.trade_id,
            side=frame.side,
            price=price,
            size=_size("last_size", frame.last_size),
            best_bid=best_bid,
            best_bid_size=None if best_bid is None else _size("best_bid_size", frame.best_bid_size),
            best_ask=best_ask,
            best_ask_size=None if best_ask is None else _size("best_ask_size", frame.best_ask_size),
            open_24h=_price("open_24h", frame.open_24h),
            high_24h=_price("high_24h", frame.high_24h),
            low_24h=_price("low_24h", frame.low_24h),
            volume_24h=_size("volume_24h", frame.volume_24h),
            volume_30d=_size("volume_30d", frame.volume_30d),
            exchange_time=parse_rfc3339(frame.time),
            received_time=received_time,
        )
        fault = check(tick, "ticks")
        return TickFrame(tick) if fault is None else Malformed(_shown(f"{fault.code}: {fault.message}"))


def _request(kind: str, products: Collection[str]) -> str:
    return json.dumps({"type": kind, "product_ids": sorted(products), "channels": CHANNELS})


def _number(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} {text[:40]!r} is not a plain decimal number")
    return float(text)


def _size(name: str, text: str | None) -> float | None:
    return _number(name, text) if text else None


def _price(name: str, text: str | None) -> float | None:
    return (_number(name, text) or None) if text else None


def _other_kind(frame: Frame, error: msgspec.ValidationError) -> Outcome:
    try:
        kind = _kinds.decode(frame).type
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Malformed(_shown(f"not a frame: {error}"))
    return Malformed(_shown(f"{kind}: {error}")) if kind in _KINDS else Ignored(kind[:40])


def _shown(text: str) -> str:
    return text[:_SHOWN].encode("utf-8", "backslashreplace").decode()
