"""The exchange simulator's server: sockets around the pure sessions and the market clock.

One market plays for all clients; its clock starts at the first accepted subscription and who comes later joins it
where it is. Each client has a bounded outbox and one task that writes it: a client that lets it overflow is
disconnected, as the exchange does. Unpaced (speed 0) the market waits for its clients instead, within a bound.
"""

import asyncio
import errno
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from producers.exchange.errors import PortBusyError, SimulatorError
from producers.exchange.market import LastTrades, Market, Moment, Pacer
from producers.exchange.options import ExchangeOptions, make_market
from producers.exchange.protocol import FeedFrame
from producers.exchange.sent import SentFrames
from producers.exchange.session import MAX_MESSAGE, Session
from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.log import logger

__all__ = ["Exchange", "ExchangeOptions", "run", "serve"]

_PATIENCE = 30.0
_CLOSE_WITHIN = 2.0
_BREATH = 32
_POLICY = 1008

_log = logger(__name__)


def run(options: ExchangeOptions) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the address when ready.

    Raises SimulatorError (also PortBusyError) or FrameError for what cannot be served.
    """
    asyncio.run(_run(options))


@asynccontextmanager
async def serve(options: ExchangeOptions, clock: Clock = wall_clock) -> AsyncIterator["Exchange"]:
    """Serve inside a running event loop, until the block ends; errors as `run`."""
    exchange = Exchange(options, make_market(options), clock)
    try:
        await exchange.open()
        yield exchange
    finally:
        await exchange.close()
    exchange.check()


async def _run(options: ExchangeOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(options) as exchange:
        sys.stdout.write(f"exchange simulator on {exchange.url} ({exchange.plays})\n")
        sys.stdout.flush()
        await exchange.wait(stop)


async def _set(event: asyncio.Event) -> None:
    await event.wait()


class _Client:
    """One connection: its session, the frames that wait for it, and the task that writes them."""

    def __init__(self, number: int, socket: ServerConnection, session: Session, outbox: int) -> None:
        self.number = number
        self.socket = socket
        self.session = session
        self.outbox: asyncio.Queue[str] = asyncio.Queue(outbox)
        self.gone = False
        self._hanging_up: asyncio.Task[None] | None = None

    def offer(self, text: str) -> None:
        """Let a frame wait for the client; one that is too slow is disconnected."""
        if not self.gone:
            try:
                self.outbox.put_nowait(text)
            except asyncio.QueueFull:
                self.drop()

    async def put(self, text: str) -> None:
        """Let a frame wait for the client as soon as there is room; who makes none within a bound is disconnected."""
        if not self.gone:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self.outbox.put(text)
            except TimeoutError:
                self.drop()

    def drop(self) -> None:
        """Disconnect a client that does not read."""
        _log.warning("client too slow, disconnected", session=self.number, waiting=self.outbox.qsize())
        self.gone = True
        self._hanging_up = asyncio.create_task(self.hang_up("ErrSlowConsume"))

    async def hang_up(self, reason: str) -> None:
        """Close the connection with a reason; without the client's help if it does not answer."""
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await self.socket.close(_POLICY, reason)
        except TimeoutError:
            self.socket.transport.abort()

    async def write(self, sent: SentFrames) -> None:
        """Send what waits, in order, for as long as the connection stands."""
        try:
            while True:
                text = await self.outbox.get()
                await self.socket.send(text)
                sent.write(self.number, text)
        except ConnectionClosed:
            _log.debug("connection closed under the writer", session=self.number)
        finally:
            self._empty()

    def _empty(self) -> None:
        """Take no more frames, and free whoever waits for room."""
        self.gone = True
        while not self.outbox.empty():
            self.outbox.get_nowait()


