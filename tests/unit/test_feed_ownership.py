"""Which shards a producer feeds, what it writes when one comes or goes, and when it keeps quiet."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from producers.completeness import TradeLedger
from producers.errors import FeedRefusedError
from producers.feed import Feed, Listener
from producers.feed_readiness import exchange_problem, shards_detail
from producers.ledger import Ledger, Shard
from producers.ledger_writer import LedgerWriter
from producers.outbox import Outbox
from producers.owned_shards import Books, Division, OwnedShards
from producers.retention import KEEP, MOST, outdated
from producers.venues.protocol import Heartbeat
from producers.wishes import Wanted
from schemas.codec import codec
from schemas.records import Feed as FeedRecord
from schemas.records import Gap, Tick, Trade, trade_event_id
from tests.support.producing import make_tick

BTC, ETH = "BTC-USD", "ETH-USD"
OF_BTC, OF_ETH, NOBODYS = 1, 4, 0
SHARDS = 8
BOTH = Wanted({BTC: frozenset({"acme"}), ETH: frozenset({"acme"})})


class Topic:
    """The feeds topic, its broker, and a clock: what outlives a producer."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.records: dict[str, FeedRecord] = {}
        self.log: list[str] = []

    def gaps(self) -> dict[str, Gap]:
        return {key: feed.gap for key, feed in self.records.items() if feed.gap is not None}

    def state(self, shard: int) -> str | None:
        record = self.records.get(f"conn:coinbase:{shard}")
        return record.state if record else None


class FakeFeed:
    """A feed without a connection: the test says what happens on it."""

    def __init__(self, listener: Listener, events: list[str], shard: Shard) -> None:
        self.listener = listener
        self.products: frozenset[str] = frozenset()
        self.heard: int | None = None
        self.measured = 0
        self.refused: dict[str, int] = {}
        self._events = events
        self._shard = shard
        self._stopped = asyncio.Event()
        self._failure: Exception | None = None

    def want(self, products: Collection[str]) -> None:
        self.products = frozenset(products)

    def stop(self) -> None:
        self._stopped.set()

    @property
    def last_good(self) -> int | None:
        return self.heard

    def measure(self) -> None:
        self.measured += 1

    def confirmed(self) -> frozenset[str]:
        return frozenset() if self.heard is None else self.products - self.refused.keys()

    def lacking(self) -> dict[str, int]:
        return self.refused

    def fail(self, failure: Exception) -> None:
        self._failure = failure
        self._stopped.set()

    async def run(self) -> None:
        await self._stopped.wait()
        self._events.append(f"feed {self._shard.number} ends")
        self.listener.lost(self.heard, "stopped")
        if self._failure is not None:
            raise self._failure

    async def deliver(self, record: Tick | Trade) -> None:
        if self.heard is None:
            self.listener.delivering(record.received_time)
            self.listener.complete(record.received_time)
        self.heard = record.received_time
        await self.listener.record(record)


class FakePublisher:
    """Takes everything, and acknowledges what the test says."""

    def __init__(self) -> None:
        self.account = self
        self.pending = 0
        self.bound: int | None = None

    def complete_until(self) -> int | None:
        return self.bound

    def poll(self) -> None:
        """Nothing waits here."""

    def inherit(self, scopes: object) -> None:
        """No tenant is in trouble here."""


class FakeIntake:
    def __init__(self, trades: TradeLedger) -> None:
        self.trades = trades
        self.causes: list[tuple[str, frozenset[str]]] = []
        self.beats: list[Heartbeat] = []

    async def record(self, record: Tick | Trade) -> None:
        if isinstance(record, Trade) and self.trades.trade(record):
            self.trades.acknowledged(record.product, record.trade_id)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        self.beats.append(heartbeat)

    def interrupted(self, products: Collection[str], cause: str) -> None:
        self.causes.append((cause, frozenset(products)))


