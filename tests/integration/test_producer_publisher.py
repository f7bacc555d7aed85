"""The publisher on a real broker: fan-out, accounts that add up, and one tenant's trouble kept to itself."""

import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, but not in its __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from producers.ledger import Scope
from producers.publisher import Limits, Publisher
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Bar, bar_id
from tests.support.intervals import Intervals
from tests.support.producing import make_tick, producer_settings, read_ticks, read_topic, until
from tests.support.sinking import stopped
from tests.support.trading import make_trade

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
MakeTopics = Callable[..., list[str]]


class Bench:
    """A publisher and the intervals it opened, and ticks with growing sequence numbers."""

    def __init__(self, broker: EmbeddedKafka, limits: Limits | None = None) -> None:
        self.intervals = Intervals()
        self.publisher = Publisher(producer_settings(broker), self.intervals, limits or Limits(probe_every=0.2))
        self.sequence = 0
        self.newest = 0
        self.published: list[str] = []

    async def publish(self, count: int = 1, product: str | None = None) -> None:
        for _ in range(count):
            self.sequence += 1
            name = product or PRODUCTS[self.sequence % len(PRODUCTS)]
            self.published.append(f"coinbase:{name}:{self.sequence}")
            self.newest = wall_clock()
            await self.publisher.publish(make_tick(name, self.sequence, self.newest))

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        def served() -> bool:
            self.publisher.poll()
            return condition()

        await until(served, seconds)

    async def newest_delivered(self) -> None:
        """Wait until some tenant has the newest tick."""
        await self.until(lambda: any(d.received_time >= self.newest for d in self.publisher.delivered.values()))

    async def settled(self) -> None:
        await self.until(lambda: self.publisher.account.pending == 0)


def test_memory_stays_where_it_is_while_records_flow(broker: EmbeddedKafka, two_tenants: tuple[str, str]) -> None:
    async def scenario() -> int:
        bench = Bench(broker)
        bench.publisher.route({"ticks": dict.fromkeys(PRODUCTS, two_tenants)})
        bench.published = deque(maxlen=10)  # type: ignore[assignment] # the test itself must not grow
        await bench.publish(10_000)
        await bench.settled()
        held = _blocks()
        await bench.publish(30_000)
        await bench.settled()
        return _blocks() - held

    assert asyncio.run(scenario()) < 2_000


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


@pytest.fixture
def two_tenants(tenant: str, make_topics: MakeTopics) -> tuple[str, str]:
    names = (f"{tenant}-a", f"{tenant}-b")
    for name in names:
        make_topics(name, "ticks")
    return names


def test_each_subscribed_tenant_gets_each_tick_once_and_encoded_alike(
    broker: EmbeddedKafka, two_tenants: tuple[str, str]
) -> None:
    first, second = two_tenants

    async def scenario() -> Bench:
        bench = Bench(broker)
        bench.publisher.route({"ticks": {"BTC-USD": [first, second], "ETH-USD": [second]}})
        await bench.publish(30)
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    wanted = {name: [i for i in bench.published if name in i] for name in PRODUCTS}
    assert sorted(tick.event_id for tick in read_ticks(broker, first)) == sorted(wanted["BTC-USD"])
    assert sorted(tick.event_id for tick in read_ticks(broker, second)) == sorted(wanted["BTC-USD"] + wanted["ETH-USD"])
    ones = {message.value() for message in read_topic(broker, tenant_topic(first, "ticks"))}
    others = {message.value() for message in read_topic(broker, tenant_topic(second, "ticks"))}
    assert ones < others
    account = bench.publisher.account
    assert (account.produced, account.acknowledged, account.pending, account.failed) == (30, 30, 0, {})


def test_key_and_headers_follow_the_contract(broker: EmbeddedKafka, tenant: str, make_topics: MakeTopics) -> None:
    make_topics(tenant, "ticks")

    async def scenario() -> None:
        bench = Bench(broker)
        bench.publisher.route({"ticks": {"BTC-USD": [tenant]}})
        await bench.publisher.publish(make_tick("BTC-USD", 7, 1_618_677_818_000_000))
        await bench.settled()

    asyncio.run(scenario())

    [message] = read_topic(broker, tenant_topic(tenant, "ticks"))
    assert message.key() == b"BTC-USD"
    assert dict(message.headers() or []) == {
        "ce_specversion": b"1.0",
        "ce_id": b"coinbase:BTC-USD:7",
        "ce_type": b"pulsestream.tick.v1",
        "ce_source": b"/coinbase",
        "ce_time": b"2021-04-17T16:43:37.995000Z",
        "content-type": b"application/avro",
    }


