"""The lanes without a broker: whatever becomes of the copies, accounts add up and no loss is untold."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.lanes import Failure, Lanes, Limits, MarketRecord, Parcel, Reach
from producers.ledger import BUFFER, Scope
from pulsestream.core.topics import tenant_topic
from schemas.records import Tick, Trade
from tests.support.intervals import Interval, Intervals
from tests.support.producing import make_tick
from tests.support.trading import make_trade

PRODUCT = "BTC-USD"
TIMED_OUT = Failure("_MSG_TIMED_OUT", "timed_out", Reach.ALL)
MISSING = Failure("_UNKNOWN_TOPIC", "topic_missing", Reach.TOPIC)
TOO_LARGE = Failure("MSG_SIZE_TOO_LARGE", "msg_size_too_large", Reach.RECORD)


@dataclass
class Told:
    """What a listener heard of trades."""

    acknowledged_ids: list[int] = field(default_factory=list)
    lost_ids: list[int] = field(default_factory=list)

    def acknowledged(self, product: str, trade_id: int) -> None:
        assert product == PRODUCT
        self.acknowledged_ids.append(trade_id)

    def lost(self, product: str, trade_id: int, cause: str) -> None:
        assert product == PRODUCT
        assert cause in {"timed_out", "buffer_full"}
        self.lost_ids.append(trade_id)


class Bench:
    """Lanes with a clock that stands still until it is moved."""

    def __init__(
        self, *, tenants: tuple[str, ...] = ("one", "two"), records: int = 1_000, listens: bool = True
    ) -> None:
        self.intervals = Intervals()
        self.told = Told()
        self.now = 1_000_000
        self.seconds = 0.0
        trades = self.told if listens else None
        limits = Limits(records=records, probe_every=5.0)
        clocks = {"clock": lambda: self.now, "monotonic": lambda: self.seconds}
        self.lanes = Lanes("coinbase", self.intervals, limits, trades, **clocks)
        self.lanes.route({dataset: {PRODUCT: tenants} for dataset in ("ticks", "trades")})

    def tick(self) -> Tick:
        self.now += 10
        return make_tick(PRODUCT, self.now, self.now)

    def trade(self, trade_id: int) -> Trade:
        self.now += 10
        return make_trade(PRODUCT, trade_id, self.now)

    def send(self, record: MarketRecord) -> tuple[Parcel, list[str]]:
        """Offer a record and hand out its copies as the publisher does; returns those that the client has."""
        parcel = self.lanes.offer(dataset_of(record), record)
        lanes = self.lanes.wanted_by(dataset_of(record), record.product)
        self.lanes.account.produced += len(lanes)
        return parcel, [lane.topic for lane in lanes if lane.held is None or self.lanes.admits(lane, parcel)]


def dataset_of(record: MarketRecord) -> str:
    return "ticks" if isinstance(record, Tick) else "trades"


FATES = st.sampled_from([None, TIMED_OUT, MISSING, TOO_LARGE])


class Fates:
    """Copies whose reports are still to come, and an account of its own of what was stored and what was not."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.open_copies: list[tuple[Parcel, str, Failure | None]] = []
        self.missed: list[tuple[str, MarketRecord]] = []
        self.stored: set[int] = set()
        self.general: set[int] = set()

    def send(self, record: MarketRecord, fates: list[Failure | None]) -> None:
        parcel, topics = self.bench.send(record)
        for lane, fate in zip(self.bench.lanes.wanted_by(dataset_of(record), PRODUCT), fates, strict=True):
            if lane.topic in topics:
                self.open_copies.append((parcel, lane.topic, fate))
            else:
                self.missed.append((lane.topic, record))

    def report(self, index: int) -> None:
        parcel, topic, failure = self.open_copies.pop(index)
        if failure is None:
            self.stored.add(parcel.trade_id or 0)
            self.bench.lanes.acknowledged(parcel, topic)
            return
        self.missed.append((topic, parcel.record))
        if failure is TIMED_OUT:
            self.general.add(parcel.trade_id or 0)
        self.bench.lanes.failed(parcel, topic, failure)


