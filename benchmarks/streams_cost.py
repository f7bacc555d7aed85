"""What a record costs our worker: by number of tenants, workers and rules, and by how busy a product is.

CPU time of the workers' processes while they work off a backlog; the figures are ratios of it. The records are the
same whoever gets them: 400 products in turn, dealt to tenants in blocks.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.peers.job import SECOND
from benchmarks.peers.ticks import BEGIN, EXCHANGE
from benchmarks.streams_stand import Cost, Stand
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Tick

PRODUCTS: Final = 400
PARTITIONS: Final = 3
SHARED: Final = 4
"""Partitions that one worker or two work on."""
MANY: Final = 200
"""Tenants, against one."""
RATE: Final = 5.0
"""Ticks a second of a product (event time)."""
BUSY_RATE: Final = 100.0
ONE: Final = "1 tenant, backlog"
TENANTS: Final = f"{MANY} tenants, backlog"
ONE_LIVE: Final = "1 tenant, 2,000 ticks/s"
TENANTS_LIVE: Final = f"{MANY} tenants, 2,000 ticks/s"
ONE_WORKER: Final = "1 worker, 4 partitions"
TWO_WORKERS: Final = "2 workers, 4 partitions"
BUSY: Final = "1 tenant, backlog of busy products"
RULES: Final = 10_000
RULED: Final = f"1 tenant, backlog, {RULES:,} rules on other products"


@dataclass(frozen=True, slots=True)
class Load:
    """`records` ticks of PRODUCTS products, each `rate` times a second of event time, dealt to `tenants` tenants."""

    records: int
    rate: float
    tenants: int = 1

    @property
    def names(self) -> list[str]:
        """The tenants."""
        return [f"load-{number:04}" for number in range(self.tenants)]

    def subscriptions(self) -> list[tuple[str, str]]:
        """Return who gets which product."""
        each = PRODUCTS // self.tenants
        return [(self.names[turn // each], _product(turn)) for turn in range(PRODUCTS)]

    def ticks(self, begin: int = BEGIN) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield topic, key and value of each tick; the first happened at `begin` (micros)."""
        encode, each = codec(Tick).encode, PRODUCTS // self.tenants
        sources = [tenant_topic(name, "ticks") for name in self.names]
        products = [_product(turn) for turn in range(PRODUCTS)]
        keys = [product.encode() for product in products]
        step = SECOND / self.rate / PRODUCTS
        for number in range(self.records):
            turn = number % PRODUCTS
            tick = _tick(products[turn], number, begin + int(number * step))
            yield sources[turn // each], keys[turn], encode(tick)


def _product(turn: int) -> str:
    return f"C{turn:03}-USD"


def _tick(product: str, number: int, at: int) -> Tick:
    price = 100.0 + number * 7919 % 10_007 / 100
    return Tick(
        event_id=f"{EXCHANGE}:{product}:{number + 1}",
        exchange=EXCHANGE,
        product=product,
        sequence=number + 1,
        trade_id=number + 1,
        side="buy" if number % 3 else "sell",
        price=price,
        size=(1 + number * 31 % 640) / 64,
        best_bid=price - 0.01,
        best_bid_size=12.5,
        best_ask=price + 0.01,
        best_ask_size=0.4,
        open_24h=price - 1.25,
        high_24h=price + 3.5,
        low_24h=price - 4.5,
        volume_24h=94_381.0,
        volume_30d=2_295_579.0,
        exchange_time=at,
        received_time=at + 1_500,
    )


def backlog(
    broker: EmbeddedKafka, load: Load, *, partitions: int = PARTITIONS, workers: int = 1, rules: int = 0
) -> Cost:
    """Write a load, then let workers work it off; the first tenant has so many `rules` on products without a tick."""
    with Stand.on(broker, partitions) as stand:
        stand.tenants(load.names)
        stand.subscribe(load.subscriptions())
        stand.rules(load.names[0], map(_elsewhere, range(rules)))
        written = stand.write(load.ticks())
        with stand.workers(workers) as running:
            return stand.cost(running, written)


def _elsewhere(number: int) -> dict[str, object]:
    """Return a rule on a product of its own: each kind of condition that ticks may change, in turn."""
    conditions: tuple[dict[str, object], ...] = (
        {"type": "price", "above": 110.0, "clear": 105.0},
        {"type": "change", "window": "5m", "above_pct": 5.0, "clear_pct": 4.0},
        {"type": "volume", "window": "1m", "baseline": "5m", "above_ratio": 10.0},
    )
    return {"name": f"elsewhere {number}", "product": f"R{number:05}-USD", "condition": conditions[number % 3]}


def steady(broker: EmbeddedKafka, load: Load) -> Cost:
    """Let a worker take a load as it happens."""
    with Stand.on(broker, PARTITIONS) as stand:
        stand.tenants(load.names)
        stand.subscribe(load.subscriptions())
        with stand.workers(1) as running:
            return stand.cost_of(running, lambda: stand.write(_paced(load)))


def _paced(load: Load) -> Iterator[tuple[str, bytes, bytes]]:
    began, each = time.time(), 1 / load.rate / PRODUCTS
    for number, record in enumerate(load.ticks(int(began * SECOND))):
        while (early := began + number * each - time.time()) > 0:
            time.sleep(early)
        yield record


Case = Callable[[EmbeddedKafka], Cost]


def cases(records: int, live_seconds: float) -> dict[str, Case]:
    """Return what is measured, by name: the first of each pair is what the second is compared with."""
    one, many = Load(records, RATE), Load(records, RATE, MANY)
    live = int(RATE * PRODUCTS * live_seconds)
    return {
        ONE: lambda broker: backlog(broker, one),
        TENANTS: lambda broker: backlog(broker, many),
        ONE_LIVE: lambda broker: steady(broker, replace(one, records=live)),
        TENANTS_LIVE: lambda broker: steady(broker, replace(many, records=live)),
        ONE_WORKER: lambda broker: backlog(broker, one, partitions=SHARED),
        TWO_WORKERS: lambda broker: backlog(broker, one, partitions=SHARED, workers=2),
        BUSY: lambda broker: backlog(broker, Load(records, BUSY_RATE)),
        RULED: lambda broker: backlog(broker, one, rules=RULES),
    }


def capacity(one: float, busy: float) -> tuple[float, float]:
    """Return what a record and what an active second of a product cost (CPU micros), from the costs a record.

    A record of a product with RATE ticks a second carries 1 / RATE of a second's cost.
    """
    second = (one - busy) / (1 / RATE - 1 / BUSY_RATE)
    return busy - second / BUSY_RATE, second
