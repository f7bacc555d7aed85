"""Kraken's WebSocket v2 market data and public REST data.

Sources: Kraken's documents "Spot WebSocket v2" (status, heartbeat, ticker, trade, instrument, ping) and "REST API:
Get Recent Trades, Get OHLC Data, Get Tradable Asset Pairs, Get Server Time", and answers of the exchange as clients
have published them. Prices and sizes are JSON numbers. A product that never traded has a ticker of zeros with a time
of 1970. The first message on a connection is its status; a trade subscription begins with the newest 50 trades.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from email.utils import formatdate
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

CHANNELS: Final = frozenset({"ticker", "trade", "instrument"})
"""Channels that a client may subscribe to; status and heartbeat come without asking."""
CHANNELS_OF_ALL_PRODUCTS: Final = frozenset({"instrument"})
"""Channels without symbols."""
SNAPSHOT_TRADES: Final = 50
"""Trades that a subscription begins with."""
MESSAGES_PER_SECOND: Final = 50
MAX_PAGE: Final = 1000
MAX_CANDLES: Final = 720
"""Candles that REST has, counted back from now, whatever was asked for."""
INTERVALS: Final = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
"""Minutes that a candle may span."""

_LEGACY_BASE: Final = {"BTC": "XXBT", "ETH": "XETH", "XRP": "XXRP", "LTC": "XLTC", "XLM": "XXLM"}
_LEGACY_QUOTE: Final = {"USD": "ZUSD", "EUR": "ZEUR", "GBP": "ZGBP", "BTC": "XXBT", "ETH": "XETH"}
_SHORT: Final = {"BTC": "XBT", "DOGE": "XDG"}
_TIMES: Final = re.compile(r'"timestamp":"([^"]+)"')
_EPOCH: Final = "1970-01-01T00:00:00.000000Z"
_NOTHING: Final = msgspec.Raw()


class _Item(msgspec.Struct, frozen=True):
    """One trade or ticker of a frame, prices as they are written."""

    symbol: str | None = None
    trade_id: int | None = None
    side: str | None = None
    price: msgspec.Raw = _NOTHING
    qty: msgspec.Raw = _NOTHING
    timestamp: str | None = None


class _Head(msgspec.Struct, frozen=True):
    """A channel's frame, or (method) an answer."""

    channel: str | None = None
    type: str | None = None
    method: str | None = None
    data: msgspec.Raw = _NOTHING


_head: Final = msgspec.json.Decoder(_Head)
_items: Final = msgspec.json.Decoder(list[_Item])


