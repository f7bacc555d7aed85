"""The trade ledger of one exchange: which trades are published, and which are missing until REST fills them. Pure.

A producer asks it about each trade, tells it what the broker acknowledged, and calls `settle` several times a second;
what it has to say goes to the feeds topic through the outbox. `trades:{exchange}:{product}` holds the id up to which
every trade is acknowledged or in a gap that the broker knows; `gap:{exchange}:{product}:t{id}` is a gap, named for
good after its first id. From these two a successor knows after a kill what it has to look for. Guarantees: no id
between a product's first and last is ever neither acknowledged, nor on its way, nor missing. Times in microseconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from producers.id_ranges import IdRanges
from producers.outbox import Outbox
from producers.trade_book import Book, Hole
from pulsestream.core.clock import MICROS_PER_SECOND, Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import (
    FEED_GAPS,
    TRADE_COMPLETENESS,
    TRADE_DUPLICATES,
    TRADE_GAPS_OPEN,
    TRADES_FILLED,
    TRADES_MISSING,
    TRADES_UNRECOVERABLE,
)
from schemas.records import Feed, Gap, Trade

KIND: Final = "trade_id"
RENUMBERED: Final = "renumbered"
"""Cause of a gap whose ids were jumped over by an exchange that counts anew: `missing` is null, for nobody knows."""
WRITE_EVERY: Final = 2 * MICROS_PER_SECOND
"""How often a position or a shrinking gap is written, at most."""
KEEP_CLOSED: Final = 24 * 3600 * MICROS_PER_SECOND
MOST_CLOSED: Final = 200
"""How long, and how many of a product, records of gaps stay that were filled whole: they are on every reader's way."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenGap:
    """A gap in a product's trade ids that is open: its key in the ledger, what is missing, since when, why."""

    product: str
    key: str
    from_id: int
    to_id: int
    missing: int
    opened: int
    cause: str


