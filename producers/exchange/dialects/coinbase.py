"""Coinbase Exchange's public WebSocket feed and market data over REST.

Sources: Coinbase Exchange's documents "WebSocket Overview", "WebSocket Channels", "WebSocket Rate Limits", "REST API:
Get product trades, Get product candles, Pagination", and answers of the exchange as clients have published them.
A message names channels, as text (with the message's product_ids) or as an object (with its own as well). Each pair
of channel and product that the exchange does not have is answered by an error, the others are confirmed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from producers.exchange.board import Board
from producers.exchange.dialects.base import (
    Answer,
    BadQueryError,
    MessageRate,
    Query,
    Reply,
    RestLimit,
    document,
    encode,
    reply,
)
from producers.exchange.history import Candle
from producers.exchange.market import UNIT_DIGITS, FeedFrame, Print, Recorded, Ticker, Trade, decimal, units, whole
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339, parse_rfc3339

CHANNELS: Final = frozenset({"ticker", "matches", "heartbeat", "status", "level2", "level2_batch"})
"""Channels that a client may subscribe to. The exchange asks for a key for level2; the simulator does not."""
KEYED_CHANNELS: Final = frozenset({"full", "level3"})
"""Channels that exist but need a key, which the simulator never gives."""
CHANNELS_OF_ALL_PRODUCTS: Final = frozenset({"status"})
"""Channels without products."""
ANSWERS: Final = frozenset({"subscriptions", "error"})
"""Types of frames that answer one client's message and are nobody else's."""
MAX_ERRORS: Final = 100
"""Error frames in answer to one message."""
MESSAGES_PER_SECOND: Final = 100
SUBSCRIPTIONS: Final = 10
"""Subscriptions of one product and channel, over all connections."""
MAX_CANDLES: Final = 300
MAX_PAGE: Final = 1000
GRANULARITIES: Final = (60, 300, 900, 3600, 21600, 86400)
"""Seconds that a candle may span."""

_CHANNEL_OF_TYPE: Final[Mapping[str, str]] = {
    "ticker": "ticker",
    "match": "matches",
    "last_match": "matches",
    "heartbeat": "heartbeat",
    "status": "status",
    "snapshot": "level2",
    "l2update": "level2",
}
_STATUS_EVERY: Final = 5
_FAILED: Final = "Failed to subscribe"
_WRONG_TYPE: Final = "Type has to be either subscribe or unsubscribe"
_NO_CHANNELS: Final = "No channels provided"
_BAD_PRODUCTS: Final = "Invalid product ID provided"
_NEEDS_KEY: Final = "level2, level3, and full channels now require authentication."
_MASK: Final = (1 << 128) - 1


class Head(msgspec.Struct, frozen=True):
    """The fields of a frame that decide where it goes and what heartbeats say afterwards."""

    type: str
    product_id: str | None = None
    sequence: int | None = None
    trade_id: int | None = None
    time: str | None = None
    price: str | None = None
    size: str | None = None
    side: str | None = None


_head: Final = msgspec.json.Decoder(Head)


class _RefusedError(Exception):
    """A message that is refused as a whole; its text is the exchange's reason."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A message that was understood: products by channel, each once, in the client's order."""

    subscribe: bool
    channels: dict[str, dict[str, None]]


class Coinbase:
    """The dialect."""

    kinds: Mapping[str, Collection[str]] = {"trades": ("matches",), "ticks": ("ticker",), "heartbeats": ("heartbeat",)}
    rest_limit = RestLimit(10, 15)
    max_age: float | None = None
    subscribe_within: float | None = 5.0

    def session(self, board: Board, path: str, *, unfiltered: bool = False) -> "Session":
        """Return the conversation of a new connection; every path is the feed."""
        del path
        return Session(board, unfiltered=unfiltered)

    def render(self, event: Print | Ticker) -> list[FeedFrame]:
        """Return a match and the ticker after it, or the ticker of what never traded."""
        if isinstance(event, Ticker):
            return [_ticker(event)]
        return [_match(event.trade), _ticker(event.ticker)]

    def due(self, now: int) -> list[FeedFrame]:
        """Return nothing: heartbeats are each session's own."""
        del now
        return []

    def read(self, text: str) -> Recorded | None:
        """Return a recorded frame with its trade; ValueError for a text that is no frame of Coinbase Exchange."""
        try:
            head = _head.decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"is no frame of Coinbase Exchange: {error}") from error
        if head.type in ANSWERS:
            return None
        try:
            time = parse_rfc3339(head.time) if head.time else None
        except ValueError as error:
            raise ValueError(f"has a wrong time: {error}") from error
        channel = _CHANNEL_OF_TYPE.get(head.type, head.type)
        ids = (head.trade_id,) if channel == "matches" and head.trade_id is not None else ()
        frame = FeedFrame(channel, head.product_id, text, head.sequence, head.trade_id, ids, time)
        return Recorded(frame, _trades(head, frame))

    def shifted(self, text: str, micros: int) -> str:
        """Return a frame with its time moved."""
        fields: dict[str, object] = msgspec.json.decode(text)
        if isinstance(fields.get("time"), str):
            fields["time"] = format_rfc3339(parse_rfc3339(str(fields["time"])) + micros)
        return encode(fields)

    def prologue(self, products: Collection[str]) -> str | None:
        """Return the confirmation of the channels that a recording holds."""
        return subscriptions_frame({name: dict.fromkeys(products) for name in ("ticker", "matches", "heartbeat")})

    def heartbeat_requests(self, products: Collection[str]) -> list[str]:
        """Return the message that subscribes to the heartbeat channel."""
        return [encode({"type": "subscribe", "product_ids": list(products), "channels": ["heartbeat"]})]

    def answer(self, query: Query, board: Board) -> Answer:
        """Answer /time, /products, /products/{id}/trades and /products/{id}/candles."""
        try:
            match query.path.strip("/").split("/"):
                case ["time"]:
                    now = board.now()
                    return document({"iso": format_rfc3339(now), "epoch": now / MICROS_PER_SECOND})
                case ["products"]:
                    return document([_product(name, board.history.decimals(name)) for name in board.listed])
                case ["products", product, *rest] if product in board.products:
                    return _of_product(query, product, rest, board)
        except BadQueryError as error:
            return document({"message": f"Invalid {error}"}, 400)
        return document({"message": "NotFound"}, 404)