def test_trades_and_bars_go_to_their_own_topics_and_a_backfilled_record_says_so(
    broker: EmbeddedKafka, tenant: str, make_topics: MakeTopics
) -> None:
    make_topics(tenant, "trades", "bars")
    bar = make_bar("BTC-USD", 1_618_677_780_000_000)

    async def scenario() -> None:
        bench = Bench(broker)
        bench.publisher.route({dataset: {"BTC-USD": [tenant]} for dataset in ("trades", "bars")})
        await bench.publisher.publish(make_trade("BTC-USD", 7, 1_618_677_818_000_000, "coinbase"))
        await bench.publisher.publish(make_tick("BTC-USD", 7, 1_618_677_818_000_000))
        await bench.publisher.publish(bar, backfill=True)
        await bench.settled()
        assert bench.publisher.account.produced == 2

    asyncio.run(scenario())

    [trade_message] = read_topic(broker, tenant_topic(tenant, "trades"))
    headers = dict(trade_message.headers() or [])
    assert trade_message.key() == b"BTC-USD"
    assert (headers["ce_type"], headers["ce_id"]) == (b"pulsestream.trade.v1", b"coinbase:BTC-USD:t7")
    assert "ps-backfill" not in headers
    [bar_message] = read_topic(broker, tenant_topic(tenant, "bars"))
    headers = dict(bar_message.headers() or [])
    assert codec(Bar).decode(bar_message.value()) == bar
    assert (headers["ce_type"], headers["ps-backfill"]) == (b"pulsestream.bar.v1", b"1")
    assert headers["ce_time"] == b"2021-04-17T16:43:00.000000Z"


def make_bar(product: str, start: int) -> Bar:
    return Bar(
        event_id=bar_id("coinbase", product, "1m", start, "exchange"),
        exchange="coinbase",
        product=product,
        period="1m",
        start=start,
        open=1.5,
        high=2.5,
        low=0.5,
        close=2.0,
        volume=3.25,
        complete=True,
        revision=1,
        origin="exchange",
        received_time=start + 60_000_000,
    )


def test_the_time_from_receipt_to_acknowledgement_is_measured_once_a_record_and_never_below_zero(
    broker: EmbeddedKafka, two_tenants: tuple[str, str]
) -> None:
    def measured(name: str) -> float:
        return REGISTRY.get_sample_value(f"pulsestream_socket_to_ack_seconds_{name}", {"exchange": "coinbase"}) or 0.0

    count, total = measured("count"), measured("sum")

    async def scenario() -> None:
        bench = Bench(broker)
        bench.publisher.route({"ticks": {"BTC-USD": two_tenants}})
        await bench.publisher.publish(make_tick("BTC-USD", 1, wall_clock() + 3_600_000_000))
        await bench.settled()
        assert (measured("count"), measured("sum")) == (count + 1, total)
        await bench.publisher.publish(make_tick("BTC-USD", 2, wall_clock() - 5_000_000))
        await bench.settled()

    asyncio.run(scenario())

    assert measured("count") == count + 2
    assert 5.0 < measured("sum") - total < 60.0


def test_a_product_that_nobody_wants_is_not_sent(broker: EmbeddedKafka) -> None:
    async def scenario() -> int:
        bench = Bench(broker)
        await bench.publish(3)
        return bench.publisher.account.produced

    assert asyncio.run(scenario()) == 0


def test_the_newest_delivery_of_each_product_and_the_bound_of_completeness_are_known(
    broker: EmbeddedKafka, tenant: str, make_topics: MakeTopics
) -> None:
    make_topics(tenant, "ticks")

    async def scenario() -> None:
        bench = Bench(broker)
        bench.publisher.route({"ticks": {"BTC-USD": [tenant]}})
        assert bench.publisher.complete_until() is None
        first = make_tick("BTC-USD", 1, wall_clock())
        second = make_tick("BTC-USD", 2, first.received_time + 10)
        await bench.publisher.publish(first)
        await bench.settled()
        with stopped(broker):  # so that no report comes in between
            await bench.publisher.publish(second)
            assert bench.publisher.complete_until() == first.received_time
        await bench.settled()
        assert bench.publisher.complete_until() == second.received_time
        delivered = bench.publisher.delivered["BTC-USD"]
        assert (delivered.exchange_time, delivered.received_time) == (second.exchange_time, second.received_time)

    asyncio.run(scenario())


