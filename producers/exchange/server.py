"""The exchange simulator's server: sockets around the pure sessions, the market clock and the fault plan.

One market plays for all clients; its clock starts at the first accepted subscription, or when none has come for as long
as the options say (a self-made one also at the first REST request), and who comes later joins it where it is. Unpaced
(speed 0) the market waits for its clients within a bound instead of disconnecting the slow ones. REST is answered on
the same port.
"""

import asyncio
import errno
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from producers.exchange import rest
from producers.exchange.board import Board
from producers.exchange.client import CLOSE_WITHIN, Client, ping
from producers.exchange.dialects import speak
from producers.exchange.dialects.base import Answer, Dialect, Reply, RestLimit
from producers.exchange.errors import PortBusyError, SimulatorError
from producers.exchange.faults import AcceptThenClose, FaultPlan, Injector
from producers.exchange.journal import FaultLog, Truth
from producers.exchange.market import Event, FeedFrame, Moment, Pacer, Print, Recorded, Trade
from producers.exchange.options import ExchangeOptions, make_market
from producers.exchange.sent import SentFrames
from producers.exchange.source import Market
from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.log import logger

__all__ = ["Exchange", "ExchangeOptions", "run", "serve"]

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of a client's message; the connection is closed on a longer one."""
_BREATH: Final = 32
_BEATS: Final = 4  # looks a second at what time alone makes due
_SHORTEST: Final = 0.001  # seconds: what is due within one of them leaves together
_PING_EVERY: Final = 20
_POLICY: Final = 1008

_log = logger(__name__)


