"""One connection of the simulator: the frames that wait for it, in order, and the task that writes them.

The outbox is bounded: a client that lets it overflow is disconnected, as the exchanges do. What faults do to a
connection (silence, dripping, an end) waits in the outbox like a frame, so it happens at its place in the order.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from producers.exchange.dialects.base import Session
from producers.exchange.faults import Deed
from producers.exchange.market import FeedFrame
from producers.exchange.sent import SentFrames
from pulsestream.core.log import logger

CLOSE_WITHIN: Final = 2.0
"""Seconds that a client has to answer the closing handshake."""
_PATIENCE: Final = 30.0
_SILENT_FOR: Final = 900.0
_POLICY: Final = 1008
_ABNORMAL: Final = 1006
_DRIPS: Final = 10  # a second

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class _End:
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Drip:
    seconds: float
    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class _Silence:
    """Nothing is sent or read any more."""


_Item: TypeAlias = str | _End | _Drip | _Silence


@dataclass(slots=True)
class _Held:
    text: str
    overtaking: int
    released: bool = False


class Client:
    """A connection and its session."""

    def __init__(self, number: int, socket: ServerConnection, session: Session, outbox: int) -> None:
        self.number = number
        self.socket = socket
        self.session = session
        self.gone = False
        """Whether no frame will reach it any more."""
        self.silent = False
        """Whether a fault made it half open."""
        self._limit = outbox
        self._waiting: deque[_Item] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._held: dict[tuple[str, str | None], list[_Held]] = {}
        self._dripping = (0.0, 0)
        self._hanging_up: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether another frame would be one too many."""
        return len(self._waiting) >= self._limit

    def offer(self, item: _Item) -> None:
        """Let a frame wait for the client; one that is too slow is disconnected."""
        if self.gone:
            return
        if self.full:
            self.drop()
            return
        self._waiting.append(item)
        self._filled.set()

    async def put(self, text: str) -> None:
        """Let a frame wait for the client as soon as there is room."""
        await self.room()
        self.offer(text)

    async def room(self) -> None:
        """Wait until another frame may wait; who makes no room within a bound is disconnected."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while self.full and not self.gone:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            self.drop()

    def deliver(self, frame: FeedFrame, deed: Deed) -> None:
        """Do to a frame what a fault wants; it may be this client's last."""
        if deed.drip:
            self.offer(_Drip(*deed.drip))
        for text in deed.now:
            self.offer(text)
        loop = asyncio.get_running_loop()
        if deed.later:
            loop.call_later(deed.later[1], self.offer, deed.later[0])
        key = frame.channel, frame.product
        self._overtaken(key)
        if deed.behind:
            text, overtaking, within = deed.behind
            held = _Held(text, overtaking)
            self._held.setdefault(key, []).append(held)
            loop.call_later(within, self._release, held)
        if deed.silent:
            self.offer(_Silence())
        if deed.close:
            self.end(*deed.close)

    def end(self, code: int, reason: str) -> None:
        """Close the connection behind everything that waits; nothing follows."""
        self.offer(_End(code, reason))
        self.gone = True

    def drop(self) -> None:
        """Disconnect a client that does not read."""
        _log.warning("client too slow, disconnected", session=self.number, waiting=len(self._waiting))
        self.gone = True
        self._room.set()
        self._hanging_up = asyncio.create_task(self.hang_up(_POLICY, "ErrSlowConsume"))

    async def hang_up(self, code: int, reason: str) -> None:
        """Close the connection with a reason; without the client's help if it does not answer."""
        if code == _ABNORMAL:
            self.socket.transport.abort()
            return
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.socket.close(code, reason)
        except TimeoutError:
            self.socket.transport.abort()

    async def write(self, sent: SentFrames) -> None:
        """Send what waits, in order, for as long as the connection stands."""
        try:
            while True:
                while self._waiting:
                    item = self._waiting.popleft()
                    if not isinstance(item, str):
                        await self._obey(item)
                        continue
                    await self._send(item)
                    sent.write(self.number, item)
                self._room.set()
                self._filled.clear()
                await self._filled.wait()
        except ConnectionClosed:
            _log.debug("connection closed under the writer", session=self.number)
        finally:
            self.gone = True
            self._waiting.clear()
            self._room.set()

    async def _obey(self, item: _End | _Drip | _Silence) -> None:
        match item:
            case _End(code, reason):
                await self.hang_up(code, reason)
            case _Drip(seconds, speed):
                self._dripping = (asyncio.get_running_loop().time() + seconds, speed)
            case _Silence():
                self.gone = self.silent = True
                self._waiting.clear()
                self.socket.transport.pause_reading()
                asyncio.get_running_loop().call_later(_SILENT_FOR, self.socket.transport.abort)

    async def _send(self, text: str) -> None:
        until, speed = self._dripping
        if until and asyncio.get_running_loop().time() < until:
            await self.socket.send(_drops(text, max(1, speed // _DRIPS)))
        else:
            await self.socket.send(text)

    def _overtaken(self, key: tuple[str, str | None]) -> None:
        for held in self._held.get(key, ()):
            held.overtaking -= 1
            if held.overtaking <= 0:
                self._release(held)
        if key in self._held:
            self._held[key] = [held for held in self._held[key] if not held.released]

    def _release(self, held: _Held) -> None:
        if not held.released:
            held.released = True
            self.offer(held.text)


async def _drops(text: str, size: int) -> AsyncIterator[str]:
    """Yield a text in small pieces, some each second: the fragments of one message."""
    for start in range(0, len(text), size):
        yield text[start : start + size]
        await asyncio.sleep(1 / _DRIPS)


async def ping(client: Client) -> None:
    """Ping a client; its pong is not awaited."""
    with contextlib.suppress(ConnectionClosed):  # its own handler notices
        await client.socket.ping()
