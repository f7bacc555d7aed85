"""The publisher while its broker goes away and comes back: nothing is missing uncounted."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from producers.ledger import BUFFER
from producers.publisher import Limits, Publisher
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs, tenant_topic_spec
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Tick, Trade
from tests.support.e2e import eventually
from tests.support.intervals import Intervals
from tests.support.producing import (
    make_tick,
    producer_settings,
    read_feeds,
    read_ticks,
    read_topic,
    sent_ticks,
    start_exchange,
    start_producer,
    subscribe,
    until,
)
from tests.support.trading import make_trade

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


@pytest.fixture(scope="module")
def own_broker() -> Iterator[EmbeddedKafka]:
    """A broker that a test may kill. It is started from the main thread, because it ends with the thread that did."""
    home = Path(tempfile.mkdtemp(prefix="pulsestream-outage-"))
    kafka = EmbeddedKafka(home)
    try:
        kafka.start()
        Admin(kafka.settings()).create(platform_topic_specs(kafka.settings()))
        yield kafka
    finally:
        kafka.stop()
        shutil.rmtree(home)


class Told:
    """What a listener heard of trades."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.gone: list[int] = []
        self.causes: set[str] = set()

    def acknowledged(self, product: str, trade_id: int) -> None:
        assert product in PRODUCTS
        self.stored.append(trade_id)

    def lost(self, product: str, trade_id: int, cause: str) -> None:
        assert product in PRODUCTS
        self.gone.append(trade_id)
        self.causes.add(cause)


class Load:
    """A publisher under load; `published` holds what was offered, with its received_time."""

    def __init__(self, broker: EmbeddedKafka, tenant: str, limits: Limits) -> None:
        settings = broker.settings()
        Admin(settings).create([tenant_topic_spec(settings, tenant, dataset) for dataset in ("ticks", "trades")])
        self.intervals = Intervals()
        self.told = Told()
        self.publisher = Publisher(producer_settings(broker), self.intervals, limits, trades=self.told)
        self.publisher.route({name: {product: [tenant] for product in PRODUCTS} for name in ("ticks", "trades")})
        self.published: dict[str, int] = {}

    async def publish(self, count: int = 1) -> None:
        for _ in range(count):
            sequence = len(self.published) + 1
            await self.offer(make_tick(PRODUCTS[sequence % 3], sequence, wall_clock()))

    async def offer(self, tick: Tick) -> None:
        self.published[tick.event_id] = tick.received_time
        await self.publisher.publish(tick)

    async def publish_trades(self, trade_ids: Iterable[int]) -> None:
        for trade_id in trade_ids:
            await self.publisher.publish(make_trade(PRODUCTS[trade_id % 3], trade_id, wall_clock()))

    async def flow(self, until: Callable[[], bool], pause: float = 0.002) -> None:
        deadline = time.monotonic() + 60
        while not until():
            assert time.monotonic() < deadline
            await self.publish()
            await asyncio.sleep(pause)  # the pace of this feed

    async def settled(self) -> None:
        def is_settled() -> bool:
            self.publisher.poll()
            return self.publisher.account.pending == 0

        await until(is_settled)


def test_a_broker_killed_and_restarted_under_load_costs_nothing(own_broker: EmbeddedKafka, tenant: str) -> None:
    async def scenario() -> Load:
        load = Load(own_broker, tenant, Limits())
        await load.flow(lambda: load.publisher.account.acknowledged > 300)
        own_broker.kill()
        before = len(load.published)
        await load.flow(lambda: len(load.published) > before + 300)
        assert load.publisher.account.pending >= 300
        own_broker.start()
        await load.publish(100)
        await load.settled()
        return load

    load = asyncio.run(scenario())

    account = load.publisher.account
    assert account.produced == len(load.published) == account.acknowledged + account.failed.total()
    assert account.failed == {}
    assert load.intervals.every == []
    stored = [tick.event_id for tick in read_ticks(own_broker, tenant)]
    assert sorted(stored) == sorted(load.published)


def test_ticks_beyond_a_full_buffer_are_counted_and_written_down(own_broker: EmbeddedKafka, tenant: str) -> None:
    async def scenario() -> Load:
        load = Load(own_broker, tenant, Limits(records=100, block=0.5))
        await load.publish(10)
        await load.settled()
        own_broker.kill()
        await load.publish(100)
        now, begun = wall_clock(), time.monotonic()
        two = [make_tick("BTC-USD", 1_000 + age, now - age) for age in (0, 1_000_000)]
        await asyncio.gather(*(load.offer(tick) for tick in two))
        assert time.monotonic() - begun >= 0.5
        begun = time.monotonic()
        await load.publish(50)
        assert time.monotonic() - begun < 10.0, "each of them waited for room"
        assert load.publisher.account.failed == {"buffer_full": 52}
        own_broker.start()
        await load.settled()
        await load.publish(10)
        await load.settled()
        return load

    load = asyncio.run(scenario())

    account = load.publisher.account
    assert account.produced == len(load.published) == account.acknowledged + account.failed.total()
    stored = {tick.event_id for tick in read_ticks(own_broker, tenant)}
    lost = load.published.keys() - stored
    assert len(lost) == 52
    [gap] = load.intervals.every
    assert gap.cause == "buffer_full"
    assert gap.closed is not None
    assert all(gap.opened < load.published[name] < gap.closed for name in lost)


