"""Kraken spot: WebSocket API v2, and the public REST API. No I/O.

Source: Kraken's "Spot WebSockets v2" (ticker, trade, heartbeat, status), "Get Recent Trades", "Get OHLC Data" and its
rate limit guides. A ticker comes with every trade and has no sequence: a tick's id is made of the exchange's time and
a CRC of what was said, never of the time of receipt. A ticker without a time, as older documents show it, or with one
in 1970, which stands for a product that never traded, is no tick. A bid or ask of 0 means that there is none. Numbers
are JSON numbers, decoded to the double nearest to their text.
"""

import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Final

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
    Exchange,
    Frame,
    Heartbeat,
    Ignored,
    Limits,
    Malformed,
    Outcome,
    ProtocolError,
    Refused,
    Rest,
    RestRequest,
    Subscriptions,
)
from pulsestream.core.clock import MICROS_PER_SECOND, parse_rfc3339
from schemas.records import Bar, Tick, Trade, trade_event_id

_CHANNELS: Final = {"ticks": "ticker", "trades": "trade"}
_MESSAGE_PRODUCTS: Final = 100
"""Products in one message: below 2 kB."""
_OLD_NAMES: Final = {"BTC": "XBT", "DOGE": "XDG"}
"""Currencies that the REST API still calls otherwise."""
_NEW_NAMES: Final = {old: new for new, old in _OLD_NAMES.items()}
_SIDES: Final = {"b": "buy", "s": "sell"}
_ALREADY: Final = re.compile(r"already subscribed", re.IGNORECASE)
_TOO_MANY: Final = re.compile(r"exceeded msg rate|rate limit|too many requests", re.IGNORECASE)
_NANOS_PER_MICRO: Final = 1_000
_MAX_SECONDS: Final = 10**11
_NEVER: Final = 365 * 86_400 * MICROS_PER_SECOND
"""End of 1970: no exchange of this kind traded before."""


class _Result(msgspec.Struct):
    channel: str = ""
    symbol: str = ""


class _Envelope(msgspec.Struct, rename={"loud_error": "Error"}):
    """Market data and status (channel, data), or the answer to a message (method and its fields)."""

    channel: str = ""
    data: msgspec.Raw = msgspec.Raw()
    method: str = ""
    result: _Result | None = None
    error: str | None = None
    symbol: str | None = None
    req_id: int | None = None
    loud_error: str | None = None


class _Ticker(msgspec.Struct, gc=False):
    symbol: str
    last: float
    timestamp: str | None = None
    bid: Number = None
    bid_qty: Number = None
    ask: Number = None
    ask_qty: Number = None
    high: Number = None
    low: Number = None
    volume: Number = None


class _Trade(msgspec.Struct, gc=False):
    symbol: str
    trade_id: Count
    price: float
    qty: float
    side: str
    timestamp: str


class _RestAnswer(msgspec.Struct):
    error: list[str]
    result: dict[str, msgspec.Raw] = {}


class _RestTrade(msgspec.Struct, array_like=True, gc=False):
    price: float
    qty: float
    time: Decimal
    side: str
    order: str
    other: str
    trade_id: Count


class _RestPair(msgspec.Struct, gc=False):
    wsname: str = ""


class _RestPairs(msgspec.Struct):
    error: list[str]
    result: dict[str, _RestPair] = {}


class _Candle(msgspec.Struct, array_like=True, gc=False):
    start: Count
    open: float
    high: float
    low: float
    close: float
    vwap: float
    volume: float
    trades: Count


_envelopes: Final = msgspec.json.Decoder(_Envelope)
_tickers: Final = msgspec.json.Decoder(list[_Ticker], strict=False)
_trades: Final = msgspec.json.Decoder(list[_Trade], strict=False)
_rest_answers: Final = msgspec.json.Decoder(_RestAnswer)
_rest_trades: Final = msgspec.json.Decoder(list[_RestTrade], strict=False)
_rest_pairs: Final = msgspec.json.Decoder(_RestPairs)
_rest_candles: Final = msgspec.json.Decoder(list[_Candle], strict=False)


