"""One WebSocket connection to an exchange: opened, subscribed, read, watched, and ended.

It reads a frame only when the listener has taken what the one before held, so a slow listener holds up the socket
(back pressure). Products are added and removed while it is open; messages keep within the exchange's rate. `run` ends
with the error that says why; `pacing.judge` decides what follows from it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from producers.errors import ExchangeSaidError, FeedRefusedError, StaleFeedError
from producers.pacing import Pace, TokenBucket, Watchdog
from producers.plan import Refusals, Request, SubscriptionPlan
from producers.source import is_local
from producers.venues.protocol import (
    Closing,
    Exchange,
    Heartbeat,
    Ignored,
    Limits,
    Malformed,
    Outcome,
    Refused,
    Session,
    Subscriptions,
)
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, wall_clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import FEED_CONNECTS, FEED_FIRST_RECORD_SECONDS, FEED_FRAMES, FEED_LATENCY_SECONDS
from schemas.records import Tick, Trade

MAX_FRAME_BYTES: Final = 256 * 1024
"""A larger frame closes the connection; a subscriptions frame of 5,000 products has about 150 kB."""
QUEUED_FRAMES: Final = 64
"""Frames read ahead of the listener; beyond them the socket is not read."""
OPEN_TIMEOUT: Final = 10.0
SILENT_AT_MOST: Final = 300.0
"""Seconds for which a connection may be silent while every wanted product is refused: then nothing can come on it."""
CLOSE_TIMEOUT: Final = 2.0

_log = logger(__name__)
_KINDS: Final[dict[type[Outcome], str]] = {
    Tick: "tick",
    Trade: "trade",
    Heartbeat: "heartbeat",
    Subscriptions: "subscriptions",
    Refused: "error",
    Closing: "closing",
    Ignored: "ignored",
    Malformed: "malformed",
}


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """How a feed behaves. `shard` names it in metrics; `datasets` are those that are asked for. Times in seconds."""

    url: str
    limits: Limits
    shard: int = 0
    stale_after: float = 15.0
    pace: Pace = field(default_factory=Pace)
    datasets: tuple[str, ...] = ("ticks", "trades")

    @property
    def host(self) -> str:
        """The host that attempts to connect are counted for."""
        return urlsplit(self.url).hostname or self.url


@dataclass(frozen=True, slots=True)
class Clocks:
    """Wall time in microseconds, and monotonic seconds."""

    wall: Clock = wall_clock
    monotonic: Callable[[], float] = time.monotonic


CLOCKS: Final = Clocks()


class Owner(Protocol):
    """Whoever made a connection and is told what happens on it. Times are microseconds of the wall clock."""

    async def record(self, record: Tick | Trade) -> None:
        """Take a record; the connection reads on when this returns."""

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Take the exchange's word that a product's feed is alive."""

    def delivers(self, connection: "Connection", at: int) -> None:
        """Note a connection's first market data."""

    def completes(self, connection: "Connection", at: int) -> None:
        """Note that a connection delivers and that every wanted product is confirmed on it (or refused)."""