def test_trades_that_a_full_buffer_drops_are_handed_back_and_can_be_published_again(
    own_broker: EmbeddedKafka, tenant: str
) -> None:
    async def scenario() -> Load:
        load = Load(own_broker, tenant, Limits(records=100, block=0.2))
        await load.publish_trades(range(1, 11))
        await load.settled()
        own_broker.kill()
        await load.publish_trades(range(11, 141))
        assert (load.told.gone, load.told.causes) == (list(range(111, 141)), {"buffer_full"})
        assert not load.publisher.is_accepting
        own_broker.start()
        await load.settled()
        await load.publish_trades(load.told.gone)
        await load.settled()
        return load

    load = asyncio.run(scenario())

    assert sorted(load.told.stored) == list(range(1, 141))
    assert load.intervals.every == []
    assert load.publisher.is_accepting
    stored = [message.value() for message in read_topic(own_broker, tenant_topic(tenant, "trades"))]
    assert sorted(codec(Trade).decode(value).trade_id for value in stored) == list(range(1, 141))


def test_a_tick_whose_wait_is_cancelled_is_counted(own_broker: EmbeddedKafka, tenant: str) -> None:
    async def scenario() -> Load:
        load = Load(own_broker, tenant, Limits(records=100, block=60.0))
        own_broker.kill()
        await load.publish(100)
        waiting = asyncio.create_task(load.publish(1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        own_broker.start()
        await load.settled()
        return load

    load = asyncio.run(scenario())

    account = load.publisher.account
    assert (account.produced, account.acknowledged, account.failed) == (101, 100, {"buffer_full": 1})
    assert load.intervals.open_scopes() == [BUFFER]


@pytest.mark.heavy
def test_what_cannot_be_flushed_within_the_bound_is_counted_and_written_down(
    own_broker: EmbeddedKafka, tenant: str
) -> None:
    async def scenario() -> Load:
        load = Load(own_broker, tenant, Limits())
        await load.publish(10)
        await load.settled()
        own_broker.kill()
        await load.publish(30)
        await load.publish_trades([7, 8])
        begun = time.monotonic()
        assert not await load.publisher.drain(0.5)
        assert time.monotonic() - begun < 30.0
        own_broker.start()
        return load

    load = asyncio.run(scenario())

    account = load.publisher.account
    assert (account.produced, account.acknowledged, account.failed.total(), account.pending) == (42, 10, 32, 0)
    assert (sorted(load.told.gone), load.told.causes) == ([7, 8], {"stopped"})
    assert {(gap.scope.tenant, gap.cause) for gap in load.intervals.every} == {(tenant, "stopped")}
    opened = {gap.scope.product: gap.opened for gap in load.intervals.every}
    lost = list(load.published.items())[10:]
    assert all(opened[name.split(":")[1]] < received_time for name, received_time in lost)


def test_a_stuck_broker_is_named(own_broker: EmbeddedKafka, tenant: str) -> None:
    now = 100.0

    async def scenario() -> Publisher:
        load = Load(own_broker, tenant, Limits())
        publisher = Publisher(producer_settings(own_broker), load.intervals, Limits(), monotonic=lambda: now)
        publisher.route({"ticks": {"BTC-USD": [tenant]}})
        assert publisher.problem() is None
        own_broker.kill()
        await publisher.publish(make_tick("BTC-USD", 1, wall_clock()))
        return publisher

    publisher = asyncio.run(scenario())
    now = 111.0
    publisher.tend()

    assert publisher.problem() == "the broker has acknowledged nothing for 11 s while 1 records wait"
    own_broker.start()


@pytest.mark.heavy
def test_a_producer_process_outlives_its_broker(own_broker: EmbeddedKafka, tenant: str, tmp_path: Path) -> None:
    exchange = f"sim-{tenant}"
    Admin(own_broker.settings()).create([tenant_topic_spec(own_broker.settings(), tenant, "ticks")])
    subscribe(own_broker, tenant, exchange, PRODUCTS)
    market, url = start_exchange(tmp_path, "--synthetic", "3", "--rate", "20")
    producer = start_producer(own_broker, tmp_path, url, exchange)
    try:
        producer.wait_ready()
        own_broker.kill()
        eventually(lambda: _assert_at_least(producer.metric("pulsestream_publish_pending"), 100))
        own_broker.start()
        restarted = wall_clock()
        eventually(lambda: _assert_written_since(own_broker, exchange, restarted))
        assert producer.stop() == 0
    finally:
        producer.stop()
        market.stop()

    stored = sorted(read_ticks(own_broker, tenant), key=lambda tick: tick.sequence or 0)
    sent = [tick.event_id for session in sent_ticks(tmp_path, exchange) for tick in session]
    for product in PRODUCTS:
        delivered = [tick.event_id for tick in stored if tick.product == product]
        offered = [event_id for event_id in sent if event_id.split(":")[1] == product]
        assert delivered
        assert delivered == offered[: len(delivered)]
    assert {feed.gap.cause for feed in read_feeds(own_broker, exchange).values() if feed.gap} == {"stopped"}


def _assert_written_since(broker: EmbeddedKafka, exchange: str, moment: int) -> None:
    """The producer has its shards again, and says in the ledger that nothing is missing since."""
    connections = [feed for key, feed in read_feeds(broker, exchange).items() if key.startswith("conn:")]
    assert connections
    assert all((feed.complete_until or 0) > moment for feed in connections)


def _assert_at_least(value: float, wanted: float) -> None:
    assert value >= wanted
