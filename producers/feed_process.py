"""`pulsestream producer`: one exchange's feed to the topics of every subscribed tenant, until SIGTERM or SIGINT.

Any number of these processes divide an exchange's shards among them (`producers.shards`). Order at the start: the
subscriptions are read whole, the group assigns shards, the ledger of each is read, then its feed connects. Order at
the end: the feeds stop, what is on its way is flushed, the ledger says disconnected, the group is left. A failure that
only a person can cure is raised; a broker or an exchange that is away is waited for.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from producers.completeness import TradeLedger
from producers.connection import FeedConfig
from producers.feed import Feed, Listener
from producers.feed_readiness import readiness
from producers.feeds_topic import FeedsTopic
from producers.filler import Filler
from producers.filler import Pace as Patience
from producers.intake import Intake
from producers.ledger import Ledger, Shard
from producers.ledger_writer import LedgerWriter
from producers.outbox import Outbox
from producers.owned_shards import Books, Division, OwnedShards
from producers.product_list import ProductLists
from producers.publisher import Limits, Publisher
from producers.rest_client import RestClient
from producers.shards import ShardGroup
from producers.source import exchange_of, rest_url, websocket_url
from producers.storm import StormGuard
from producers.venues.protocol import Limits as VenueLimits
from producers.wishes import routes, wanted
from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.collector import calm_collector
from pulsestream.core.health import operations
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from schemas.control import ControlTable
from schemas.records import Subscription

POLL_EVERY: Final = 0.02
"""Seconds between two looks at delivery reports while no record arrives."""
FOLLOW_EVERY: Final = 0.25
"""Seconds between two looks at the subscriptions."""
LEDGER_EVERY: Final = 0.1
REFRESH_EVERY: Final = 1.0
"""Seconds between two refreshes of the connections' records: bounds the interval that a kill opens."""
TIDY_EVERY: Final = 60.0
FLUSH_WITHIN: Final = 8.0
LEDGER_FLUSH_WITHIN: Final = 3.0
_FIRST: Final = 0
"""The shard whose producer speaks for the whole exchange."""

_log = logger(__name__)


