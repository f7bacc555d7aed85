"""A small real HTTP server that speaks Coinbase's REST API over a made-up history, and misbehaves on demand.

Its own thread and event loop, so that processes can talk to it while a test blocks. Every id of a history exists unless
it is in `absent` or above `newest`; a trade's time is `started` plus `spacing` for each id.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339, parse_rfc3339

PAGE = 1000


@dataclass
class History:
    """One product's trades, ids 1 to `newest`. Times in microseconds."""

    newest: int
    started: int
    spacing: int = MICROS_PER_SECOND
    absent: set[int] = field(default_factory=set)

    def time(self, trade_id: int) -> int:
        return self.started + trade_id * self.spacing

    def shown(self, trade_id: int) -> dict[str, Any]:
        return {
            "trade_id": trade_id,
            "side": "sell" if trade_id % 2 else "buy",
            "size": f"0.{trade_id % 9 + 1}00000",
            "price": f"{100 + trade_id % 50}.25",
            "time": format_rfc3339(self.time(trade_id)),
        }


@dataclass(frozen=True)
class Asked:
    """A request: when (monotonic seconds), which path, which query."""

    at: float
    path: str
    query: dict[str, str]


class RestExchange:
    """Serves histories from `with` to its end. `faults` are used up, one a request, in order; None is a good answer.

    Faults: an HTTP status ("500"), "429:1.5" (Retry-After), "truncated" (fewer bytes than promised), "garbage" (no
    JSON), "cut" (half a page of JSON), "reset" (closes at once), "silent" (never answers), "drip" (a byte at a time),
    "huge" (an endless body), "redirect".
    """

    def __init__(self, histories: dict[str, History]) -> None:
        self.histories = histories
        self.asked: list[Asked] = []
        self.faults: deque[str | None] = deque()
        self.delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def misbehave(self, faults: Iterable[str | None]) -> None:
        self.faults.extend(faults)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._until_stopped())

    async def _until_stopped(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                target = urlsplit(head.split(b" ", 2)[1].decode())
                query = {name: values[0] for name, values in parse_qs(target.query).items()}
                self.asked.append(Asked(time.monotonic(), target.path, query))
                await asyncio.sleep(self.delay)
                if not await self._answer(writer, target.path, query):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client has gone
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, path: str, query: dict[str, str]) -> bool:
        fault = self.faults.popleft() if self.faults else None
        status, body = self._good(path, query)
        headers = ""
        if fault is not None and fault.partition(":")[0].isdecimal():
            code, _, retry = fault.partition(":")
            status, body, headers = int(code), b'{"message":"as told"}', f"Retry-After: {retry}\r\n" if retry else ""
        elif fault == "redirect":
            status, headers = 302, "Location: http://127.0.0.1:1/\r\n"
        elif fault == "garbage":
            body = b"<html>maintenance</html>"
        elif fault == "cut":
            body = body[: len(body) // 2]
        elif fault == "reset":
            return False
        elif fault == "silent":
            await self._stop.wait()
        promised = 10**9 if fault == "huge" else len(body) + (100 if fault == "truncated" else 0)
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {promised}\r\n{headers}\r\n".encode())
        if fault == "huge":
            return await self._flood(writer)
        if fault == "drip":
            return await self._drip(writer, body)
        writer.write(body)
        await writer.drain()
        return fault != "truncated"

    async def _flood(self, writer: asyncio.StreamWriter) -> bool:
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()

    async def _drip(self, writer: asyncio.StreamWriter, body: bytes) -> bool:
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        return True

    def _good(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        parts = path.strip("/").split("/")
        history = self.histories.get(parts[1]) if len(parts) == 3 and parts[0] == "products" else None
        if history is None:
            return 404, b'{"message":"NotFound"}'
        answer = _trades(history, query) if parts[2] == "trades" else _candles(history, query)
        return 200, json.dumps(answer).encode()


def _trades(history: History, query: dict[str, str]) -> list[dict[str, Any]]:
    below = min(int(query.get("after", history.newest + 1)), history.newest + 1)
    wanted = min(int(query.get("limit", PAGE)), PAGE)
    found: list[dict[str, Any]] = []
    trade_id = below - 1
    while trade_id >= 1 and len(found) < wanted:
        if trade_id not in history.absent:
            found.append(history.shown(trade_id))
        trade_id -= 1
    return found


def _candles(history: History, query: dict[str, str]) -> list[list[float]]:
    """Candles of every period in which there were trades, both ends included, newest first."""
    seconds = int(query["granularity"])
    start, end = (parse_rfc3339(query[name]) // MICROS_PER_SECOND for name in ("start", "end"))
    first, last = (history.time(trade_id) // MICROS_PER_SECOND for trade_id in (1, history.newest))
    low = max(start, first - first % seconds)
    starts = range(low - low % seconds + (seconds if low % seconds else 0), min(end, last) + 1, seconds)
    return [[at, 1.5, 3.5, 2.0, 2.5, 10.0 + at % 7] for at in reversed(starts)]
