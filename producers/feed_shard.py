"""One shard at work: the feed of its products, and its ledger, which the feed's news go into."""

import asyncio
from collections.abc import Callable, Collection
from typing import Final, Protocol

from producers.feed import Feed, Listener
from producers.ledger import ShardLedger
from producers.venues.protocol import Heartbeat
from schemas.records import Tick, Trade

HANDED_OVER: Final = "handed_over"
"""Cause of an interval that begins when a shard changes its producer."""
_IDLE: Final = "idle"


class Intake(Protocol):
    """What takes the records of all shards in; `producers.intake.Intake` is one."""

    async def record(self, record: Tick | Trade) -> None:
        """Take a record; its connection reads on when this returns."""

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Take the exchange's word that a product's feed is alive."""

    def interrupted(self, products: Collection[str], cause: str) -> None:
        """Note that the connection of these products ended."""


class FeedShard:
    """Feeds one shard's products from `start` until `stop` or `abandon`."""

    def __init__(self, ledger: ShardLedger, intake: Intake, make_feed: Callable[[Listener], Feed]) -> None:
        self.ledger = ledger
        self.products: frozenset[str] = frozenset()
        self.last_record = 0
        """received_time of the newest record; 0 before any."""
        self.feed = make_feed(self)
        self._intake = intake
        self._ended_at: int | None = None
        self._stopping: str | None = None
        self._is_abandoned = False
        self._work: asyncio.Task[None] | None = None

    @property
    def work(self) -> "asyncio.Task[None] | None":
        """The task that feeds; it ends by itself only by an error that no new connection can cure."""
        return self._work

    def start(self, products: Collection[str]) -> None:
        """Feed these products."""
        self._work = asyncio.create_task(self.feed.run())
        if not products:
            self.ledger.idle()
        self.want(products)

    def want(self, products: Collection[str]) -> None:
        """Change the products, on the open connection."""
        self.products = frozenset(products)
        self.feed.want(products)

    def refresh(self, complete_until: int | None) -> None:
        """Say in the ledger that the shard lives, and up to where nothing of it is missing.

        `complete_until`: up to where everything that was received is acknowledged. A connection may have died after its
        last good frame without anybody having noticed, so no more than that counts as complete.
        """
        heard = self.feed.last_good
        known = None if heard is None or complete_until is None else min(heard, complete_until)
        if self._stopping is None:
            self.ledger.lacks(self.feed.lacking(), self.products - self.feed.confirmed())
        self.ledger.refresh(known)
        self.feed.measure()

    async def stop(self, cause: str) -> None:
        """End the feed; `settle` writes down from when on data may be missing."""
        self._stopping = cause
        self.feed.stop()
        if self._work is not None:
            await asyncio.wait([self._work])

    async def abandon(self) -> None:
        """End the feed of a shard that is somebody else's already: the ledger is no longer ours to write."""
        self._is_abandoned = True
        await self.stop(HANDED_OVER)

    def settle(self, complete_until: int | None) -> None:
        """Open the interval of a feed that was stopped: at its last good frame, or before what is still on its way."""
        if self._stopping is None or not self.products:
            return
        since = self._ended_at
        if since is not None and complete_until is not None and complete_until < self.last_record:
            since = min(since, complete_until)
        self.ledger.lost(since, self._stopping)

    # ---- what the feed tells ----

    async def record(self, record: Tick | Trade) -> None:
        """Pass a record on, unless nobody asked for its product: an exchange must not make the ledger longer."""
        if record.product not in self.products:
            return
        self.last_record = record.received_time
        await self._intake.record(record)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Pass a heartbeat on."""
        self._intake.heartbeat(heartbeat)

    def delivering(self, at: int) -> None:
        """Say in the ledger that the exchange delivers."""
        if self._stopping is None:
            self.ledger.delivering(at)

    def complete(self, at: int) -> None:
        """Close the interval that the last connection's end has opened."""
        if self._stopping is None:
            self.ledger.complete(at)

    def lost(self, since: int | None, cause: str) -> None:
        """Open an interval without data; the one of a stop waits for `settle`."""
        if self._is_abandoned:
            return
        self._intake.interrupted(self.products, self._stopping or cause)
        if cause == _IDLE:
            self.ledger.idle()
        elif self._stopping is None:
            self.ledger.lost(since, cause)
        elif since is not None:
            self._ended_at = min(since, self._ended_at or since)
