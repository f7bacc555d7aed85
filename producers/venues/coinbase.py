"""Coinbase Exchange: its WebSocket feed and its public REST API. No I/O.

Sources: the exchange's documents "WebSocket Overview", "WebSocket Channels" (ticker, matches, heartbeat, status),
"WebSocket Rate Limits", "WebSocket Authentication", and of the REST API "Get product trades" and "Get product
candles". The ticker's side is the taker's; match and REST trade give the maker's, which is turned round here. An
illiquid product has price "0" and no time: that is no tick. A 24 h price or a quote of "0" means there is none.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from producers.venues.parsing import (
    PERIODS,
    Count,
    Price,
    Side,
    Size,
    Unsaid,
    answer,
    checked,
    exchanges_bar,
    list_of_products,
    page_of_bars,
    page_of_trades,
    shown,
    size,
)
from producers.venues.protocol import (
    Exchange,
    Frame,
    Heartbeat,
    Ignored,
    Limits,
    Malformed,
    Outcome,
    Refused,
    Rest,
    RestRequest,
    Session,
    Subscriptions,
)
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, format_rfc3339, parse_rfc3339, wall_clock
from pulsestream.core.errors import UsageError
from schemas.records import Bar, Tick, Trade
from schemas.validate import MAX_TIME, are_sound_times, id_prefix

_CHANNELS: Final = {"ticks": "ticker", "trades": "matches"}
_ALIVE_CHANNEL: Final = "heartbeat"
_MESSAGE_PRODUCTS: Final = 100
"""Products in one message: about 1.5 kB."""
_SIGNED_PATH: Final = "/users/self/verify"
_PRODUCT: Final = re.compile(r"\b[A-Z0-9]+(?:-[A-Z0-9]+)+\b")
_WORD: Final = re.compile(r"[^\s,;'\"]+")
_NEEDS_KEY: Final = re.compile(r"authenticat|signature|api key|passphrase", re.IGNORECASE)

Signer: TypeAlias = Callable[[], dict[str, str]]
"""Returns the fields that sign a subscribe message sent now."""


class _Frame(msgspec.Struct, tag_field="type", gc=False):
    pass


class _Ticker(_Frame, tag="ticker", gc=False):
    product_id: str
    sequence: Count
    price: Price | Literal[""]
    time: str | None = None
    trade_id: Count | None = None
    side: Side | None = None
    last_size: Size | Unsaid = None
    best_bid: Price | Unsaid = None
    best_bid_size: Size | Unsaid = None
    best_ask: Price | Unsaid = None
    best_ask_size: Size | Unsaid = None
    open_24h: Price | Unsaid = None
    high_24h: Price | Unsaid = None
    low_24h: Price | Unsaid = None
    volume_24h: Size | Unsaid = None
    volume_30d: Size | Unsaid = None


class _Match(_Frame, tag="match", gc=False):
    product_id: str
    trade_id: Count
    price: Price
    size: Size
    side: Side
    time: str
    sequence: Count | None = None


class _LastMatch(_Match, tag="last_match", gc=False):
    pass


class _Heartbeat(_Frame, tag="heartbeat", gc=False):
    product_id: str
    time: str
    last_trade_id: Count = 0


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


class _RestTrade(msgspec.Struct, gc=False):
    trade_id: Count
    price: Price
    size: Size
    side: Side
    time: str


class _RestProduct(msgspec.Struct, gc=False):
    id: str
    status: str = ""


class _RestCandle(msgspec.Struct, array_like=True, gc=False):
    time: Annotated[int, msgspec.Meta(gt=0, lt=MAX_TIME // MICROS_PER_SECOND)]
    low: float
    high: float
    open: float
    close: float
    volume: float


_Known: TypeAlias = _Ticker | _Match | _LastMatch | _Heartbeat | _Subscriptions | _Error
_KINDS: Final = frozenset({"ticker", "match", "last_match", "heartbeat", "subscriptions", "error"})
_frames = msgspec.json.Decoder(_Known, strict=False)
_kinds = msgspec.json.Decoder(_AnyKind)
_rest_trades = msgspec.json.Decoder(list[_RestTrade], strict=False)
_rest_products = msgspec.json.Decoder(list[_RestProduct])
_rest_candles = msgspec.json.Decoder(list[_RestCandle])


class CoinbaseSession:
    """One connection's conversation. `sign`: for signed subscriptions.

    Of the channels, `status` is asked for only when it is named beside the datasets: it repeats every product and
    currency of the exchange, half a megabyte every few seconds, of which nothing is used here.
    """

    def __init__(self, exchange: str, datasets: Collection[str], sign: Signer | None = None) -> None:
        self._exchange = exchange
        self._channels = [*(channel for dataset, channel in _CHANNELS.items() if dataset in datasets), _ALIVE_CHANNEL]
        self._sign = sign
        self._asked: set[str] = set()
        self._status_due = "status" in datasets

    def subscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that ask for these products on every channel."""
        self._asked.update(products)
        signature = self._sign() if self._sign else {}
        messages = list(self._requests("subscribe", products, signature))
        if self._status_due:
            self._status_due = False
            messages.insert(0, json.dumps({"type": "subscribe", "channels": [{"name": "status"}]} | signature))
        return messages

    def unsubscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that end these products on every channel."""
        self._asked.difference_update(products)
        return list(self._requests("unsubscribe", products, {}))

    def receive(self, frame: Frame, received_time: int) -> Sequence[Outcome]:
        """Return what a frame is; never raises. `received_time` in microseconds, UTC."""
        try:
            decoded = _frames.decode(frame)
        except msgspec.ValidationError as error:
            return (_other_kind(frame, error),)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            return (Malformed(shown(f"not JSON: {error}")),)
        try:
            if isinstance(decoded, _Ticker):
                return (_tick(self._exchange, decoded, received_time),)
            return (self._outcome(decoded, received_time),)
        except (ValueError, OverflowError) as error:
            return (Malformed(shown(f"{type(decoded).__name__.strip('_').lower()}: {error}")),)

    def _requests(self, kind: str, products: Collection[str], signature: dict[str, str]) -> Iterator[str]:
        ordered = sorted(products)
        for start in range(0, len(ordered), _MESSAGE_PRODUCTS):
            asked = {"product_ids": ordered[start : start + _MESSAGE_PRODUCTS], "channels": self._channels}
            yield json.dumps({"type": kind} | asked | signature)

    def _outcome(self, frame: _Match | _Heartbeat | _Subscriptions | _Error, received_time: int) -> Outcome:
        if isinstance(frame, _Match):
            return checked(_trade(self._exchange, frame.product_id, frame, received_time, frame.sequence))
        if isinstance(frame, _Heartbeat):
            return Heartbeat(frame.product_id, parse_rfc3339(frame.time), frame.last_trade_id or None)
        if isinstance(frame, _Error):
            return _refused(frame, self._asked)
        listed = {channel.name: frozenset(channel.product_ids) for channel in frame.channels}
        return Subscriptions(frozenset.intersection(*(listed.get(name, frozenset()) for name in self._channels)))


def _tick(exchange: str, frame: _Ticker, received_time: int) -> Outcome:
    """Return what a ticker is. The hot path: numbers, side and sequence were checked by decoding, names by `id_prefix`.

    `or None` is for prices, of which zero means that there is none; for sizes it would lose a zero.
    """
    if frame.time is None:
        return _timeless(frame)
    exchange_time, best_bid, best_ask = parse_rfc3339(frame.time), frame.best_bid or None, frame.best_ask or None
    tick = Tick(
        event_id=f"{id_prefix(exchange, frame.product_id)}{frame.sequence}",
        exchange=exchange,
        product=frame.product_id,
        sequence=frame.sequence,
        trade_id=frame.trade_id,
        side=frame.side,
        price=frame.price or 0.0,
        size=frame.last_size or size(frame.last_size),
        best_bid=best_bid,
        best_bid_size=best_bid and (frame.best_bid_size or size(frame.best_bid_size)),
        best_ask=best_ask,
        best_ask_size=best_ask and (frame.best_ask_size or size(frame.best_ask_size)),
        open_24h=frame.open_24h or None,
        high_24h=frame.high_24h or None,
        low_24h=frame.low_24h or None,
        volume_24h=frame.volume_24h or size(frame.volume_24h),
        volume_30d=frame.volume_30d or size(frame.volume_30d),
        exchange_time=exchange_time,
        received_time=received_time,
    )
    return tick if frame.price and are_sound_times(exchange_time, received_time) else checked(tick)


def _timeless(frame: _Ticker) -> Ignored:
    if frame.price:
        raise ValueError("a price without a time")
    return Ignored("ticker without a trade", alive=True)


def _trade(
    exchange: str, product: str, said: _Match | _RestTrade, received_time: int, sequence: int | None = None
) -> Trade:
    """Return a trade with the taker's side; its price and its times are still to be checked."""
    return Trade(
        event_id=f"{id_prefix(exchange, product)}t{said.trade_id}",
        exchange=exchange,
        product=product,
        trade_id=said.trade_id,
        price=said.price,
        size=said.size,
        side="sell" if said.side == "buy" else "buy",
        exchange_time=parse_rfc3339(said.time),
        received_time=received_time,
        sequence=sequence,
    )