class Kraken:
    """The dialect."""

    kinds: Mapping[str, Collection[str]] = {"trades": ("trade",), "ticks": ("ticker",), "heartbeats": ("heartbeat",)}
    rest_limit = RestLimit(1, 15)
    max_age: float | None = None
    subscribe_within: float | None = None

    def session(self, board: Board, path: str, *, unfiltered: bool = False) -> "Session":
        """Return the conversation of a new connection; every path is version 2."""
        del path
        return Session(board, unfiltered=unfiltered)

    def render(self, event: Print | Ticker) -> list[FeedFrame]:
        """Return a trade and the ticker after it, or the ticker of what never traded."""
        if isinstance(event, Ticker):
            return [_ticker(event, "update")]
        return [_trades_frame([event.trade], "update"), _ticker(event.ticker, "update")]

    def due(self, now: int) -> list[FeedFrame]:
        """Return nothing: heartbeats are each session's own."""
        del now
        return []

    def read(self, text: str) -> Recorded | None:
        """Return a recorded frame with its trades; ValueError for a text that is no frame of Kraken's version 2."""
        try:
            head = _head.decode(text)
            items = _items.decode(head.data) if head.channel in ("ticker", "trade") and len(head.data) else []
        except msgspec.DecodeError as error:
            raise ValueError(f"is no frame of Kraken: {error}") from error
        if head.method is not None or head.channel is None or head.channel == "status":
            return None
        product = items[0].symbol.replace("/", "-") if items and items[0].symbol else None
        try:
            trades = tuple(_trade_of(item) for item in items) if head.channel == "trade" else ()
            time = parse_rfc3339(items[-1].timestamp) if items and items[-1].timestamp else None
        except (ValueError, TypeError) as error:
            raise ValueError(f"has a wrong trade or time: {error}") from error
        ids = tuple(trade.trade_id for trade in trades)
        frame = FeedFrame(head.channel, product, text, None, max(ids, default=None), ids, time)
        return Recorded(frame, trades)

    def shifted(self, text: str, micros: int) -> str:
        """Return a frame with its times moved."""
        return _TIMES.sub(
            lambda found: f'"timestamp":"{format_rfc3339(max(0, parse_rfc3339(found.group(1)) + micros))}"', text
        )

    def prologue(self, products: Collection[str]) -> str | None:
        """Return the status that every connection begins with."""
        del products
        return _STATUS

    def heartbeat_requests(self, products: Collection[str]) -> list[str]:
        """Return a subscription: heartbeats come with any."""
        return [
            encode({"method": "subscribe", "params": {"channel": "ticker", "symbol": [_symbol(p) for p in products]}})
        ]

    def answer(self, query: Query, board: Board) -> Answer:
        """Answer /0/public/Time, /AssetPairs, /Trades and /OHLC."""
        try:
            match query.path.strip("/").split("/"):
                case ["0", "public", "Time"]:
                    seconds = board.now() // MICROS_PER_SECOND
                    return _result({"unixtime": seconds, "rfc1123": formatdate(seconds, usegmt=True)})
                case ["0", "public", "AssetPairs"]:
                    return _result({pair_name(p): _pair(p, board.history.decimals(p)) for p in board.listed})
                case ["0", "public", "Trades"]:
                    return _rest_trades(query, board)
                case ["0", "public", "OHLC"]:
                    return _rest_candles(query, board)
        except BadQueryError as error:
            fault = "EQuery:Unknown asset pair" if str(error) == "pair" else f"EGeneral:Invalid arguments:{error}"
            return document({"error": [fault]})
        return document({"error": ["EGeneral:Unknown method"]}, 404)