class Session:
    """What one client has subscribed to."""

    def __init__(self, board: Board, *, unfiltered: bool = False) -> None:
        """Take what the exchange has; `unfiltered`: a subscribed session gets every frame."""
        self._board = board
        self._unfiltered = unfiltered
        self._channels: dict[str, dict[str, None]] = {}
        self._subscribed = False
        self._rate = MessageRate(MESSAGES_PER_SECOND)
        self._beats = 0

    @property
    def subscribed(self) -> bool:
        """Whether a subscription was ever accepted: who has none within five seconds is disconnected."""
        return self._subscribed

    def opened(self, now: int) -> Reply:
        """Return nothing: the exchange waits for a subscription."""
        del now
        return Reply()

    def receive(self, message: str | bytes, now: int) -> Reply:
        """Take a client's message and return the answers, in order. Never raises, whatever the message."""
        if self._rate.exceeded(now):
            return reply(error_frame("rate limit exceeded"))
        try:
            decoded = msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return reply(error_frame("Malformed JSON"))
        try:
            request = _parse(decoded)
        except _RefusedError as refusal:
            return reply(error_frame(_FAILED, str(refusal)))
        return self._subscribe(request) if request.subscribe else self._unsubscribe(request)

    def wants(self, frame: FeedFrame) -> bool:
        """Whether a frame of the market belongs to this session; not a recorded heartbeat: each session has its own."""
        if not self._subscribed:
            return False
        return self._unfiltered or (frame.channel != "heartbeat" and self._listed(frame.channel, frame.product))

    def text(self, frame: FeedFrame) -> str:
        """Return a frame's text: the same for everyone."""
        return frame.text

    def beat(self, now: int) -> Sequence[FeedFrame]:
        """Return the heartbeats of the subscribed products, and every five seconds the status."""
        self._beats += 1
        products = self._channels.get("heartbeat", ())
        frames = [heartbeat_frame(product, *self._board.last_ids(product), now) for product in products]
        if "status" in self._channels and self._board.live and self._beats % _STATUS_EVERY == 0:
            frames.append(_status(self._board))
        return frames

    def ending(self, now: int) -> Reply:
        """Return how the exchange ends a connection: without a word."""
        del now
        return Reply(close=(1001, ""))

    def closed(self) -> None:
        """Give the subscriptions back."""
        self._board.subscribers.subtract((channel, name) for channel, names in self._channels.items() for name in names)
        self._channels = {}

    def _listed(self, channel: str, product: str | None) -> bool:
        if channel == "level2" and self._listed("level2_batch", product):
            return True
        products = self._channels.get(channel)
        return products is not None and (product is None or product in products)

    def _subscribe(self, request: _Request) -> Reply:
        reasons: list[str] = []
        first: list[FeedFrame] = []
        accepted = False
        for channel, products in request.channels.items():
            known = []
            for product in products or ("",):
                if channel in CHANNELS_OF_ALL_PRODUCTS:
                    continue
                reason = self._refusal(channel, product)
                reasons += [reason] if reason else []
                known += [] if reason else [product]
            if known or channel in CHANNELS_OF_ALL_PRODUCTS:
                first += self._add(channel, known)
                accepted = True
        self._subscribed = self._subscribed or accepted
        errors = [error_frame(_FAILED, reason) for reason in reasons[:MAX_ERRORS]]
        answers = reply(*errors, self._confirmation()) if accepted else reply(*errors)
        return Reply([*answers.frames, *first])

    def _refusal(self, channel: str, product: str) -> str | None:
        if product not in self._board.products:
            return f"{product} is not a valid product"
        held = product in self._channels.get(channel, ())
        if not held and self._board.subscribers[channel, product] >= SUBSCRIPTIONS:
            return f"subscription limit of {SUBSCRIPTIONS} exceeded for {product} {channel}"
        return None

    def _add(self, channel: str, products: Sequence[str]) -> list[FeedFrame]:
        """Subscribe, and return what the exchange sends of each new subscription at once."""
        held = self._channels.setdefault(channel, {})
        new = [product for product in products if product not in held]
        held.update(dict.fromkeys(new))
        self._board.subscribers.update((channel, product) for product in new)
        if not self._board.live:
            return []
        if channel == "status":
            return [_status(self._board)]
        return [frame for product in new for frame in self._current(channel, product)]

    def _current(self, channel: str, product: str) -> Iterator[FeedFrame]:
        if channel == "ticker" and (ticker := self._board.tickers.get(product)):
            yield _ticker(ticker)
        if channel == "matches" and (last := self._board.history.last(product)):
            yield _match(last, "last_match")

    def _unsubscribe(self, request: _Request) -> Reply:
        for channel, products in request.channels.items():
            subscribed = self._channels.get(channel, {})
            ended = [product for product in products or tuple(subscribed) if product in subscribed]
            for product in ended:
                del subscribed[product]
            self._board.subscribers.subtract((channel, product) for product in ended)
            if not subscribed:
                self._channels.pop(channel, None)
        return reply(self._confirmation())

    def _confirmation(self) -> str:
        return subscriptions_frame(self._channels)


