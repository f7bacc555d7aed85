"""The trade ledger against plain sets, over random drops, repetitions, reordering, losses, kills and late fills.

The sets say what the broker holds, what is on its way there, and what was given up. The durable records are those that
the broker acknowledged: after a kill nothing else is left.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from producers import trade_book
from producers.completeness import TradeLedger
from producers.outbox import Outbox
from producers.trade_book import SUSPECT_FOR
from schemas.records import Feed
from tests.support.trading import make_trade

PRODUCT = "BTC-USD"
POSITION = "trades:x:BTC-USD"


class Ledgers(RuleBasedStateMachine):
    """One product's trades through one process after another."""

    exact = True

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000_000
        self.next_id = 100
        self.start: int | None = None
        self.seen: set[int] = set()
        self.acked: set[int] = set()
        self.flying: list[int] = []
        self.given_up: set[int] = set()
        self.held_back: list[int] = []
        self.durable: dict[str, Feed] = {}
        self.killed = False
        self.begin()

    def begin(self) -> None:
        self.outbox = Outbox()
        self.ledger = TradeLedger("x", lambda: self.now, self.outbox)

    def missing(self) -> set[int]:
        book = self.ledger._books.get(PRODUCT)
        holes = book.holes if book is not None else []
        return {number for hole in holes for first, last in hole.missing for number in range(first, last + 1)} - (
            book.filling if book is not None else set()
        )

    def receive(self, trade_id: int) -> None:
        published = self.ledger.trade(make_trade(PRODUCT, trade_id, self.now))
        if self.start is None:
            self.start = trade_id
        if trade_id >= self.start:
            self.seen.add(trade_id)
        if published:
            self.flying.append(trade_id)
        else:
            assert trade_id < self.start or trade_id in self.acked | set(self.flying), (
                "a trade was taken for a repetition that is not one"
            )

    @initialize(settled=st.booleans())
    def first_trade(self, *, settled: bool) -> None:
        self.trades(1)
        if settled:
            self.settle()
            self.write(1.0)

    @rule(count=st.integers(1, 5))
    def trades(self, count: int) -> None:
        for _ in range(count):
            self.next_id += 1
            self.receive(self.next_id)

    @rule(count=st.integers(1, 6))
    def drop(self, count: int) -> None:
        self.next_id += count

    @rule(count=st.integers(1, 3))
    def hold_back(self, count: int) -> None:
        for _ in range(count):
            self.next_id += 1
            self.held_back.append(self.next_id)

    @precondition(lambda self: self.held_back)
    @rule(data=st.data())
    def arrive_late(self, data: st.DataObject) -> None:
        trade_id = data.draw(st.sampled_from(self.held_back))
        self.held_back.remove(trade_id)
        self.receive(trade_id)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.receive(data.draw(st.sampled_from(sorted(self.seen))))

    @precondition(lambda self: self.start is not None and self.ledger.book(PRODUCT) is not None)
    @rule()
    def heartbeat(self) -> None:
        self.ledger.heartbeat(PRODUCT, self.next_id)
        self.seen.add(self.next_id)

    @rule()
    def disconnect(self) -> None:
        self.ledger.interrupted([PRODUCT], "disconnected")

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), count=st.integers(1, 8))
    def acknowledge(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.flying))):
            near = self.flying[:3]
            trade_id = data.draw(st.sampled_from(near))
            self.flying.remove(trade_id)
            self.acked.add(trade_id)
            self.ledger.acknowledged(PRODUCT, trade_id)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        trade_id = data.draw(st.sampled_from(self.flying))
        self.flying.remove(trade_id)
        self.ledger.lost(PRODUCT, trade_id)

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5]))
    def settle(self, seconds: float = 2.5) -> None:
        self.now += int(seconds * 1_000_000)
        self.ledger.settle(self.now)

    @rule(share=st.sampled_from([0.5, 1.0]))
    def write(self, share: float) -> None:
        """The broker takes the oldest of what waits, in order."""
        waiting = self.outbox.unsent()
        for key, record in waiting[: round(len(waiting) * share)]:
            assert record is not None
            assert key not in self.durable or self.durable[key].version < record.version
            self.durable[key] = record
            self.outbox.written(key, record)

    @rule(data=st.data(), page=st.integers(1, 10))
    def fill(self, data: st.DataObject, page: int) -> None:
        gaps = self.ledger.open_gaps()
        if gaps:
            gap = data.draw(st.sampled_from(gaps))
            for trade_id in range(gap.from_id, gap.from_id + page):
                if self.ledger.fill(make_trade(PRODUCT, trade_id, self.now)):
                    self.flying.append(trade_id)

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        gaps = self.ledger.open_gaps()
        if gaps:
            gap = data.draw(st.sampled_from(gaps))
            before = self.missing()
            self.ledger.unrecoverable(PRODUCT, gap.from_id, gap.to_id)
            self.given_up |= before - self.missing()

    @rule()
    def kill(self) -> None:
        self.flying.clear()
        self.killed = True
        self.begin()
        self.ledger.take_over(self.durable, [PRODUCT])
        if POSITION not in self.durable and self.ledger.book(PRODUCT) is None:
            self.start = None
            self.seen.clear()

    @rule()
    def hand_over(self) -> None:
        """The process ends in good order, with everything written."""
        self.settle(2.5)
        self.ledger.finish()
        self.write(1.0)
        self.kill()

    @invariant()
    def no_id_is_forgotten(self) -> None:
        book = self.ledger.book(PRODUCT)
        if self.start is None or book is None:
            return
        known = self.acked | set(self.flying) | self.given_up
        lacking = set(range(self.start, book.last + 1)) - known
        assert lacking <= self.missing()
        if self.exact and not self.killed:
            assert lacking == self.missing() - self.given_up

    @invariant()
    def the_written_position_is_never_ahead(self) -> None:
        record = self.durable.get(POSITION)
        if record is None or self.start is None or record.last_trade_id is None:
            return
        covered = {
            number
            for feed in self.durable.values()
            if feed.gap is not None and feed.gap.closed is None
            for number in range(feed.gap.from_id or 0, (feed.gap.to_id or 0) + 1)
        }
        assert set(range(self.start, record.last_trade_id + 1)) <= self.acked | covered | self.given_up

    @invariant()
    def memory_is_bounded(self) -> None:
        book = self.ledger.book(PRODUCT)
        if book is not None:
            assert len(book.holes) <= trade_book.MAX_HOLES
            assert all(len(hole.missing) <= trade_book.MAX_RANGES for hole in book.holes)
            assert len(book.done) <= len(book.pending)

    def teardown(self) -> None:
        """Everything that was missed comes from REST in the end, and every gap closes."""
        book = self.ledger.book(PRODUCT)
        if book is None:
            return
        self.settle(2.5)
        for trade_id in self.flying:
            self.acked.add(trade_id)
            self.ledger.acknowledged(PRODUCT, trade_id)
        self.settle(2.5)
        for gap in self.ledger.open_gaps():
            for first, last in self.ledger.missing(PRODUCT, gap.from_id, gap.to_id):
                for trade_id in range(first, last + 1):
                    assert self.ledger.fill(make_trade(PRODUCT, trade_id, self.now))
                    self.acked.add(trade_id)
                    self.ledger.acknowledged(PRODUCT, trade_id)
        self.settle(SUSPECT_FOR / 1e6)
        self.write(1.0)
        self.settle(2.5)
        self.write(1.0)

        assert self.ledger.open_gaps() == []
        assert not [key for key, feed in self.durable.items() if feed.gap is not None and feed.gap.closed is None]
        assert self.durable[POSITION].last_trade_id == book.last
        if self.start is not None:
            assert set(range(self.start, book.last + 1)) <= self.acked | self.given_up


class CrowdedLedgers(Ledgers):
    """The same, where gaps are joined all the time."""

    exact = False


RUNS = settings(max_examples=80, stateful_step_count=50)


def test_the_ledger_knows_every_id_that_is_missing() -> None:
    run_state_machine_as_test(Ledgers, settings=RUNS)


def test_joined_gaps_forget_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trade_book, "MAX_HOLES", 2)
    monkeypatch.setattr(trade_book, "MAX_RANGES", 2)

    run_state_machine_as_test(CrowdedLedgers, settings=RUNS)