def _symbol(product: str) -> str:
    base, _, quote = product.rpartition("-")
    return f"{base}/{quote}"


def _product(symbol: str) -> str:
    return symbol.replace("/", "-")


@dataclass(slots=True)
class _Asked:
    """A product that was asked for: whether it still is, and the channels on which it is confirmed."""

    wanted: bool = True
    channels: set[str] = field(default_factory=set)


class KrakenSession:
    """One connection's conversation. The exchange confirms and refuses each symbol of each channel in its own frame.

    It knows the products that were asked for and the channels on which each is confirmed: nothing that the exchange
    sends makes it larger. The id of a message names its channel, because a refusal does not.
    """

    def __init__(self, exchange: str, datasets: Collection[str]) -> None:
        self._exchange = exchange
        self._channels = [channel for dataset, channel in _CHANNELS.items() if dataset in datasets]
        self._asked: dict[str, _Asked] = {}
        self._rounds = count(1)

    def subscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that ask for these products on every channel."""
        for product in products:
            self._asked.setdefault(product, _Asked()).wanted = True
        return list(self._requests("subscribe", products))

    def unsubscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that end these products on every channel."""
        for product in products:
            if product in self._asked:
                self._asked[product].wanted = False
        return list(self._requests("unsubscribe", products))

    def receive(self, frame: Frame, received_time: int) -> Sequence[Outcome]:
        """Return what a frame holds, in order; never raises. `received_time` in microseconds, UTC."""
        try:
            envelope = _envelopes.decode(frame)
            return self._market(envelope, received_time) if envelope.channel else (self._answer(envelope),)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            return (Malformed(shown(f"not a frame: {error}")),)

    def _requests(self, method: str, products: Collection[str]) -> Iterator[str]:
        ordered = sorted(products)
        for start in range(0, len(ordered), _MESSAGE_PRODUCTS):
            symbols = [_symbol(product) for product in ordered[start : start + _MESSAGE_PRODUCTS]]
            number = next(self._rounds) * len(_CHANNELS)
            for place, channel in enumerate(self._channels):
                params: dict[str, object] = {"channel": channel, "symbol": symbols}
                if method == "subscribe":
                    params["snapshot"] = True
                if channel == "ticker":
                    params["event_trigger"] = "trades"
                yield json.dumps({"method": method, "params": params, "req_id": number + place})

    def _market(self, envelope: _Envelope, received_time: int) -> Sequence[Outcome]:
        if envelope.channel == "heartbeat":
            return (Heartbeat(None, received_time),)
        if envelope.channel not in self._channels:
            return (Ignored(shown(envelope.channel[:40])),)
        if envelope.channel == "ticker":
            return [_tick(self._exchange, said, received_time) for said in _tickers.decode(envelope.data)]
        trades = sorted(_trades.decode(envelope.data), key=lambda trade: trade.trade_id)
        return [_live_trade(self._exchange, said, received_time) for said in trades]

    def _answer(self, said: _Envelope) -> Outcome:
        error = said.error or said.loud_error
        if error is not None:
            return self._refused(said, error)
        if not said.method:
            raise ValueError("neither market data nor an answer")
        if said.method not in {"subscribe", "unsubscribe"} or said.result is None:
            return Ignored(shown(said.method[:40]))
        return self._changed(said.method, _product(said.result.symbol), said.result.channel)

    def _changed(self, method: str, product: str, channel: str) -> Outcome:
        asked = self._asked.get(product)
        if asked is None or channel not in self._channels:
            return Ignored(method)
        if method == "subscribe":
            asked.channels.add(channel)
            if len(asked.channels) < len(self._channels):
                return Ignored(method)
        else:
            asked.channels.discard(channel)
            if not asked.wanted and not asked.channels:
                del self._asked[product]
        whole = (name for name, one in self._asked.items() if len(one.channels) == len(self._channels))
        return Subscriptions(frozenset(whole))

    def _refused(self, said: _Envelope, error: str) -> Outcome:
        if _TOO_MANY.search(error) or not said.symbol:
            return Refused(shown(error))
        if said.method == "unsubscribe":
            return Ignored("unsubscribe refused")
        product = shown(_product(said.symbol))
        if _ALREADY.search(error) and said.req_id is not None:
            place = said.req_id % len(_CHANNELS)
            return self._changed("subscribe", product, "".join(self._channels[place : place + 1]))
        self._asked.pop(product, None)
        return Refused(shown(error), frozenset({product}))


