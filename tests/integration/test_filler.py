"""The filler against a real HTTP server that speaks Coinbase's REST API, with the real ledger and REST client."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from producers.completeness import TradeLedger
from producers.filler import Filler, Pace
from producers.outbox import Outbox
from producers.rest_client import RestClient, RestLimits
from producers.trade_book import SUSPECT_FOR
from producers.venues.coinbase import CoinbaseRest
from schemas.records import Feed, Trade
from tests.support.rest_exchange import History, RestExchange
from tests.support.trading import make_trade

BTC, ETH = "BTC-USD", "ETH-USD"
STARTED = 1_600_000_000_000_000
PACE = Pace(patience=0.3, first_pause=0.05, longest_pause=0.1, idle=0.01)
LIMITS = RestLimits(first_pause=0.01, longest_pause=0.02)
HURRIED = replace(LIMITS, read=1.0, within=1.5)
"""For an exchange that sometimes never answers."""
BOUND = 60.0


class Topic:
    """Takes trades as a publisher does, and acknowledges them at once, unless the broker is said to be away."""

    def __init__(self) -> None:
        self.trades: list[Trade] = []
        self.ledger: TradeLedger | None = None
        self.has_room = True
        self.asked_for_room = 0
        self.loses = False

    @property
    def is_accepting(self) -> bool:
        self.asked_for_room += 1
        return self.has_room

    async def publish(self, record: Trade) -> None:
        assert self.ledger is not None
        if self.loses:
            self.ledger.lost(record.product, record.trade_id)
        else:
            self.trades.append(record)
            self.ledger.acknowledged(record.product, record.trade_id)

    def ids(self, product: str = BTC) -> list[int]:
        return [trade.trade_id for trade in self.trades if trade.product == product]


class World:
    """A ledger with gaps, and what fills them."""

    def __init__(self, exchange: RestExchange, pace: Pace = PACE, limits: RestLimits = LIMITS) -> None:
        self.now = STARTED
        self.exchange = exchange
        self.pace = pace
        self.limits = limits
        self.topic = Topic()
        self.outbox = Outbox()
        self.ledger = self.topic.ledger = TradeLedger("x", lambda: self.now, self.outbox)

    def gap(self, first: int, last: int, product: str = BTC) -> None:
        """Trades up to `first` and from `last` on arrive; those between do not."""
        for trade_id in (first - 1, last + 1):
            self.ledger.trade(make_trade(product, trade_id, self.now, exchange_time=STARTED + trade_id))
            self.ledger.acknowledged(product, trade_id)
        self.settle()

    def settle(self) -> dict[str, Feed]:
        self.now += SUSPECT_FOR
        self.ledger.settle(self.now)
        for key, record in self.outbox.unsent():
            self.outbox.written(key, record)
        return {key: feed for key in self.outbox.keys() if (feed := self.outbox.newest(key)) is not None}  # noqa: SIM118 - an Outbox is no dict

    @asynccontextmanager
    async def filling(self) -> AsyncIterator[None]:
        async with RestClient("x", self.exchange.url, 1000.0, self.limits) as client:
            filler = Filler(CoinbaseRest("x"), client, self.ledger, self.topic, self.pace)
            task = asyncio.create_task(filler.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    def until_closed(self) -> None:
        async def wait() -> None:
            async with asyncio.timeout(BOUND), self.filling():
                while self.ledger.open_gaps():  # noqa: ASYNC110 - the filler closes them
                    await asyncio.sleep(0.01)

        asyncio.run(wait())


@pytest.fixture
def exchange() -> Iterator[RestExchange]:
    histories = {product: History(newest=50_000, started=STARTED) for product in (BTC, ETH)}
    with RestExchange(histories) as served:
        yield served


def pages(exchange: RestExchange, product: str = BTC) -> Sequence[int]:
    """The first id of each page that was asked for."""
    return [int(asked.query["after"]) - 1000 for asked in exchange.asked if product in asked.path]


def test_a_gap_is_filled_page_by_page_with_what_it_misses(exchange: RestExchange) -> None:
    world = World(exchange)
    world.gap(1_001, 3_500)

    world.until_closed()

    gap = world.settle()[f"gap:x:{BTC}:t1001"].gap
    assert world.topic.ids() == list(range(1_001, 3_501))
    assert pages(exchange) == [1_001, 2_001, 3_001]
    assert gap is not None
    assert (gap.missing, gap.closed) == (0, world.now)


def test_one_page_fills_every_gap_that_it_covers(exchange: RestExchange) -> None:
    world = World(exchange)
    for first in range(1_000, 1_200, 4):
        world.gap(first, first + 1)

    world.until_closed()

    assert len(world.topic.ids()) == len(set(world.topic.ids())) == 100
    assert len(exchange.asked) <= 4


def test_whatever_the_exchange_does_the_gap_is_filled_once(exchange: RestExchange) -> None:
    exchange.misbehave(["429:0", "500", None, "truncated", "garbage", "503", "cut", None, "reset", "silent", "404"])
    world = World(exchange, limits=HURRIED)
    world.gap(1_001, 6_000)

    world.until_closed()

    assert world.topic.ids() == list(range(1_001, 6_001))


def test_trades_that_reach_rest_late_are_waited_for(exchange: RestExchange) -> None:
    exchange.histories[BTC].newest = 1_050
    world = World(exchange, Pace(patience=30.0, first_pause=0.02, longest_pause=0.05, idle=0.01))
    world.gap(1_001, 1_200)

    async def scenario() -> None:
        async with asyncio.timeout(BOUND), world.filling():
            while len(exchange.asked) < 8:  # noqa: ASYNC110 - the filler asks
                await asyncio.sleep(0.01)
            before.extend(world.topic.ids())
            exchange.histories[BTC].newest = 1_300
            while world.ledger.open_gaps():  # noqa: ASYNC110 - the filler closes it
                await asyncio.sleep(0.01)

    before: list[int] = []
    asyncio.run(scenario())

    assert before == list(range(1_001, 1_051))
    assert world.topic.ids() == list(range(1_001, 1_201))


def test_what_rest_never_has_is_given_up_after_the_patience(exchange: RestExchange) -> None:
    exchange.histories[BTC].absent = {1_003, 1_004, 1_090}
    world = World(exchange)
    world.gap(1_001, 1_100)

    world.until_closed()

    gap = world.settle()[f"gap:x:{BTC}:t1001"].gap
    assert gap is not None
    assert (gap.missing, gap.from_id, gap.to_id) == (3, 1_003, 1_090)
    assert gap.closed is not None
    assert exchange.asked[-1].at - exchange.asked[0].at >= PACE.patience / 2


def test_a_long_gap_of_one_product_holds_up_no_other(exchange: RestExchange) -> None:
    world = World(exchange, Pace(idle=0.01, tasks=1))
    for long, short in ((BTC, ETH), (ETH, BTC)):
        world.gap(1_001, 20_000, long)
        world.gap(30_001, 30_100, short)
        before = len(exchange.asked)

        world.until_closed()

        asked = [short in asked.path for asked in exchange.asked[before:]]
        assert asked.index(True) <= 1
        world.ledger.unwanted([BTC, ETH])
        world.ledger.wanted([BTC, ETH])
    assert len(world.topic.ids()) == len(world.topic.ids(ETH)) == 19_100


def test_the_newest_and_the_oldest_gap_take_turns(exchange: RestExchange) -> None:
    world = World(exchange, Pace(idle=0.01, tasks=1))
    for first in (1_001, 11_001, 21_001):
        world.gap(first, first + 2_999)

    world.until_closed()

    assert pages(exchange)[:4] == [21_001, 1_001, 22_001, 2_001]


def test_a_product_given_up_is_asked_for_no_longer(exchange: RestExchange) -> None:
    exchange.delay = 0.02
    world = World(exchange)
    world.gap(1_001, 40_000)

    async def scenario() -> None:
        async with asyncio.timeout(BOUND), world.filling():
            while len(exchange.asked) < 3:  # noqa: ASYNC110 - the filler asks
                await asyncio.sleep(0.01)
            world.ledger.give_up([BTC])
            asked.append(len(pages(exchange)))
            published.append(len(world.topic.ids()))
            world.gap(1_001, 3_000, ETH)
            while world.ledger.open_gaps():  # noqa: ASYNC110 - the filler closes the other product's
                await asyncio.sleep(0.01)

    asked: list[int] = []
    published: list[int] = []
    asyncio.run(scenario())

    assert world.topic.ids(ETH) == list(range(1_001, 3_001))
    assert len(pages(exchange)) <= asked[0] + 1
    assert len(world.topic.ids()) == published[0]


def test_nothing_is_asked_for_while_nothing_can_be_published(exchange: RestExchange) -> None:
    world = World(exchange)
    world.topic.has_room = False
    world.gap(1_001, 1_100)

    async def scenario() -> None:
        async with asyncio.timeout(BOUND), world.filling():
            while world.topic.asked_for_room < 10:  # noqa: ASYNC110 - the filler asks
                await asyncio.sleep(0.01)
            asked.append(len(exchange.asked))
            world.topic.has_room = True
            while world.ledger.open_gaps():  # noqa: ASYNC110 - the filler closes it
                await asyncio.sleep(0.01)

    asked: list[int] = []
    asyncio.run(scenario())

    assert asked == [0]


def test_trades_that_the_broker_loses_are_not_called_unrecoverable(exchange: RestExchange) -> None:
    world = World(exchange, Pace(patience=0.0, first_pause=0.01, longest_pause=0.02, idle=0.01))
    world.topic.loses = True
    world.gap(1_001, 1_100)

    async def scenario() -> None:
        async with asyncio.timeout(BOUND), world.filling():
            while len(exchange.asked) < 6:  # noqa: ASYNC110 - the filler asks
                await asyncio.sleep(0.01)
            world.topic.loses = False
            while world.ledger.open_gaps():  # noqa: ASYNC110 - the filler closes it
                await asyncio.sleep(0.01)

    asyncio.run(scenario())

    assert world.topic.ids() == list(range(1_001, 1_101))


def test_a_killed_filler_is_continued_from_the_ledgers_records(exchange: RestExchange) -> None:
    exchange.delay = 0.02
    killed = World(exchange)
    killed.gap(1_001, 9_000)

    async def scenario() -> None:
        async with asyncio.timeout(BOUND), killed.filling():
            while len(killed.topic.trades) < 2_500:  # noqa: ASYNC110 - the filler publishes
                await asyncio.sleep(0.001)

    asyncio.run(scenario())
    records = killed.settle()
    before = len(exchange.asked)
    world = World(exchange)
    world.ledger.take_over(records, [BTC])
    world.until_closed()

    both = killed.topic.ids() + world.topic.ids()
    assert set(both) == set(range(1_001, 9_001))
    assert len(both) <= 8_000 + 1_000
    assert pages(exchange)[before] >= 3_001
