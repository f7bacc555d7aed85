"""The reconnecting feed: the wanted products of one shard, over one connection, at times two that overlap.

A connection that the exchange will end, or that is as old as allowed, is replaced by one that is complete before the
old one closes, so the listener sees no interval without data. After any other end there is a pause (`pacing.Backoff`)
and a turn (`storm.StormGuard`) before the next attempt. Everything runs on one event loop. An error that
`pacing.judge` calls fatal ends `run`; all others lead to another connection.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Final, Protocol

from websockets.exceptions import ConnectionClosed

from producers.connection import CLOCKS, Clocks, Connection, FeedConfig
from producers.errors import FeedRefusedError, StaleFeedError
from producers.pacing import Backoff, judge
from producers.plan import Refusals
from producers.storm import StormGuard
from producers.venues.protocol import Exchange, Heartbeat
from pulsestream.core.clock import MICROS_PER_SECOND
from pulsestream.core.errors import UsageError
from pulsestream.core.log import logger
from pulsestream.core.metrics import FEED_CONNECTED, FEED_PRODUCTS, FEED_REFUSED_PRODUCTS, FEED_SILENT_SECONDS
from schemas.records import Tick, Trade

OVERLAPPING: Final = 2
"""Connections that a feed has at most: one, and its successor."""
_log = logger(__name__)


class Listener(Protocol):
    """What a feed tells, in the order in which it happens. Times are microseconds of the wall clock."""

    async def record(self, record: Tick | Trade) -> None:
        """Take a record; its connection reads on when this returns."""

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Take the exchange's word that a product's feed is alive."""

    def delivering(self, at: int) -> None:
        """Note that a connection delivers its first market data."""

    def complete(self, at: int) -> None:
        """Note that a connection delivers and that every wanted product is confirmed on it (or refused)."""

    def lost(self, since: int | None, cause: str) -> None:
        """Note that there is no connection. `since`: its last good frame, None if it had none; cause as in feed.v1."""