def run(settings: Settings) -> None:
    """Feed until a signal ends it; raises BrokerError, FeedRefusedError or UsageError when it cannot go on."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it says each request, and a gap may take thousands
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    subscriptions = ControlTable(settings, topics.SUBSCRIPTIONS, Subscription, "ps-producer-subscriptions")
    feeds = FeedsTopic(settings)
    try:
        await asyncio.gather(asyncio.to_thread(subscriptions.load), asyncio.to_thread(feeds.read))
        if not stopping.is_set():
            await FeedProcess(settings, subscriptions, feeds).run(stopping)
    finally:
        subscriptions.close()
        feeds.close()


class FeedProcess:
    """Feeds, publisher and ledgers of one exchange, wired together."""

    def __init__(self, settings: Settings, subscriptions: ControlTable[Subscription], feeds: FeedsTopic) -> None:
        self._settings = settings
        self._subscriptions = subscriptions
        self._feeds = feeds
        self._exchange = exchange_of(settings)
        self._guard = StormGuard()
        self._outbox = Outbox()
        self._trades = TradeLedger(settings.exchange, wall_clock, self._outbox)
        ledger = Ledger(wall_clock, self._outbox)
        limits = Limits(records=settings.publish_buffer, block=settings.publish_block)
        self._publisher = Publisher(settings, ledger, limits, trades=self._trades)
        self._writer = LedgerWriter(self._outbox, self._publisher, self._may_write)
        self._owned = OwnedShards(
            Division(settings.exchange, settings.feed_shards),
            Books(ledger, self._trades, self._outbox, self._writer),
            self._publisher,
            Intake(self._publisher, self._trades),
            make_feed=self._make_feed,
            read_ledger=feeds.read,
        )
        self._group = ShardGroup(settings, self._owned)
        self._rest = RestClient(settings.exchange, rest_url(settings, self._exchange), self._rest_rate())
        patience = Patience(patience=settings.gap_patience)
        self._filler = Filler(self._exchange.rest, self._rest, self._trades, self._publisher, patience)
        self._products = ProductLists(
            settings.exchange,
            self._exchange.rest,
            self._rest,
            self._publisher,
            may_tell=lambda: self._may_write() and _FIRST in self._owned.owned,
            clock=wall_clock,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Feed until `stopping` is set, or raise what makes that impossible."""
        self._follow()
        checks = readiness(self._settings.exchange, self._owned, self._publisher, self._filler)
        with calm_collector(), operations(self._settings.ops_port, checks):
            asking = [asyncio.create_task(self._filler.run()), asyncio.create_task(self._products.run())]
            parts = (self._group.run(), self._owned.failure(), self._housekeeping())
            work = [*asking, *(asyncio.create_task(part) for part in parts)]
            stop = asyncio.create_task(stopping.wait())
            try:
                await asyncio.wait([*work, stop], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in asking:
                    task.cancel()
                await self._end([*work, stop])
        for task in work:
            if not task.cancelled():
                task.result()

    async def _end(self, work: list["asyncio.Task[None] | asyncio.Task[bool]"]) -> None:
        """Stop the feeds, flush, write the ledger, leave the group; every part within its bound."""
        await asyncio.gather(self._owned.end(), self._rest.aclose())
        flushed = await self._publisher.drain(FLUSH_WITHIN)
        self._trades.finish()
        self._writer.write()
        await self._publisher.drain(LEDGER_FLUSH_WITHIN)
        await self._group.leave()
        for task in work:
            task.cancel()
        await asyncio.wait(work)
        account = self._publisher.account
        say = _log.info if flushed and not self._outbox.waiting else _log.error
        say(
            "producer ends",
            produced=account.produced,
            acknowledged=account.acknowledged,
            failed=dict(account.failed),
            ledger_unwritten=len(self._outbox.waiting),
        )

    def _make_feed(self, shard: Shard, listener: Listener) -> Feed:
        config = FeedConfig(
            websocket_url(self._settings, self._exchange),
            self._limits(),
            shard=shard.number,
            stale_after=self._settings.stale_after,
        )
        return Feed(config, self._exchange, listener, self._guard)

    def _rest_rate(self) -> float:
        """Return this process's part of the requests a second that the exchange allows a host."""
        part = max(1, len(self._owned.owned)) / self._settings.feed_shards
        return self._exchange.limits.requests_per_second * part

    def _limits(self) -> VenueLimits:
        limits, per_minute = self._exchange.limits, self._settings.connects_per_minute
        return replace(limits, connects_per_minute=per_minute) if per_minute else limits

    def _may_write(self) -> bool:
        return self._group.holds_lease() and not self._owned.in_doubt

    async def _housekeeping(self) -> None:
        """Serve delivery reports, subscriptions and the ledger, each in its own rhythm."""
        await asyncio.gather(
            _every(POLL_EVERY, self._publisher.poll),
            _every(FOLLOW_EVERY, self._follow_changes),
            _every(LEDGER_EVERY, self._write_ledger),
            _every(REFRESH_EVERY, self._refresh),
            _every(TIDY_EVERY, self._tidy),
        )

    def _follow_changes(self) -> None:
        if self._subscriptions.refresh():
            self._follow()

    def _follow(self) -> None:
        records, exchange = self._subscriptions.records, self._settings.exchange
        self._publisher.route(routes(records, exchange))
        wished = wanted(records, exchange, self._settings.feed_products)
        self._owned.follow(wished)
        _log.info("subscriptions", exchange=exchange, products=len(wished.tenants))

    def _write_ledger(self) -> None:
        self._trades.settle(wall_clock())
        self._writer.write()

    def _tidy(self) -> None:
        self._owned.tidy(self._feeds.records())

    def _refresh(self) -> None:
        self._publisher.tend()
        self._feeds.follow()
        self._rest.set_rate(self._rest_rate())
        complete_until = self._publisher.complete_until()
        for shard in self._owned.owned.values():
            shard.refresh(complete_until)


async def _every(seconds: float, act: Callable[[], None]) -> None:
    while True:
        act()
        await asyncio.sleep(seconds)
