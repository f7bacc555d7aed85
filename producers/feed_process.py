"""`pulsestream producer`: one exchange's feed to the topics of every subscribed tenant, until SIGTERM or SIGINT.

Order at the start: subscriptions and ledger are read whole, then the feed connects. Order at the end: the feed stops,
what is on its way is flushed, the ledger says disconnected. A failure that only a person can cure is raised; a broker
or an exchange that is away is waited for.
"""

import asyncio
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from confluent_kafka import KafkaError

from producers.coinbase import CoinbaseProtocol
from producers.feed import Feed, FeedConfig
from producers.ledger import Ledger
from producers.publisher import Limits, Publisher
from pulsestream.core import topics
from pulsestream.core.clock import wall_clock
from pulsestream.core.health import Readiness, operations
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from schemas.codec import codec
from schemas.control import ControlTable
from schemas.records import Feed as FeedRecord
from schemas.records import Subscription, Tick

POLL_EVERY: Final = 0.02
"""Seconds between two looks at delivery reports while no tick arrives."""
FOLLOW_EVERY: Final = 0.25
"""Seconds between two looks at the subscriptions."""
LEDGER_EVERY: Final = 0.1
REFRESH_EVERY: Final = 1.0
"""Seconds between two refreshes of the connection's record: bounds the interval that a kill opens."""
FLUSH_WITHIN: Final = 10.0
LEDGER_FLUSH_WITHIN: Final = 3.0
_SHOWN: Final = 20

_log = logger(__name__)


def run(settings: Settings) -> None:
    """Feed until a signal ends it; raises BrokerError, FeedRefusedError or UsageError when it cannot go on."""
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    subscriptions = ControlTable(settings, topics.SUBSCRIPTIONS, Subscription, "ps-producer-subscriptions")
    try:
        await asyncio.to_thread(subscriptions.load)
        ledger = Ledger(settings.exchange, wall_clock, await asyncio.to_thread(_read_ledger, settings))
        if not stopping.is_set():
            await FeedProcess(settings, subscriptions, ledger).run(stopping)
    finally:
        subscriptions.close()


def _read_ledger(settings: Settings) -> Mapping[str, FeedRecord]:
    table = ControlTable(settings, topics.FEEDS, FeedRecord, "ps-producer-feeds")
    try:
        table.load()
        return table.records
    finally:
        table.close()


class FeedProcess:
    """Feed, publisher and ledger of one exchange, wired together. Listens to the feed."""

    def __init__(self, settings: Settings, subscriptions: ControlTable[Subscription], ledger: Ledger) -> None:
        limits = Limits(records=settings.publish_buffer, block=settings.publish_block)
        config = FeedConfig(settings.exchange_url, settings.exchange, settings.stale_after)
        self._settings = settings
        self._subscriptions = subscriptions
        self._ledger = ledger
        self._publisher = Publisher(settings, ledger, limits)
        self._feed = Feed(config, CoinbaseProtocol(settings.exchange), self)
        self._encode = codec(FeedRecord).encode
        self._writing: set[tuple[str, int]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Feed until `stopping` is set, or raise what makes that impossible."""
        self._ledger.start()
        self._follow()
        self._publisher.inherit(self._ledger.open_scopes())
        with operations(self._settings.ops_port, self._readiness()):
            work = [asyncio.create_task(coroutine) for coroutine in (self._feed.run(), self._housekeeping())]
            stop = asyncio.create_task(stopping.wait())
            try:
                await asyncio.wait([*work, stop], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await self._end(work, stop)
        for task in work:
            if not task.cancelled():
                task.result()

    async def tick(self, tick: Tick) -> None:
        """Publish a tick; returns when there is room for it, or when its loss is written down."""
        await self._publisher.publish(tick)

    def delivering(self, at: int) -> None:
        """Say in the ledger that the exchange delivers."""
        self._ledger.delivering(at)

    def complete(self, at: int) -> None:
        """Say in the ledger that nothing is missing any more."""
        self._ledger.complete(at)

    def lost(self, since: int | None, cause: str) -> None:
        """Say in the ledger that the exchange does not deliver."""
        self._ledger.lost(since, cause)

    async def _end(self, work: list[asyncio.Task[None]], stop: asyncio.Task[bool]) -> None:
        """Stop the feed, flush, write the ledger; every part within its bound."""
        stop.cancel()
        self._feed.stop()
        await asyncio.wait([work[0]])
        work[1].cancel()
        await asyncio.wait([work[1]])
        flushed = await self._publisher.drain(FLUSH_WITHIN)
        self._write_ledger()
        await self._publisher.drain(LEDGER_FLUSH_WITHIN)
        account = self._publisher.account
        say = _log.info if flushed and not self._ledger.outbox else _log.error
        say(
            "producer ends",
            produced=account.produced,
            acknowledged=account.acknowledged,
            failed=dict(account.failed),
            ledger_unwritten=len(self._ledger.outbox),
        )

    async def _housekeeping(self) -> None:
        """Serve delivery reports, subscriptions and the ledger, each in its own rhythm."""
        await asyncio.gather(
            _every(POLL_EVERY, self._publisher.poll),
            _every(FOLLOW_EVERY, self._follow_changes),
            _every(LEDGER_EVERY, self._write_ledger),
            _every(REFRESH_EVERY, self._refresh),
        )

    def _follow_changes(self) -> None:
        if self._subscriptions.refresh():
            self._follow()

    def _follow(self) -> None:
        wanted = wanted_products(self._subscriptions.records, self._settings.exchange)
        self._publisher.route({"ticks": wanted})
        self._feed.want(wanted)
        _log.info("subscriptions", exchange=self._settings.exchange, products=len(wanted))

    def _refresh(self) -> None:
        self._publisher.tend()
        self._ledger.refresh(self._publisher.complete_until())

    def _write_ledger(self) -> None:
        for key, record in self._ledger.unsent():
            written = (key, record.version)
            if written in self._writing:
                continue
            done = partial(self._written, key, record)
            if not self._publisher.send(topics.FEEDS, key, self._encode(record), done):
                return
            self._writing.add(written)

    def _written(self, key: str, record: FeedRecord, error: KafkaError | None) -> None:
        self._writing.discard((key, record.version))
        if error is None:
            self._ledger.written(key, record)
        else:
            _log.error("ledger not written, will be tried again", key=key, reason=error.str())

    def _readiness(self) -> Readiness:
        readiness = Readiness()
        readiness.add("exchange", self._feed.problem)
        readiness.add("broker", self._publisher.problem)
        readiness.add_detail("products", self._refused_products)
        readiness.add_detail("tenants", self._parked_tenants)
        return readiness

    def _refused_products(self) -> str | None:
        refused = self._feed.refused()
        return f"not delivered by {self._settings.exchange}: {_listed(refused)}" if refused else None

    def _parked_tenants(self) -> str | None:
        parked = self._publisher.parked()
        return f"tenants that get nothing at present: {_listed(parked)}" if parked else None


def wanted_products(subscriptions: Mapping[str, Subscription], exchange: str) -> dict[str, list[str]]:
    """Return which tenants want the ticks of which products of an exchange: product -> tenants."""
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for subscription in subscriptions.values():
        if subscription.exchange == exchange and "ticks" in subscription.datasets:
            wanted[subscription.product].append(subscription.tenant)
    return dict(wanted)


async def _every(seconds: float, act: Callable[[], None]) -> None:
    while True:
        act()
        await asyncio.sleep(seconds)


def _listed(reasons: Mapping[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in sorted(reasons.items())[:_SHOWN]]
    more = len(reasons) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
