"""What the trade ledger writes, and what it says of a trade: one case each."""

import pytest

from producers import trade_book
from producers.completeness import KEEP_CLOSED, WRITE_EVERY, TradeLedger
from producers.outbox import Outbox
from producers.trade_book import MAX_JUMP, SUSPECT_FOR, Book
from schemas.records import Feed, Gap
from tests.support.trading import make_trade

SECOND = 1_000_000
BTC = "BTC-USD"


class World:
    """A ledger, its outbox, and a clock that is moved by hand."""

    def __init__(self, records: dict[str, Feed] | None = None) -> None:
        self.now = 1_000 * SECOND
        self.outbox = Outbox()
        self.ledger = TradeLedger("x", lambda: self.now, self.outbox)
        if records is not None:
            self.ledger.take_over(records, [BTC])

    def trades(self, first: int, last: int, *, acknowledge: bool = True) -> None:
        for trade_id in range(first, last + 1):
            assert self.ledger.trade(make_trade(BTC, trade_id, self.now))
            if acknowledge:
                self.ledger.acknowledged(BTC, trade_id)

    def fill(self, first: int, last: int) -> list[int]:
        taken = [number for number in range(first, last + 1) if self.ledger.fill(make_trade(BTC, number, self.now))]
        for number in taken:
            self.ledger.acknowledged(BTC, number)
        return taken

    def settle(self, micros: int = SUSPECT_FOR) -> None:
        self.now += micros
        self.ledger.settle(self.now)

    def write(self) -> dict[str, Feed]:
        """The broker takes everything that waits."""
        for key, record in self.outbox.unsent():
            self.outbox.written(key, record)
        return {key: feed for key in self.outbox.keys() if (feed := self.outbox.newest(key)) is not None}  # noqa: SIM118 - an Outbox is no dict

    def book(self) -> Book:
        book = self.ledger.book(BTC)
        assert book is not None
        return book

    def gap(self, first: int) -> Gap:
        feed = self.outbox.newest(f"gap:x:{BTC}:t{first}")
        assert feed is not None
        assert feed.gap is not None
        return feed.gap


def test_a_jump_is_a_gap_after_two_seconds() -> None:
    world = World()
    world.trades(100, 105)
    world.trades(109, 110)

    world.settle(SUSPECT_FOR - 1)
    before = world.ledger.open_gaps()
    world.settle(1)

    gap = world.gap(106)
    assert before == []
    assert (gap.kind, gap.from_id, gap.to_id, gap.missing, gap.cause) == ("trade_id", 106, 108, 3, "sequence")
    assert (gap.opened, gap.closed) == (105_000, None)


def test_what_arrives_within_two_seconds_leaves_no_gap() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(103, 103)
    world.trades(101, 102)

    world.settle()

    assert world.ledger.open_gaps() == []
    assert world.book().position() == 103


def test_a_known_trade_is_not_published_again() -> None:
    world = World()
    world.trades(100, 102, acknowledge=False)

    assert not world.ledger.trade(make_trade(BTC, 101, world.now))


def test_a_gap_shrinks_as_it_is_filled_and_keeps_its_name() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(111, 111)
    world.settle()
    world.write()

    world.fill(101, 104)
    world.settle(WRITE_EVERY)

    gap = world.gap(101)
    assert (gap.from_id, gap.to_id, gap.missing, gap.closed) == (105, 110, 6, None)


def test_a_filled_gap_closes_with_nothing_missing() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(103, 103)
    world.settle()
    world.write()

    world.fill(101, 102)
    world.settle(1)

    gap = world.gap(101)
    assert (gap.from_id, gap.to_id, gap.missing, gap.closed) == (101, 102, 0, world.now)


def test_what_cannot_be_had_closes_a_gap_with_what_is_missing() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(106, 106)
    world.settle()
    world.write()

    world.fill(101, 102)
    assert world.ledger.unrecoverable(BTC, 101, 105) == 3
    world.settle(1)

    gap = world.gap(101)
    assert (gap.from_id, gap.to_id, gap.missing, gap.closed, gap.cause) == (103, 105, 3, world.now, "sequence")
    assert world.ledger.trade(make_trade(BTC, 104, world.now))


