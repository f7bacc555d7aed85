"""What the producer holds does not grow with what it has published."""

# ruff: noqa: ARG002 - a listener that only counts

import gc
import sys
from collections.abc import Iterator

from producers.lanes import Failure, Lanes, Limits, MarketRecord, Reach
from producers.ledger import Scope
from producers.venues.protocol import load
from schemas.codec import codec
from schemas.records import Tick, Trade

RECORDS = 200_000
WARM_UP = 40_000
PRODUCTS = [f"P{number:03d}-USD" for number in range(200)]
TENANTS = ("one", "two")
SECOND = 1_000_000
BEGIN = 1_618_677_818 * SECOND
GROWTH = 2_000
"""Blocks of memory that may come or go: caches and containers that change their size, no record among them."""
TIMED_OUT = Failure("_MSG_TIMED_OUT", "timed_out", Reach.ALL)


class Counting:
    """Takes what the lanes tell, and keeps numbers only."""

    def __init__(self) -> None:
        self.stored = 0
        self.gone = 0
        self.intervals = 0

    def acknowledged(self, product: str, trade_id: int) -> None:
        self.stored += 1

    def lost(self, product: str, trade_id: int, cause: str) -> None:
        self.gone += 1

    def open(self, scope: Scope, opened: int, cause: str) -> None:
        self.intervals += 1

    def close(self, scope: Scope, closed: int) -> None:
        self.intervals -= 1


def frames() -> Iterator[bytes]:
    """A market of 200 products: each trade as a match and as a ticker."""
    for number in range(RECORDS // 2):
        product, time = (
            PRODUCTS[number % len(PRODUCTS)],
            f"2021-04-17T16:43:38.{number % 1_000_000:06d}Z",
        )
        shared = f'"product_id":"{product}","price":"{100 + number % 900}.25","trade_id":{number + 1}'
        yield (
            f'{{"type":"match",{shared},"maker_order_id":"a","taker_order_id":"b","side":"sell","size":"0.5",'
            f'"sequence":{2 * number + 1},"time":"{time}"}}'
        ).encode()
        yield (
            f'{{"type":"ticker",{shared},"sequence":{2 * number + 2},"open_24h":"100.5","volume_24h":"7.25",'
            f'"low_24h":"99.5","high_24h":"1001.5","volume_30d":"70.5","best_bid":"100.1","best_bid_size":"1.5",'
            f'"best_ask":"100.2","best_ask_size":"2.5","side":"buy","time":"{time}","last_size":"0.5"}}'
        ).encode()


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def test_memory_stays_where_it_is_from_frame_to_last_acknowledgement() -> None:
    session = load("coinbase").session()
    session.subscribe(PRODUCTS)
    told, now = Counting(), BEGIN
    lanes = Lanes("coinbase", told, Limits(), told, clock=lambda: now, monotonic=lambda: now / SECOND)
    lanes.route({dataset: dict.fromkeys(PRODUCTS, TENANTS) for dataset in ("ticks", "trades")})
    encode = {Tick: codec(Tick).encode, Trade: codec(Trade).encode}

    def publish(record: MarketRecord) -> None:
        dataset = "ticks" if isinstance(record, Tick) else "trades"
        encode[type(record)](record)  # type: ignore[index,operator] # the codec of just this type
        parcel = lanes.offer(dataset, record)
        wanting = lanes.wanted_by(dataset, record.product)
        lanes.account.produced += len(wanting)
        for lane in wanting:
            if now % 1_009 == 0:
                lanes.failed(parcel, lane.topic, TIMED_OUT)
            else:
                lanes.acknowledged(parcel, lane.topic)

    held, published = 0, 0
    for number, frame in enumerate(frames(), start=1):
        now = BEGIN + number * 200
        for outcome in session.receive(frame, now):
            assert isinstance(outcome, Tick | Trade), outcome
            publish(outcome)
            published += 1
        if number % 10_000 == 0:
            lanes.served()
            lanes.tend(answered=True)
        if number == WARM_UP:
            held = blocks()

    grown = blocks() - held
    assert published == RECORDS == told.stored + told.gone + RECORDS // 2
    assert told.gone > 0
    assert told.intervals == 0
    assert lanes.account.pending == 0
    assert grown < GROWTH, f"{grown} blocks of memory more after {RECORDS - WARM_UP} records"