class Exchange:
    """A running simulator; see `serve`."""

    def __init__(self, options: ExchangeOptions, market: Market, clock: Clock) -> None:
        self._options = options
        self._market = market
        self._clock = clock
        self._sent = SentFrames(options.sent, clock)
        self._last = LastTrades()
        self._clients: dict[int, _Client] = {}
        self._numbers = itertools.count(1)
        self._audience = asyncio.Event()
        self._finished = asyncio.Event()
        self._pacer: Pacer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._server is None:
            raise SimulatorError("the exchange simulator is not open")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address for clients."""
        host = self._options.host
        return f"ws://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def plays(self) -> str:
        """What it plays, in words."""
        return str(self._market)

    @property
    def products(self) -> Sequence[str]:
        """The products that can be subscribed to."""
        return self._market.products

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    async def open(self) -> None:
        """Begin to listen; raises PortBusyError or SimulatorError if the address cannot be used."""
        options = self._options
        try:
            self._server = await serve_websockets(
                self._handle,
                options.host,
                options.port,
                compression=None,
                max_size=MAX_MESSAGE,
                close_timeout=_CLOSE_WITHIN,
            )
        except OSError as error:
            address = f"{options.host}:{options.port}"
            if error.errno == errno.EADDRINUSE:
                raise PortBusyError(f"{address} is in use: stop what listens there, or choose another port") from error
            raise SimulatorError(f"cannot listen on {address}: {error.strerror or error}") from error

    async def finished(self) -> None:
        """Wait until the last frame of a recording has been published; raises what broke the market."""
        await self.wait(self._finished)

    async def wait(self, event: asyncio.Event) -> None:
        """Wait for an event; raises what broke the market if that comes first."""
        waiting = asyncio.create_task(_set(event))
        try:
            await asyncio.wait({waiting, self._failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self.check()

    def check(self) -> None:
        """Raise what broke the market, if anything did."""
        if self._failed.done():
            self._failed.result()

    async def close(self) -> None:
        """Stop the market, disconnect everyone and free the port."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._disconnect_all(self._server)
        self._sent.close()

    async def _disconnect_all(self, server: Server) -> None:
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await asyncio.shield(server.wait_closed())
        except TimeoutError:
            for client in self._clients.values():
                client.socket.transport.abort()
            await server.wait_closed()

    async def _handle(self, socket: ServerConnection) -> None:
        session = Session(self._market.products, unfiltered=self._options.unfiltered)
        client = _Client(next(self._numbers), socket, session, self._options.outbox)
        self._clients[client.number] = client
        writer = asyncio.create_task(client.write(self._sent))
        writer.add_done_callback(self._note_failure)
        _log.info("client connected", session=client.number)
        try:
            await self._converse(client)
        except ConnectionClosed as end:
            _log.info("client disconnected", session=client.number, end=str(end))
        finally:
            del self._clients[client.number]
            self._count_audience()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _converse(self, client: _Client) -> None:
        """Answer a client's messages until it goes; one that subscribes to nothing in time is disconnected."""
        try:
            async with asyncio.timeout(self._options.subscribe_within):
                while not client.session.subscribed:
                    await self._answer(client)
        except TimeoutError:
            _log.info("client subscribed to nothing, disconnected", session=client.number)
            await client.hang_up("no subscription in time")
            return
        self._start()
        while True:
            await self._answer(client)

    async def _answer(self, client: _Client) -> None:
        for reply in client.session.receive(await client.socket.recv()):
            await client.put(reply)
        self._count_audience()

    def _count_audience(self) -> None:
        if any(client.session.subscribed for client in self._clients.values()):
            self._audience.set()
        else:
            self._audience.clear()

    def _start(self) -> None:
        """Start the market clock, if this is the first subscription."""
        if self._pacer is None:
            self._pacer = Pacer(self._options.speed, wall=self._clock(), monotonic=time.monotonic())
            self._tasks = [asyncio.create_task(self._play(self._pacer)), asyncio.create_task(self._beat(self._pacer))]
            for task in self._tasks:
                task.add_done_callback(self._note_failure)
            _log.info("market started", plays=self.plays)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    async def _play(self, pacer: Pacer) -> None:
        """Publish every moment of the market when it is due."""
        for count, moment in enumerate(self._market.moments(pacer.anchor)):
            if (delay := pacer.delay(moment.at, time.monotonic())) > 0:
                await asyncio.sleep(delay)
            elif count % _BREATH == 0:
                await asyncio.sleep(0)
            await self._publish(moment, pacer)
        self._finished.set()
        _log.info("recording played to its end", plays=self.plays)

    async def _publish(self, moment: Moment, pacer: Pacer) -> None:
        if pacer.unpaced:
            await self._audience.wait()
        elif pacer.settle(moment.at, wall=self._clock(), monotonic=time.monotonic()):
            _log.warning("market clock was late and is set anew", at=moment.at)
        pacer.reach(moment.at, time.monotonic())
        frames = moment.frames(pacer.anchor)
        self._last.publish(frames)
        for frame in frames:
            await self._hand_out(frame, pacer)

    async def _hand_out(self, frame: FeedFrame, pacer: Pacer) -> None:
        for client in [client for client in self._clients.values() if client.session.wants(frame)]:
            if pacer.unpaced:
                await client.put(frame.text)
            else:
                client.offer(frame.text)

    async def _beat(self, pacer: Pacer) -> None:
        """Send each second the heartbeats of the products that clients asked for."""
        begun = time.monotonic()
        for second in itertools.count(1):
            await asyncio.sleep(begun + second - time.monotonic())
            now = self._market.time(pacer.position(time.monotonic()), pacer.anchor)
            for client in self._clients.values():
                for product in client.session.heartbeats:
                    if not (pacer.unpaced and client.outbox.full()):
                        client.offer(self._last.heartbeat(product, now).text)
