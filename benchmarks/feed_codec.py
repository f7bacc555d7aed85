"""Frame bytes -> validated tick -> Avro bytes, against orjson and fastavro that do the same for the same frames.

The rival does what a producer without this package would: orjson.loads, float() of each number, the time, a dict, and
fastavro.schemaless_writer with the parsed schema (logical types left out, which is the quicker of the two ways). It
validates nothing, and its bytes are equal.
"""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import fastavro
import orjson

from benchmarks.rounds import Rounds, interleaved
from producers.venues.protocol import Frame, load
from pulsestream.core.clock import format_rfc3339
from schemas import registry
from schemas.codec import codec
from schemas.records import Tick
from schemas.validate import check

EXCHANGE: Final = "coinbase"
PRODUCTS: Final = ("BTC-USD", "ETH-USD", "SOL-USD", "BAND-GBP", "1INCH-EUR", "XRP-USD", "ADA-USDT", "DOGE-USD")
BEGIN: Final = 1_618_677_810_000_000
STEP: Final = 487
"""Microseconds from one frame to the next."""
RECEIVED: Final = BEGIN + 60_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def ticker_frames(count: int) -> list[bytes]:
    """Return frames of Coinbase's ticker channel as the exchange sends them today, every field there."""
    return [_ticker(number) for number in range(count)]


def _ticker(number: int) -> bytes:
    price = 14.5 + number % 997 / 1000
    frame = {
        "type": "ticker",
        "sequence": 33_393_879_800 + 3 * number,
        "product_id": PRODUCTS[number % len(PRODUCTS)],
        "price": f"{price:.4f}",
        "open_24h": "14.6647",
        "volume_24h": f"{94_381 + number / 100:.8f}",
        "low_24h": "14.3691",
        "high_24h": "16.55",
        "volume_30d": f"{2_295_579 + number / 100:.8f}",
        "best_bid": f"{price - 0.01:.4f}",
        "best_bid_size": "12.50000000",
        "best_ask": f"{price + 0.01:.4f}",
        "best_ask_size": "0.40000000",
        "side": "buy" if number % 3 else "sell",
        "time": format_rfc3339(BEGIN + STEP * number),
        "trade_id": 881_613_000 + number,
        "last_size": f"{(1 + number % 91) / 100:.8f}",
    }
    return json.dumps(frame, separators=(",", ":")).encode()


def measure(count: int, rounds: int) -> Rounds:
    """Time both paths and their steps over `count` frames, each case in turn; raises AssertionError if they differ."""
    frames = ticker_frames(count)
    path, write, encode = _path(), _fastavro_writer(), codec(Tick).encode
    session = load(EXCHANGE).session()
    ticks = [tick for frame in frames for tick in session.receive(frame, RECEIVED) if isinstance(tick, Tick)]
    fields = [_fields(frame) for frame in frames]
    if [path(frame) for frame in frames] != [write(_fields(frame)) for frame in frames]:
        raise AssertionError("the two paths do not write the same bytes")
    cases: dict[str, Callable[[], object]] = {
        "whole path": lambda: [path(frame) for frame in frames],
        "orjson + fastavro": lambda: [write(_fields(frame)) for frame in frames],
        "frame to validated tick": lambda: [session.receive(frame, RECEIVED) for frame in frames],
        "orjson to dict": lambda: [_fields(frame) for frame in frames],
        "schemas.validate.check": lambda: [check(tick, "ticks") for tick in ticks],
        "tick to Avro": lambda: [encode(tick) for tick in ticks],
        "fastavro of the dict": lambda: [write(values) for values in fields],
    }
    return interleaved(cases, count, rounds)


def _path() -> Callable[[Frame], bytes]:
    receive, encode = load(EXCHANGE).session().receive, codec(Tick).encode

    def path(frame: Frame) -> bytes:
        for outcome in receive(frame, RECEIVED):
            if isinstance(outcome, Tick):
                return encode(outcome)
        raise ValueError("no tick")

    return path


def _fields(frame: Frame) -> dict[str, Any]:
    """Return a ticker frame as the dict that fastavro writes."""
    said = orjson.loads(frame)
    return {
        "event_id": f"{EXCHANGE}:{said['product_id']}:{said['sequence']}",
        "exchange": EXCHANGE,
        "product": said["product_id"],
        "sequence": said["sequence"],
        "trade_id": said["trade_id"],
        "side": said["side"],
        "price": float(said["price"]),
        "size": float(said["last_size"]),
        "best_bid": float(said["best_bid"]),
        "best_bid_size": float(said["best_bid_size"]),
        "best_ask": float(said["best_ask"]),
        "best_ask_size": float(said["best_ask_size"]),
        "quote_time": None,
        "open_24h": float(said["open_24h"]),
        "high_24h": float(said["high_24h"]),
        "low_24h": float(said["low_24h"]),
        "volume_24h": float(said["volume_24h"]),
        "volume_30d": float(said["volume_30d"]),
        "exchange_time": (datetime.fromisoformat(said["time"]) - _EPOCH) // _MICROSECOND,
        "received_time": RECEIVED,
    }


def _fastavro_writer() -> Callable[[dict[str, Any]], bytes]:
    released = registry.current("tick")
    schema = fastavro.parse_schema(json.loads(released.text.replace("logicalType", "ignoredType")))
    prefix = bytes((0, *released.schema_id.to_bytes(4, "big")))

    def write(fields: dict[str, Any]) -> bytes:
        body = io.BytesIO()
        body.write(prefix)
        fastavro.schemaless_writer(body, schema, fields)
        return body.getvalue()

    return write
