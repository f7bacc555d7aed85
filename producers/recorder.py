"""`pulsestream record`: an exchange's frames to files, exactly as received, until a signal or for a time.

The same feed as the producer's keeps the connections; a tap between a connection and its session writes each frame
down before anything looks into it. Once a second what was received is brought to the disk, in a thread; a disk that
cannot keep up holds up the sockets, so that memory stays bounded.
"""

import asyncio
import signal
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from producers.connection import FeedConfig
from producers.errors import FeedError
from producers.feed import Feed
from producers.frames import format_received
from producers.recording import RecordingWriter, Rotation
from producers.source import exchange_of, websocket_url
from producers.storm import StormGuard
from producers.venues.protocol import Exchange, Frame, Heartbeat, Limits, Outcome, Rest, Session
from pulsestream.core.errors import UsageError
from pulsestream.core.health import Readiness, operations
from pulsestream.core.log import logger
from pulsestream.core.metrics import RECORDED_BYTES, RECORDED_FRAMES
from pulsestream.core.settings import Settings
from schemas.records import Tick, Trade

STORE_EVERY: Final = 1.0
"""Seconds between two stores: what a kill can cost."""
REPORT_EVERY: Final = 30.0
BLOCK_BYTES: Final = 4 * 1024 * 1024
"""Buffered bytes that are stored at once, without waiting for the second to end."""
HOLD_BYTES: Final = 4 * BLOCK_BYTES
"""Buffered bytes beyond which nothing is read until the disk has kept up."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record. `seconds` None: until a signal. `url` empty: the setting's, or the exchange's own."""

    exchange: str
    products: tuple[str, ...]
    output: Path
    seconds: float | None = None
    url: str = ""
    rotation: Rotation = field(default_factory=Rotation)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording came to."""

    frames: int
    files: int
    bytes: int


def run(settings: Settings, options: RecordOptions) -> Recorded:
    """Record; raises UsageError or FeedError when that cannot be or nothing came, FrameError when the disk refuses."""
    if not options.products:
        raise UsageError("name the products to record: --products BTC-USD,ETH-USD")
    return asyncio.run(_run(settings, options))


async def _run(settings: Settings, options: RecordOptions) -> Recorded:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with RecordingWriter(options.output, options.exchange, options.rotation) as writer:
        recorder = Recorder(settings, options, writer)
        await recorder.run(stopping)
    if not writer.frames:
        raise FeedError(f"nothing was recorded: {recorder.problem() or 'no frame arrived'}")
    return Recorded(writer.frames, writer.files, writer.bytes)


class Recorder:
    """Feeds that are written down. Listens to them, and reads nothing while the disk is behind."""

    def __init__(self, settings: Settings, options: RecordOptions, writer: RecordingWriter) -> None:
        chosen = {"exchange": options.exchange, "exchange_url": options.url or settings.exchange_url}
        self._settings = settings = settings.model_copy(update=chosen)
        self._options = options
        self._writer = writer
        self._connections = 0
        self._trouble: str | None = None
        self._due = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._frames = RECORDED_FRAMES.labels(options.exchange)
        self._bytes = RECORDED_BYTES.labels(options.exchange)
        exchange = exchange_of(settings)
        self._feeds = self._make_feeds(_Tapped(exchange, self), websocket_url(settings, exchange))

    def _make_feeds(self, exchange: Exchange, url: str) -> list[Feed]:
        """Return a feed for each connection that so many products need."""
        guard, feeds, room = StormGuard(), [], exchange.limits.products
        products = sorted(set(self._options.products))
        for shard, begin in enumerate(range(0, len(products), room)):
            config = FeedConfig(url, exchange.limits, shard, self._settings.stale_after)
            feeds.append(Feed(config, exchange, self, guard))
            feeds[-1].want(products[begin : begin + room])
        return feeds

    async def run(self, stopping: asyncio.Event) -> None:
        """Record until `stopping` is set or the time is over, then bring everything to the disk."""
        with operations(self._settings.ops_port, self._readiness()):
            feeding = [asyncio.create_task(feed.run()) for feed in self._feeds]
            keeping = [asyncio.create_task(self._store()), asyncio.create_task(self._report())]
            stop = asyncio.create_task(stopping.wait())
            try:
                await asyncio.wait(
                    {*feeding, *keeping, stop}, timeout=self._options.seconds, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                await self._end(feeding, [*keeping, stop])
        for task in (*feeding, *keeping):
            if not task.cancelled():
                task.result()

    def problem(self) -> str | None:
        """Return why nothing arrived at the end, or None."""
        return self._trouble

    async def _end(self, feeding: Sequence[asyncio.Task[None]], others: Sequence[asyncio.Task[object]]) -> None:
        self._trouble = next((problem for feed in self._feeds if (problem := feed.problem()) is not None), None)
        for feed in self._feeds:
            feed.stop()
        self._has_room.set()
        await asyncio.wait(feeding)
        for task in others:
            task.cancel()
        await asyncio.wait(others)

    async def _store(self) -> None:
        """Bring what is buffered to the disk, once a second or when there is much of it."""
        while True:
            with suppress(TimeoutError):  # the second is over
                await asyncio.wait_for(self._due.wait(), STORE_EVERY)
            self._due.clear()
            await self._store_block()

    async def _store_block(self) -> None:
        block = self._writer.cut()
        self._has_room.set()
        if block is None:
            return
        before = self._writer.bytes
        storing = asyncio.ensure_future(asyncio.to_thread(self._writer.store, block))
        try:
            await asyncio.shield(storing)
        finally:
            if not storing.done():  # cancelled: the block was cut, so it has to reach the disk before the file closes
                await asyncio.wait({storing})
        self._frames.inc(block.count)
        self._bytes.inc(self._writer.bytes - before)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            writer = self._writer
            _log.info("recorded", frames=writer.frames, files=writer.files, bytes=writer.bytes)

    def _readiness(self) -> Readiness:
        readiness = Readiness()
        for shard, feed in enumerate(self._feeds):
            readiness.add(f"exchange {shard}", feed.problem)
        readiness.add_detail("products", self._refused)
        return readiness

    def _refused(self) -> str | None:
        refused = {product: reason for feed in self._feeds for product, reason in feed.refused().items()}
        return "; ".join(f"{product}: {reason}" for product, reason in sorted(refused.items())[:20]) or None

    # ---- what the feeds tell ----

    def next_connection(self) -> int:
        """Return the number of a connection whose first frame arrives; they count from 1."""
        self._connections += 1
        return self._connections

    def received(self, connection: int, frame: Frame, received_time: int) -> None:
        """Write a frame down."""
        moment = self._writer.moment(received_time)
        self._writer.write(moment, format_received(moment, frame, connection))
        if self._writer.buffered >= BLOCK_BYTES:
            self._due.set()
        if self._writer.buffered >= HOLD_BYTES:
            self._has_room.clear()

    async def record(self, record: Tick | Trade) -> None:
        """Hold up the socket while the disk is behind."""
        del record
        if not self._has_room.is_set():
            await self._has_room.wait()

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Ignore: the frame is written down."""

    def delivering(self, at: int) -> None:
        """Ignore: the feed has logged it."""

    def complete(self, at: int) -> None:
        """Say that every product is on its way."""
        _log.info("recording is complete", exchange=self._options.exchange, since=at)

    def lost(self, since: int | None, cause: str) -> None:
        """Say that nothing arrives: the recording has a hole from here on."""
        if since is not None and cause != "stopped":
            _log.warning("recording has a hole", exchange=self._options.exchange, since=since, cause=cause)


