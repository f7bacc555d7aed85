"""The exchange's side of each language, for tests: what it answers, sends and serves, written after its documents.

Sources: Coinbase Exchange "WebSocket Channels", "Get product trades", "Get product candles"; Binance "WebSocket
Streams for Binance" and "Public Rest API for Binance"; Kraken "Spot WebSockets v2" (ticker, trade), "Get Recent
Trades", "Get OHLC Data". Nothing here uses the code under test.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

PRODUCTS = ("BTC-USDT", "ETH-USDT", "ADA-USDT")


@dataclass(frozen=True)
class Print:
    """One trade as a market knows it: numbers as text, the taker's side, microseconds since 1970."""

    trade_id: int
    price: str
    size: str
    side: str
    time: int


@dataclass(frozen=True)
class Candle:
    """One candle: numbers as text, its start in microseconds since 1970."""

    start: int
    open: str
    high: str
    low: str
    close: str
    volume: str


class Speech(Protocol):
    """One exchange's side of its language."""

    quotes: bool
    """Whether a frame of quotes comes before a ticker."""

    def answers(self, messages: Sequence[str]) -> list[str]:
        """Return the frames that answer these messages of a client, all granted."""

    def refusal(self, message: str, product: str) -> str:
        """Return the frame that refuses a product of a subscribe message."""

    def ticker(self, product: str, number: int, price: str, time: int) -> list[str]:
        """Return the frames that make one tick."""

    def trade(self, product: str, one: Print) -> str:
        """Return the frame of one trade."""

    def trades_page(self, product: str, prints: Sequence[Print]) -> bytes:
        """Return what the REST API answers."""

    def candles_page(self, product: str, candles: Sequence[Candle]) -> bytes:
        """Return what the REST API answers."""

    def error_page(self) -> bytes:
        """Return what the REST API answers to a product it does not know."""

    def others(self) -> list[str]:
        """Return frames that carry neither ticks nor trades."""