def error_frame(message: str, reason: str | None = None) -> str:
    """Return the exchange's error frame."""
    frame = {"type": "error", "message": message}
    return encode(frame if reason is None else {**frame, "reason": reason})


def subscriptions_frame(channels: Mapping[str, Collection[str]]) -> str:
    """Return the confirmation that lists everything a session is subscribed to."""
    listed = [{"name": name, "product_ids": list(products)} for name, products in channels.items()]
    return encode({"type": "subscriptions", "channels": listed})


def heartbeat_frame(product: str, sequence: int, last_trade_id: int, now: int) -> FeedFrame:
    """Return a heartbeat; a last_trade_id of 0 means that no trade is known."""
    fields = {
        "type": "heartbeat",
        "last_trade_id": last_trade_id,
        "product_id": product,
        "sequence": sequence,
        "time": format_rfc3339(now),
    }
    return FeedFrame("heartbeat", product, encode(fields), sequence, last_trade_id, time=now)


def _match(trade: Trade, kind: str = "match") -> FeedFrame:
    maker = "sell" if trade.side == "buy" else "buy"
    size, price = decimal(trade.size, UNIT_DIGITS), decimal(trade.price, trade.decimals)
    text = (
        f'{{"type":"{kind}","trade_id":{trade.trade_id},'
        f'"maker_order_id":"{_uuid(trade.order + trade.price)}","taker_order_id":"{_uuid(trade.order)}",'
        f'"side":"{maker}","size":"{size}","price":"{price}",'
        f'"product_id":"{trade.product}","sequence":{trade.sequence},"time":"{format_rfc3339(trade.time)}"}}'
    )
    return FeedFrame("matches", trade.product, text, trade.sequence, trade.trade_id, (trade.trade_id,), trade.time)


def _ticker(ticker: Ticker) -> FeedFrame:
    trade, digits = ticker.trade, ticker.decimals
    if trade is None:
        text = (
            f'{{"type":"ticker","sequence":{ticker.sequence},"product_id":"{ticker.product}","price":"0",'
            '"open_24h":"0","volume_24h":"0","low_24h":"0","high_24h":"0","volume_30d":"0",'
            '"best_bid":"0","best_ask":"0"}'
        )
        return FeedFrame("ticker", ticker.product, text, ticker.sequence)
    text = (
        f'{{"type":"ticker","sequence":{ticker.sequence},"product_id":"{ticker.product}",'
        f'"price":"{decimal(trade.price, digits)}","open_24h":"{decimal(ticker.open, digits)}",'
        f'"volume_24h":"{decimal(ticker.volume, UNIT_DIGITS)}","low_24h":"{decimal(ticker.low, digits)}",'
        f'"high_24h":"{decimal(ticker.high, digits)}","volume_30d":"{decimal(ticker.volume_30d, UNIT_DIGITS)}",'
        f'"best_bid":"{decimal(ticker.bid, digits)}","best_bid_size":"{decimal(ticker.bid_size, UNIT_DIGITS)}",'
        f'"best_ask":"{decimal(ticker.ask, digits)}","best_ask_size":"{decimal(ticker.ask_size, UNIT_DIGITS)}",'
        f'"side":"{trade.side}","time":"{format_rfc3339(ticker.time)}","trade_id":{trade.trade_id},'
        f'"last_size":"{decimal(trade.size, UNIT_DIGITS)}"}}'
    )
    return FeedFrame("ticker", ticker.product, text, ticker.sequence, trade.trade_id, (), ticker.time)