@given(
    steps=st.lists(st.tuples(st.booleans(), st.lists(FATES, min_size=3, max_size=3), st.integers(0, 9)), max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_whatever_becomes_of_the_copies_no_loss_is_untold(
    steps: list[tuple[bool, list[Failure | None], int]], order: Random
) -> None:
    bench = Bench(tenants=("one", "two", "three"))
    fates = Fates(bench)

    for number, (is_trade, planned, served) in enumerate(steps, start=1):
        bench.seconds += 1.0
        fates.send(bench.trade(number) if is_trade else bench.tick(), planned)
        for _ in range(min(served, len(fates.open_copies))):
            fates.report(order.randrange(len(fates.open_copies)))
        bench.lanes.served()
        until = bench.lanes.complete_until()
        assert until is None or all(until < parcel.received_time for parcel, _, _ in fates.open_copies)
    while fates.open_copies:
        fates.report(0)

    account = bench.lanes.account
    assert account.pending == 0
    assert account.failed.total() == account.lost == len(fates.missed)
    trades = {number for number, (is_trade, _, _) in enumerate(steps, start=1) if is_trade}
    lost = trades & fates.general - fates.stored
    assert sorted(bench.told.lost_ids) == sorted(lost)
    assert sorted(bench.told.acknowledged_ids) == sorted(trades - lost)
    for topic, record in fates.missed:
        is_refilled = isinstance(record, Trade) and record.trade_id in lost
        assert is_refilled or bench.intervals.cover(topic.split(".")[1], PRODUCT, record.received_time)


def test_a_trade_that_nobody_wants_counts_as_acknowledged() -> None:
    bench = Bench(tenants=())

    bench.lanes.unwanted(bench.trade(7))
    bench.lanes.unwanted(bench.tick())

    assert bench.told == Told(acknowledged_ids=[7])


def test_a_trade_is_acknowledged_with_its_first_copy_and_only_once() -> None:
    bench = Bench()
    parcel, [first, second] = bench.send(bench.trade(7))

    assert not bench.lanes.acknowledged(parcel, first)
    assert bench.told == Told(acknowledged_ids=[7])
    assert bench.lanes.acknowledged(parcel, second)

    assert bench.told == Told(acknowledged_ids=[7])
    assert bench.intervals.open_scopes() == []


def test_a_trade_that_one_tenant_alone_misses_is_an_interval_of_that_tenant() -> None:
    bench = Bench()
    parcel, [first, second] = bench.send(bench.trade(7))

    bench.lanes.failed(parcel, first, TIMED_OUT)
    assert bench.intervals.open_scopes() == []
    bench.lanes.acknowledged(parcel, second)

    assert bench.told == Told(acknowledged_ids=[7])
    assert bench.intervals.every == [Interval(Scope("one", PRODUCT), bench.now - 1, "timed_out")]


def test_a_trade_that_no_tenant_got_is_handed_back_and_leaves_no_interval() -> None:
    bench = Bench()
    parcel, topics = bench.send(bench.trade(7))

    for topic in topics:
        bench.lanes.failed(parcel, topic, TIMED_OUT)

    assert bench.told == Told(lost_ids=[7])
    assert bench.intervals.open_scopes() == []


def test_without_a_listener_a_lost_trade_is_an_interval_as_a_tick_would_be() -> None:
    bench = Bench(listens=False)
    parcel, topics = bench.send(bench.trade(7))

    for topic in topics:
        bench.lanes.failed(parcel, topic, TIMED_OUT)

    assert set(bench.intervals.open_scopes()) == {Scope("one", PRODUCT), Scope("two", PRODUCT)}


def test_a_trade_without_any_topic_is_not_fetched_again() -> None:
    bench = Bench(tenants=("one",))
    parcel, [topic] = bench.send(bench.trade(7))

    bench.lanes.failed(parcel, topic, MISSING)

    assert bench.told == Told(acknowledged_ids=[7])
    assert bench.lanes.parked() == {"one trades": "topic_missing"}
    assert set(bench.intervals.open_scopes()) == {Scope("one")}


def test_a_tenants_interval_ends_when_the_last_of_its_held_topics_takes_records() -> None:
    bench = Bench(tenants=("one",))
    for record in (bench.tick(), bench.trade(1)):
        parcel, [topic] = bench.send(record)
        bench.lanes.failed(parcel, topic, MISSING)
    bench.seconds = 6.0

    probe, [topic] = bench.send(bench.tick())
    bench.lanes.acknowledged(probe, topic)
    assert set(bench.intervals.open_scopes()) == {Scope("one")}
    probe, [topic] = bench.send(bench.trade(2))
    bench.lanes.acknowledged(probe, topic)

    assert bench.intervals.open_scopes() == []
    assert bench.lanes.parked() == {}


def test_one_probe_at_a_time_goes_to_a_held_topic() -> None:
    bench = Bench(tenants=("one",))
    parcel, [topic] = bench.send(bench.tick())
    bench.lanes.failed(parcel, topic, MISSING)

    assert bench.send(bench.tick())[1] == []
    bench.seconds = 6.0
    probe, topics = bench.send(bench.tick())
    assert topics == [topic]
    assert bench.send(bench.tick())[1] == []
    bench.lanes.failed(probe, topic, MISSING)
    assert bench.send(bench.tick())[1] == []
    bench.seconds = 12.0

    assert bench.send(bench.tick())[1] == [topic]


def test_ticks_without_room_are_one_interval_of_everybody_and_trades_are_handed_back() -> None:
    bench = Bench(tenants=("one",), records=4)
    sent = [bench.send(bench.tick()) for _ in range(4)]
    assert bench.lanes.room() == 0
    oldest = bench.now
    for record in (bench.tick(), bench.trade(7), bench.tick()):
        parcel = bench.lanes.offer(dataset_of(record), record)
        bench.lanes.overflow(parcel, bench.lanes.wanted_by(dataset_of(record), PRODUCT), oldest, partly=False)
    last = bench.now
    for parcel, [topic] in sent[:2]:
        bench.lanes.acknowledged(parcel, topic)

    assert bench.lanes.room() == 2

    assert bench.told == Told(lost_ids=[7])
    assert bench.lanes.account.failed == {"buffer_full": 3}
    assert bench.intervals.every == [Interval(BUFFER, oldest - 1, "buffer_full", last + 1)]


def test_a_trade_that_found_room_for_some_tenants_only_is_an_interval() -> None:
    bench = Bench()
    record = bench.trade(7)
    parcel = bench.lanes.offer("trades", record)
    first, second = bench.lanes.wanted_by("trades", PRODUCT)
    bench.lanes.account.produced += 1

    bench.lanes.overflow(parcel, [second], record.received_time, partly=True)
    bench.lanes.acknowledged(parcel, first.topic)

    assert bench.told == Told(acknowledged_ids=[7])
    assert bench.intervals.cover("two", PRODUCT, record.received_time)


def test_a_stuck_topic_is_held_when_the_others_move_and_released_when_it_has_emptied() -> None:
    bench = Bench(tenants=("one", "two"), records=8)
    parcels = []
    for _ in range(3):
        parcel, [first, _] = bench.send(bench.tick())
        bench.lanes.acknowledged(parcel, first)
        parcels.append(parcel)
    for _ in range(5):
        bench.lanes.tend(answered=True)

    assert bench.lanes.parked() == {"two ticks": "buffer_full"}
    assert bench.intervals.newest(Scope("two")).opened < parcels[0].received_time
    for parcel in parcels:
        bench.lanes.acknowledged(parcel, tenant_topic("two", "ticks"))
    bench.lanes.tend(answered=True)

    assert bench.lanes.parked() == {}
    assert bench.intervals.open_scopes() == []


def test_nothing_is_held_while_the_broker_answers_nobody() -> None:
    bench = Bench(records=8)
    for _ in range(4):
        bench.send(bench.tick())

    for _ in range(20):
        bench.lanes.tend(answered=False)

    assert bench.lanes.parked() == {}


@pytest.mark.parametrize("product", [None, PRODUCT])
def test_an_interval_of_an_earlier_process_ends_with_the_next_delivery(product: str | None) -> None:
    bench = Bench(tenants=("one",))
    for scope in (Scope("one", product), Scope("gone", product)):
        bench.intervals.open(scope, 5, "killed")

    bench.lanes.inherit(bench.intervals.open_scopes())
    assert set(bench.intervals.open_scopes()) == {Scope("one", product)}
    parcel, [topic] = bench.send(bench.tick())
    bench.lanes.acknowledged(parcel, topic)

    assert bench.intervals.open_scopes() == []


def test_a_dropped_lane_ends_its_intervals_and_late_reports_are_counted() -> None:
    bench = Bench(tenants=("one",))
    failed, [topic] = bench.send(bench.tick())
    late, _ = bench.send(bench.tick())
    bench.lanes.failed(failed, topic, TIMED_OUT)

    bench.lanes.route({})
    bench.lanes.acknowledged(late, topic)

    assert bench.intervals.open_scopes() == []
    assert bench.lanes.account.pending == 0
    assert bench.lanes.wanted_by("ticks", PRODUCT) == ()