def run(options: ExchangeOptions) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the address when ready.

    Raises SimulatorError (also PortBusyError) or FrameError for what cannot be served.
    """
    asyncio.run(_run(options))


@asynccontextmanager
async def serve(options: ExchangeOptions, clock: Clock = wall_clock) -> AsyncIterator["Exchange"]:
    """Serve inside a running event loop, until the block ends; errors as `run`."""
    exchange = Exchange(options, make_market(options), speak(options.venue), clock)
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


class Exchange:
    """A running simulator; see `serve`."""

    def __init__(self, options: ExchangeOptions, market: Market, dialect: Dialect, clock: Clock) -> None:
        self._options = options
        self._market = market
        self._dialect = dialect
        self._clock = clock
        self._live = options.synthetic is not None
        self._board = Board(market.products, self._now, live=self._live)
        self._sent = SentFrames(options.sent, clock)
        self._truth = Truth(options.truth, dialect.kinds["ticks"], clock)
        self._fault_log = FaultLog(options.fault_log, clock)
        self._injector = Injector(FaultPlan.read(options.faults), dialect) if options.faults else None
        limit = dialect.rest_limit
        self._bucket = rest.Bucket(limit if options.rest_rate is None else RestLimit(options.rest_rate, limit.burst))
        self._clients: dict[int, Client] = {}
        self._doomed: dict[UUID, AcceptThenClose] = {}
        self._audiences: dict[tuple[str, str | None], list[Client]] = {}
        self._numbers = itertools.count(1)
        self._audience = asyncio.Event()
        self._finished = asyncio.Event()
        self._pacer: Pacer | None = None
        self._starting: asyncio.TimerHandle | None = None
        self._begun = 0.0
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
        """The address for clients; REST has the same one with http."""
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
                close_timeout=CLOSE_WITHIN,
                ping_interval=None,
                process_request=self._greet,
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
        if self._starting is not None:
            self._starting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            for client in self._clients.values():
                if client.silent:
                    client.socket.transport.abort()
            self._server.close()
            await self._disconnect_all(self._server)
        for file in (self._sent, self._truth, self._fault_log):
            file.close()

    async def _disconnect_all(self, server: Server) -> None:
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await asyncio.shield(server.wait_closed())
        except TimeoutError:
            for client in self._clients.values():
                client.socket.transport.abort()
            await server.wait_closed()

    # ---- connections ----

    def _greet(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer a REST request, or refuse a handshake if the plan wants that."""
        if not rest.is_handshake(request):
            return rest.response(self._answer_rest(request))
        happened = self._injector.handshake(self._elapsed) if self._injector else None
        if happened is None:
            return None
        fault, injected = happened
        self._fault_log.write(injected)
        if isinstance(fault, AcceptThenClose):
            self._doomed[socket.id] = fault
            return None
        self._truth.session(None, "refused")
        return rest.response(rest.too_many(fault.retry_after))

    def _answer_rest(self, request: Request) -> Answer:
        if self._live:
            self._start()
        if (seconds := self._bucket.wait(time.monotonic())) > 0:
            return rest.too_many(seconds)
        query = rest.query_of(request)
        answer = self._dialect.answer(query, self._board)
        happened = self._injector.request(query, self._elapsed) if self._injector else None
        if happened is None:
            return answer
        fault, injected = happened
        self._fault_log.write(injected)
        return rest.spoilt(answer, fault)

    async def _handle(self, socket: ServerConnection) -> None:
        if (fault := self._doomed.pop(socket.id, None)) is not None:
            self._truth.session(None, "closed")
            await socket.close(fault.code)
            return
        path = socket.request.path if socket.request else "/"
        session = self._dialect.session(self._board, path, unfiltered=self._options.unfiltered)
        client = Client(next(self._numbers), socket, session, self._options.outbox)
        self._clients[client.number] = client
        tasks = [asyncio.create_task(client.write(self._sent)), asyncio.create_task(self._age(client))]
        for task in tasks:
            task.add_done_callback(self._note_failure)
        self._truth.session(client.number, "opened")
        _log.info("client connected", session=client.number)
        try:
            await self._converse(client)
        except ConnectionClosed as end:
            _log.info("client disconnected", session=client.number, end=str(end))
        finally:
            await self._forget(client, tasks)

    async def _forget(self, client: Client, tasks: Sequence[asyncio.Task[None]]) -> None:
        del self._clients[client.number]
        client.session.closed()
        self._count_audience()
        self._truth.session(client.number, "closed")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, client: Client) -> None:
        """Answer a client's messages until it goes; one that subscribes to nothing in time is disconnected."""
        await self._reply(client, client.session.opened(self._now()))
        within = self._options.subscribe_within
        try:
            async with asyncio.timeout(self._dialect.subscribe_within if within is None else within):
                while not client.session.subscribed:
                    await self._answer(client)
        except TimeoutError:
            _log.info("client subscribed to nothing, disconnected", session=client.number)
            await client.hang_up(_POLICY, "no subscription in time")
            return
        self._truth.session(client.number, "subscribed")
        self._count_audience()
        while True:
            self._start_soon()
            await self._answer(client)

    async def _answer(self, client: Client) -> None:
        message = await client.socket.recv()
        await self._reply(client, client.session.receive(message, self._now()))
        self._count_audience()

    async def _reply(self, client: Client, reply: Reply) -> None:
        for frame in reply.frames:
            await client.put(client.session.text(frame))
        if reply.close:
            client.end(*reply.close)

    async def _age(self, client: Client) -> None:
        """End a connection at its greatest age, announced before."""
        age = self._dialect.max_age if self._options.max_age is None else self._options.max_age
        if age is None:
            return
        await asyncio.sleep(max(0.0, age - self._options.notice))
        last = client.session.ending(self._now())
        for frame in last.frames:
            client.offer(frame.text)
        await asyncio.sleep(min(age, self._options.notice))
        client.end(*(last.close or (1001, "")))

    def _count_audience(self) -> None:
        self._audiences.clear()
        if any(client.session.subscribed for client in self._clients.values()):
            self._audience.set()
        else:
            self._audience.clear()

    # ---- the market ----

    def _now(self) -> int:
        """Return the exchange's time."""
        if self._pacer is None:
            return self._clock()
        return self._market.time(self._pacer.position(time.monotonic()), self._pacer.anchor)

    @property
    def _elapsed(self) -> float:
        return 0.0 if self._pacer is None else time.monotonic() - self._begun

    def _start_soon(self) -> None:
        """Start the market clock once no subscription has been added to for a while."""
        if self._starting is not None:
            self._starting.cancel()
        if self._pacer is None and self._options.start_after:
            self._starting = asyncio.get_running_loop().call_later(self._options.start_after, self._start)
        else:
            self._start()

    def _start(self) -> None:
        """Start the market clock, unless it runs."""
        if self._pacer is None:
            self._begun = time.monotonic()
            self._pacer = Pacer(self._options.speed, wall=self._clock(), monotonic=self._begun)
            self._board.history.begin(self._market.pasts(self._pacer.anchor))
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
                await asyncio.sleep(max(delay, _SHORTEST))
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
        events = moment.events(pacer.anchor)
        self._board.happen(events)
        frames = [frame for event in events for frame in self._frames(event)]
        trades = [trade for event in events for trade in _trades(event)]
        self._hide(trades)
        self._tell(trades, frames)
        for frame in frames:
            await self._hand_out(frame, pacer)

    def _frames(self, event: Event) -> Sequence[FeedFrame]:
        return (event.frame,) if isinstance(event, Recorded) else self._dialect.render(event)

    def _tell(self, trades: Sequence[Trade], frames: Sequence[FeedFrame]) -> None:
        self._board.publish(frames)
        self._truth.happened(trades, frames)

    def _hide(self, trades: Sequence[Trade]) -> None:
        """Keep from REST what the plan wants it not to know."""
        if self._injector is None:
            return
        for trade in trades:
            if injected := self._injector.hidden(trade.product, trade.trade_id, self._elapsed):
                self._board.history.hide(trade.product, trade.trade_id)
                self._fault_log.write(injected)

    async def _hand_out(self, frame: FeedFrame, pacer: Pacer) -> None:
        for client in self._audience_of(frame):
            if pacer.unpaced:
                await client.room()
            self._deliver(client, frame)

    def _audience_of(self, frame: FeedFrame) -> list[Client]:
        key = frame.channel, frame.product
        found = self._audiences.get(key)
        if found is None:
            found = [client for client in self._clients.values() if client.session.wants(frame)]
            self._audiences[key] = found
        return found

    def _deliver(self, client: Client, frame: FeedFrame) -> None:
        if client.gone:
            return
        text = client.session.text(frame)
        if self._injector is None:
            client.offer(text)
            return
        deed = self._injector.frame(frame, text, self._elapsed)
        if deed.injected is not None:
            self._fault_log.write(deed.injected, client.number)
            if deed.injected.detail.get("rest") is False:
                self._board.history.hide(str(frame.product), frame.trade_id or 0)
        client.deliver(frame, deed)

    async def _beat(self, pacer: Pacer) -> None:
        """Send what time alone makes due: heartbeats and pings, and several times a second what a dialect holds."""
        begun = time.monotonic()
        for count in itertools.count(1):
            await asyncio.sleep(begun + count / _BEATS - time.monotonic())
            now = self._now()
            frames = self._dialect.due(now) if self._live else []
            self._tell((), frames)
            for frame in frames:
                await self._hand_out(frame, pacer)
            if count % _BEATS == 0:
                self._beat_clients(now, pacer)
            if count % (_BEATS * _PING_EVERY) == 0:
                await asyncio.gather(*(ping(client) for client in self._clients.values() if not client.silent))

    def _beat_clients(self, now: int, pacer: Pacer) -> None:
        for client in list(self._clients.values()):
            for frame in client.session.beat(now):
                if not (pacer.unpaced and client.full):
                    self._deliver(client, frame)


def _trades(event: Event) -> Sequence[Trade]:
    match event:
        case Print(trade, _):
            return (trade,)
        case Recorded(_, trades):
            return trades
    return ()
