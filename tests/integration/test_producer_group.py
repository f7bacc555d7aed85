"""Several producers of one exchange: they divide its shards, hand them over, take a dead one's, never write at once."""

import secrets
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import CompactedReader
from pulsestream.core.sharding import feed_shard
from pulsestream.core.topics import FEEDS
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Feed, Gap, Tick
from tests.support.e2e import Service, eventually
from tests.support.producing import (
    read_feeds,
    read_ticks,
    read_trades,
    sent_ticks,
    start_exchange,
    start_producer,
    subscribe,
)

SHARDS = 8
TAKEN_OVER_WITHIN = 10_000_000
"""Longest time that a shard may be without data when its producer changes or dies, in microseconds."""
LAG = 2_000_000
"""Microseconds from a tick's sending to its receipt, on a busy machine: intervals are of receipt."""
OWNED = "pulsestream_feed_shards_owned"
MANY = 500


def products_of_every_shard(exchange: str) -> list[str]:
    """One product for each shard."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < SHARDS:
        found.setdefault(feed_shard(exchange, f"P{number}-USD", SHARDS), f"P{number}-USD")
        number += 1
    return sorted(found.values())


class Group:
    """An exchange of its own name, a tenant that wants a product of every shard, and producers."""

    def __init__(self, broker: EmbeddedKafka, tenant: str, folder: Path) -> None:
        self.broker = broker
        self.tenant = tenant
        self.folder = folder
        self.exchange = f"sim-{secrets.token_hex(4)}"
        self.products = products_of_every_shard(self.exchange)
        listed = ",".join(self.products)
        self.market, self.url = start_exchange(folder, "--synthetic", "7", "--rate", "10", "--products", listed)
        self.services = [self.market]

    def produce(self, **settings: object) -> Service:
        service = start_producer(self.broker, self.folder, self.url, self.exchange, **settings)
        self.services.append(service)
        return service

    def gaps(self) -> dict[str, Gap]:
        feeds = read_feeds(self.broker, self.exchange)
        return {key: feed.gap for key, feed in feeds.items() if feed.gap is not None and feed.gap.kind == "time"}

    def first_after(self, at: int) -> dict[str, int]:
        """When the first tick of each product after a time was received."""
        found: dict[str, int] = {}
        for tick in read_ticks(self.broker, self.tenant):
            if tick.received_time > at:
                found[tick.product] = min(tick.received_time, found.get(tick.product, tick.received_time))
        return found


@pytest.fixture
def group(broker: EmbeddedKafka, tenant: str, make_topics: Callable[..., list[str]], tmp_path: Path) -> Iterator[Group]:
    make_topics(tenant, "ticks", "trades")
    made = Group(broker, tenant, tmp_path)
    yield made
    for service in made.services:
        service.stop()


def says(producer: Service, metric: str, value: float) -> Callable[[], None]:
    def check() -> None:
        producer.assert_alive()
        try:
            said = producer.metric(metric)
        except httpx.TransportError as error:
            raise AssertionError("it does not listen yet") from error
        assert said == value

    return check


def owns(producer: Service, shards: int) -> Callable[[], None]:
    return says(producer, OWNED, shards)


@pytest.mark.heavy
def test_producers_divide_the_shards_hand_them_over_and_take_those_of_the_dead(group: Group) -> None:
    subscribe(group.broker, group.tenant, group.exchange, group.products, datasets=("ticks", "trades"))
    first = group.produce()
    first.wait_ready()
    eventually(owns(first, SHARDS))
    eventually(lambda: _all_connected(group))

    second = group.produce()
    eventually(owns(second, SHARDS // 2))
    eventually(owns(first, SHARDS // 2))
    eventually(lambda: _all_closed(group, "handed_over", SHARDS // 2))
    handed_over = group.gaps()
    assert all((gap.closed or 0) - gap.opened < TAKEN_OVER_WITHIN for gap in handed_over.values()), handed_over

    _stop_for_a_while(group, stopped=first, other=second)
    first.kill()
    killed_at = wall_clock()
    eventually(lambda: _arrives(group, killed_at))
    taken_over_at = max(group.first_after(killed_at).values())
    assert taken_over_at - killed_at < TAKEN_OVER_WITHIN
    eventually(lambda: _assert_no_trade_is_missing(group, taken_over_at))
    assert second.stop() == 0

    _assert_every_record_of_the_ledger_is_newer_than_the_one_before(group)
    _assert_only_recorded_ticks_are_missing(group)


def _stop_for_a_while(group: Group, *, stopped: Service, other: Service) -> None:
    """Let a producer stand still until the other one has its shards, and go on; it writes nothing of them any more."""
    assert stopped.running is not None
    stopped.running.send_signal(signal.SIGSTOP)
    eventually(owns(other, SHARDS))
    eventually(lambda: _all_connected(group))
    stopped.running.send_signal(signal.SIGCONT)
    eventually(owns(other, SHARDS // 2))
    eventually(owns(stopped, SHARDS // 2))
    eventually(lambda: _all_connected(group))


def _all_connected(group: Group) -> None:
    feeds = read_feeds(group.broker, group.exchange)
    states = {key: feed.state for key, feed in feeds.items() if key.startswith("conn:")}
    assert states == {f"conn:{group.exchange}:{number}": "connected" for number in range(SHARDS)}


def _all_closed(group: Group, cause: str, count: int) -> None:
    gaps = [gap for gap in group.gaps().values() if gap.cause == cause]
    assert len(gaps) == count
    assert all(gap.closed is not None for gap in gaps)


def _arrives(group: Group, since: int) -> None:
    assert group.first_after(since).keys() >= set(group.products)


def _assert_every_record_of_the_ledger_is_newer_than_the_one_before(group: Group) -> None:
    """A producer that wrote about a shard of another's would repeat a version, or go back."""
    newest: dict[str, int] = {}
    reader = CompactedReader(group.broker.settings(), FEEDS, "test-feeds")
    try:
        for record in reader.read_to_end():
            feed = codec(Feed).decode(record.value) if record.value is not None else None
            if feed is not None and feed.exchange == group.exchange:
                assert feed.version > newest.get(record.key, 0), (record.key, feed)
                newest[record.key] = feed.version
    finally:
        reader.close()
    assert newest


