"""The reconnecting feed: one WebSocket to an exchange, its subscriptions, a watchdog, and backoff around it.

It reads a frame only when the listener has taken the one before, so a slow listener holds up the socket (back
pressure). Everything runs on one event loop. Any error that `pacing.judge` calls fatal ends `run`; all others lead to
another connection. Products are added and removed on the open connection.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from producers.errors import ExchangeSaidError, FeedRefusedError, StaleFeedError
from producers.pacing import Backoff, Pace, Watchdog, judge
from producers.plan import SubscriptionPlan
from producers.protocol import (
    ExchangeError,
    ExchangeProtocol,
    Heartbeat,
    Ignored,
    Malformed,
    Outcome,
    Subscriptions,
    TickFrame,
)
from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.errors import UsageError
from pulsestream.core.log import logger
from pulsestream.core.metrics import FEED_CONNECTED, FEED_CONNECTS, FEED_FRAMES, FEED_REFUSED_PRODUCTS
from schemas.records import Tick

MAX_FRAME_BYTES: Final = 256 * 1024
"""A larger frame closes the connection; a subscriptions frame of 5,000 products has about 150 kB."""
QUEUED_FRAMES: Final = 64
"""Frames read ahead of the listener; beyond them the socket is not read."""
OPEN_TIMEOUT: Final = 10.0
CLOSE_TIMEOUT: Final = 2.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_log = logger(__name__)
_KINDS: Final[dict[type[Outcome], str]] = {
    TickFrame: "tick",
    Heartbeat: "heartbeat",
    Subscriptions: "subscriptions",
    ExchangeError: "error",
    Ignored: "ignored",
    Malformed: "malformed",
}


class Listener(Protocol):
    """What a feed tells, in the order in which it happens. Times are microseconds of the wall clock."""

    async def tick(self, tick: Tick) -> None:
        """Take a tick; the feed reads on when this returns."""

    def delivering(self, at: int) -> None:
        """Note that a connection delivers its first market data."""

    def complete(self, at: int) -> None:
        """Note that a connection delivers and that every wanted product is confirmed on it (or refused)."""

    def lost(self, since: int | None, cause: str) -> None:
        """Note that there is no connection. `since`: its last good frame, None if it had none; cause as in feed.v1."""


@dataclass(slots=True)
class _Connection:
    """The state of one connection."""

    socket: ClientConnection
    plan: SubscriptionPlan
    watchdog: Watchdog
    last_good: int | None = None
    is_complete: bool = False
    malformed: int = 0


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """How a feed behaves. Times in seconds."""

    url: str
    exchange: str
    stale_after: float = 15.0
    pace: Pace = field(default_factory=Pace)


class Feed:
    """Delivers the wanted products' ticks to a listener until it is stopped."""

    def __init__(
        self,
        config: FeedConfig,
        protocol: ExchangeProtocol,
        listener: Listener,
        *,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._config = config
        self._protocol = protocol
        self._listener = listener
        self._clock = clock
        self._monotonic = monotonic
        self._backoff = Backoff(config.pace, uniform)
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._connection: _Connection | None = None
        self._trouble = "not connected yet"

    def want(self, products: Collection[str]) -> None:
        """Change the wanted products; an open connection follows at once."""
        self._wanted = frozenset(products)
        self._changed.set()

    def stop(self) -> None:
        """Make `run` close the connection and return."""
        self._stopped.set()

    @property
    def is_delivering(self) -> bool:
        """Whether the present connection has delivered market data."""
        return self._connection is not None and self._connection.last_good is not None

    def problem(self) -> str | None:
        """Return why no data arrives although products are wanted, or None."""
        if not self._wanted or self.is_delivering:
            return None
        return f"no data from {self._config.exchange} at {self._config.url}: {self._trouble}"

    def refused(self) -> dict[str, str]:
        """Return the products that the exchange does not deliver, with its reason."""
        plan = self._connection.plan if self._connection else SubscriptionPlan()
        return {product: refusal.reason for product, refusal in plan.refused.items()}

    async def run(self) -> None:
        """Deliver until `stop`; raises FeedRefusedError or UsageError when trying again cannot help."""
        work = asyncio.create_task(self._reconnect())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            work.cancel()
            await asyncio.wait({work, stopped})
        if not work.cancelled():
            work.result()

    async def _reconnect(self) -> None:
        while True:
            await self._until_wanted()
            pause = await self._one_connection()
            if self._wanted:
                _log.info("feed pauses", exchange=self._config.exchange, seconds=round(pause, 3))
                await asyncio.sleep(pause)

    async def _until_wanted(self) -> None:
        while not self._wanted:
            self._changed.clear()
            await self._changed.wait()

    async def _one_connection(self) -> float:
        """Connect and deliver until the connection ends; returns the pause before the next, in seconds."""
        good_seconds = 0.0
        try:
            async with self._connected() as connection:
                try:
                    await self._deliver(connection)
                finally:
                    good_seconds = connection.watchdog.good_seconds
        except Exception as error:  # noqa: BLE001 - judged in one place, which calls all it does not know fatal
            return self._after(error, good_seconds)
        return 0.0

    def _after(self, error: Exception, good_seconds: float) -> float:
        verdict = judge(error)
        self._trouble = f"{type(error).__name__}: {error}"[:300]
        _log.warning("feed lost", exchange=self._config.exchange, url=self._config.url, reason=self._trouble)
        if verdict.fatal:
            raise _final(error, self._config) from error
        return self._backoff.next(good_seconds, verdict.at_least)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Connection]:
        FEED_CONNECTS.labels(self._config.exchange).inc()
        cause = "disconnected"
        try:
            async with _open(self._config.url) as socket:
                now = self._monotonic()
                watchdog = Watchdog(self._config.stale_after, now)
                self._connection = _Connection(socket, SubscriptionPlan(self._wanted), watchdog)
                try:
                    yield self._connection
                except asyncio.CancelledError:
                    await socket.close()  # left by an exception, the library would say "internal error"
                    raise
                except StaleFeedError:
                    cause = "stale"
                    socket.transport.abort()
                    raise
        except asyncio.CancelledError:
            cause = "stopped"
            raise
        finally:
            self._gone(cause)

    def _gone(self, cause: str) -> None:
        """Tell that the connection is gone; without wanted products that is no loss."""
        connection, self._connection = self._connection, None
        FEED_CONNECTED.labels(self._config.exchange).set(0)
        since = connection.last_good if connection else None
        self._listener.lost(since, cause if self._wanted else "idle")

    async def _deliver(self, connection: _Connection) -> None:
        """Read and tend a connection until one of both ends; returns when no product is wanted any more."""
        tasks = [asyncio.create_task(self._read(connection)), asyncio.create_task(self._tend(connection))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    async def _read(self, connection: _Connection) -> None:
        receive, counters = connection.socket.recv, _counters(self._config.exchange)
        while True:
            frame = await receive(decode=False)
            received_time = self._clock()
            outcome = self._protocol.receive(frame, received_time)
            counters[type(outcome)].inc()
            if isinstance(outcome, TickFrame):
                self._good(connection, received_time)
                connection.watchdog.hold(self._monotonic())
                await self._listener.tick(outcome.tick)
                connection.watchdog.resume(self._monotonic())
            else:
                self._take(connection, outcome, received_time)

    def _take(self, connection: _Connection, outcome: Outcome, received_time: int) -> None:
        """Act on anything but a tick."""
        if isinstance(outcome, Heartbeat) or (isinstance(outcome, Ignored) and outcome.alive):
            self._good(connection, received_time)
        elif isinstance(outcome, Subscriptions):
            connection.plan.confirm(outcome.products)
            self._changed.set()
        elif isinstance(outcome, ExchangeError):
            self._refused(connection, outcome)
        elif isinstance(outcome, Malformed):
            connection.malformed += 1
            if _is_power_of_ten(connection.malformed):
                _log.warning("frames refused", count=connection.malformed, reason=outcome.reason)

    def _good(self, connection: _Connection, received_time: int) -> None:
        """Note market data; it comes before the tick itself is passed on."""
        connection.watchdog.good(self._monotonic())
        if connection.last_good is None:
            _log.info("feed delivers", exchange=self._config.exchange, url=self._config.url)
            FEED_CONNECTED.labels(self._config.exchange).set(1)
            self._listener.delivering(received_time)
        connection.last_good = received_time
        if not connection.is_complete and connection.plan.settled:
            connection.is_complete = True
            self._listener.complete(received_time)

    def _refused(self, connection: _Connection, error: ExchangeError) -> None:
        said = f"{error.message}: {error.reason}"
        if self._protocol.is_fatal(error):
            raise FeedRefusedError(
                f"{self._config.exchange} asks for credentials ({said}): the channels must be public"
            )
        refused = connection.plan.refuse(error.reason, self._monotonic())
        if not refused:
            raise ExchangeSaidError(said)
        _log.error("products refused", exchange=self._config.exchange, products=refused, reason=said)
        self._changed.set()

    async def _tend(self, connection: _Connection) -> None:
        """Send what the plan asks for and watch for silence; returns when no product is wanted any more."""
        every = min(self._config.stale_after / 4, 1.0)
        while self._wanted:
            self._changed.clear()
            await self._follow(connection)
            if connection.watchdog.is_stale(self._monotonic()):
                raise StaleFeedError(f"no data for {self._config.stale_after:g} s")
            try:
                await asyncio.wait_for(self._changed.wait(), every)
            except TimeoutError:
                continue

    async def _follow(self, connection: _Connection) -> None:
        now, plan = self._monotonic(), connection.plan
        plan.want(self._wanted)
        late = plan.expire(now)
        if late:
            _log.error("products not confirmed", exchange=self._config.exchange, products=late)
        FEED_REFUSED_PRODUCTS.labels(self._config.exchange).set(len(plan.refused))
        for request in plan.requests(now):
            write = self._protocol.subscribe if request.subscribe else self._protocol.unsubscribe
            with suppress(ConnectionClosed):  # the reader ends with the same news, after what it has still to read
                await connection.socket.send(write(request.products))


def _open(url: str) -> connect:
    return connect(
        url,
        open_timeout=OPEN_TIMEOUT,
        close_timeout=CLOSE_TIMEOUT,
        ping_interval=None,  # the watchdog looks at data; pongs would wait behind our own back pressure
        max_size=MAX_FRAME_BYTES,
        max_queue=QUEUED_FRAMES,
        compression=None,
        proxy=None if urlsplit(url).hostname in _LOOPBACK else True,
    )


def _is_power_of_ten(count: int) -> bool:
    """Thin out a message that could come thousands of times a second."""
    return str(count).rstrip("0") == "1"


def _counters(exchange: str) -> dict[type[Outcome], "_Counter"]:
    return {kind: FEED_FRAMES.labels(exchange, name) for kind, name in _KINDS.items()}


class _Counter(Protocol):
    def inc(self) -> None: ...


def _final(error: Exception, config: FeedConfig) -> Exception:
    """Return what `run` raises for an error that no new connection can cure."""
    if isinstance(error, FeedRefusedError | UsageError | ConnectionClosed):
        return error
    if isinstance(error, ValueError | OSError) or type(error).__module__.startswith("websockets"):
        return FeedRefusedError(
            f"{config.exchange} at {config.url} cannot be used: {error}: check PULSESTREAM_EXCHANGE_URL"
        )
    return error