def _tick(exchange: str, said: _Ticker, received_time: int) -> Outcome:
    try:
        exchange_time = parse_rfc3339(said.timestamp) if said.timestamp else 0
    except (ValueError, OverflowError) as error:
        return Malformed(shown(f"ticker: {error}"))
    if exchange_time < _NEVER:
        return Ignored("ticker without a time", alive=True)
    if said.last == 0:
        return Ignored("ticker without a trade", alive=True)
    product = _product(said.symbol)
    best_bid, best_ask = price(said.bid), price(said.ask)
    bid_size = None if best_bid is None else size(said.bid_qty)
    ask_size = None if best_ask is None else size(said.ask_qty)
    high, low, volume = price(said.high), price(said.low), size(said.volume)
    crc = _crc(said.last, best_bid, bid_size, best_ask, ask_size, high, low, volume)
    tick = Tick(
        event_id=f"{exchange}:{product}:{exchange_time}-{crc:08x}",
        exchange=exchange,
        product=product,
        price=said.last,
        best_bid=best_bid,
        best_bid_size=bid_size,
        best_ask=best_ask,
        best_ask_size=ask_size,
        high_24h=high,
        low_24h=low,
        volume_24h=volume,
        exchange_time=exchange_time,
        received_time=received_time,
    )
    return checked(tick)


def _crc(*numbers: float | None) -> int:
    """Return a CRC of all that an exchange said, as doubles: so two ways to write one number are one."""
    return zlib.crc32(struct.pack(f"<{len(numbers)}d", *(math.nan if one is None else one for one in numbers)))


def _live_trade(exchange: str, said: _Trade, received_time: int) -> Outcome:
    try:
        at = parse_rfc3339(said.timestamp)
    except (ValueError, OverflowError) as error:
        return Malformed(shown(f"trade: {error}"))
    product = _product(said.symbol)
    return checked(_trade(exchange, product, said, side=said.side, exchange_time=at, received_time=received_time))


def _trade(
    exchange: str, product: str, said: _Trade | _RestTrade, *, side: str, exchange_time: int, received_time: int
) -> Trade:
    return Trade(
        event_id=trade_event_id(exchange, product, said.trade_id),
        exchange=exchange,
        product=product,
        trade_id=said.trade_id,
        price=said.price,
        size=said.qty,
        side=side,
        exchange_time=exchange_time,
        received_time=received_time,
    )


