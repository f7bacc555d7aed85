"""Binance spot: combined WebSocket streams, and the public REST API. No I/O.

Source: Binance's "WebSocket Streams for Binance" and "Public Rest API for Binance". A tick is a `24hrTicker` event,
sent once a second, with the newest `bookTicker` quotes of the same connection (quotes carry no time); its sequence is
its event time. Trades are those of `trade`, or of `aggTrade`: another series of ids, under ids with the prefix `a`,
so that the two never mix. Times are milliseconds, on both APIs: the microseconds that the exchange offers in the
address would give one trade two times. Binance confirms every name, so a product that it does not trade stays silent;
and it sends no heartbeats: one more stream, of its busiest product, tells a quiet connection from a dead one.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Final, TypeAlias

import msgspec

from producers.venues.parsing import (
    PERIODS,
    Count,
    Number,
    answer,
    checked,
    exchanges_bar,
    list_of_products,
    page_of_bars,
    page_of_trades,
    price,
    shown,
    size,
)
from producers.venues.protocol import (
    Closing,
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
    Subscriptions,
)
from schemas.records import Bar, Tick, Trade, tick_id, trade_event_id
from schemas.validate import MAX_PRICE, MAX_SIZE

_MICROS_PER_MS: Final = 1_000
_MESSAGE_BYTES: Final = 3_500
"""Of one message: the exchange drops longer ones than 4 KiB without a word."""
_SHUTDOWN: Final = "serverShutdown"
_BEAT: Final = "btcusdt@miniTicker"
"""Comes every second; no product's own stream, so that nobody's unsubscription ends it."""
_STREAM: Final = re.compile(r"([a-z0-9]{1,64})@[a-zA-Z]")


class _Failure(msgspec.Struct):
    msg: str
    code: int = 0


class _Envelope(msgspec.Struct):
    """Market data (stream, data), or the answer to a message (id with result or with an error in one of two forms)."""

    stream: str = ""
    data: msgspec.Raw = msgspec.Raw()
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: _Failure | None = None
    msg: str = ""
    code: int = 0


class _Ticker(
    msgspec.Struct,
    gc=False,
    rename={
        "symbol": "s",
        "event_time": "E",
        "price": "c",
        "size": "Q",
        "bid": "b",
        "bid_size": "B",
        "ask": "a",
        "ask_size": "A",
        "open": "o",
        "high": "h",
        "low": "l",
        "volume": "v",
        "last_trade": "L",
    },
):
    symbol: str
    event_time: Count
    price: float
    size: Number = None
    bid: Number = None
    bid_size: Number = None
    ask: Number = None
    ask_size: Number = None
    open: Number = None
    high: Number = None
    low: Number = None
    volume: Number = None
    last_trade: Annotated[int, msgspec.Meta(le=2**63 - 1)] = -1


class _Beat(msgspec.Struct, gc=False, rename={"event_time": "E"}):
    event_time: Count


class _Quote(
    msgspec.Struct, gc=False, rename={"symbol": "s", "bid": "b", "bid_size": "B", "ask": "a", "ask_size": "A"}
):
    symbol: str
    bid: Number
    bid_size: Number
    ask: Number
    ask_size: Number


class _Trade(
    msgspec.Struct,
    gc=False,
    rename={"symbol": "s", "trade_id": "t", "price": "p", "size": "q", "time": "T", "buyer_made": "m"},
):
    symbol: str
    trade_id: Count
    price: float
    size: float
    time: Count
    buyer_made: bool


class _Aggregate(
    msgspec.Struct,
    gc=False,
    rename={"trade_id": "a", "price": "p", "size": "q", "time": "T", "buyer_made": "m", "symbol": "s"},
):
    trade_id: Count
    price: float
    size: float
    time: Count
    buyer_made: bool
    symbol: str = ""


class _RestTrade(msgspec.Struct, gc=False, rename={"trade_id": "id", "size": "qty", "buyer_made": "isBuyerMaker"}):
    trade_id: Count
    price: float
    size: float
    time: Count
    buyer_made: bool


class _RestSymbol(msgspec.Struct, gc=False, rename={"base": "baseAsset", "quote": "quoteAsset"}):
    base: str
    quote: str


class _RestSymbols(msgspec.Struct):
    symbols: list[_RestSymbol]


class _Candle(msgspec.Struct, array_like=True, gc=False):
    start: Count
    open: float
    high: float
    low: float
    close: float
    volume: float
    end: Count
    quote_volume: float
    trades: Count
    buy_volume: float


_AnyTrade: TypeAlias = _Trade | _Aggregate | _RestTrade

_Request: TypeAlias = tuple[bool | None, frozenset[str]]
"""Whether these products were asked for or ended; None: neither."""
_UNKNOWN: Final[_Request] = (None, frozenset())

_envelopes: Final = msgspec.json.Decoder(_Envelope)
_beats: Final = msgspec.json.Decoder(_Beat)
_tickers: Final = msgspec.json.Decoder(_Ticker, strict=False)
_quotes: Final = msgspec.json.Decoder(_Quote, strict=False)
_trades: Final = msgspec.json.Decoder(_Trade, strict=False)
_aggregates: Final = msgspec.json.Decoder(_Aggregate, strict=False)
_rest_trades: Final = msgspec.json.Decoder(list[_RestTrade], strict=False)
_rest_aggregates: Final = msgspec.json.Decoder(list[_Aggregate], strict=False)
_rest_symbols: Final = msgspec.json.Decoder(_RestSymbols)
_rest_candles: Final = msgspec.json.Decoder(list[_Candle], strict=False)


def _symbol(product: str) -> str:
    return product.replace("-", "")


class BinanceSession:
    """One connection's conversation. `aggregate`: trades are those of `aggTrade`.

    It knows the products that were asked for (a symbol does not say where its base ends: BTCUSDT is BTC-USDT because
    that was asked for, and BT-CUSDT as well if somebody asked for that), the newest quotes of each symbol, and its own
    messages that are not yet answered: nothing that the exchange sends makes it larger.
    """

    def __init__(self, exchange: str, datasets: Collection[str], *, aggregate: bool = False) -> None:
        self._exchange = exchange
        self._trade_stream = "aggTrade" if aggregate else "trade"
        ticks = ("bookTicker", "ticker") if "ticks" in datasets else ()
        self._streams = (*ticks, *((self._trade_stream,) if "trades" in datasets else ()))
        self._products: dict[str, frozenset[str]] = {}
        self._quotes: dict[str, _Quote] = {}
        self._unanswered: dict[int, _Request] = {}
        self._confirmed: frozenset[str] = frozenset()
        self._ids = count(1)
        self._beat: int | None = None

    def subscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that ask for these products; a symbol that is asked for already is asked for again."""
        for product in products:
            self._products[_symbol(product)] = self._products.get(_symbol(product), frozenset()) | {product}
        messages = list(self._messages(products, wanted=True))
        if messages and self._beat is None:
            self._beat = next(self._ids)
            messages.insert(0, _message("SUBSCRIBE", [_BEAT], self._beat))
        return messages

    def unsubscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that end these products; what still arrives of them is ignored."""
        ended = [product for product in products if self._forget(product)]
        self._confirmed -= frozenset(products)
        return list(self._messages(ended, wanted=False))

    def _forget(self, product: str) -> bool:
        """Forget a product; True if nobody else asked for its symbol."""
        symbol = _symbol(product)
        left = self._products.get(symbol, frozenset()) - {product}
        if left:
            self._products[symbol] = left
        elif self._products.pop(symbol, None) is not None:
            self._quotes.pop(symbol, None)
            return True
        return False

    def receive(self, frame: Frame, received_time: int) -> Sequence[Outcome]:
        """Return what a frame holds; never raises. `received_time` in microseconds, UTC."""
        try:
            envelope = _envelopes.decode(frame)
            return self._market(envelope, received_time) if envelope.stream else (self._answer(envelope),)
        except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
            return (Malformed(shown(f"not a frame: {error}")),)

    def _messages(self, products: Collection[str], *, wanted: bool) -> Iterator[str]:
        for chunk in _chunks(sorted(products), len(self._streams)):
            number = next(self._ids)
            self._unanswered[number] = (wanted, frozenset(chunk))
            streams = [f"{_symbol(product).lower()}@{stream}" for product in chunk for stream in self._streams]
            yield _message("SUBSCRIBE" if wanted else "UNSUBSCRIBE", streams, number)

    def _market(self, envelope: _Envelope, received_time: int) -> Sequence[Outcome]:
        name, at, stream = envelope.stream.partition("@")
        if not at and name.removeprefix("!") == _SHUTDOWN:
            return (Closing(_SHUTDOWN),)
        if envelope.stream == _BEAT:
            return (Heartbeat(None, _beats.decode(envelope.data).event_time * _MICROS_PER_MS),)
        symbol = name.upper()
        products = self._products.get(symbol, ())
        if not products or stream not in self._streams:
            return (Ignored(shown(stream[:40] or "stream"), alive=bool(at)),)
        if stream == "bookTicker":
            return (self._quote(symbol, envelope.data),)
        if stream == "ticker":
            ticker = _tickers.decode(envelope.data)
            _same(symbol, ticker.symbol)
            return [self._tick(product, ticker, received_time) for product in products]
        said = (_trades if stream == "trade" else _aggregates).decode(envelope.data)
        _same(symbol, said.symbol)
        return [checked(_trade(self._exchange, product, said, received_time)) for product in products]

    def _quote(self, symbol: str, data: msgspec.Raw) -> Outcome:
        quote = _quotes.decode(data)
        _same(symbol, quote.symbol)
        prices, sizes = (quote.bid, quote.ask), (quote.bid_size, quote.ask_size)
        if not all(0 <= (number or 0) <= MAX_PRICE for number in prices):
            raise ValueError(f"quotes {prices} are no prices")
        if not all(0 <= (number or 0) <= MAX_SIZE for number in sizes):
            raise ValueError(f"quoted sizes {sizes} are no sizes")
        self._quotes[symbol] = quote
        return Ignored("bookTicker", alive=True)

    def _tick(self, product: str, said: _Ticker, received_time: int) -> Outcome:
        if said.price == 0:
            return Ignored("ticker without a trade", alive=True)
        quote = self._quotes.get(said.symbol, said)
        best_bid, best_ask = price(quote.bid), price(quote.ask)
        tick = Tick(
            event_id=tick_id(self._exchange, product, said.event_time),
            exchange=self._exchange,
            product=product,
            sequence=said.event_time,
            trade_id=None if said.last_trade < 0 else said.last_trade,
            price=said.price,
            size=size(said.size),
            best_bid=best_bid,
            best_bid_size=None if best_bid is None else size(quote.bid_size),
            best_ask=best_ask,
            best_ask_size=None if best_ask is None else size(quote.ask_size),
            open_24h=price(said.open),
            high_24h=price(said.high),
            low_24h=price(said.low),
            volume_24h=size(said.volume),
            exchange_time=said.event_time * _MICROS_PER_MS,
            received_time=received_time,
        )
        return checked(tick)

    def _answer(self, said: _Envelope) -> Outcome:
        if said.id is not None and said.id == self._beat:
            return Ignored("answer to the heartbeat")
        wanted, products = self._unanswered.pop(said.id, _UNKNOWN) if isinstance(said.id, int) else _UNKNOWN
        failure = said.error or (_Failure(said.msg, said.code) if said.msg else None)
        if failure is not None:
            return self._refused(failure, products if wanted else frozenset())
        if not bytes(said.result):
            raise ValueError("neither market data nor an answer")
        if wanted is None:
            return Ignored("result")
        self._confirmed = self._confirmed | products if wanted else self._confirmed - products
        return Subscriptions(self._confirmed)

    def _refused(self, failure: _Failure, products: frozenset[str]) -> Refused:
        """Refuse the products whose streams the error names, or else all of the message: it was refused whole."""
        symbols = {name.upper() for name in _STREAM.findall(failure.msg)}
        named = frozenset(product for product in products if _symbol(product) in symbols) or products
        for product in named - self._confirmed:
            self._forget(product)
        return Refused(shown(f"{failure.code}: {failure.msg}"), named)


def _message(method: str, streams: list[str], number: int) -> str:
    return json.dumps({"method": method, "params": streams, "id": number})


def _chunks(products: list[str], streams: int) -> Iterator[list[str]]:
    """Divide products over messages that are short enough; a product is never divided."""
    chunk: list[str] = []
    length = 0
    for product in products:
        added = streams * (len(product) + len('"@bookTicker", '))
        if chunk and length + added > _MESSAGE_BYTES:
            yield chunk
            chunk, length = [], 0
        chunk.append(product)
        length += added
    if chunk and streams:
        yield chunk


def _same(symbol: str, named: str) -> None:
    if symbol != named:
        raise ValueError(f"the stream of {symbol!r} brings {named[:40]!r}")


def _trade(exchange: str, product: str, said: _AnyTrade, received_time: int) -> Trade:
    event_id = (
        f"{exchange}:{product}:a{said.trade_id}"
        if isinstance(said, _Aggregate)
        else trade_event_id(exchange, product, said.trade_id)
    )
    return Trade(
        event_id=event_id,
        exchange=exchange,
        product=product,
        trade_id=said.trade_id,
        price=said.price,
        size=said.size,
        side="sell" if said.buyer_made else "buy",
        exchange_time=said.time * _MICROS_PER_MS,
        received_time=received_time,
    )


@dataclass(frozen=True, slots=True)
class BinanceRest:
    """History over REST: trades page by id. `aggregate`: those of `aggTrades`, which page by time too."""

    exchange: str
    aggregate: bool = False
    url: str = "https://api.binance.com"
    page: int = 1000
    candles_page: int = 1000
    candles_kept: int | None = None

    @property
    def periods(self) -> Mapping[str, int]:
        """Every period that this platform knows."""
        return PERIODS

    def trades(self, product: str, from_id: int, since: int) -> RestRequest:  # noqa: ARG002 - pages go by id here
        """Ask for the page of trades that begins with `from_id`."""
        path = "/api/v3/aggTrades" if self.aggregate else "/api/v3/historicalTrades"
        return RestRequest(path, self._query(product) | {"fromId": str(from_id)})

    def latest_trades(self, product: str) -> RestRequest:
        """Ask for the newest page of trades."""
        return RestRequest("/api/v3/aggTrades" if self.aggregate else "/api/v3/trades", self._query(product))

    def trades_at(self, product: str, at: int) -> RestRequest | None:
        """Ask for aggregated trades from a time on; single trades can be asked for by id only: None."""
        if not self.aggregate:
            return None
        return RestRequest("/api/v3/aggTrades", self._query(product) | {"startTime": str(at // _MICROS_PER_MS)})

    def parse_trades(self, product: str, body: bytes, received_time: int) -> list[Trade]:
        """Return a page's trades in rising order of their ids; raises ProtocolError."""
        decode = _rest_aggregates.decode if self.aggregate else _rest_trades.decode
        rows: Sequence[_AnyTrade] = answer(decode, body, f"trades of {product}")
        return page_of_trades(product, (_trade(self.exchange, product, row, received_time) for row in rows))

    def products(self) -> RestRequest:
        """Ask for all symbols that are traded, without the sets of permissions, which are most of the answer."""
        return RestRequest("/api/v3/exchangeInfo", {"symbolStatus": "TRADING", "showPermissionSets": "false"})

    def parse_products(self, body: bytes) -> list[str]:
        """Return the products of the symbols; raises ProtocolError."""
        listed = answer(_rest_symbols.decode, body, "products").symbols
        return list_of_products(f"{one.base}-{one.quote}" for one in listed)

    def candles(self, product: str, period: str, start: int, end: int) -> RestRequest:
        """Ask for the candles that start in [start, end); the exchange counts a candle that starts at its `endTime`."""
        query = {
            "interval": period,
            "startTime": str(start // _MICROS_PER_MS),
            "endTime": str(end // _MICROS_PER_MS - 1),
        }
        return RestRequest("/api/v3/klines", self._query(product) | query)

    def parse_candles(self, product: str, period: str, body: bytes) -> list[Bar]:
        """Return a page's candles in rising order of start; raises ProtocolError.

        `complete` False and `received_time` 0 are the caller's to fill in.
        """
        rows = answer(_rest_candles.decode, body, f"candles of {product}")
        return page_of_bars(product, (self._bar(product, period, row) for row in rows))

    def _query(self, product: str) -> dict[str, str]:
        return {"symbol": _symbol(product), "limit": str(self.page)}

    def _bar(self, product: str, period: str, row: _Candle) -> Bar:
        start = row.start * _MICROS_PER_MS
        return exchanges_bar(
            self.exchange,
            product,
            period,
            start,
            row,
            quote_volume=row.quote_volume,
            trades=row.trades,
            buy_volume=row.buy_volume,
        )


class BinanceExchange:
    """Binance spot, or under another name an exchange that speaks its language, such as the simulator.

    aggregate_trades: take aggregated trades (one for all fills of a taker's order at one price) in place of single
    ones. Use a name of its own for it: the ids of the two series have nothing to do with each other.
    """

    url = "wss://stream.binance.com:9443/stream"
    limits = Limits(
        messages_per_second=4.0,
        products=341,
        connects_per_minute=60.0,
        requests_per_second=1.5,
        max_age=23.5 * 3600,
    )
    """The exchange's own: 5 messages a second of one connection, pongs included; 1,024 streams of one connection, of
    which a product takes three and the heartbeat one; 300 connects in five minutes; 24 hours. Its REST API weighs
    requests, 6,000 a minute of one address: a page of trades weighs 25, so four pages a second, of which a backfill
    beside the feed takes two."""

    def __init__(self, name: str = "binance", *, aggregate_trades: bool = False) -> None:
        self.name = name
        self.rest: Rest = BinanceRest(name, aggregate_trades)
        self._aggregate = aggregate_trades

    def aggregated(self) -> "BinanceExchange":
        """Return the exchange with aggregated trades in place of single ones."""
        return BinanceExchange(self.name, aggregate_trades=True)

    def symbol(self, product: str) -> str:
        """Return the exchange's own name of a product: BTCUSDT of BTC-USDT."""
        return _symbol(product)

    def session(self, channels: Collection[str] = ("ticks", "trades")) -> BinanceSession:
        """Return the conversation of a new connection that delivers these datasets."""
        return BinanceSession(self.name, channels, aggregate=self._aggregate)


EXCHANGE: Final[Callable[[str], Exchange]] = BinanceExchange