class _Tapped:
    """An exchange whose connections' frames are written down."""

    def __init__(self, exchange: Exchange, recorder: Recorder) -> None:
        self.name = exchange.name
        self.url = exchange.url
        self.limits: Limits = exchange.limits
        self.rest: Rest = exchange.rest
        self._exchange = exchange
        self._recorder = recorder

    def symbol(self, product: str) -> str:
        """Return the exchange's own name of a product."""
        return self._exchange.symbol(product)

    def session(self, channels: Collection[str] = ("ticks", "trades")) -> Session:
        """Return the conversation of a new connection."""
        return _TappedSession(self._exchange.session(channels), self._recorder)


class _TappedSession:
    """A session that hands each frame to the recorder first; its connection has a number from its first frame on."""

    def __init__(self, session: Session, recorder: Recorder) -> None:
        self._session = session
        self._recorder = recorder
        self._connection = 0

    def subscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that ask for these products."""
        return self._session.subscribe(products)

    def unsubscribe(self, products: Collection[str]) -> list[str]:
        """Return the messages that end these products."""
        return self._session.unsubscribe(products)

    def receive(self, frame: Frame, received_time: int) -> Sequence[Outcome]:
        """Write the frame down and return what it holds."""
        self._connection = self._connection or self._recorder.next_connection()
        self._recorder.received(self._connection, frame, received_time)
        return self._session.receive(frame, received_time)