class Producer:
    """One producer's shards and books, on a topic that it may share with others."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.events: list[str] = []
        self.feeds: dict[int, FakeFeed] = {}
        self.is_member = True
        self.is_broken = False
        self.refusals = 0
        self.outbox = Outbox()
        self.trades = TradeLedger("coinbase", lambda: topic.now, self.outbox)
        self.writer = LedgerWriter(self.outbox, self, self._may_write)
        self.ledger = Ledger(lambda: topic.now, self.outbox)
        self.publisher = FakePublisher()
        self.intake = FakeIntake(self.trades)
        self.owned = OwnedShards(
            Division("coinbase", SHARDS),
            Books(self.ledger, self.trades, self.outbox, self.writer),
            cast(Any, self.publisher),
            self.intake,
            make_feed=self._make_feed,
            read_ledger=lambda: dict(topic.records),
            clock=lambda: topic.now,
        )
        self.owned.follow(BOTH)

    def send(self, topic: str, key: str, value: bytes | None, done: Callable[[KafkaError | None], None]) -> bool:
        """Write to the topic, as its broker would."""
        assert topic == "ps._platform.feeds.v1"
        if self.is_broken:
            return False
        if self.refusals:
            self.refusals -= 1
            done(KafkaError(KafkaError._UNKNOWN_TOPIC))
            return True
        self.events.append(f"wrote {key}")
        self.topic.log.append(key)
        held = self.topic.records.pop(key, None)
        if value is not None:
            record = self.topic.records[key] = codec(FeedRecord).decode(value)
            assert held is None or held.version < record.version, f"{key} is written by two producers"
        done(None)
        return True

    def poll(self) -> None:
        """Every record is acknowledged at once."""

    def write(self) -> None:
        self.trades.settle(self.topic.now)
        self.writer.write()

    def _may_write(self) -> bool:
        return self.is_member and not self.owned.in_doubt

    def _make_feed(self, shard: Shard, listener: Listener) -> Feed:
        self.feeds[shard.number] = FakeFeed(listener, self.events, shard)
        return cast(Feed, self.feeds[shard.number])


def tick(topic: Topic, product: str = BTC) -> Tick:
    topic.now += 1_000
    return make_tick(product, topic.now, topic.now)


def trade(topic: Topic, number: int, product: str = BTC) -> Trade:
    topic.now += 1_000
    return Trade(
        event_id=trade_event_id("coinbase", product, number),
        exchange="coinbase",
        product=product,
        trade_id=number,
        price=1.0,
        size=1.0,
        side="buy",
        exchange_time=topic.now,
        received_time=topic.now,
    )


def scenario(play: Callable[[Topic], Awaitable[None]]) -> Topic:
    topic = Topic()

    async def played() -> None:
        await play(topic)

    asyncio.run(played())
    return topic


async def _fed(topic: Topic, *shards: int) -> Producer:
    """A producer whose shards deliver and are written down."""
    producer = Producer(topic)
    await producer.owned.take(shards)
    for number, product in ((OF_BTC, BTC), (OF_ETH, ETH)):
        if number in shards:
            await producer.feeds[number].deliver(tick(topic, product))
    producer.write()
    return producer


def test_a_producer_is_not_ready_before_the_group_has_spoken() -> None:
    async def play(topic: Topic) -> None:
        producer = Producer(topic)
        assert exchange_problem(producer.owned) is not None

        await producer.owned.take([])

        assert exchange_problem(producer.owned) is None

    scenario(play)


def test_a_shard_gets_its_products_and_no_others() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC, OF_ETH, NOBODYS)

        assert {number: feed.products for number, feed in producer.feeds.items()} == {
            OF_BTC: {BTC},
            OF_ETH: {ETH},
            NOBODYS: frozenset(),
        }
        producer.owned.follow(Wanted({BTC: frozenset()}))
        assert producer.feeds[OF_ETH].products == frozenset()

    topic = scenario(play)

    assert topic.state(OF_BTC) == "connected"
    assert topic.state(NOBODYS) is None


def test_a_shard_is_handed_over_after_its_feed_has_ended_and_its_records_are_acknowledged() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC, OF_ETH)
        producer.events.clear()
        producer.publisher.pending, producer.publisher.bound = 5, topic.now
        heard = producer.feeds[OF_BTC].heard

        await producer.owned.give_up([OF_BTC])

        assert producer.events[0] == "feed 1 ends"
        assert producer.owned.owned.keys() == {OF_ETH}
        assert topic.gaps() == {f"gap:coinbase:*1:{heard}": Gap(kind="time", opened=heard or 0, cause="handed_over")}
        assert (topic.state(OF_BTC), topic.state(OF_ETH)) == ("disconnected", "connected")
        assert producer.intake.causes == [("handed_over", frozenset({BTC}))]

    scenario(play)


def test_an_interval_of_a_hand_over_begins_before_what_is_not_acknowledged_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producers.owned_shards.FLUSH_WITHIN", 0.05)

    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.publisher.pending, producer.publisher.bound = 5, 990_000

        await producer.owned.give_up([OF_BTC])

    topic = scenario(play)

    assert topic.gaps().keys() == {"gap:coinbase:*1:990000"}


def test_a_hand_over_waits_for_what_is_on_its_way() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.publisher.pending, producer.publisher.bound = 5, 990_000
        handing_over = asyncio.create_task(producer.owned.give_up([OF_BTC]))
        done, _ = await asyncio.wait([handing_over], timeout=0.05)
        assert not done

        producer.publisher.bound = topic.now
        await handing_over

    topic = scenario(play)

    assert topic.gaps().keys() == {f"gap:coinbase:*1:{topic.now}"}


def test_the_next_producer_closes_the_interval_of_a_hand_over() -> None:
    async def play(topic: Topic) -> None:
        first = await _fed(topic, OF_BTC)
        await first.owned.give_up([OF_BTC])
        await _fed(topic, OF_BTC)

    topic = scenario(play)

    assert [(gap.cause, gap.closed) for gap in topic.gaps().values()] == [("handed_over", topic.now)]
    assert topic.state(OF_BTC) == "connected"


def test_the_next_producer_opens_the_interval_of_a_kill_and_finds_the_trades_that_were_missed() -> None:
    async def play(topic: Topic) -> None:
        killed = await _fed(topic, OF_BTC)
        await killed.feeds[OF_BTC].deliver(trade(topic, 7))
        topic.now += 3_000_000
        killed.write()
        next_one = await _fed(topic, OF_BTC)
        await next_one.feeds[OF_BTC].deliver(trade(topic, 10))
        topic.now += 3_000_000
        next_one.write()

    topic = scenario(play)

    gaps = topic.gaps()
    assert {(gap.kind, gap.cause) for gap in gaps.values()} == {("time", "killed"), ("trade_id", "killed")}
    assert (gaps["gap:coinbase:BTC-USD:t8"].from_id, gaps["gap:coinbase:BTC-USD:t8"].to_id) == (8, 9)


def test_a_kill_after_a_connection_died_unnoticed_costs_no_unrecorded_second() -> None:
    async def play(topic: Topic) -> None:
        killed = await _fed(topic, OF_BTC)
        heard = killed.feeds[OF_BTC].heard
        topic.now += 10_000_000
        killed.owned.owned[OF_BTC].refresh(topic.now)
        killed.write()
        await _fed(topic, OF_BTC)

        assert [gap.opened for gap in topic.gaps().values()] == [heard]

    scenario(play)


def test_a_kill_opens_its_interval_where_nothing_is_acknowledged_any_more() -> None:
    async def play(topic: Topic) -> None:
        killed = await _fed(topic, OF_BTC)
        await killed.feeds[OF_BTC].deliver(tick(topic))
        acknowledged = topic.now
        await killed.feeds[OF_BTC].deliver(tick(topic))
        killed.owned.owned[OF_BTC].refresh(acknowledged)
        killed.write()
        await _fed(topic, OF_BTC)

        assert [gap.opened for gap in topic.gaps().values()] == [acknowledged]

    scenario(play)


def test_trades_of_a_product_that_nobody_wants_any_more_are_not_missed() -> None:
    async def play(topic: Topic) -> None:
        killed = await _fed(topic, OF_BTC)
        await killed.feeds[OF_BTC].deliver(trade(topic, 7))
        await killed.feeds[OF_BTC].deliver(trade(topic, 10))
        topic.now += 3_000_000
        killed.write()
        assert topic.gaps()["gap:coinbase:BTC-USD:t8"].closed is None
        next_one = Producer(topic)
        next_one.owned.follow(Wanted({ETH: frozenset({"acme"})}))
        await next_one.owned.take([OF_BTC])
        next_one.write()

    topic = scenario(play)

    assert topic.gaps()["gap:coinbase:BTC-USD:t8"].closed is not None
    assert not [key for key in topic.records if key.startswith("trades:")]
    assert topic.state(OF_BTC) is None


def test_in_doubt_the_feeds_go_on_and_the_ledger_rests() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        written = list(topic.log)
        await producer.owned.doubt()
        producer.feeds[OF_BTC].listener.lost(topic.now, "disconnected")
        producer.write()

        assert topic.log == written
        assert "shards [1] are in doubt" in (shards_detail(producer.owned) or "")
        assert producer.owned.owned.keys() == {OF_BTC}
        assert "feed 1 ends" not in producer.events

    scenario(play)


def test_a_shard_that_nobody_else_has_fed_goes_on_after_a_doubt() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        await producer.owned.doubt()
        producer.feeds[OF_BTC].listener.delivering(topic.now)

        await producer.owned.take([OF_BTC])
        producer.write()

        assert producer.events.count("feed 1 ends") == 0

    topic = scenario(play)

    assert topic.gaps() == {}
    assert topic.state(OF_BTC) == "connected"


def test_a_shard_that_somebody_else_fed_meanwhile_begins_anew_after_a_doubt() -> None:
    async def play(topic: Topic) -> None:
        stopped = await _fed(topic, OF_BTC)
        old = stopped.feeds[OF_BTC]
        other = await _fed(topic, OF_BTC)
        await stopped.owned.doubt()
        old.listener.lost(topic.now, "disconnected")
        await other.owned.give_up([OF_BTC])

        await stopped.owned.take([OF_BTC])
        stopped.write()

        assert stopped.events.count("feed 1 ends") == 1
        assert stopped.feeds[OF_BTC] is not old

    topic = scenario(play)

    assert sorted(gap.cause for gap in topic.gaps().values()) == ["handed_over", "killed"]
    assert topic.state(OF_BTC) == "disconnected"


def test_a_shard_in_doubt_that_is_somebody_elses_is_dropped_without_a_word() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC, OF_ETH)
        await producer.owned.doubt()
        before = dict(topic.records)

        await producer.owned.take([])
        producer.write()
        assert topic.records == before
        assert "no shard is left" in (shards_detail(producer.owned) or "")
        assert producer.owned.owned == {}
        assert producer.outbox.unsent() == []

    scenario(play)


def test_after_a_doubt_only_the_shards_that_the_group_names_are_fed() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC, OF_ETH)
        await producer.owned.doubt()

        await producer.owned.take([OF_ETH])

        assert producer.owned.owned.keys() == {OF_ETH}
        assert producer.events.count("feed 4 ends") == 0

    scenario(play)


def test_what_was_not_written_in_time_is_left_to_the_next_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.owned_shards.FLUSH_WITHIN", 0.05)

    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.is_broken = True

        await producer.owned.give_up([OF_BTC])
        producer.is_broken = False
        producer.write()

        assert topic.state(OF_BTC) == "connected"
        assert producer.outbox.unsent() == []

    scenario(play)


def test_without_a_lease_nothing_is_written() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.is_member = False
        written = list(topic.log)

        producer.feeds[OF_BTC].listener.lost(topic.now, "disconnected")
        producer.write()
        assert topic.log == written
        producer.is_member = True
        producer.write()

        assert topic.state(OF_BTC) == "disconnected"

    scenario(play)


def test_the_end_writes_an_interval_for_each_shard_and_takes_none_on() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC, NOBODYS)

        await producer.owned.end()
        await producer.owned.take([OF_ETH])
        producer.write()

        assert OF_ETH not in producer.feeds

    topic = scenario(play)

    assert [gap.cause for gap in topic.gaps().values()] == ["stopped"]
    assert (topic.state(OF_BTC), topic.state(NOBODYS)) == ("disconnected", None)


def test_a_feed_that_cannot_go_on_ends_the_producer() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.feeds[OF_BTC].fail(FeedRefusedError("no such exchange"))

        async with asyncio.timeout(10):
            with pytest.raises(FeedRefusedError, match="no such exchange"):
                await producer.owned.failure()

    scenario(play)


def test_a_record_that_the_client_refuses_at_once_is_written_again() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.refusals = 1

        await producer.feeds[OF_BTC].deliver(trade(topic, 7))
        producer.write()
        assert "trades:coinbase:BTC-USD" not in topic.records
        producer.write()

        assert topic.records["trades:coinbase:BTC-USD"].last_trade_id == 7

    scenario(play)


def test_what_was_removed_in_doubt_is_not_removed_from_the_next_producers_ledger() -> None:
    async def play(topic: Topic) -> None:
        first = await _fed(topic, OF_BTC, OF_ETH)
        await first.feeds[OF_BTC].deliver(trade(topic, 7))
        first.write()
        await first.owned.doubt()
        first.owned.follow(Wanted({ETH: frozenset({"acme"})}))
        second = await _fed(topic, OF_BTC)
        await second.feeds[OF_BTC].deliver(trade(topic, 8))
        second.write()
        assert "trades:coinbase:BTC-USD" in topic.records

        await first.owned.take([OF_ETH])
        first.write()

        assert "trades:coinbase:BTC-USD" in topic.records

    scenario(play)


def test_a_removal_is_written_before_a_shard_is_handed_over() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        await producer.feeds[OF_BTC].deliver(trade(topic, 7))
        producer.write()
        producer.owned.follow(Wanted({}))

        await producer.owned.give_up([OF_BTC])

        assert "trades:coinbase:BTC-USD" not in topic.records

    scenario(play)


def test_a_product_that_nobody_asked_for_does_not_get_into_the_ledger() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)

        await producer.feeds[OF_BTC].deliver(trade(topic, 7, "UNASKED-USD"))
        producer.write()

        assert producer.trades.book("UNASKED-USD") is None
        assert not [key for key in topic.records if "UNASKED" in key]

    scenario(play)


def _closed(key: str, closed: int | None, product: str | None = None, **fields: Any) -> dict[str, FeedRecord]:
    said: dict[str, Any] = {"kind": "time", "opened": 1, "cause": "stale", "closed": closed} | fields
    gap = Gap(**said)
    return {key: FeedRecord(exchange="coinbase", product=product, state="connected", at=1, gap=gap, version=3)}


def test_what_has_served_is_removed_from_the_topic_by_the_producer_of_its_shard() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        now = topic.now = 10 * KEEP
        old, young = now - KEEP - 1, now - KEEP
        trades: dict[str, Any] = {"kind": "trade_id", "from_id": 1, "to_id": 9, "missing": 2}
        served = (
            _closed(f"gap:coinbase:*{OF_BTC}:1", old)
            | _closed(f"gap:coinbase:{BTC}:2", old, BTC, cause="topic_missing:acme")
            | _closed(f"gap:coinbase:{BTC}:t1", old, BTC, **trades)
            | _closed(f"backfill:coinbase:{BTC}:1:2", old, BTC, kind="backfill")
        )
        kept = (
            _closed(f"gap:coinbase:*{OF_BTC}:3", young)
            | _closed(f"gap:coinbase:*{OF_BTC}:4", None)
            | _closed(f"backfill:coinbase:{BTC}:1:3", None, BTC, kind="backfill")
            | _closed(f"gap:coinbase:*{OF_ETH}:1", old)
            | _closed(f"gap:coinbase:{ETH}:t1", old, ETH, **trades)
        )
        topic.records |= served | kept

        producer.owned.tidy(dict(topic.records))
        producer.write()

        assert not served.keys() & topic.records.keys()
        assert kept.keys() <= topic.records.keys()
        assert f"conn:coinbase:{OF_BTC}" in topic.records

    scenario(play)


def test_a_shard_in_doubt_is_not_tidied() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        topic.now = 10 * KEEP
        topic.records |= _closed(f"gap:coinbase:*{OF_BTC}:1", 1)
        await producer.owned.doubt()

        producer.owned.tidy(dict(topic.records))

        assert not [record for _, record in producer.outbox.unsent() if record is None]

    scenario(play)


def test_a_gap_that_has_opened_anew_under_an_old_name_stays() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        key = f"gap:coinbase:{BTC}:t5"
        topic.now = 10 * KEEP
        topic.records |= _closed(key, 1, BTC, kind="trade_id")
        seen = dict(topic.records)
        producer.outbox.adopt(seen)
        producer.outbox.write(key, _closed(key, None, BTC, kind="trade_id")[key])

        producer.owned.tidy(seen)
        producer.write()

        assert topic.gaps()[key].closed is None

    scenario(play)


def test_a_ledger_forgets_the_keys_that_were_removed() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        key = f"gap:coinbase:*{OF_BTC}:1"
        topic.now = 10 * KEEP
        topic.records |= _closed(key, 1)
        producer.owned.owned[OF_BTC].ledger.keys.add(key)

        producer.owned.tidy(dict(topic.records))
        assert key in producer.owned.owned[OF_BTC].ledger.keys
        producer.write()
        producer.owned.tidy(dict(topic.records))

        assert key not in producer.owned.owned[OF_BTC].ledger.keys

    scenario(play)


def test_of_a_shard_that_flaps_only_the_newest_intervals_stay_and_what_tells_completeness() -> None:
    many: dict[str, FeedRecord] = {}
    for number in range(MOST + 3):
        many |= _closed(f"gap:coinbase:*1:{number}", 100 + number)
    many |= _closed(f"gap:coinbase:{BTC}:t5", 1, BTC, kind="trade_id", cause="renumbered")

    assert outdated(many, "coinbase", 10_000) == [f"gap:coinbase:*1:{number}" for number in range(3)]
    assert outdated(many, "kraken", 10_000) == []


def test_a_product_that_the_exchange_delivers_no_more_has_an_interval_over_a_change_of_producers() -> None:
    async def play(topic: Topic) -> None:
        first = await _fed(topic, OF_BTC)
        since = topic.now
        first.feeds[OF_BTC].refused = {BTC: since}
        topic.now += 5_000_000
        first.owned.owned[OF_BTC].refresh(topic.now)
        first.write()
        key = f"gap:coinbase:{BTC}:{since}"
        assert (topic.gaps()[key].cause, topic.gaps()[key].closed) == ("refused", None)

        second = Producer(topic)
        await second.owned.take([OF_BTC])
        second.owned.owned[OF_BTC].refresh(topic.now)
        second.write()
        assert topic.gaps()[key].closed is None
        await second.feeds[OF_BTC].deliver(tick(topic))
        second.owned.owned[OF_BTC].refresh(topic.now)
        second.write()

        assert topic.gaps()[key].closed == topic.now

    scenario(play)


def test_the_interval_of_a_refused_product_closes_when_nobody_wants_it_any_more() -> None:
    async def play(topic: Topic) -> None:
        producer = await _fed(topic, OF_BTC)
        producer.feeds[OF_BTC].refused = {BTC: topic.now}
        producer.owned.owned[OF_BTC].refresh(topic.now)
        producer.feeds[OF_BTC].refused = {}
        producer.owned.follow(Wanted({}))

        producer.owned.owned[OF_BTC].refresh(topic.now)
        producer.write()

        assert [gap.closed for gap in topic.gaps().values() if gap.cause == "refused"] == [topic.now]

    scenario(play)