def test_a_topic_that_appears_in_time_gets_every_tick_in_order(
    broker: EmbeddedKafka, tenant: str, make_topics: MakeTopics
) -> None:
    async def scenario() -> Bench:
        bench = Bench(broker, Limits(topic_patience=60.0))
        bench.publisher.route({"ticks": {"BTC-USD": [tenant]}})
        await bench.publish(50, "BTC-USD")
        make_topics(tenant, "ticks")
        await bench.publish(50, "BTC-USD")
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    assert [tick.sequence for tick in read_ticks(broker, tenant)] == list(range(1, 101))
    assert bench.intervals.every == []
    assert bench.publisher.parked() == {}


def test_a_tenant_without_topic_is_parked_alone_and_released_when_it_appears(
    broker: EmbeddedKafka, two_tenants: tuple[str, str], make_topics: MakeTopics
) -> None:
    healthy, _ = two_tenants
    missing = f"{healthy}-x"

    async def scenario() -> Bench:
        bench = Bench(broker, Limits(topic_patience=0.5, probe_every=0.2))
        bench.publisher.route({"ticks": {"BTC-USD": [healthy, missing]}})
        await bench.publish(20, "BTC-USD")
        await bench.until(lambda: bench.publisher.parked() != {})
        assert bench.publisher.parked() == {f"{missing} ticks": "topic_missing"}
        assert bench.intervals.newest(Scope(missing)).closed is None
        make_topics(missing, "ticks")
        while bench.publisher.parked():
            await bench.publish(1, "BTC-USD")
            await bench.until(lambda: bench.publisher.account.pending == 0)
            await asyncio.sleep(0.01)  # the pace of this feed
        await bench.publish(5, "BTC-USD")
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    assert [tick.event_id for tick in read_ticks(broker, healthy)] == bench.published
    received = read_ticks(broker, missing)
    gap = bench.intervals.newest(Scope(missing))
    assert gap.closed is not None
    lost = set(bench.published) - {tick.event_id for tick in received}
    everything = {tick.event_id: tick.received_time for tick in read_ticks(broker, healthy)}
    assert lost
    assert all(gap.opened < everything[name] <= gap.closed for name in lost)
    account = bench.publisher.account
    assert account.produced == account.acknowledged + account.failed.total() == 2 * len(bench.published)
    assert account.failed.total() == len(lost)
    assert [tick.event_id for tick in received][-5:] == bench.published[-5:]


def test_a_topic_deleted_under_load_parks_its_tenant_and_a_new_one_releases_it(
    broker: EmbeddedKafka, two_tenants: tuple[str, str], make_topics: MakeTopics
) -> None:
    healthy, broken = two_tenants

    async def scenario() -> Bench:
        bench = Bench(broker, Limits(topic_patience=0.5, probe_every=0.2))
        bench.publisher.route({"ticks": {"BTC-USD": [healthy, broken]}})
        await bench.publish(20, "BTC-USD")
        Admin(broker.settings()).delete([tenant_topic(broken, "ticks")])
        await _publish_until(bench, lambda: bool(bench.publisher.parked()))
        assert bench.publisher.parked() == {f"{broken} ticks": "topic_missing"}
        make_topics(broken, "ticks")
        await _publish_until(bench, lambda: not bench.publisher.parked())
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    assert [tick.event_id for tick in read_ticks(broker, healthy)] == bench.published
    assert bench.intervals.newest(Scope(broken)).closed is not None
    account = bench.publisher.account
    assert account.produced == account.acknowledged + account.failed.total() == 2 * len(bench.published)


async def _publish_until(bench: Bench, condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await bench.publish(1, "BTC-USD")
        await asyncio.sleep(0.005)  # the pace of this feed


@contextmanager
def denied(broker: EmbeddedKafka, topic: str) -> Iterator[None]:
    """Forbid the producer's user to write a topic."""
    binding = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:ps-producer",
        "*",
        AclOperation.WRITE,
        AclPermissionType.DENY,
    )
    client = Admin(broker.settings()).client
    client.create_acls([binding])[binding].result()
    try:
        yield
    finally:
        _forget(client, binding)