@dataclass(frozen=True, slots=True)
class KrakenRest:
    """History over REST: trades page by time; of candles only the newest 720 exist, whatever is asked for."""

    exchange: str
    url: str = "https://api.kraken.com"
    page: int = 1000
    candles_page: int = 720
    candles_kept: int | None = 720

    @property
    def periods(self) -> Mapping[str, int]:
        """Every period that this platform knows."""
        return PERIODS

    def trades(self, product: str, from_id: int, since: int) -> RestRequest:  # noqa: ARG002 - pages go by time here
        """Ask for the page of trades from the time `since` on: it may begin before `from_id`."""
        return self.trades_at(product, since)

    def latest_trades(self, product: str) -> RestRequest:
        """Ask for the newest page of trades."""
        return RestRequest("/0/public/Trades", {"pair": _pair(product), "count": str(self.page)})

    def trades_at(self, product: str, at: int) -> RestRequest:
        """Ask for a page of trades from a time on; the exchange counts from after its `since`, in nanoseconds."""
        since = {"since": str(at * _NANOS_PER_MICRO - 1)}
        return RestRequest("/0/public/Trades", {"pair": _pair(product), "count": str(self.page)} | since)

    def parse_trades(self, product: str, body: bytes, received_time: int) -> list[Trade]:
        """Return a page's trades in rising order of their ids; raises ProtocolError."""
        what = f"trades of {product}"
        rows = answer(_rest_trades.decode, _rows(body, what), what)
        return page_of_trades(product, (self._trade(product, row, received_time) for row in rows))

    def products(self) -> RestRequest:
        """Ask for all pairs."""
        return RestRequest("/0/public/AssetPairs")

    def parse_products(self, body: bytes) -> list[str]:
        """Return the products of the pairs that the WebSocket knows, too; raises ProtocolError."""
        said = answer(_rest_pairs.decode, body, "products")
        if said.error:
            raise ProtocolError(shown(f"products: {'; '.join(said.error)}"))
        return list_of_products(_listed(pair.wsname) for pair in said.result.values())

    def candles(self, product: str, period: str, start: int, end: int) -> RestRequest:  # noqa: ARG002 - see below
        """Ask for the candles from `start` on; the exchange takes no end, and gives the newest 720 at most."""
        minutes = self.periods[period] // 60
        query = {"interval": str(minutes), "since": str(start // MICROS_PER_SECOND - 1)}
        return RestRequest("/0/public/OHLC", {"pair": _pair(product)} | query)

    def parse_candles(self, product: str, period: str, body: bytes) -> list[Bar]:
        """Return a page's candles in rising order of start; raises ProtocolError.

        `complete` False and `received_time` 0 are the caller's to fill in.
        """
        what = f"candles of {product}"
        rows = answer(_rest_candles.decode, _rows(body, what), what)
        return page_of_bars(product, (self._bar(product, period, row) for row in rows))

    def _trade(self, product: str, row: _RestTrade, received_time: int) -> Trade:
        side = _SIDES.get(row.side, row.side)
        at = _micros(row.time)
        return _trade(self.exchange, product, row, side=side, exchange_time=at, received_time=received_time)

    def _bar(self, product: str, period: str, row: _Candle) -> Bar:
        start = row.start * MICROS_PER_SECOND
        return exchanges_bar(self.exchange, product, period, start, row, vwap=row.vwap or None, trades=row.trades)


def _pair(product: str) -> str:
    base, _, quote = product.rpartition("-")
    return _OLD_NAMES.get(base, base) + _OLD_NAMES.get(quote, quote)


def _listed(pair: str) -> str:
    base, _, quote = pair.partition("/")
    return f"{_NEW_NAMES.get(base, base)}-{_NEW_NAMES.get(quote, quote)}"


def _rows(body: bytes, what: str) -> bytes:
    """Return the rows of an answer, which stand under a name of the pair that differs from the one asked for."""
    said = answer(_rest_answers.decode, body, what)
    if said.error:
        raise ProtocolError(shown(f"{what}: {'; '.join(said.error)}"))
    rows = [value for name, value in said.result.items() if name != "last"]
    if len(rows) != 1:
        raise ProtocolError(f"{what}: the answer holds {len(rows)} pairs, not one")
    return bytes(rows[0])


def _micros(seconds: Decimal) -> int:
    """Return the whole microseconds of a time in seconds; digits beyond them are cut. Raises ValueError."""
    if not seconds.is_finite() or not 0 < seconds < _MAX_SECONDS:
        raise ValueError(f"{seconds} is no time in seconds")
    return int(seconds * MICROS_PER_SECOND)


class KrakenExchange:
    """Kraken spot, or under another name an exchange that speaks its language, such as the simulator."""

    url = "wss://ws.kraken.com/v2"
    limits = Limits(messages_per_second=5.0, products=200, connects_per_minute=15.0, requests_per_second=1.0)
    """The exchange states 150 connects in ten minutes of one address, and about one public REST request a second; its
    limits of messages and of products depend on its load, so these are modest ones."""

    def __init__(self, name: str = "kraken") -> None:
        self.name = name
        self.rest: Rest = KrakenRest(name)

    def symbol(self, product: str) -> str:
        """Return the exchange's own name of a product: BTC/USD of BTC-USD."""
        return _symbol(product)

    def session(self, channels: Collection[str] = ("ticks", "trades")) -> KrakenSession:
        """Return the conversation of a new connection that delivers these datasets."""
        return KrakenSession(self.name, channels)


EXCHANGE: Final[Callable[[str], Exchange]] = KrakenExchange
