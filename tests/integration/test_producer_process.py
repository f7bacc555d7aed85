"""`pulsestream producer` as a process, against the exchange simulator and a real broker: start, change, stop, kill."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.sharding import feed_shard
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Feed, ProductList, Tick
from tests.support.e2e import Service, eventually, read_topic
from tests.support.producing import read_feeds, read_ticks, sent_ticks, start_exchange, start_producer, subscribe

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
SHARDS = 8
MARKET = ("--synthetic", "7", "--rate", "20")


def exchange_name() -> str:
    """A new name under which two of the products share a shard and the third has one of its own."""
    while True:
        name = f"sim-{secrets.token_hex(4)}"
        btc, eth, sol = (feed_shard(name, product, SHARDS) for product in PRODUCTS)
        if btc == eth != sol:
            return name


class World:
    """A tenant, an exchange of its own name, and the processes of one test."""

    def __init__(self, broker: EmbeddedKafka, tenant: str, folder: Path) -> None:
        self.broker = broker
        self.tenant = tenant
        self.folder = folder
        self.exchange = exchange_name()
        self.services: list[Service] = []
        self.market: Service
        self.url = ""

    def open_market(self) -> None:
        port = int(self.url.rpartition(":")[2]) if self.url else None
        self.market, self.url = start_exchange(self.folder, *MARKET, port=port)
        self.services.append(self.market)

    def produce(self, **settings: object) -> Service:
        service = start_producer(self.broker, self.folder, self.url, self.exchange, **settings)
        self.services.append(service)
        return service

    def subscribe(self, *products: str, end: bool = False) -> None:
        subscribe(self.broker, self.tenant, self.exchange, products, end=end)

    def ticks(self) -> list[Tick]:
        return read_ticks(self.broker, self.tenant)

    def gaps(self) -> list[Feed]:
        """The intervals without data."""
        feeds = read_feeds(self.broker, self.exchange).values()
        gaps = (feed for feed in feeds if feed.gap is not None and feed.gap.kind == "time")
        return sorted(gaps, key=lambda feed: feed.at)

    def states(self) -> set[str]:
        """The states of all connections: one a shard that has products."""
        feeds = read_feeds(self.broker, self.exchange)
        return {feed.state for key, feed in feeds.items() if key.startswith("conn:")}

    def shards(self, *products: str) -> set[int]:
        return {feed_shard(self.exchange, product, SHARDS) for product in products}

    def wait_for(self, more: int, service: Service) -> None:
        """Wait until `more` ticks have been acknowledged."""
        wanted = service.metric("pulsestream_published_total") + more

        def published() -> None:
            service.assert_alive()
            assert service.metric("pulsestream_published_total") >= wanted

        eventually(published)


@pytest.fixture
def world(broker: EmbeddedKafka, tenant: str, make_topics: Callable[..., list[str]], tmp_path: Path) -> Iterator[World]:
    make_topics(tenant, "ticks")
    made = World(broker, tenant, tmp_path)
    made.open_market()
    yield made
    for service in made.services:
        service.stop()


def _assert_told(world: World) -> None:
    """The exchange's own list of products is on the topic."""
    told = read_topic(world.broker.settings(), topics.PRODUCTS)
    lists = [codec(ProductList).decode(record.value) for record in told if record.key == world.exchange.encode()]
    assert [set(PRODUCTS) <= set(one.products) for one in lists] == [True]


def assert_only_recorded_ticks_are_missing(world: World) -> None:
    """Every tick sent is on the topic, but for those that came within an interval of the ledger. All is stopped."""
    stored = {tick.event_id: tick for tick in world.ticks()}
    gaps = [feed.gap for feed in world.gaps() if feed.gap is not None]
    for session in sent_ticks(world.folder, world.exchange):
        complete = 0
        for tick in session:
            if tick.event_id in stored:
                complete = stored[tick.event_id].received_time
            else:
                earliest = max(tick.received_time, complete)
                covered = [gap for gap in gaps if gap.opened <= earliest <= (gap.closed or wall_clock())]
                assert covered, f"{tick.event_id} is missing outside of {gaps}"


def test_every_frame_of_the_exchange_is_on_the_topic_until_a_clean_stop(world: World) -> None:
    world.subscribe(*PRODUCTS)
    producer = world.produce()
    producer.wait_ready()
    world.wait_for(100, producer)
    eventually(lambda: _assert_told(world))

    assert producer.stop() == 0

    stored = [tick.event_id for tick in world.ticks()]
    read = []
    for sent in sent_ticks(world.folder, world.exchange):
        last = max(index for index, tick in enumerate(sent) if tick.event_id in set(stored))
        read += [tick.event_id for tick in sent[: last + 1]]
    assert sorted(stored) == sorted(read)
    assert world.states() == {"disconnected"}
    _assert_open(world, "stopped")