def rfc3339(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


class CoinbaseSpeech:
    quotes = False

    def __init__(self) -> None:
        self._subscribed: dict[str, list[str]] = {}

    def answers(self, messages: Sequence[str]) -> list[str]:
        frames = []
        for message in map(json.loads, messages):
            for channel in message["channels"]:
                listed = set(self._subscribed.get(channel, []))
                asked = set(message["product_ids"])
                self._subscribed[channel] = sorted(listed | asked if message["type"] == "subscribe" else listed - asked)
            channels = [{"name": name, "product_ids": ids} for name, ids in self._subscribed.items()]
            frames.append(json.dumps({"type": "subscriptions", "channels": channels}))
        return frames

    def refusal(self, message: str, product: str) -> str:  # noqa: ARG002 - the exchange names the product alone
        return json.dumps(
            {"type": "error", "message": "Failed to subscribe", "reason": f"{product} is not a valid product"}
        )

    def ticker(self, product: str, number: int, price: str, time: int) -> list[str]:
        frame = {
            "type": "ticker",
            "sequence": number,
            "product_id": product,
            "price": price,
            "open_24h": "14.6647",
            "volume_24h": "94381.28000000",
            "low_24h": "14.3691",
            "high_24h": "16.55",
            "volume_30d": "2295579.57000000",
            "best_bid": "14.7550",
            "best_bid_size": "12.5",
            "best_ask": "14.8060",
            "best_ask_size": "0.40",
            "side": "buy",
            "time": rfc3339(time),
            "trade_id": number,
            "last_size": "0.04",
        }
        return [json.dumps(frame)]

    def trade(self, product: str, one: Print) -> str:
        frame = {
            "type": "match",
            "trade_id": one.trade_id,
            "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
            "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1",
            "side": {"buy": "sell", "sell": "buy"}[one.side],
            "size": one.size,
            "price": one.price,
            "product_id": product,
            "sequence": one.trade_id,
            "time": rfc3339(one.time),
        }
        return json.dumps(frame)

    def trades_page(self, product: str, prints: Sequence[Print]) -> bytes:  # noqa: ARG002 - a page names no product
        rows = [
            {
                "time": rfc3339(one.time),
                "trade_id": one.trade_id,
                "price": one.price,
                "size": one.size,
                "side": {"buy": "sell", "sell": "buy"}[one.side],
            }
            for one in reversed(prints)
        ]
        return json.dumps(rows).encode()

    def candles_page(self, product: str, candles: Sequence[Candle]) -> bytes:  # noqa: ARG002 - a page names no product
        rows = [
            f"[{one.start // 1_000_000},{one.low},{one.high},{one.open},{one.close},{one.volume}]"
            for one in reversed(candles)
        ]
        return f"[{','.join(rows)}]".encode()

    def error_page(self) -> bytes:
        return b'{"message":"NotFound"}'

    def others(self) -> list[str]:
        return [
            (
                '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USDT",'
                '"time":"2014-11-07T08:19:28.464459Z"}'
            ),
            '{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["BTC-USDT"],"account_ids":null}]}',
            '{"type":"status","products":[{"id":"BTC-USDT","status":"online"}],"currencies":[]}',
            '{"type":"l2update","product_id":"BTC-USDT","changes":[["buy","1","2"]],"time":"2014-11-07T08:19:28Z"}',
            '{"type":"ticker","sequence":7,"product_id":"ADA-USDT","price":"0","open_24h":"0","best_bid":"0"}',
        ]


class BinanceSpeech:
    quotes = True

    def answers(self, messages: Sequence[str]) -> list[str]:
        return [json.dumps({"result": None, "id": json.loads(message)["id"]}) for message in messages]

    def refusal(self, message: str, product: str) -> str:  # noqa: ARG002 - the exchange names the message alone
        return json.dumps({"error": {"code": 4, "msg": "Too many subscriptions"}, "id": json.loads(message)["id"]})

    def ticker(self, product: str, number: int, price: str, time: int) -> list[str]:
        symbol = product.replace("-", "")
        quote = {"u": number, "s": symbol, "b": "14.7550", "B": "12.5", "a": "14.8060", "A": "0.40"}
        ticker = {
            "e": "24hrTicker",
            "E": time // 1000,
            "s": symbol,
            "p": "0.0015",
            "P": "250.00",
            "w": "0.0018",
            "x": "0.0009",
            "c": price,
            "Q": "0.04",
            "b": "14.70",
            "B": "10",
            "a": "14.90",
            "A": "100",
            "o": "14.6647",
            "h": "16.55",
            "l": "14.3691",
            "v": "94381.28000000",
            "q": "18",
            "O": 0,
            "C": 86400000,
            "F": 0,
            "L": number,
            "n": 18151,
        }
        return [self._combined(product, "bookTicker", quote), self._combined(product, "ticker", ticker)]

    def trade(self, product: str, one: Print) -> str:
        data = {
            "e": "trade",
            "E": one.time // 1000,
            "s": product.replace("-", ""),
            "t": one.trade_id,
            "p": one.price,
            "q": one.size,
            "T": one.time // 1000,
            "m": one.side == "sell",
            "M": True,
        }
        return self._combined(product, "trade", data)

    def trades_page(self, product: str, prints: Sequence[Print]) -> bytes:  # noqa: ARG002 - a page names no product
        rows = [
            {
                "id": one.trade_id,
                "price": one.price,
                "qty": one.size,
                "quoteQty": str(Decimal(one.price) * Decimal(one.size)),
                "time": one.time // 1000,
                "isBuyerMaker": one.side == "sell",
                "isBestMatch": True,
            }
            for one in prints
        ]
        return json.dumps(rows).encode()

    def candles_page(self, product: str, candles: Sequence[Candle]) -> bytes:  # noqa: ARG002 - a page names no product
        rows = [
            [
                one.start // 1000,
                one.open,
                one.high,
                one.low,
                one.close,
                one.volume,
                one.start // 1000 + 59_999,
                "2434.19055334",
                308,
                "1.87402397",
                "28.46694368",
                "0",
            ]
            for one in candles
        ]
        return json.dumps(rows).encode()

    def error_page(self) -> bytes:
        return b'{"code":-1121,"msg":"Invalid symbol."}'

    def others(self) -> list[str]:
        return [
            '{"result":["btcusdt@aggTrade"],"id":3}',
            '{"stream":"btcusdt@miniTicker","data":{"e":"24hrMiniTicker","E":1672515782136,"s":"BTCUSDT","c":"0.0025"}}',
            '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
            '{"code":2,"msg":"Invalid request: request ID must be an unsigned integer"}',
            '{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","E":1633998279296,"s":"BTCUSDT","b":[],"a":[]}}',
            '{"stream":"adausdt@bookTicker","data":{"u":1,"s":"ADAUSDT","b":"0.0","B":"0.0","a":"0.0","A":"0.0"}}',
        ]

    @staticmethod
    def _combined(product: str, stream: str, data: dict[str, Any]) -> str:
        return json.dumps({"stream": f"{product.replace('-', '').lower()}@{stream}", "data": data})


class KrakenSpeech:
    quotes = False

    def answers(self, messages: Sequence[str]) -> list[str]:
        frames = []
        for message in map(json.loads, messages):
            for symbol in message["params"]["symbol"]:
                answer = {
                    "method": message["method"],
                    "result": {"channel": message["params"]["channel"], "symbol": symbol},
                    "success": True,
                    "time_in": "2023-09-25T09:21:10.428340Z",
                    "time_out": "2023-09-25T09:21:10.428375Z",
                    "req_id": message["req_id"],
                }
                frames.append(json.dumps(answer))
        return frames

    def refusal(self, message: str, product: str) -> str:
        symbol = product.replace("-", "/")
        answer = {
            "error": f"Currency pair not supported {symbol}",
            "method": "subscribe",
            "req_id": json.loads(message)["req_id"],
            "success": False,
            "symbol": symbol,
            "time_in": "2023-09-25T09:21:10.428340Z",
            "time_out": "2023-09-25T09:21:10.428375Z",
        }
        return json.dumps(answer)

    def ticker(self, product: str, number: int, price: str, time: int) -> list[str]:
        fields = (
            f'"symbol":"{product.replace("-", "/")}","bid":14.7550,"bid_qty":12.5,"ask":14.8060,"ask_qty":0.40,'
            f'"last":{price},"volume":94381.28000000,"vwap":14.70001,"low":14.3691,"high":16.55,"change":-0.00007,'
            f'"change_pct":-0.05,"trades":{number},"timestamp":"{rfc3339(time)}"'
        )
        return [f'{{"channel":"ticker","type":"update","data":[{{{fields}}}]}}']

    def trade(self, product: str, one: Print) -> str:
        fields = (
            f'"symbol":"{product.replace("-", "/")}","side":"{one.side}","price":{one.price},"qty":{one.size},'
            f'"ord_type":"limit","trade_id":{one.trade_id},"timestamp":"{rfc3339(one.time)}"'
        )
        return f'{{"channel":"trade","type":"update","data":[{{{fields}}}]}}'

    def trades_page(self, product: str, prints: Sequence[Print]) -> bytes:
        rows = [
            f'["{one.price}","{one.size}",{Decimal(one.time) / 1_000_000},"{one.side[0]}","m","",{one.trade_id}]'
            for one in prints
        ]
        return self._result(product, rows, prints[-1].time * 1000 if prints else 0)

    def candles_page(self, product: str, candles: Sequence[Candle]) -> bytes:
        rows = [
            f'[{one.start // 1_000_000},"{one.open}","{one.high}","{one.low}","{one.close}","{one.close}",'
            f'"{one.volume}",23]'
            for one in candles
        ]
        return self._result(product, rows, candles[-1].start // 1_000_000 if candles else 0)

    def error_page(self) -> bytes:
        return b'{"error":["EQuery:Unknown asset pair"]}'

    def others(self) -> list[str]:
        return [
            '{"channel":"heartbeat"}',
            (
                '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online","api_version":"v2",'
                '"connection_id":13834774380200032777}]}'
            ),
            '{"error":"Exceeded msg rate","method":"subscribe","success":false,"symbol":"*"}',
            '{"method":"pong","req_id":101,"time_in":"2023-09-24T14:10:23.799685Z"}',
            (
                '{"channel":"ticker","type":"snapshot","data":[{"symbol":"ADA/USDT","bid":0.0,"bid_qty":0.0,"ask":0.0,'
                '"ask_qty":0.0,"last":0.0,"volume":0.0,"vwap":0.0,"low":0.0,"high":0.0,"change":0.0,"change_pct":0.0,'
                '"timestamp":"1970-01-01T00:00:00.000000Z"}]}'
            ),
        ]

    @staticmethod
    def _result(product: str, rows: list[str], last: int) -> bytes:
        pair = "X" + product.replace("BTC", "XBT").replace("-", "Z")
        return f'{{"error":[],"result":{{"{pair}":[{",".join(rows)}],"last":"{last}"}}}}'.encode()


SPEECHES: dict[str, type[CoinbaseSpeech | BinanceSpeech | KrakenSpeech]] = {
    "coinbase": CoinbaseSpeech,
    "binance": BinanceSpeech,
    "kraken": KrakenSpeech,
}
"""By the venue's name: a new exchange adds a class here, and every contract test runs over it."""