def test_a_trade_that_is_asked_for_twice_is_published_once() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(102, 102)
    world.settle()

    first = world.ledger.fill(make_trade(BTC, 101, world.now))
    again = world.ledger.fill(make_trade(BTC, 101, world.now))

    assert (first, again) == (True, False)
    assert world.ledger.missing(BTC, 0, 1_000) == []


def test_a_fill_that_is_lost_is_missing_as_before() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(102, 102)
    world.settle()
    world.ledger.fill(make_trade(BTC, 101, world.now))

    world.ledger.lost(BTC, 101)

    assert world.ledger.missing(BTC, 0, 1_000) == [(101, 101)]


@pytest.mark.parametrize("cause", ["disconnected", "killed"])
def test_the_jump_after_an_interruption_has_its_cause(cause: str) -> None:
    world = World()
    world.trades(100, 100)
    world.ledger.interrupted([BTC], cause)
    world.trades(103, 103)
    world.trades(105, 105)

    world.settle()

    assert (world.gap(101).cause, world.gap(104).cause) == (cause, "sequence")


def test_an_interruption_that_cost_nothing_leaves_no_cause_behind() -> None:
    world = World()
    world.trades(100, 100)
    world.ledger.interrupted([BTC], "disconnected")
    world.trades(101, 101)
    world.trades(103, 103)

    world.settle()

    assert world.gap(102).cause == "sequence"


def test_a_heartbeat_closes_the_tail() -> None:
    world = World()
    world.trades(100, 100)

    world.ledger.heartbeat(BTC, 102)
    world.settle()

    gap = world.gap(101)
    assert (gap.from_id, gap.to_id, gap.cause) == (101, 102, "heartbeat")


@pytest.mark.parametrize("unknown", [None, 0])
def test_a_heartbeat_that_does_not_know_says_nothing(unknown: int | None) -> None:
    world = World()
    world.trades(100, 100)

    world.ledger.heartbeat(BTC, unknown)
    world.settle()

    assert world.ledger.open_gaps() == []


def test_the_trade_behind_a_heartbeat_is_published() -> None:
    world = World()
    world.trades(100, 100)
    world.ledger.heartbeat(BTC, 101)

    world.trades(101, 102)
    world.settle()

    assert world.ledger.open_gaps() == []
    assert world.book().position() == 102


def test_trades_that_the_broker_did_not_take_are_one_gap() -> None:
    world = World()
    world.trades(100, 105, acknowledge=False)
    world.ledger.acknowledged(BTC, 100)
    for lost in (101, 102, 103):
        world.ledger.lost(BTC, lost)

    world.settle(1)

    gap = world.gap(101)
    assert (gap.from_id, gap.to_id, gap.missing, gap.cause) == (101, 103, 3, "buffer_full")


def test_the_position_waits_for_the_oldest_trade_on_its_way() -> None:
    world = World()
    world.trades(100, 104, acknowledge=False)
    for acknowledged in (100, 102, 103, 104):
        world.ledger.acknowledged(BTC, acknowledged)

    before = world.book().position()
    world.ledger.acknowledged(BTC, 101)

    assert (before, world.book().position()) == (100, 104)


def test_the_position_passes_a_gap_only_once_the_broker_has_it() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(103, 103)
    world.settle()
    unwritten = world.book().position()
    world.write()
    world.settle(WRITE_EVERY)

    assert (unwritten, world.book().position()) == (100, 103)


def test_a_position_is_written_at_most_every_two_seconds() -> None:
    world = World()
    world.trades(100, 100)
    world.settle(1)
    first = world.write()[f"trades:x:{BTC}"]
    world.trades(101, 150)

    world.settle(WRITE_EVERY - 1)
    early = world.write()[f"trades:x:{BTC}"]
    world.settle(1)
    due = world.write()[f"trades:x:{BTC}"]

    assert (first.last_trade_id, early.last_trade_id, due.last_trade_id) == (100, 100, 150)
    assert due.version == first.version + 1


def test_the_first_trade_after_a_kill_opens_a_gap() -> None:
    killed = World()
    killed.trades(100, 110)
    killed.settle()
    records = killed.write()

    world = World(records)
    world.trades(121, 121)
    world.settle()

    gap = world.gap(111)
    assert (gap.from_id, gap.to_id, gap.cause) == (111, 120, "killed")
    assert 100_000 <= gap.opened <= 110_000