class Connection:
    """One connection, from the attempt to make it to its end."""

    def __init__(
        self, config: FeedConfig, exchange: Exchange, owner: Owner, refusals: Refusals, clocks: Clocks
    ) -> None:
        self.plan = SubscriptionPlan((), refusals)
        self.last_good: int | None = None
        self.is_complete = False
        self.ageing = asyncio.Event()
        """Set when another connection should take over: the exchange will end this one, or it is as old as allowed."""
        self._config = config
        self._exchange = exchange.name
        self._session: Session = exchange.session(config.datasets)
        self._owner = owner
        self._clocks = clocks
        self._began = clocks.monotonic()
        self._watchdog = Watchdog(config.stale_after, self._began)
        self._messages = TokenBucket(config.limits.messages_per_second, 1.0, self._began)
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._closing = False
        self._has_record = False
        self._malformed = 0

    @property
    def good_seconds(self) -> float:
        """How long the connection has delivered."""
        return self._watchdog.good_seconds

    def want(self, products: Collection[str]) -> None:
        """Change the wanted products; with none, the connection ends."""
        self._wanted = frozenset(products)
        self.plan.want(self._wanted)
        self._changed.set()

    def close(self) -> None:
        """Make `run` close the connection and return."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Connect and deliver until `close`, or until no product is wanted; raises what else ended it."""
        FEED_CONNECTS.labels(self._exchange).inc()
        async with _opened(self._config.url) as socket:
            tasks = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._tend(socket))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            for outcome in ended:
                if isinstance(outcome, Exception):
                    raise outcome

    # ---- reading ----

    async def _read(self, socket: ClientConnection) -> None:
        receive, understand, clock = socket.recv, self._session.receive, self._clocks.wall
        counters = {kind: FEED_FRAMES.labels(self._exchange, name) for kind, name in _KINDS.items()}
        while True:
            frame = await receive(decode=False)
            received_time = clock()
            for outcome in understand(frame, received_time):
                counters[type(outcome)].inc()
                if isinstance(outcome, Tick | Trade):
                    await self._pass_on(outcome, received_time)
                else:
                    self._take(outcome, received_time)

    async def _pass_on(self, record: Tick | Trade, received_time: int) -> None:
        self._good(received_time)
        dataset = "ticks" if isinstance(record, Tick) else "trades"
        latency = max(0, received_time - record.exchange_time) / MICROS_PER_SECOND
        FEED_LATENCY_SECONDS.labels(self._exchange, dataset).observe(latency)
        if not self._has_record:
            self._has_record = True
            FEED_FIRST_RECORD_SECONDS.labels(self._exchange).observe(self._clocks.monotonic() - self._began)
        self._watchdog.hold(self._clocks.monotonic())
        await self._owner.record(record)
        self._watchdog.resume(self._clocks.monotonic())

    def _take(self, outcome: Outcome, received_time: int) -> None:
        """Act on anything but a record."""
        match outcome:
            case Heartbeat():
                self._good(received_time)
                self._owner.heartbeat(outcome)
            case Ignored(alive=True):
                self._good(received_time)
            case Subscriptions(products):
                self.plan.confirm(products)
                self._changed.set()
            case Refused():
                self._refused(outcome)
            case Closing(reason):
                _log.info("exchange will end a connection", exchange=self._exchange, reason=reason)
                self.ageing.set()
            case Malformed(reason):
                self._count_malformed(reason)

    def _good(self, received_time: int) -> None:
        """Note market data; it comes before the record itself is passed on."""
        self._watchdog.good(self._clocks.monotonic())
        first, self.last_good = self.last_good is None, received_time
        if first:
            self._owner.delivers(self, received_time)
        if not self.is_complete and self.plan.settled:
            self.is_complete = True
            self._owner.completes(self, received_time)

    def _refused(self, refused: Refused) -> None:
        if refused.fatal:
            raise FeedRefusedError(f"{self._exchange} refuses this client: {refused.reason}")
        if not refused.products:
            raise ExchangeSaidError(refused.reason)
        news = self.plan.refuse(refused.products, refused.reason, self._clocks.monotonic())
        if news:
            _log.error("products refused", exchange=self._exchange, products=news[:20], reason=refused.reason)
        self._changed.set()

    def _count_malformed(self, reason: str) -> None:
        self._malformed += 1
        if _is_power_of_ten(self._malformed):
            _log.warning("frames refused", exchange=self._exchange, count=self._malformed, reason=reason)

    # ---- tending ----

    async def _tend(self, socket: ClientConnection) -> None:
        """Send what the plan asks for and watch for silence and age; returns when the connection is to be closed."""
        every = min(self._config.stale_after / 4, 1.0)
        while self._wanted and not self._closing:
            self._changed.clear()
            await self._follow(socket)
            self._watch()
            with suppress(TimeoutError):  # then it is time to look again
                await asyncio.wait_for(self._changed.wait(), every)

    def _watch(self) -> None:
        now, oldest = self._clocks.monotonic(), self._config.limits.max_age
        all_refused = self._wanted <= self.plan.refusals.held.keys()
        if self._watchdog.is_stale(now) and (not all_refused or now - self._began >= SILENT_AT_MOST):
            raise StaleFeedError(f"no data for {self._config.stale_after:g} s")
        if oldest is not None and now - self._began >= oldest:
            self.ageing.set()

    async def _follow(self, socket: ClientConnection) -> None:
        """Send every message that is due, at the pace that the exchange allows."""
        late = self.plan.expire(self._clocks.monotonic())
        if late:
            _log.error("products not confirmed", exchange=self._exchange, products=late[:20], count=len(late))
        while not self._closing and (request := self.plan.next_request(self._clocks.monotonic())) is not None:
            for message in self._messages_of(request):
                await asyncio.sleep(self._messages.reserve(self._clocks.monotonic()))
                with suppress(ConnectionClosed):  # the reader ends with the same news, after what it has still to read
                    await socket.send(message)

    def _messages_of(self, request: Request) -> list[str]:
        write = self._session.subscribe if request.subscribe else self._session.unsubscribe
        return write(request.products)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[ClientConnection]:
    """Open a socket, and end it as the block ended: a silent one is not asked to say goodbye."""
    opening = connect(
        url,
        open_timeout=OPEN_TIMEOUT,
        close_timeout=CLOSE_TIMEOUT,
        ping_interval=None,  # the watchdog looks at data; pongs would wait behind our own back pressure
        max_size=MAX_FRAME_BYTES,
        max_queue=QUEUED_FRAMES,
        compression=None,
        proxy=None if is_local(url) else True,
    )
    async with opening as socket:
        try:
            yield socket
        except asyncio.CancelledError:
            await socket.close()  # left by an exception, the library would say "internal error"
            raise
        except StaleFeedError:
            socket.transport.abort()
            raise


def _is_power_of_ten(count: int) -> bool:
    """Thin out a message that could come thousands of times a second."""
    return str(count).rstrip("0") == "1"