def _refused(error: _Error, asked: Collection[str]) -> Refused:
    """Return a refusal; the exchange names products in the words of its reason only.

    A product has whatever name a tenant gave it: the name must neither hide it, nor say that this client is refused.
    """
    products: set[str] = set()
    rest = [error.message]
    for word in _WORD.findall(error.reason):
        named = {name for name in (word, word.rstrip(".:")) if name in asked} or set(_PRODUCT.findall(word))
        products |= named
        rest += [] if named else [word]
    reason = shown(f"{error.message}: {error.reason}" if error.reason else error.message)
    return Refused(reason, frozenset(products), fatal=_NEEDS_KEY.search(" ".join(rest)) is not None)


def _other_kind(frame: Frame, error: msgspec.ValidationError) -> Outcome:
    try:
        kind = _kinds.decode(frame).type
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Malformed(shown(f"not a frame: {error}"))
    return Malformed(shown(f"{kind}: {error}")) if kind in _KINDS else Ignored(shown(kind[:40]))


@dataclass(frozen=True, slots=True)
class CoinbaseRest:
    """History over REST: trades page by id, newest first, and ids count up by one for each product."""

    exchange: str
    url: str = "https://api.exchange.coinbase.com"
    page: int = 1000
    candles_page: int = 300
    candles_kept: int | None = None

    @property
    def periods(self) -> Mapping[str, int]:
        """Every period that this platform knows."""
        return PERIODS

    def trades(self, product: str, from_id: int, since: int) -> RestRequest:  # noqa: ARG002 - pages go by id here
        """Ask for the page of trades that begins with `from_id`: `after` means ids below it."""
        return RestRequest(f"/products/{product}/trades", {"limit": str(self.page), "after": str(from_id + self.page)})

    def latest_trades(self, product: str) -> RestRequest:
        """Ask for the newest page of trades."""
        return RestRequest(f"/products/{product}/trades", {"limit": str(self.page)})

    def trades_at(self, product: str, at: int) -> RestRequest | None:  # noqa: ARG002 - pages go by id here
        """Return None: no page can be asked for by time."""
        return None

    def parse_trades(self, product: str, body: bytes, received_time: int) -> list[Trade]:
        """Return a page's trades in rising order of their ids; raises ProtocolError."""
        page = answer(_rest_trades.decode, body, f"trades of {product}")
        return page_of_trades(product, (_trade(self.exchange, product, one, received_time) for one in page))

    def products(self) -> RestRequest:
        """Ask for all products."""
        return RestRequest("/products")

    def parse_products(self, body: bytes) -> list[str]:
        """Return the products that are not delisted; raises ProtocolError."""
        listed = answer(_rest_products.decode, body, "products")
        return list_of_products(one.id for one in listed if one.status != "delisted")

    def candles(self, product: str, period: str, start: int, end: int) -> RestRequest:
        """Ask for the candles that start in [start, end); the exchange counts a candle that starts at its `end`."""
        query = {
            "granularity": str(self.periods[period]),
            "start": format_rfc3339(start),
            "end": format_rfc3339(end - MICROS_PER_SECOND),
        }
        return RestRequest(f"/products/{product}/candles", query)

    def parse_candles(self, product: str, period: str, body: bytes) -> list[Bar]:
        """Return a page's candles in rising order of start; raises ProtocolError.

        `complete` False and `received_time` 0 are the caller's to fill in.
        """
        page = answer(_rest_candles.decode, body, f"candles of {product}")
        return page_of_bars(product, (_bar(self.exchange, product, period, candle) for candle in page))