def _forget(client: AdminClient, binding: AclBinding) -> None:
    filters = [
        AclBindingFilter(
            binding.restype,
            binding.name,
            binding.resource_pattern_type,
            binding.principal,
            binding.host,
            binding.operation,
            binding.permission_type,
        )
    ]
    for future in client.delete_acls(filters).values():
        future.result()


def test_a_refused_topic_parks_its_tenant_alone(broker: EmbeddedKafka, two_tenants: tuple[str, str]) -> None:
    healthy, refused = two_tenants

    async def scenario() -> Bench:
        bench = Bench(broker)
        bench.publisher.route({"ticks": {"BTC-USD": [healthy, refused]}})
        with denied(broker, tenant_topic(refused, "ticks")):
            await _publish_until(bench, lambda: bool(bench.publisher.parked()))
            assert bench.publisher.parked() == {f"{refused} ticks": "topic_refused"}
        await _publish_until(bench, lambda: not bench.publisher.parked())
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    assert [tick.event_id for tick in read_ticks(broker, healthy)] == bench.published
    assert bench.intervals.newest(Scope(refused)).closed is not None


def test_a_stuck_topic_does_not_fill_the_buffer_of_the_others(
    broker: EmbeddedKafka, two_tenants: tuple[str, str], make_topics: MakeTopics
) -> None:
    healthy, _ = two_tenants
    stuck = f"{healthy}-x"

    async def scenario() -> Bench:
        bench = Bench(broker, Limits(records=400, block=0.0, topic_patience=120.0))
        bench.publisher.route({"ticks": {"BTC-USD": [healthy, stuck]}})
        await bench.publish(120, "BTC-USD")
        while not bench.publisher.parked():
            await bench.publish(1, "BTC-USD")
            await bench.newest_delivered()
            bench.publisher.tend()
        assert bench.publisher.parked() == {f"{stuck} ticks": "buffer_full"}
        for _ in range(10):
            await bench.publish(50, "BTC-USD")
            await bench.newest_delivered()
        make_topics(stuck, "ticks")
        await bench.settled()
        bench.publisher.tend()
        bench.publisher.tend()
        assert bench.publisher.parked() == {}
        await bench.publish(5, "BTC-USD")
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    assert [tick.event_id for tick in read_ticks(broker, healthy)] == bench.published
    received = [tick.event_id for tick in read_ticks(broker, stuck)]
    assert set(bench.published) - set(received) == set(bench.published[-505:-5])
    assert bench.publisher.account.failed == {"buffer_full": 500}
    gap = bench.intervals.newest(Scope(stuck))
    assert gap.closed is not None


def test_an_unsubscribed_tenant_ends_its_own_interval(broker: EmbeddedKafka, two_tenants: tuple[str, str]) -> None:
    healthy, _ = two_tenants
    missing = f"{healthy}-x"

    async def scenario() -> Bench:
        bench = Bench(broker, Limits(topic_patience=0.2))
        bench.publisher.route({"ticks": {"BTC-USD": [healthy, missing]}})
        await bench.publish(1, "BTC-USD")
        await bench.until(lambda: bench.publisher.parked() != {})
        bench.publisher.route({"ticks": {"BTC-USD": [healthy]}})
        return bench

    bench = asyncio.run(scenario())

    assert bench.publisher.parked() == {}
    assert bench.intervals.newest(Scope(missing)).closed is not None


def test_an_inherited_interval_ends_with_the_next_delivery(broker: EmbeddedKafka, two_tenants: tuple[str, str]) -> None:
    tenant, gone = two_tenants[0], "nobody-here"

    async def scenario() -> Bench:
        bench = Bench(broker)
        bench.intervals.open(Scope(tenant), 1_000, "topic_missing")
        bench.intervals.open(Scope(tenant, "BTC-USD"), 1_000, "timed_out")
        bench.intervals.open(Scope(gone), 1_000, "topic_missing")
        bench.publisher.route({"ticks": {"BTC-USD": [tenant]}})
        bench.publisher.inherit(bench.intervals.open_scopes())
        assert bench.intervals.newest(Scope(gone)).closed is not None
        assert bench.intervals.newest(Scope(tenant)).closed is None
        await bench.publish(1, "BTC-USD")
        await bench.settled()
        return bench

    bench = asyncio.run(scenario())

    assert bench.intervals.open_scopes() == []