def _assert_only_recorded_ticks_are_missing(group: Group) -> None:
    """Each tick that was sent while somebody listened is stored, but for those within an interval of its shard."""
    stored = {tick.event_id: tick for tick in read_ticks(group.broker, group.tenant)}
    sent: dict[str, Tick] = {}
    for session in sent_ticks(group.folder, group.exchange):
        for tick in session:
            sent.setdefault(tick.event_id, tick)
    gaps = group.gaps()
    missing = [tick for name, tick in sent.items() if name not in stored]
    outside = [tick for tick in missing if not any(_covers(key, gap, tick) for key, gap in gaps.items())]
    assert not outside, (len(outside), len(missing), outside[:3], gaps)
    assert {gap.cause for gap in gaps.values()} >= {"killed", "handed_over", "stopped"}


def _assert_no_trade_is_missing(group: Group, until: int) -> None:
    """Each product's ids are all there, from its first trade on this topic to one executed after `until`."""
    ids: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for trade in read_trades(group.broker, group.tenant):
        ids[trade.product][trade.trade_id] = trade.exchange_time
    assert ids.keys() == set(group.products)
    for product, found in ids.items():
        lacking = [number for number in range(min(found), max(found)) if number not in found]
        assert not lacking, f"{product}: {len(lacking)} of {len(found)} trades are missing, the first is {lacking[0]}"
        assert max(found.values()) > until


def _covers(key: str, gap: Gap, tick: Tick) -> bool:
    shard = feed_shard(tick.exchange, tick.product, SHARDS)
    mine = key.startswith(f"gap:{tick.exchange}:*{shard}:")
    return mine and gap.opened - LAG <= tick.received_time and (gap.closed is None or tick.received_time <= gap.closed)


def test_one_producer_holds_hundreds_of_products_over_its_connections(group: Group, tmp_path: Path) -> None:
    names = [f"M{number:03}-USD" for number in range(MANY)]
    market, group.url = start_exchange(tmp_path, "--synthetic", "3", "--rate", "0.05", "--products", ",".join(names))
    group.services.append(market)
    producer = group.produce(feed_products=",".join(names))

    eventually(says(producer, "pulsestream_feed_products", MANY))
    producer.wait_ready()
    assert producer.metric("pulsestream_feed_connects_total", exchange=group.exchange) == SHARDS
    assert producer.stop() == 0


def test_another_number_of_shards_than_the_topics_ends_with_advice_and_code_2(group: Group) -> None:
    producer = group.produce(feed_shards=SHARDS + 1)
    assert producer.running is not None

    assert producer.running.wait(60) == 2

    last = producer.log.read_text("utf-8").splitlines()[-1]
    assert "PULSESTREAM_FEED_SHARDS=9" in last
    assert "has 8 partitions" in last
    assert "Traceback" not in producer.log.read_text("utf-8")