_STATUS: Final = encode(
    {
        "channel": "status",
        "type": "update",
        "data": [{"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 15483510049470446170}],
    }
)


class Session:
    """What one client has subscribed to."""

    def __init__(self, board: Board, *, unfiltered: bool = False) -> None:
        self._board = board
        self._unfiltered = unfiltered
        self._channels: dict[str, set[str]] = {}
        self._subscribed = False
        self._rate = MessageRate(MESSAGES_PER_SECOND)

    @property
    def subscribed(self) -> bool:
        """Whether a subscription was ever accepted."""
        return self._subscribed

    def opened(self, now: int) -> Reply:
        """Return the exchange's status."""
        del now
        return reply(_STATUS)

    def receive(self, message: str | bytes, now: int) -> Reply:
        """Take a client's message and return the answer. Never raises, whatever the message."""
        try:
            request = msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return reply(encode({"error": "Malformed request", "success": False, **_times(now)}))
        if not isinstance(request, dict):
            return reply(encode({"error": "Malformed request", "success": False, **_times(now)}))
        method, number = request.get("method"), _request_number(request)
        if self._rate.exceeded(now):
            return reply(_failure(method, "Exceeded msg rate", number, now))
        if method == "ping":
            return reply(encode({"method": "pong", **number, **_times(now)}))
        if method not in ("subscribe", "unsubscribe"):
            return reply(_failure(None, f"Method not found: {method}"[:60], number, now))
        return self._change(str(method), request.get("params"), number, now)

    def wants(self, frame: FeedFrame) -> bool:
        """Whether a frame of the market belongs to this session; not a recorded heartbeat: each session has its own."""
        if not self._subscribed or frame.channel == "heartbeat":
            return False
        return self._unfiltered or frame.product in self._channels.get(frame.channel, ())

    def text(self, frame: FeedFrame) -> str:
        """Return a frame's text: the same for everyone."""
        return frame.text

    def beat(self, now: int) -> Sequence[FeedFrame]:
        """Return the connection's heartbeat, which comes once there is a subscription."""
        return [FeedFrame("heartbeat", None, '{"channel":"heartbeat"}', time=now)] if self._subscribed else []

    def ending(self, now: int) -> Reply:
        """Return how the exchange ends a connection."""
        del now
        return Reply(close=(1001, "going away"))

    def closed(self) -> None:
        """Forget the subscriptions."""
        self._channels = {}

    def _change(self, method: str, params: object, number: dict[str, int], now: int) -> Reply:
        if not isinstance(params, dict) or not isinstance(params.get("channel"), str):
            return reply(_failure(method, "Channel field must be a string", number, now))
        channel = str(params["channel"])
        if channel not in CHANNELS:
            return reply(_failure(method, f"Subscription {channel[:40]} not found", number, now))
        snapshot = params.get("snapshot", True) is not False
        if channel in CHANNELS_OF_ALL_PRODUCTS:
            return self._instruments(method, number, now, snapshot=snapshot)
        symbols = params.get("symbol")
        if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
            return reply(_failure(method, "Symbol(s) not found", number, now))
        frames: list[FeedFrame] = []
        for symbol in dict.fromkeys(symbols):
            frames += self._of_symbol(method, channel, symbol, number, now, snapshot=snapshot)
        return Reply(frames)

    def _of_symbol(
        self, method: str, channel: str, symbol: str, number: dict[str, int], now: int, *, snapshot: bool
    ) -> Sequence[FeedFrame]:
        product = symbol.replace("/", "-")
        held = self._channels.setdefault(channel, set())
        if "/" not in symbol or product not in self._board.products:
            error = f"Currency pair not supported {symbol[:40]}"
            return reply(_failure(method, error, number, now, symbol=symbol[:40])).frames
        if (method == "subscribe") == (product in held):
            error = "Already subscribed" if method == "subscribe" else "Subscription Not Found"
            return reply(_failure(method, error, number, now, symbol=symbol)).frames
        accepted = reply(_success(method, _result_of(channel, symbol, snapshot=snapshot), number, now)).frames
        if method == "unsubscribe":
            held.discard(product)
            return accepted
        held.add(product)
        self._subscribed = True
        return [*accepted, *(self._snapshot(channel, product) if snapshot and self._board.live else ())]

    def _snapshot(self, channel: str, product: str) -> Iterator[FeedFrame]:
        if channel == "trade":
            newest = self._board.history.downwards(product, None, SNAPSHOT_TRADES)
            yield _trades_frame(newest[::-1], "snapshot", product)
        elif ticker := self._board.tickers.get(product):
            yield _ticker(ticker, "snapshot")
        elif self._board.history.last(product) is None:
            yield _ticker(Ticker(product, 0, 0), "snapshot")

    def _instruments(self, method: str, number: dict[str, int], now: int, *, snapshot: bool) -> Reply:
        self._subscribed = True
        answer = reply(_success(method, {"channel": "instrument", "snapshot": snapshot}, number, now)).frames
        if method == "unsubscribe" or not snapshot:
            return Reply(answer)
        return Reply([*answer, _instrument(self._board)])


def pair_name(product: str) -> str:
    """Return the name by which REST answers of a product: XXBTZUSD, SOLUSD."""
    base, _, quote = product.partition("-")
    if base in _LEGACY_BASE and quote in _LEGACY_QUOTE:
        return _LEGACY_BASE[base] + _LEGACY_QUOTE[quote]
    return _short(product)


def _short(product: str) -> str:
    base, _, quote = product.partition("-")
    return _SHORT.get(base, base) + _SHORT.get(quote, quote)


def _trades_frame(trades: Sequence[Trade], kind: str, product: str = "") -> FeedFrame:
    items = ",".join(
        f'{{"symbol":"{_symbol(trade.product)}","side":"{trade.side}","price":{decimal(trade.price, trade.decimals)},'
        f'"qty":{decimal(trade.size, UNIT_DIGITS)},"ord_type":"{"limit" if trade.order & 1 else "market"}",'
        f'"trade_id":{trade.trade_id},"timestamp":"{format_rfc3339(trade.time)}"}}'
        for trade in trades
    )
    ids = tuple(trade.trade_id for trade in trades)
    text = f'{{"channel":"trade","type":"{kind}","data":[{items}]}}'
    time = trades[-1].time if trades else None
    return FeedFrame("trade", trades[0].product if trades else product, text, None, max(ids, default=None), ids, time)


def _ticker(ticker: Ticker, kind: str) -> FeedFrame:
    trade, digits = ticker.trade, ticker.decimals
    if trade is None:
        text = (
            f'{{"channel":"ticker","type":"{kind}","data":[{{"symbol":"{_symbol(ticker.product)}","bid":0.0,'
            '"bid_qty":0.00000000,"ask":0.0,"ask_qty":0.00000000,"last":0.0,"volume":0.00000000,"vwap":0.0,"low":0.0,'
            f'"high":0.0,"change":0.0,"change_pct":0.00,"timestamp":"{_EPOCH}"}}]}}'
        )
        return FeedFrame("ticker", ticker.product, text)
    change = trade.price - ticker.open
    average = ticker.quote_volume // ticker.volume
    text = (
        f'{{"channel":"ticker","type":"{kind}","data":[{{"symbol":"{_symbol(ticker.product)}",'
        f'"bid":{decimal(ticker.bid, digits)},"bid_qty":{decimal(ticker.bid_size, UNIT_DIGITS)},'
        f'"ask":{decimal(ticker.ask, digits)},"ask_qty":{decimal(ticker.ask_size, UNIT_DIGITS)},'
        f'"last":{decimal(trade.price, digits)},"volume":{decimal(ticker.volume, UNIT_DIGITS)},'
        f'"vwap":{decimal(average, digits)},"low":{decimal(ticker.low, digits)},"high":{decimal(ticker.high, digits)},'
        f'"change":{_signed(change, digits)},"change_pct":{100 * change / ticker.open:.2f},'
        f'"timestamp":"{format_rfc3339(ticker.time)}"}}]}}'
    )
    return FeedFrame("ticker", ticker.product, text, None, trade.trade_id, (), ticker.time)


def _instrument(board: Board) -> FeedFrame:
    names = dict.fromkeys(name for product in board.listed for name in product.split("-"))
    data = {
        "assets": [
            {"id": name, "status": "enabled", "precision": 10, "precision_display": 5, "borrowable": False}
            for name in names
        ],
        "pairs": [
            {
                "symbol": _symbol(product),
                "base": product.partition("-")[0],
                "quote": product.partition("-")[2],
                "status": "online",
                "qty_precision": UNIT_DIGITS,
                "qty_increment": 1e-8,
                "price_precision": board.history.decimals(product),
                "price_increment": 10.0 ** -board.history.decimals(product),
                "qty_min": 1e-8,
                "marginable": False,
                "has_index": False,
            }
            for product in board.listed
        ],
    }
    return FeedFrame("instrument", None, encode({"channel": "instrument", "type": "snapshot", "data": data}))


def _symbol(product: str) -> str:
    return product.replace("-", "/")


def _signed(number: int, digits: int) -> str:
    return decimal(number, digits) if number >= 0 else "-" + decimal(-number, digits)


def _times(now: int) -> dict[str, str]:
    text = format_rfc3339(now)
    return {"time_in": text, "time_out": text}


def _request_number(request: Mapping[object, object]) -> dict[str, int]:
    number = request.get("req_id")
    return {"req_id": number} if isinstance(number, int) and not isinstance(number, bool) else {}


def _result_of(channel: str, symbol: str, *, snapshot: bool) -> dict[str, object]:
    trigger = {"event_trigger": "trades"} if channel == "ticker" else {}
    return {"channel": channel, **trigger, "snapshot": snapshot, "symbol": symbol}


def _success(method: str, result: Mapping[str, object], number: Mapping[str, int], now: int) -> str:
    return encode({"method": method, **number, "result": result, "success": True, **_times(now)})


def _failure(method: object, error: str, number: Mapping[str, int], now: int, symbol: str | None = None) -> str:
    named = {"method": method} if isinstance(method, str) else {}
    about = {} if symbol is None else {"symbol": symbol}
    return encode({"error": error, **named, **number, "success": False, **about, **_times(now)})


def _trade_of(item: _Item) -> Trade:
    numbers = len(item.price) and len(item.qty)
    if item.symbol is None or item.trade_id is None or item.timestamp is None or not numbers:
        raise ValueError("a trade without symbol, trade_id, price, qty or timestamp")
    price, decimals = whole(bytes(item.price).decode())
    size = units(bytes(item.qty).decode())
    side = "buy" if item.side == "buy" else "sell"
    product = item.symbol.replace("/", "-")
    return Trade(product, item.trade_id, 0, parse_rfc3339(item.timestamp), price, decimals, size, side)


def _result(content: object) -> Answer:
    return document({"error": [], "result": content})


def _product_of(query: Query, board: Board) -> str:
    pair = query.parameters.get("pair", "").upper()
    for product in board.listed:
        if pair in (pair_name(product), _short(product), _symbol(product), product.replace("-", "")):
            return product
    raise BadQueryError("pair")


def _pair(product: str, decimals: int) -> dict[str, object]:
    base, _, quote = product.partition("-")
    return {
        "altname": _short(product),
        "wsname": f"{_SHORT.get(base, base)}/{_SHORT.get(quote, quote)}",
        "aclass_base": "currency",
        "base": _LEGACY_BASE.get(base, base),
        "aclass_quote": "currency",
        "quote": _LEGACY_QUOTE.get(quote, quote),
        "pair_decimals": decimals,
        "lot_decimals": UNIT_DIGITS,
        "ordermin": "0.0001",
        "tick_size": decimal(1, decimals),
        "status": "online",
    }


def _rest_trades(query: Query, board: Board) -> Answer:
    """Answer the first trades after `since` (nanoseconds; seconds are taken too), or the newest ones, oldest first."""
    product = _product_of(query, board)
    limit = query.number("count", MAX_PAGE)
    if not 1 <= limit <= MAX_PAGE:
        raise BadQueryError("count")
    if "since" in query.parameters:
        since = _nanoseconds(query)
        trades = list(board.history.since(product, since // 1000 + 1, limit))
        last = since
    else:
        trades = board.history.downwards(product, None, limit)[::-1]
        last = 0
    if trades:
        last = trades[-1].time * 1000
    rows = [
        [
            decimal(trade.price, trade.decimals), decimal(trade.size, UNIT_DIGITS), msgspec.Raw(_seconds(trade.time)),
            trade.side[0], "l" if trade.order & 1 else "m", "", trade.trade_id,
        ]
        for trade in trades
    ]  # fmt: skip
    return _result({pair_name(product): rows, "last": str(last)})


def _seconds(micros: int) -> bytes:
    return decimal(micros, 6).encode()


def _nanoseconds(query: Query) -> int:
    text = query.parameters["since"]
    try:
        number, digits = whole(text)
    except ValueError as error:
        raise BadQueryError("since") from error
    seconds = digits > 0 or number < 10**12
    return number * 10**9 // 10**digits if seconds else number


def _rest_candles(query: Query, board: Board) -> Answer:
    """Answer at most the newest MAX_CANDLES candles that begin after `since` (seconds); the last one is not over."""
    product = _product_of(query, board)
    minutes = query.number("interval", 1)
    if minutes not in INTERVALS:
        raise BadQueryError("interval")
    seconds = minutes * 60
    now = board.now()
    oldest = now - MAX_CANDLES * seconds * MICROS_PER_SECOND
    since = query.number("since", 0) * MICROS_PER_SECOND + 1
    candles = list(board.history.candles(product, seconds, max(oldest, since), now + 1, empty=True))
    complete = [candle for candle in candles if candle.start + seconds * MICROS_PER_SECOND <= now]
    last = complete[-1].start // MICROS_PER_SECOND if complete else 0
    return _result({pair_name(product): [_row(candle) for candle in candles], "last": last})


def _row(candle: Candle) -> list[object]:
    digits = candle.decimals
    average = candle.quote_volume // candle.volume if candle.volume else 0
    prices = (candle.open, candle.high, candle.low, candle.close, average)
    texts = [decimal(price, digits) for price in prices]
    return [candle.start // MICROS_PER_SECOND, *texts, decimal(candle.volume, UNIT_DIGITS), candle.trades]
