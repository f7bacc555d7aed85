"""Binance's spot market streams and public REST data.

Sources: Binance's documents "Web Socket Streams for Binance" and "Public Rest API for Binance" (market data), and
answers of the exchange as clients have published them. `/stream` gives combined frames, `/ws` raw ones; both take
streams in their address and by SUBSCRIBE. Times are milliseconds. A 24hrTicker comes at most once a second, if
something was traded. A connection that sends more than five messages a second is ended.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

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
from pulsestream.core.clock import MICROS_PER_SECOND

STREAMS: Final = frozenset({"trade", "aggTrade", "bookTicker", "ticker"})
"""Streams of a symbol that the simulator makes; others that it knows the names of stay silent."""
SILENT: Final = ("depth", "kline_", "miniTicker", "avgPrice")
MAX_STREAMS: Final = 1024
MESSAGES_PER_SECOND: Final = 5
MAX_PAGE: Final = 1000
INTERVALS: Final = {
    "1s": 1, "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14_400,
    "6h": 21_600, "8h": 28_800, "12h": 43_200, "1d": 86_400,
}  # fmt: skip
"""Seconds that a candle of each name spans."""

_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_DAY: Final = 86_400_000
_STREAM_OF_TYPE: Final = {"trade": "trade", "aggTrade": "aggTrade", "24hrTicker": "ticker"}
_AGGREGATE_OFFSET: Final = 1_000_000
"""An aggregate's id lies so far below its trade's: each fill of the market has its own price, so none are merged."""
_QUOTES: Final = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "BRL", "USD")
_NOTHING: Final = msgspec.Raw()


class _Payload(msgspec.Struct, frozen=True):
    """What a recorded payload says of itself."""

    e: str | None = None
    E: int | None = None
    s: str | None = None
    t: object = None
    a: object = None
    u: object = None
    p: object = None
    q: object = None
    T: object = None
    m: bool | None = None


class _Combined(msgspec.Struct, frozen=True):
    """A combined frame, or an answer."""

    stream: str | None = None
    data: msgspec.Raw = _NOTHING


_combined: Final = msgspec.json.Decoder(_Combined)
_payload: Final = msgspec.json.Decoder(_Payload)


class Binance:
    """The dialect; it remembers of each product when its last 24hrTicker was due."""

    kinds: Mapping[str, Collection[str]] = {"trades": ("trade", "aggTrade"), "ticks": ("ticker",), "heartbeats": ()}
    rest_limit = RestLimit(20, 40)
    max_age: float | None = 86_400.0
    subscribe_within: float | None = None

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._untold: dict[str, Ticker] = {}

    def session(self, board: Board, path: str, *, unfiltered: bool = False) -> "Session":
        """Return the conversation of a new connection, with the streams that its address asks for."""
        return Session(board, path, unfiltered=unfiltered)

    def render(self, event: Print | Ticker) -> list[FeedFrame]:
        """Return trade, aggregate and best quotes, and the 24hrTicker if the last one is a second old."""
        if isinstance(event, Ticker):
            return []
        frames = [_trade(event.trade), _aggregate(event.trade), _book(event.ticker)]
        self._untold[event.trade.product] = event.ticker
        if event.ticker.time - self._told.get(event.trade.product, 0) >= MICROS_PER_SECOND:
            frames.append(self._tell(event.ticker, event.ticker.time))
        return frames

    def due(self, now: int) -> list[FeedFrame]:
        """Return the 24hrTickers of what was traded since its last one, where that is a second old."""
        ready = [t for t in self._untold.values() if now - self._told.get(t.product, 0) >= MICROS_PER_SECOND]
        return [self._tell(ticker, now) for ticker in ready]

    def _tell(self, ticker: Ticker, now: int) -> FeedFrame:
        self._told[ticker.product] = now
        del self._untold[ticker.product]
        return _ticker(ticker, now)

    def read(self, text: str) -> Recorded | None:
        """Return a recorded frame with its trade, also a raw one; ValueError for no frame of Binance."""
        try:
            combined = _combined.decode(text)
            payload = _payload.decode(combined.data if len(combined.data) else text)
        except msgspec.DecodeError as error:
            raise ValueError(f"is no frame of Binance: {error}") from error
        if not len(combined.data) and payload.e is None and payload.u is None:
            return None
        stream = (combined.stream or "").partition("@")[2]
        channel = _STREAM_OF_TYPE.get(payload.e or "", stream or payload.e or "bookTicker")
        product = _product_of_symbol(payload.s) if payload.s else None
        time = payload.E * 1000 if payload.E is not None else None
        ids = (payload.t,) if channel == "trade" and isinstance(payload.t, int) else ()
        if channel == "aggTrade" and isinstance(payload.a, int):
            ids = (payload.a,)
        sequence = payload.E if channel == "ticker" else None
        frame = FeedFrame(channel, product, text, sequence, ids[0] if ids else None, ids, time)
        return Recorded(frame, _trades_of(payload, frame))

    def shifted(self, text: str, micros: int) -> str:
        """Return a frame with its times moved by whole milliseconds."""
        fields = msgspec.json.decode(text)
        payload = fields.get("data", fields)
        for name in ("E", "T", "O", "C"):
            if isinstance(payload.get(name), int):
                payload[name] += micros // 1000
        return encode(fields)

    def prologue(self, products: Collection[str]) -> str | None:
        """Return nothing: the exchange confirms only what is asked for by message."""
        del products
        return None

    def heartbeat_requests(self, products: Collection[str]) -> list[str]:
        """Return nothing: the exchange pings."""
        del products
        return []

    def answer(self, query: Query, board: Board) -> Answer:
        """Answer /api/v3/time, exchangeInfo, trades, historicalTrades, aggTrades and klines."""
        route = _ROUTES.get(query.path.strip("/").removeprefix("api/v3/"))
        if route is None:
            return document({"code": -1000, "msg": "Not found."}, 404)
        try:
            return route(query, board)
        except BadQueryError as error:
            if str(error) == "symbol":
                return document({"code": -1121, "msg": "Invalid symbol."}, 400)
            return document({"code": -1100, "msg": f"Illegal characters found in parameter '{error}'."}, 400)


class Session:
    """What one client has subscribed to: streams by name, such as btcusdt@trade."""

    def __init__(self, board: Board, path: str = "/stream", *, unfiltered: bool = False) -> None:
        """Take what the exchange has, and the connection's address with its query."""
        self._board = board
        self._unfiltered = unfiltered
        self._symbols = {symbol(product).lower(): product for product in board.listed}
        self._streams: dict[str, None] = {}
        self._pairs: set[tuple[str, str]] = set()
        self._subscribed = False
        self._rate = MessageRate(MESSAGES_PER_SECOND)
        address = urlsplit(path)
        self._combined = not address.path.startswith("/ws")
        asked = parse_qs(address.query).get("streams", [""])[-1].split("/")
        if not self._combined:
            asked += unquote(address.path).removeprefix("/ws").split("/")
        self._add([stream for stream in asked if stream])

    @property
    def subscribed(self) -> bool:
        """Whether a subscription was ever accepted."""
        return self._subscribed

    def opened(self, now: int) -> Reply:
        """Return nothing, or end a connection that asks for too many streams."""
        del now
        return Reply(close=(1008, "Too many streams")) if len(self._streams) > MAX_STREAMS else Reply()

    def receive(self, message: str | bytes, now: int) -> Reply:
        """Take a client's message and return the answer. Never raises, whatever the message."""
        if self._rate.exceeded(now):
            return Reply(close=(1008, "Too many requests"))
        try:
            request = msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return _error(3, f"Invalid JSON: {str(error)[:100]}")
        if not isinstance(request, dict):
            return _error(2, "Invalid request: expected a map")
        return self._asked(request)

    def wants(self, frame: FeedFrame) -> bool:
        """Whether a frame of the market belongs to this session."""
        if not self._subscribed:
            return False
        return self._unfiltered or (frame.channel, frame.product or "") in self._pairs

    def text(self, frame: FeedFrame) -> str:
        """Return a frame as this connection gets it: raw ones without their stream's name."""
        if self._combined:
            return frame.text
        data = _combined.decode(frame.text).data
        return bytes(data).decode() if len(data) else frame.text

    def beat(self, now: int) -> Sequence[FeedFrame]:
        """Return nothing: the exchange pings."""
        del now
        return ()

    def ending(self, now: int) -> Reply:
        """Return the announcement that the server goes, and the end."""
        event = {"e": "serverShutdown", "E": now // 1000}
        text = encode({"stream": "!serverShutdown", "data": event} if self._combined else event)
        return reply(text, close=(1001, "going away"))

    def closed(self) -> None:
        """Forget the subscriptions."""
        self._streams = {}
        self._pairs = set()

    def _asked(self, request: Mapping[str, object]) -> Reply:
        number, method = request.get("id"), request.get("method")
        if isinstance(number, bool) or not isinstance(number, int | str | None):
            return _error(2, "Invalid request: request ID must be an unsigned integer")
        if method is None:
            return _error(2, "Invalid request: missing field `method`", number)
        if method not in _METHODS:
            expected = ", ".join(f"`{name}`" for name in _METHODS)
            return _error(2, f"Invalid request: unknown variant {method}, expected one of {expected}"[:200], number)
        return self._obey(str(method), request.get("params"), number)

    def _obey(self, method: str, params: object, number: int | str | None) -> Reply:
        if method == "LIST_SUBSCRIPTIONS":
            return reply(encode({"result": list(self._streams), "id": number}))
        if not isinstance(params, list):
            return _error(2, "Invalid request: missing field `params`", number)
        if method == "GET_PROPERTY":
            return reply(encode({"result": self._combined, "id": number}))
        if method == "SET_PROPERTY":
            return self._set_property(params, number)
        if not all(isinstance(stream, str) for stream in params):
            return _error(2, "Invalid request: stream name must be a string", number)
        return self._change(method, params, number)

    def _set_property(self, params: Sequence[object], number: int | str | None) -> Reply:
        if len(params) != 2 or params[0] != "combined":  # noqa: PLR2004 - name and value
            return _error(0, "Unknown property", number)
        if not isinstance(params[1], bool):
            return _error(1, "Invalid value type: expected Boolean", number)
        self._combined = params[1]
        return reply(encode({"result": None, "id": number}))

    def _change(self, method: str, streams: Sequence[str], number: int | str | None) -> Reply:
        unknown = [stream for stream in streams if self._pair(stream) is None]
        if unknown:
            return _error(2, f"Invalid request: invalid stream {unknown[0][:60]}", number)
        if method == "UNSUBSCRIBE":
            for stream in streams:
                self._streams.pop(stream, None)
                self._pairs.discard(self._pair(stream) or ("", ""))
        elif len({*self._streams, *streams}) > MAX_STREAMS:
            return _error(2, f"Invalid request: more than {MAX_STREAMS} streams", number)
        else:
            self._add(streams)
        return reply(encode({"result": None, "id": number}))

    def _add(self, streams: Sequence[str]) -> None:
        pairs = {stream: pair for stream in streams if (pair := self._pair(stream))}
        self._streams.update(dict.fromkeys(pairs))
        self._pairs |= set(pairs.values())
        self._subscribed = self._subscribed or bool(pairs)

    def _pair(self, stream: str) -> tuple[str, str] | None:
        """Return a stream's channel and product; None for one that the exchange does not have."""
        name, _, channel = stream.partition("@")
        product = self._symbols.get(name)
        if product is None or (channel not in STREAMS and not channel.startswith(SILENT)):
            return None
        return channel, product


def symbol(product: str) -> str:
    """Return the exchange's name of a product: BTCUSDT."""
    return product.replace("-", "")


def _error(code: int, text: str, number: int | str | None = None) -> Reply:
    return reply(encode({"code": code, "msg": text, **({} if number is None else {"id": number})}))


def _framed(trade: str, stream: str, payload: str) -> str:
    return f'{{"stream":"{symbol(trade).lower()}@{stream}","data":{payload}}}'


def _trade(trade: Trade) -> FeedFrame:
    maker = "true" if trade.side == "sell" else "false"
    millis = trade.time // 1000
    payload = (
        f'{{"e":"trade","E":{millis},"s":"{symbol(trade.product)}","t":{trade.trade_id},'
        f'"p":"{_price(trade.price, trade.decimals)}","q":"{decimal(trade.size, UNIT_DIGITS)}","T":{millis},'
        f'"m":{maker},"M":true}}'
    )
    text = _framed(trade.product, "trade", payload)
    return FeedFrame("trade", trade.product, text, None, trade.trade_id, (trade.trade_id,), trade.time)


def _aggregate(trade: Trade) -> FeedFrame:
    maker = "true" if trade.side == "sell" else "false"
    number, millis = trade.trade_id - _AGGREGATE_OFFSET, trade.time // 1000
    payload = (
        f'{{"e":"aggTrade","E":{millis},"s":"{symbol(trade.product)}","a":{number},'
        f'"p":"{_price(trade.price, trade.decimals)}","q":"{decimal(trade.size, UNIT_DIGITS)}",'
        f'"f":{trade.trade_id},"l":{trade.trade_id},"T":{millis},"m":{maker},"M":true}}'
    )
    return FeedFrame(
        "aggTrade", trade.product, _framed(trade.product, "aggTrade", payload), None, trade.trade_id, (number,),
        trade.time,
    )  # fmt: skip


def _book(ticker: Ticker) -> FeedFrame:
    payload = (
        f'{{"u":{ticker.sequence},"s":"{symbol(ticker.product)}","b":"{_price(ticker.bid, ticker.decimals)}",'
        f'"B":"{decimal(ticker.bid_size, UNIT_DIGITS)}","a":"{_price(ticker.ask, ticker.decimals)}",'
        f'"A":"{decimal(ticker.ask_size, UNIT_DIGITS)}"}}'
    )
    text = _framed(ticker.product, "bookTicker", payload)
    return FeedFrame("bookTicker", ticker.product, text, ticker.sequence, time=ticker.time)


def _ticker(ticker: Ticker, now: int) -> FeedFrame:
    trade, digits, millis = ticker.trade, ticker.decimals, now // 1000
    assert trade is not None  # noqa: S101 - what never traded has no 24hrTicker
    change = trade.price - ticker.open
    average = ticker.quote_volume // ticker.volume
    sign = "-" if change < 0 else ""
    payload = (
        f'{{"e":"24hrTicker","E":{millis},"s":"{symbol(ticker.product)}","p":"{sign}{_price(abs(change), digits)}",'
        f'"P":"{100 * change / ticker.open:.3f}","w":"{_price(average, digits)}","x":"{_price(ticker.open, digits)}",'
        f'"c":"{_price(trade.price, digits)}","Q":"{decimal(trade.size, UNIT_DIGITS)}",'
        f'"b":"{_price(ticker.bid, digits)}","B":"{decimal(ticker.bid_size, UNIT_DIGITS)}",'
        f'"a":"{_price(ticker.ask, digits)}","A":"{decimal(ticker.ask_size, UNIT_DIGITS)}",'
        f'"o":"{_price(ticker.open, digits)}","h":"{_price(ticker.high, digits)}","l":"{_price(ticker.low, digits)}",'
        f'"v":"{decimal(ticker.volume, UNIT_DIGITS)}","q":"{_quoted(ticker.quote_volume, digits)}",'
        f'"O":{millis - _DAY},"C":{millis},"F":{max(1, trade.trade_id - ticker.trades + 1)},"L":{trade.trade_id},'
        f'"n":{ticker.trades}}}'
    )
    text = _framed(ticker.product, "ticker", payload)
    return FeedFrame("ticker", ticker.product, text, millis, trade.trade_id, (), millis * 1000)


def _price(number: int, digits: int) -> str:
    """Return a price as the exchange writes it: with eight decimals."""
    return decimal(number * 10 ** (UNIT_DIGITS - digits), UNIT_DIGITS)


def _quoted(number: int, digits: int) -> str:
    """Return ticks times units with eight decimals."""
    return decimal(number // 10**digits, UNIT_DIGITS)


def _product_of_symbol(name: str) -> str:
    for quote in _QUOTES:
        if name.endswith(quote) and len(name) > len(quote):
            return f"{name[: -len(quote)]}-{quote}"
    return name


def _trades_of(payload: _Payload, frame: FeedFrame) -> tuple[Trade, ...]:
    if frame.channel != "trade" or not frame.trade_ids or not isinstance(payload.T, int):
        return ()
    try:
        price, decimals = whole(str(payload.p))
        size = units(str(payload.q))
    except ValueError as error:
        raise ValueError(f"has a wrong price or size: {error}") from error
    side = "sell" if payload.m else "buy"
    return (Trade(str(frame.product), frame.trade_ids[0], 0, payload.T * 1000, price, decimals, size, side),)


def _product(query: Query, board: Board) -> str:
    name = query.parameters.get("symbol", "")
    for product in board.listed:
        if symbol(product) == name:
            return product
    raise BadQueryError("symbol")


def _limit(query: Query) -> int:
    limit = query.number("limit", 500)
    if limit < 1:
        raise BadQueryError("limit")
    return min(limit, MAX_PAGE)


def _historical(query: Query, board: Board) -> Answer:
    product, limit = _product(query, board), _limit(query)
    if "fromId" in query.parameters:
        trades = board.history.upwards(product, query.number("fromId", 0), limit)
    else:
        trades = board.history.downwards(product, None, limit)[::-1]
    return document([_rest_trade(trade) for trade in trades])


def _rest_trade(trade: Trade) -> dict[str, object]:
    return {
        "id": trade.trade_id,
        "price": _price(trade.price, trade.decimals),
        "qty": decimal(trade.size, UNIT_DIGITS),
        "quoteQty": _quoted(trade.price * trade.size, trade.decimals),
        "time": trade.time // 1000,
        "isBuyerMaker": trade.side == "sell",
        "isBestMatch": True,
    }


def _aggregates(query: Query, board: Board) -> Answer:
    product, limit = _product(query, board), _limit(query)
    end = query.number("endTime", board.now() // 1000 + 1)
    if "fromId" in query.parameters:
        trades = board.history.upwards(product, query.number("fromId", 0) + _AGGREGATE_OFFSET, limit)
    elif "startTime" in query.parameters:
        found = board.history.since(product, query.number("startTime", 0) * 1000, limit)
        trades = [trade for trade in found if trade.time // 1000 <= end]
    else:
        trades = board.history.downwards(product, None, limit)[::-1]
    return document([_rest_aggregate(trade) for trade in trades])


def _rest_aggregate(trade: Trade) -> dict[str, object]:
    return {
        "a": trade.trade_id - _AGGREGATE_OFFSET,
        "p": _price(trade.price, trade.decimals),
        "q": decimal(trade.size, UNIT_DIGITS),
        "f": trade.trade_id,
        "l": trade.trade_id,
        "T": trade.time // 1000,
        "m": trade.side == "sell",
        "M": True,
    }


def _klines(query: Query, board: Board) -> Answer:
    product, limit = _product(query, board), _limit(query)
    seconds = INTERVALS.get(query.parameters.get("interval", ""))
    if seconds is None:
        return document({"code": -1120, "msg": "Invalid interval."}, 400)
    period = seconds * MICROS_PER_SECOND
    end = min(query.number("endTime", board.now() // 1000) * 1000, board.now())
    start = query.number("startTime", (end - (limit - 1) * period) // period * period // 1000) * 1000
    candles = board.history.candles(product, seconds, start, end + 1, empty=True)
    return document([_row(candle, period) for candle in _first(candles, limit)])


def _first(candles: Iterator[Candle], limit: int) -> Iterator[Candle]:
    for _, candle in zip(range(limit), candles, strict=False):
        yield candle


def _row(candle: Candle, period: int) -> list[object]:
    digits = candle.decimals
    return [
        candle.start // 1000,
        *(_price(price, digits) for price in (candle.open, candle.high, candle.low, candle.close)),
        decimal(candle.volume, UNIT_DIGITS),
        (candle.start + period) // 1000 - 1,
        _quoted(candle.quote_volume, digits),
        candle.trades,
        decimal(candle.buy_volume, UNIT_DIGITS),
        _quoted(candle.buy_quote_volume, digits),
        "0",
    ]


def _exchange_info(query: Query, board: Board) -> Answer:
    del query
    symbols = [
        {
            "symbol": symbol(product),
            "status": "TRADING",
            "baseAsset": product.partition("-")[0],
            "baseAssetPrecision": UNIT_DIGITS,
            "quoteAsset": product.partition("-")[2],
            "quoteAssetPrecision": UNIT_DIGITS,
            "isSpotTradingAllowed": True,
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": decimal(1, board.history.decimals(product))},
                {"filterType": "LOT_SIZE", "stepSize": decimal(1, UNIT_DIGITS)},
            ],
        }
        for product in board.listed
    ]
    return document({"timezone": "UTC", "serverTime": board.now() // 1000, "rateLimits": [], "symbols": symbols})


def _time(query: Query, board: Board) -> Answer:
    del query
    return document({"serverTime": board.now() // 1000})


def _newest(query: Query, board: Board) -> Answer:
    trades = board.history.downwards(_product(query, board), None, _limit(query))[::-1]
    return document([_rest_trade(trade) for trade in trades])


_ROUTES: Final[Mapping[str, Callable[[Query, Board], Answer]]] = {
    "time": _time,
    "exchangeInfo": _exchange_info,
    "trades": _newest,
    "historicalTrades": _historical,
    "aggTrades": _aggregates,
    "klines": _klines,
}
"""What REST answers, by path below /api/v3."""