def test_a_subscription_starts_and_ends_a_product_within_five_seconds_on_the_same_connection(world: World) -> None:
    world.subscribe("BTC-USD")
    producer = world.produce()
    producer.wait_ready()

    world.subscribe("ETH-USD")
    eventually(lambda: _has(world, "ETH-USD"))
    world.subscribe("BTC-USD", end=True)

    def ended() -> None:
        newest = {
            product: max(t.sequence or 0 for t in world.ticks() if t.product == product) for product in PRODUCTS[:2]
        }
        later = [
            tick for tick in world.ticks() if tick.product == "BTC-USD" and (tick.sequence or 0) > newest["BTC-USD"]
        ]
        assert later == []
        assert any((t.sequence or 0) > newest["ETH-USD"] + 5 for t in world.ticks())

    eventually(ended)
    assert producer.metric("pulsestream_feed_connects_total", exchange=world.exchange) == 1


def _has(world: World, product: str) -> None:
    assert any(tick.product == product for tick in world.ticks())


def test_a_killed_producer_leaves_an_interval_that_its_successor_writes_down(world: World) -> None:
    world.subscribe(*PRODUCTS)
    killed = world.produce()
    killed.wait_ready()
    world.wait_for(150, killed)
    eventually(lambda: _assert_states(world, "connected"))
    killed.kill()
    before = world.ticks()

    successor = world.produce()
    successor.wait_ready()
    world.wait_for(50, successor)
    assert successor.stop() == 0

    gaps = [feed.gap for feed in world.gaps() if feed.gap is not None and feed.gap.cause == "killed"]
    newest = max(tick.received_time for tick in before)
    next_tick = min(tick.received_time for tick in world.ticks() if tick.received_time > newest)
    assert len(gaps) == len(world.shards(*PRODUCTS))
    for gap in gaps:
        assert gap.closed is not None
        assert newest - 10_000_000 < gap.opened <= newest
        assert gap.closed >= next_tick
    assert_only_recorded_ticks_are_missing(world)
    assert len({tick.event_id for tick in world.ticks()}) == len(world.ticks())


@pytest.mark.heavy
def test_an_exchange_that_goes_away_leaves_an_interval_that_its_return_closes(world: World) -> None:
    world.subscribe(*PRODUCTS)
    producer = world.produce()
    producer.wait_ready()
    world.wait_for(50, producer)

    world.market.kill()
    eventually(lambda: _assert_states(world, "disconnected"))
    eventually(lambda: _assert_open(world, "disconnected"))
    world.open_market()
    eventually(lambda: _assert_states(world, "connected"))
    world.wait_for(50, producer)

    eventually(lambda: _assert_closed(world, "disconnected"))
    assert producer.stop() == 0
    assert_only_recorded_ticks_are_missing(world)


def _assert_states(world: World, state: str) -> None:
    assert world.states() == {state}


def _assert_open(world: World, cause: str) -> None:
    assert [(feed.gap.cause, feed.gap.closed) for feed in world.gaps() if feed.gap] == [(cause, None)] * 2


def _assert_closed(world: World, cause: str) -> None:
    gaps = [feed.gap for feed in world.gaps() if feed.gap]
    assert [gap.cause for gap in gaps] == [cause] * 2
    assert all(gap.closed is not None and gap.opened < gap.closed for gap in gaps)


@pytest.mark.heavy
def test_the_interval_of_a_clean_stop_is_closed_by_the_next_start(world: World) -> None:
    world.subscribe(*PRODUCTS)
    first = world.produce()
    first.wait_ready()
    world.wait_for(20, first)
    assert first.stop() == 0

    second = world.produce()
    second.wait_ready()
    world.wait_for(20, second)

    eventually(lambda: _assert_closed(world, "stopped"))
    assert second.stop() == 0
    assert_only_recorded_ticks_are_missing(world)


def test_a_product_that_the_exchange_does_not_have_shows_in_readiness_and_harms_nobody(world: World) -> None:
    world.subscribe("BTC-USD", "NO-SUCH")
    producer = world.produce()

    def named() -> None:
        producer.assert_alive()
        answer = httpx.get(f"http://127.0.0.1:{producer.ops_port}/readyz", timeout=5, trust_env=False)
        assert "NO-SUCH is not a valid product" in answer.json()["details"].get("products", "")

    eventually(lambda: _has(world, "BTC-USD"))
    eventually(named)


def test_a_url_without_an_exchange_ends_with_one_clear_line_and_code_1(world: World) -> None:
    world.subscribe("BTC-USD")
    producer = start_producer(world.broker, world.folder, "https://127.0.0.1:1/", world.exchange)
    assert producer.running is not None

    assert producer.running.wait(60) == 1

    last = producer.log.read_text("utf-8").splitlines()[-1]
    assert "check PULSESTREAM_EXCHANGE_URL" in last
    assert "Traceback" not in producer.log.read_text("utf-8")