def test_what_was_on_its_way_at_a_kill_is_missing() -> None:
    killed = World()
    killed.trades(100, 104)
    killed.trades(105, 109, acknowledge=False)
    killed.settle()

    world = World(killed.write())
    world.trades(110, 110)
    world.settle()

    assert [(gap.from_id, gap.to_id) for gap in world.ledger.open_gaps()] == [(105, 109)]


def test_a_gap_left_open_is_taken_over_and_filled_under_its_name() -> None:
    killed = World()
    killed.trades(100, 100)
    killed.trades(111, 111)
    killed.settle()
    killed.write()
    killed.fill(101, 104)
    killed.settle(WRITE_EVERY)

    world = World(killed.write())
    gaps = world.ledger.open_gaps()
    world.fill(105, 110)
    world.settle(1)

    assert [(gap.from_id, gap.to_id, gap.missing) for gap in gaps] == [(105, 110, 6)]
    assert (world.gap(101).missing, world.gap(101).from_id) == (0, 101)
    newest = world.outbox.newest(f"gap:x:{BTC}:t101")
    assert newest is not None
    assert newest.version > killed.write()[f"gap:x:{BTC}:t101"].version


def test_another_exchange_or_product_is_not_taken_over() -> None:
    killed = World()
    killed.trades(100, 110)
    killed.settle()
    records = killed.write()
    ledger = TradeLedger("y", lambda: 0, Outbox())

    ledger.take_over(records, [BTC])
    other = World()
    other.ledger.take_over(records, ["ETH-USD"])

    assert ledger.book(BTC) is other.ledger.book("ETH-USD") is other.ledger.book(BTC) is None


def test_products_given_up_are_written_down_and_forgotten() -> None:
    world = World()
    world.trades(100, 110)

    world.ledger.give_up([BTC])

    feed = world.outbox.newest(f"trades:x:{BTC}")
    assert feed is not None
    assert feed.last_trade_id == 110
    assert world.ledger.book(BTC) is None


@pytest.mark.parametrize("fed", [True, False])
def test_a_product_that_nobody_wants_leaves_no_position_and_no_open_gap(*, fed: bool) -> None:
    world = World()
    world.trades(100, 100)
    world.trades(103, 103)
    world.settle()
    records = world.write()
    if not fed:
        world = World({})
        world.outbox.adopt(records)

    world.ledger.unwanted([BTC])

    assert (world.gap(101).missing, world.gap(101).closed) == (2, world.now)
    assert world.outbox.newest(f"trades:x:{BTC}") is None


@pytest.mark.parametrize("end", ["give_up", "unwanted"])
def test_a_late_frame_of_a_product_that_ended_begins_nothing(end: str) -> None:
    world = World()
    world.trades(100, 100)
    getattr(world.ledger, end)([BTC])

    published = world.ledger.trade(make_trade(BTC, 101, world.now))
    world.settle()
    ended = world.ledger.book(BTC)
    world.ledger.wanted([BTC])
    world.trades(200, 200)
    world.settle()

    assert published
    assert ended is None
    assert world.ledger.open_gaps() == []
    assert world.book().position() == 200


def test_ids_that_begin_anew_are_believed_at_the_second_trade() -> None:
    world = World()
    world.trades(1_000, 1_001)
    later = world.now + 3_600 * SECOND

    for trade_id in (1, 2, 3):
        assert world.ledger.trade(make_trade(BTC, trade_id, later, exchange_time=later))

    assert world.book().last == 3
    assert not world.ledger.trade(make_trade(BTC, 2, later, exchange_time=later - 1))


def test_a_single_absurd_id_moves_nothing() -> None:
    world = World()
    world.trades(100, 100)

    assert world.ledger.trade(make_trade(BTC, 10**12, world.now, exchange_time=world.now))
    world.trades(101, 102)
    world.settle()

    assert world.book().last == 102
    assert world.ledger.open_gaps() == []


def test_ids_that_begin_anew_further_on_leave_a_closed_gap_of_unknown_size() -> None:
    world = World()
    world.trades(100, 100)
    far = 10**12

    for trade_id in (far, far + 1):
        world.ledger.trade(make_trade(BTC, trade_id, world.now, exchange_time=world.now))

    gap = world.gap(101)
    assert (gap.cause, gap.from_id, gap.to_id) == ("renumbered", 101, far - 1)
    assert (gap.missing, gap.closed) == (None, world.now)
    assert world.book().last == far + 1