class TradeLedger:
    """Knows the trade ids of every product that this process feeds."""

    def __init__(self, exchange: str, clock: Clock, outbox: Outbox) -> None:
        self._exchange = exchange
        self._clock = clock
        self._outbox = outbox
        self._books: dict[str, Book] = {}
        self._ended: set[str] = set()
        self._positions_at = 0
        self._unrecoverable = 0

    def take_over(self, records: Mapping[str, Feed], products: Iterable[str], cause: str = "killed") -> None:
        """Begin to feed products: with the positions and open gaps that the records hold of them.

        `cause` is that of the gap which the first trade opens if it is not the one after the last position. A product
        without records begins with its first trade. One that is fed already is left as it is.
        """
        products = set(products)
        self.wanted(products)
        new = products - self._books.keys()
        self._outbox.adopt({key: feed for key, feed in records.items() if feed.product in new})
        left = _left(records, self._exchange, new)
        for product, gaps in left.items():
            position = records.get(self._position_key(product))
            if position is not None and position.last_trade_id is not None:
                self._inherit(product, position.last_trade_id, position.at, gaps, cause)
            elif gaps.open:
                first = min(gaps.open, key=lambda hole: hole.first)
                self._inherit(product, first.first - 1, first.opened, gaps, cause)

    def wanted(self, products: Iterable[str]) -> None:
        """Let products that were given up or unwanted begin again, with their next trade."""
        self._ended.difference_update(products)

    def give_up(self, products: Iterable[str]) -> None:
        """Stop feeding products that another process takes over from the records."""
        for product in products:
            self._ended.add(product)
            book = self._books.pop(product, None)
            if book is not None:
                self._write_all(book)

    def unwanted(self, products: Iterable[str]) -> None:
        """Stop feeding products that nobody wants any more: their records end, and completeness begins anew later.

        What is missing is not looked for any longer: open gaps close with it. Works for products of records, too.
        """
        for product in products:
            self._ended.add(product)
            if product not in self._books:
                self._close_unwanted(product)
            else:
                self._abandon(self._books.pop(product))
            self._outbox.remove(self._position_key(product))

    def trade(self, trade: Trade) -> bool:
        """Take a trade of the feed; False when it is known already and is not to be published."""
        book = self._books.get(trade.product)
        trade_id = trade.trade_id
        if book is None or trade_id != book.next:
            return self._unordered(trade, book)
        book.next = trade_id + 1
        book.time = trade.exchange_time
        book.pending.append(trade_id)
        return True

    def fill(self, trade: Trade) -> bool:
        """Take a trade that was asked for over REST; False when no open gap misses it, or when it is on its way."""
        book = self.book(trade.product)
        return book is not None and book.fill(trade)

    def heartbeat(self, product: str, last_trade_id: int | None) -> None:
        """Take the exchange's word on a product's newest trade; None and 0 mean that it does not say."""
        book = self.book(product)
        if book is not None and last_trade_id:
            book.expect_tail(last_trade_id, self._clock())

    def interrupted(self, products: Iterable[str], cause: str) -> None:
        """Note that the connection which delivered these products ended: the cause of the next jump of each."""
        for product in products:
            book = self.book(product)
            if book is not None:
                book.interrupted(cause)

    def acknowledged(self, product: str, trade_id: int) -> None:
        """Note that the broker has a trade for at least one tenant, or that nobody is subscribed to it."""
        book = self._books.get(product)
        if book is None:
            return
        pending = book.pending
        if pending and pending[0] == trade_id:
            pending.popleft()
            if book.done:
                book.skip_done()
        elif book.acknowledge(trade_id):
            TRADES_FILLED.labels(self._exchange).inc()

    def lost(self, product: str, trade_id: int, cause: str = "buffer_full") -> None:
        """Note that a trade reached no tenant's topic: its id is missing again."""
        book = self.book(product)
        if book is not None:
            book.lose(trade_id, cause)

    def unrecoverable(self, product: str, from_id: int, to_id: int) -> int:
        """Give up the missing ids in this range; a gap with nothing else left closes. Returns how many it were."""
        book = self.book(product)
        count = book.give_up(from_id, to_id) if book is not None else 0
        self._given_up(count)
        return count

    def settle(self, now: int) -> None:
        """Open what has been suspect for long enough, and write what changed; to be called several times a second."""
        positions = now - self._positions_at >= WRITE_EVERY
        for book in self._books.values():
            while book.suspects and book.suspects[0].due <= now:
                hole = book.suspects.popleft()
                if hole.key is None and hole.missing.count:
                    book.changed[hole] = None
            if book.written is None:
                self._write_position(book)  # before its gaps: a successor knows then where the product began
            if book.changed:
                self._write_gaps(book, now)
            if positions:
                self._write_position(book)
                self._tidy(book, now)
        if positions:
            self._positions_at = now
            self._measure()

    def finish(self) -> None:
        """Write every position and gap as it stands: the process ends."""
        for book in self._books.values():
            self._write_all(book)

    def open_gaps(self) -> list[OpenGap]:
        """Return the gaps that are open, oldest first."""
        gaps = [
            _open_gap(book.product, hole.key, hole)
            for book in self._books.values()
            for hole in book.holes
            if hole.key is not None and hole.missing.count
        ]
        return sorted(gaps, key=lambda gap: gap.opened)

    def missing(self, product: str, from_id: int, to_id: int) -> list[tuple[int, int]]:
        """Return the ranges of ids that open gaps miss in this range and that are not on their way."""
        book = self.book(product)
        found = IdRanges()
        for hole in book.holes if book is not None else ():
            for first, last in hole.missing.within(from_id, to_id) if hole.key is not None else ():
                found.add(first, last)
        for trade_id in book.filling if book is not None else ():
            found.remove(trade_id, trade_id)
        return list(found)

    def book(self, product: str) -> Book | None:
        """Return what is known of a product's ids; None before it has begun, and after it has ended."""
        return self._books.get(product)

    def _position_key(self, product: str) -> str:
        return f"trades:{self._exchange}:{product}"

    def _inherit(self, product: str, last: int, time: int, gaps: "_Left", cause: str) -> None:
        book = self._books[product] = Book(product, last, time)
        book.first = 0
        book.written = last
        book.closed.extend(sorted(gaps.closed))
        book.inherit(gaps.open, gaps.absent, cause, self._clock())

    def _unordered(self, trade: Trade, book: Book | None) -> bool:
        if book is None:
            if trade.product in self._ended:
                return True  # a last frame before the exchange has heard of it: it begins nothing
            book = self._books[trade.product] = Book(trade.product, trade.trade_id - 1, trade.exchange_time)
        publish = book.take(trade)
        if book.renumbered is not None:
            self._renumber(book, book.renumbered, trade)
        return publish

    def _renumber(self, book: Book, first: int, trade: Trade) -> None:
        """Begin anew with this trade, and `first` before it: what the old numbering misses can never come."""
        _log.error("trade ids begin anew", exchange=self._exchange, product=book.product, last=book.last, now=first)
        self._abandon(book)
        if first > book.last:
            self._skip(book, first)
        anew = self._books[trade.product] = Book(trade.product, first, trade.exchange_time)
        anew.take(trade)

    def _skip(self, book: Book, first: int) -> None:
        """Write down ids that were jumped over: a closed gap, of which nobody knows how many were trades."""
        now, from_id = self._clock(), book.last + 1
        key = f"gap:{self._exchange}:{book.product}:t{from_id}"
        gap = Gap(kind=KIND, from_id=from_id, to_id=first - 1, opened=book.time, closed=now, cause=RENUMBERED)
        FEED_GAPS.labels(self._exchange, RENUMBERED).inc()
        feed = Feed(exchange=self._exchange, product=book.product, state="connected", at=now, gap=gap, version=0)
        self._outbox.write(key, feed)

    def _abandon(self, book: Book) -> None:
        """Close every gap, suspects among them: what they miss can never come."""
        book.filling.clear()
        book.changed |= dict.fromkeys(hole for hole in book.holes if hole.key is None)
        self._write_gaps(book, self._clock())
        for hole in list(book.holes):
            self._given_up(book.give_up(hole.first, hole.last))
        self._write_gaps(book, self._clock())

    def _close_unwanted(self, product: str) -> None:
        """Close the gaps of a product that this process has never fed."""
        for key in self._outbox.keys():  # noqa: SIM118 - an Outbox is no dict
            feed = self._outbox.newest(key)
            gap = feed.gap if feed is not None and feed.product == product else None
            if feed is not None and gap is not None and gap.kind == KIND and gap.closed is None:
                closed = msgspec.structs.replace(gap, closed=self._clock())
                self._outbox.write(key, msgspec.structs.replace(feed, gap=closed))

    def _given_up(self, count: int) -> None:
        self._unrecoverable += count
        TRADES_UNRECOVERABLE.labels(self._exchange).inc(count)

    def _write_all(self, book: Book) -> None:
        if book.written is None:
            self._write_position(book)
        for hole in book.changed:
            hole.written_at = 0
        self._write_gaps(book, self._clock())
        self._write_position(book)

    def _write_gaps(self, book: Book, now: int) -> None:
        self._look_up(book)
        for hole in list(book.changed):
            closes = hole.closes
            if hole.absorbed is not None and not closes:
                continue
            if closes or not hole.announced or now - hole.written_at >= WRITE_EVERY:
                del book.changed[hole]
                if hole.key is not None or not closes:
                    self._write(book, hole, now)
                if closes:
                    book.drop(hole)

    def _write(self, book: Book, hole: Hole, now: int) -> None:
        if hole.key is None:
            hole.key = book.name(hole, f"gap:{self._exchange}:{book.product}:t")
            FEED_GAPS.labels(self._exchange, hole.cause).inc()
            _log.info("trades missing", exchange=self._exchange, key=hole.key, ids=hole.missing.count, cause=hole.cause)
        if hole.given_up and not hole.missing.count and hole.absorbed is None:
            _log.error("trades unrecoverable", key=hole.key, ids=hole.given_up, cause=hole.cause)
        hole.written_at = now
        hole.written_to = hole.last
        gap = _gap(hole, now)
        if gap.closed is not None and not gap.missing:
            book.closed.append((now, hole.key))
        feed = Feed(exchange=self._exchange, product=book.product, state="connected", at=now, gap=gap, version=0)
        self._outbox.write(hole.key, feed)

    def _look_up(self, book: Book) -> None:
        """See which gaps the broker has as they were written last."""
        for hole in book.holes:
            if hole.key is not None and hole.key not in self._outbox.waiting:
                hole.covered_to = max(hole.covered_to, hole.written_to)
                hole.announced = hole.announced or hole.written_at > 0

    def _write_position(self, book: Book) -> None:
        self._look_up(book)
        position = book.position()
        book.mark()
        if book.written is None or position > book.written:
            book.written = position
            book.mark()
            self._outbox.write(self._position_key(book.product), self._position(book, position))

    def _tidy(self, book: Book, now: int) -> None:
        """Remove the records of gaps that were filled long ago."""
        closed = book.closed
        while closed and (len(closed) > MOST_CLOSED or now - closed[0][0] > KEEP_CLOSED):
            key = closed.popleft()[1]
            feed = self._outbox.newest(key)
            if feed is not None and feed.gap is not None and feed.gap.closed is not None and not feed.gap.missing:
                self._outbox.remove(key)

    def _position(self, book: Book, position: int) -> Feed:
        at = book.position_time
        return Feed(
            exchange=self._exchange, product=book.product, state="connected", at=at, last_trade_id=position, version=0
        )

    def _measure(self) -> None:
        books = self._books.values()
        missing = sum(hole.missing.count for book in books for hole in book.holes)
        known = sum(book.last - book.start + 1 for book in books)
        for book in books:
            TRADE_DUPLICATES.labels(self._exchange).inc(book.duplicates)
            book.duplicates = 0
        TRADES_MISSING.labels(self._exchange).set(missing)
        TRADE_GAPS_OPEN.labels(self._exchange).set(len(self.open_gaps()))
        TRADE_COMPLETENESS.labels(self._exchange).set(1 - min(1.0, (missing + self._unrecoverable) / max(1, known)))