class Feed:
    """Delivers the wanted products' ticks and trades to a listener until it is stopped."""

    def __init__(
        self,
        config: FeedConfig,
        exchange: Exchange,
        listener: Listener,
        guard: StormGuard,
        *,
        clocks: Clocks = CLOCKS,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._config = config
        self._exchange = exchange
        self._listener = listener
        self._guard = guard
        self._clocks = clocks
        self._backoff = Backoff(config.pace, uniform)
        self._refusals = Refusals()
        self._wanted: frozenset[str] = frozenset()
        self._surplus: frozenset[str] = frozenset()
        self._is_wanted = asyncio.Event()
        self._stopped = asyncio.Event()
        self._connections: list[Connection] = []
        self._serving: set[asyncio.Task[float]] = set()
        self._is_told_complete = False
        self._confirmed_at: dict[str, int] = {}
        self._has_delivered = False
        self._heard_at = self._clocks.wall()
        self._trouble = "not connected yet"

    def want(self, products: Collection[str]) -> None:
        """Change the wanted products; an open connection follows at once. Those beyond the limit are left out."""
        before, room = self._wanted, self._config.limits.products
        ordered = [*sorted(before & set(products)), *sorted(set(products) - before)]
        self._wanted, self._surplus = frozenset(ordered[:room]), frozenset(ordered[room:])
        self._refusals.keep(self._wanted)
        for connection in self._connections:
            connection.want(self._wanted)
        if self._wanted and not before:
            self._heard_at = self._clocks.wall()
            self._is_wanted.set()
        elif before and not self._wanted:
            self._is_wanted.clear()
            if not self._connections:
                self._listener.lost(None, "idle")

    def stop(self) -> None:
        """Make `run` close the connections and return."""
        self._stopped.set()

    @property
    def is_delivering(self) -> bool:
        """Whether a present connection has delivered market data."""
        return any(connection.last_good is not None for connection in self._connections)

    @property
    def last_good(self) -> int | None:
        """When the present connections received their newest market data; None without any. Microseconds."""
        return max((c.last_good for c in self._connections if c.last_good is not None), default=None)

    def confirmed(self) -> frozenset[str]:
        """Return the products that complete connections deliver; to be called every second, for `lacking`."""
        complete = [one for one in self._connections if one.is_complete and one.last_good is not None]
        seen = {product: one.last_good or 0 for one in complete for product in one.plan.confirmed & self._wanted}
        held = self._confirmed_at | seen
        self._confirmed_at = {product: at for product, at in held.items() if product in self._wanted}
        return frozenset(seen)

    def lacking(self) -> dict[str, int]:
        """Return the products that were delivered and are refused now, each with the last time it was confirmed."""
        refused = self._refusals.held.keys() - self.confirmed()
        return {product: at for product, at in self._confirmed_at.items() if product in refused}

    def problem(self) -> str | None:
        """Return why no data arrives although products are wanted, or None; `refused` tells of those it has not."""
        if self._wanted <= self._refusals.held.keys() or self.is_delivering:
            return None
        return f"no data from {self._exchange.name} at {self._config.url}: {self._trouble}"

    def refused(self) -> dict[str, str]:
        """Return the products that are not delivered, with the reason."""
        refused = {product: refusal.reason for product, refusal in self._refusals.held.items()}
        limit = self._config.limits.products
        reason = f"shard {self._config.shard} has more than {limit} products: raise PULSESTREAM_FEED_SHARDS"
        return refused | dict.fromkeys(self._surplus, reason)

    def measure(self) -> None:
        """Bring the gauges up to date."""
        labels = (self._exchange.name, str(self._config.shard))
        confirmed = max((len(connection.plan.confirmed) for connection in self._connections), default=0)
        FEED_CONNECTED.labels(*labels).set(self.is_delivering)
        FEED_PRODUCTS.labels(*labels).set(confirmed)
        FEED_REFUSED_PRODUCTS.labels(*labels).set(len(self._refusals.held) + len(self._surplus))
        FEED_SILENT_SECONDS.labels(*labels).set(self._silent_seconds())

    async def run(self) -> None:
        """Deliver until `stop`; raises FeedRefusedError or UsageError when trying again cannot help."""
        work = asyncio.create_task(self._keep_connected())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [work, stopped, *self._serving]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._unmeasure()
        if not work.cancelled():
            work.result()

    # ---- connections ----

    async def _keep_connected(self) -> None:
        """Make one connection after another; the next one beside the newest, when that is ageing."""
        while True:
            await self._is_wanted.wait()
            await self._guard.turn(self._config.host, self._config.limits.connects_per_minute)
            if not self._wanted:
                continue
            connection = Connection(self._config, self._exchange, self, self._refusals, self._clocks)
            connection.want(self._wanted)
            serving = asyncio.create_task(self._serve(connection))
            self._serving.add(serving)
            await self._until_next(connection, serving)

    async def _until_next(self, connection: Connection, serving: asyncio.Task[float]) -> None:
        """Wait until there should be another connection, and may be: a serving one is never joined by a third."""
        ageing = asyncio.create_task(connection.ageing.wait())
        try:
            while not (serving.done() or ageing.done()):
                await self._any_of({serving, ageing})
            pause = serving.result() if serving.done() else self._backoff.next(connection.good_seconds)
            while len(self._serving) >= OVERLAPPING:
                await self._any_of(self._serving)
        finally:
            ageing.cancel()
        if self._wanted:
            _log.info("feed pauses", exchange=self._exchange.name, shard=self._config.shard, seconds=round(pause, 3))
            await asyncio.sleep(pause)

    async def _any_of(self, tasks: Collection["asyncio.Task[float] | asyncio.Task[bool]"]) -> None:
        """Wait for the first of these tasks; raises what a connection's end means for the whole feed."""
        await asyncio.wait({*tasks, *self._serving}, return_when=asyncio.FIRST_COMPLETED)
        for ended in [task for task in self._serving if task.done()]:
            self._serving.discard(ended)
            ended.result()

    async def _serve(self, connection: Connection) -> float:
        """Run a connection to its end; returns the pause before the next one, in seconds."""
        self._connections.append(connection)
        cause, pause = "disconnected", 0.0
        try:
            await connection.run()
        except asyncio.CancelledError:
            cause = "stopped"
            raise
        except Exception as error:  # noqa: BLE001 - judged in one place, which calls all it does not know fatal
            cause = "stale" if isinstance(error, StaleFeedError) else cause
            pause = self._after(error, connection.good_seconds)
        finally:
            self._connections.remove(connection)
            self._gone(connection, cause if self._wanted else "idle")
        return pause

    def _after(self, error: Exception, good_seconds: float) -> float:
        verdict = judge(error, proven=self._has_delivered)
        self._trouble = f"{type(error).__name__}: {error}"[:300]
        _log.warning("feed lost", exchange=self._exchange.name, shard=self._config.shard, reason=self._trouble)
        if verdict.fatal:
            raise _final(error, self._exchange.name, self._config.url) from error
        self._guard.hold(self._config.host, verdict.at_least)
        return self._backoff.next(good_seconds, verdict.at_least)

    # ---- what the listener is told ----

    async def record(self, record: Tick | Trade) -> None:
        """Pass a record on."""
        await self._listener.record(record)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Pass a heartbeat on."""
        self._listener.heartbeat(heartbeat)

    def delivers(self, connection: Connection, at: int) -> None:
        """Tell of the first data, unless another connection delivers already."""
        self._has_delivered = True
        _log.info("feed delivers", exchange=self._exchange.name, shard=self._config.shard, url=self._config.url)
        if all(other is connection or other.last_good is None for other in self._connections):
            self._listener.delivering(at)

    def completes(self, connection: Connection, at: int) -> None:
        """Tell that nothing is missing any more, and let the connections go that this one replaces."""
        for other in self._connections:
            if other is not connection:
                other.close()
        if not self._is_told_complete:
            self._is_told_complete = True
            self._listener.complete(at)

    def _gone(self, connection: Connection, cause: str) -> None:
        """Tell that a connection is gone, unless another one delivers everything as well."""
        if any(other.is_complete for other in self._connections):
            return
        self._is_told_complete = False
        self._listener.lost(connection.last_good, cause)
        self._heard_at = max(self._heard_at, connection.last_good or 0)
        since = self.last_good
        if since is not None:
            self._listener.delivering(since)

    # ---- measures ----

    def _silent_seconds(self) -> float:
        heard_at = max(self._heard_at, self.last_good or 0)
        return max(0, self._clocks.wall() - heard_at) / MICROS_PER_SECOND if self._wanted else 0.0

    def _unmeasure(self) -> None:
        """Take the gauges away: another process may feed this shard from now on."""
        for gauge in (FEED_CONNECTED, FEED_PRODUCTS, FEED_REFUSED_PRODUCTS, FEED_SILENT_SECONDS):
            gauge.remove(self._exchange.name, str(self._config.shard))


def _final(error: Exception, exchange: str, url: str) -> Exception:
    """Return what `run` raises for an error that no new connection can cure."""
    if isinstance(error, FeedRefusedError | UsageError | ConnectionClosed):
        return error
    if isinstance(error, ValueError | OSError) or type(error).__module__.startswith("websockets"):
        return FeedRefusedError(f"{exchange} at {url} cannot be used: {error}: check PULSESTREAM_EXCHANGE_URL")
    return error