def _bar(exchange: str, product: str, period: str, candle: _RestCandle) -> Bar:
    return exchanges_bar(exchange, product, period, candle.time * MICROS_PER_SECOND, candle)


class CoinbaseExchange:
    """Coinbase Exchange, or under another name an exchange that speaks its language, such as the simulator."""

    url = "wss://ws-feed.exchange.coinbase.com"
    limits = Limits(messages_per_second=100.0, products=500, connects_per_minute=480.0, requests_per_second=8.0)
    """The exchange's own: 100 messages a second and 8 connects a second of one address, 10 subscriptions of one
    account to the same channel of the same product (each product is on one connection here, and on two while one
    takes over: it matters to ten installations behind one account or address). Its REST API takes 10 requests a
    second. It states no limit of products; beyond 500 on one connection it drops slow readers."""

    def __init__(self, name: str = "coinbase", *, sign: Signer | None = None) -> None:
        self.name = name
        self.rest: Rest = CoinbaseRest(name)
        self._sign = sign

    def symbol(self, product: str) -> str:
        """Return the exchange's own name of a product, which is the normalised one."""
        return product

    def session(self, channels: Collection[str] = ("ticks", "trades")) -> Session:
        """Return the conversation of a new connection that delivers these datasets."""
        return CoinbaseSession(self.name, channels, self._sign)

    def signed(self, key: str, secret: str, passphrase: str, clock: Clock = wall_clock) -> "CoinbaseExchange":
        """Return this exchange with signed subscriptions; raises UsageError for a secret that is not base64."""
        try:
            secret_bytes = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError):
            raise UsageError("the exchange's secret is not base64: copy PULSESTREAM_EXCHANGE_SECRET anew") from None

        def sign() -> dict[str, str]:
            return _signature(key, secret_bytes, passphrase, str(clock() // MICROS_PER_SECOND))

        return CoinbaseExchange(self.name, sign=sign)


def _signature(key: str, secret: bytes, passphrase: str, timestamp: str) -> dict[str, str]:
    """Return the fields of a signed subscribe message; `timestamp` in seconds since 1970."""
    digest = hmac.new(secret, f"{timestamp}GET{_SIGNED_PATH}".encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    return {"key": key, "passphrase": passphrase, "timestamp": timestamp, "signature": signature}


EXCHANGE: Final[Callable[[str], Exchange]] = CoinbaseExchange