def _status(board: Board) -> FeedFrame:
    names = dict.fromkeys(name for product in board.listed for name in product.split("-"))
    currencies = [{"id": name, "name": name, "min_size": "0.00000001", "status": "online"} for name in names]
    products = [_product(name, board.history.decimals(name)) for name in board.listed]
    return FeedFrame("status", None, encode({"type": "status", "products": products, "currencies": currencies}))


def _product(product: str, decimals: int) -> dict[str, object]:
    base, _, quote = product.partition("-")
    return {
        "id": product,
        "base_currency": base,
        "quote_currency": quote,
        "quote_increment": decimal(1, decimals),
        "base_increment": decimal(1, UNIT_DIGITS),
        "display_name": f"{base}-{quote}",
        "min_market_funds": "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
        "fx_stablecoin": False,
        "auction_mode": False,
    }


def _of_product(query: Query, product: str, rest: Sequence[str], board: Board) -> Answer:
    match rest:
        case []:
            return document(_product(product, board.history.decimals(product)))
        case ["trades"]:
            return _rest_trades(query, product, board)
        case ["candles"]:
            return _rest_candles(query, product, board)
    return document({"message": "NotFound"}, 404)


def _rest_trades(query: Query, product: str, board: Board) -> Answer:
    """Answer the newest trades older than `after`, or newer than `before`, newest first."""
    limit = query.number("limit", MAX_PAGE)
    if not 1 <= limit <= MAX_PAGE:
        raise BadQueryError("limit")
    after = query.number("after", 0) or None
    trades = board.history.downwards(product, after, limit, above=query.number("before", 0))
    headers = {"CB-BEFORE": str(trades[0].trade_id), "CB-AFTER": str(trades[-1].trade_id)} if trades else {}
    return document([_rest_trade(trade) for trade in trades], headers=headers)


def _rest_trade(trade: Trade) -> dict[str, object]:
    return {
        "trade_id": trade.trade_id,
        "side": "sell" if trade.side == "buy" else "buy",
        "size": decimal(trade.size, UNIT_DIGITS),
        "price": decimal(trade.price, trade.decimals),
        "time": format_rfc3339(trade.time),
    }


def _rest_candles(query: Query, product: str, board: Board) -> Answer:
    seconds = query.number("granularity", 60)
    if seconds not in GRANULARITIES:
        return document({"message": "Unsupported granularity"}, 400)
    period = seconds * MICROS_PER_SECOND
    end = _moment(query, "end", board.now())
    start = _moment(query, "start", end - MAX_CANDLES * period)
    if (end - start) // period > MAX_CANDLES:
        message = (
            f"granularity too small for the requested time range. Count of aggregations requested exceeds {MAX_CANDLES}"
        )
        return document({"message": message}, 400)
    candles = board.history.candles(product, seconds, start, end + 1)
    return document([_rest_candle(candle) for candle in reversed(list(candles))])


def _rest_candle(candle: Candle) -> list[float]:
    scale = 10.0**candle.decimals
    prices = [price / scale for price in (candle.low, candle.high, candle.open, candle.close)]
    return [candle.start // MICROS_PER_SECOND, *prices, candle.volume / 10.0**UNIT_DIGITS]


def _moment(query: Query, name: str, default: int) -> int:
    """Return a time parameter, RFC 3339 or seconds since 1970, in micros."""
    text = query.parameters.get(name)
    if text is None:
        return default
    try:
        return int(text) * MICROS_PER_SECOND if text.isdecimal() else parse_rfc3339(text)
    except (ValueError, OverflowError) as error:
        raise BadQueryError(name) from error


def _trades(head: Head, frame: FeedFrame) -> tuple[Trade, ...]:
    if not frame.trade_ids or None in (frame.product, frame.time, head.price, head.size):
        return ()
    try:
        price, decimals = whole(str(head.price))
        size = units(str(head.size))
    except ValueError as error:
        raise ValueError(f"has a wrong price or size: {error}") from error
    side = "sell" if head.side == "buy" else "buy"
    return (
        Trade(
            str(frame.product), frame.trade_ids[0], frame.sequence or 0, frame.time or 0, price, decimals, size, side
        ),
    )


def _uuid(number: int) -> str:
    bits = f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 & _MASK:032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"


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