def test_a_heartbeat_that_names_an_absurd_id_opens_nothing() -> None:
    world = World()
    world.trades(100, 100)

    world.ledger.heartbeat(BTC, 10**12)
    world.settle()

    assert world.ledger.open_gaps() == []
    assert world.ledger.trade(make_trade(BTC, 101, world.now))


def test_a_new_numbering_leaves_a_record_of_what_was_suspect() -> None:
    world = World()
    world.trades(100, 100)
    world.trades(103, 103)

    for trade_id in (10**12, 10**12 + 1):
        world.ledger.trade(make_trade(BTC, trade_id, world.now, exchange_time=world.now))

    gap = world.gap(101)
    assert (gap.from_id, gap.to_id, gap.missing, gap.closed) == (101, 102, 2, world.now)
    assert world.gap(104).cause == "renumbered"


def test_a_jump_that_a_busy_market_can_have_made_is_a_gap_to_fill() -> None:
    world = World()
    world.trades(100, 100)
    hour = 3600 * 1_000_000
    world.now += hour

    world.ledger.trade(make_trade(BTC, 100 + 20 * MAX_JUMP, world.now, exchange_time=world.now))
    world.settle()

    (gap,) = world.ledger.open_gaps()
    assert (gap.from_id, gap.to_id) == (101, 99 + 20 * MAX_JUMP)


def test_many_gaps_are_joined_and_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trade_book, "MAX_HOLES", 4)
    world = World()
    for trade_id in range(100, 140, 2):
        world.trades(trade_id, trade_id)
        world.settle()
        world.write()

    world.settle(WRITE_EVERY)
    gaps = world.ledger.open_gaps()
    open_records = [feed for feed in world.write().values() if feed.gap is not None and feed.gap.closed is None]

    missing = [number for gap in gaps for first, last in world.ledger.missing(BTC, gap.from_id, gap.to_id)
               for number in range(first, last + 1)]  # fmt: skip
    assert len(gaps) == len(open_records) == 4
    assert set(range(101, 139, 2)) <= set(missing)


def test_records_of_filled_gaps_go_after_a_day_also_those_of_a_predecessor() -> None:
    killed = World()
    killed.trades(100, 100)
    killed.trades(102, 102)
    killed.settle()
    killed.fill(101, 101)
    killed.settle()
    world = World(killed.write())
    world.trades(103, 103)
    world.trades(105, 105)
    world.settle()
    world.ledger.unrecoverable(BTC, 104, 104)
    world.settle(KEEP_CLOSED - SUSPECT_FOR - 1)
    before = world.write().keys()

    world.settle(10 * SECOND)

    assert before == {f"gap:x:{BTC}:t101", f"gap:x:{BTC}:t104", f"trades:x:{BTC}"}
    assert world.write().keys() == {f"gap:x:{BTC}:t104", f"trades:x:{BTC}"}


def test_a_joined_gap_is_closed_only_when_the_broker_has_the_one_that_covers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trade_book, "MAX_HOLES", 2)
    world = World()
    for trade_id in (100, 102, 104):
        world.trades(trade_id, trade_id)
        world.settle()
        world.write()

    world.trades(106, 106)
    world.settle()
    joined, before = world.gap(101), world.gap(103).closed
    world.write()
    world.settle()

    assert (joined.from_id, joined.to_id, joined.missing) == (101, 103, 2)
    assert before is None
    assert (world.gap(103).closed, world.gap(103).missing) == (world.now, 0)


def test_where_a_product_begins_is_written_before_its_first_gap() -> None:
    world = World()
    world.trades(100, 101, acknowledge=False)
    world.ledger.lost(BTC, 101)

    world.settle(1)

    (first, position), (second, _) = world.outbox.unsent()
    assert (first, second) == (f"trades:x:{BTC}", f"gap:x:{BTC}:t101")
    assert position is not None
    assert position.last_trade_id == 99


def test_an_acknowledgement_of_an_unknown_trade_changes_nothing() -> None:
    world = World()
    world.trades(100, 101, acknowledge=False)

    world.ledger.acknowledged(BTC, 99)
    world.ledger.acknowledged(BTC, 500)
    world.ledger.acknowledged("ETH-USD", 1)
    world.ledger.lost(BTC, 500)

    assert world.book().position() == 99