def _open_gap(product: str, key: str, hole: Hole) -> OpenGap:
    ids = hole.missing
    return OpenGap(product, key, ids.first, ids.last, ids.count, hole.opened, hole.cause)


def _gap(hole: Hole, now: int) -> Gap:
    """Return a hole as its record: the span that is missing, or of a complete one the span that was."""
    missing = hole.missing
    spans = [(missing.first, missing.last)] if missing.count else []
    spans += [hole.given_up_span] if hole.given_up_span is not None and hole.absorbed is None else []
    closed = None if missing.count else now
    return Gap(
        kind=KIND,
        from_id=min((first for first, _ in spans), default=_named(hole)),
        to_id=max((last for _, last in spans), default=hole.last),
        opened=hole.opened,
        closed=closed,
        cause=hole.cause,
        missing=0 if hole.absorbed is not None else missing.count + hole.given_up,
    )


def _named(hole: Hole) -> int:
    """Return the first id that a hole ever missed: as a rule the one that its key is named after."""
    return min(hole.first, int(hole.key.rpartition(":t")[2])) if hole.key else hole.first


@dataclass(slots=True)
class _Left:
    """What records say of a product: its open gaps, those filled (when, key), and the ids that were given up."""

    open: list[Hole] = field(default_factory=list)
    closed: list[tuple[int, str]] = field(default_factory=list)
    absent: IdRanges = field(default_factory=IdRanges)


def _left(records: Mapping[str, Feed], exchange: str, products: Iterable[str]) -> dict[str, _Left]:
    found = {product: _Left() for product in products}
    for key, feed in records.items():
        left = found.get(feed.product or "") if feed.exchange == exchange else None
        gap = feed.gap if feed.gap is not None and feed.gap.kind == KIND else None
        if left is None or gap is None or gap.from_id is None or gap.to_id is None or gap.from_id > gap.to_id:
            continue
        if gap.closed is None:
            ids = IdRanges([(gap.from_id, gap.to_id)])
            left.open.append(
                Hole(gap.from_id, gap.to_id, gap.opened, gap.cause, 0, ids, key, announced=True, covered_to=gap.to_id)
            )
        elif gap.missing:
            left.absent.add(gap.from_id, gap.to_id)
        else:
            left.closed.append((gap.closed, key))
    return found
