"""The load of the ingestion benchmark: requests over keep-alive connections from one process, as quick as answers come.

`python -m benchmarks.peers.http_load JOB`, where JOB is the JSON of a `Job`; prints the JSON of a `Load`. Each of the
connections has one request under way. Plain sockets and epoll: what is sent is made beforehand but for the ids, of an
answer only status and length are read, so that this process is never what is measured. `respond` stands in for a
server that does nothing at all, and shows how much the load generator can do.
"""

import asyncio
import secrets
import select
import socket
import sys
import time
from array import array
from collections import Counter
from typing import Final, cast

import msgspec
import uvloop

from benchmarks.rounds import percentile
from pulsestream.core.clock import format_rfc3339, wall_clock

_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "
_SILENCE: Final = 20.0
"""Seconds without any answer after which a run fails."""
_EVENT: Final = (
    b'{"id":"%s-%%08d","type":"order.filled","source":"/desk/1","product":"BTC-USD","time":"%s",'
    b'"data":{"order":17,"side":"buy","price":64250.5,"size":0.25,"venue":"x"}}'
)


class Job(msgspec.Struct, frozen=True):
    """Requests to make: `events` 0 is a GET, 1 an event, more a batch of so many."""

    port: int
    path: str
    key: str
    events: int
    connections: int
    seconds: float
    warm_up: float


class Load(msgspec.Struct, frozen=True):
    """What came of it, the warm-up left out; latencies in milliseconds, `busy` is CPU seconds of the load a second."""

    requests: int
    seconds: float
    statuses: dict[str, int]
    sent_in_all: int
    p50: float
    p99: float
    busy: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds


class Requests:
    """Requests of a job, each event with an id of its own."""

    def __init__(self, job: Job) -> None:
        self._events = job.events
        self.made = 0
        body = self._body()
        method = b"POST" if job.events else b"GET"
        head = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %s\r\n" % (method, job.path.encode(), job.key.encode())
        if job.events:
            length = len(body % self._numbers())
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % length
        self._template = head.replace(b"%", b"%%") + b"\r\n" + body

    def next(self) -> bytes:
        """Return the bytes of one more request."""
        request = self._template % self._numbers()
        self.made += 1
        return request

    def _numbers(self) -> tuple[int, ...]:
        first = self.made * self._events
        return tuple(range(first, first + self._events))

    def _body(self) -> bytes:
        event = _EVENT % (secrets.token_hex(4).encode(), format_rfc3339(wall_clock()).encode())
        if self._events > 1:
            return b'{"events":[%s]}' % b",".join([event] * self._events)
        return event * self._events


class _Turn:
    """Connections of a job that keep asking."""

    def __init__(self, job: Job) -> None:
        self._requests = Requests(job)
        self._epoll = select.epoll()
        self._connections = {}
        for _ in range(job.connections):
            connection = socket.create_connection(("127.0.0.1", job.port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self._connections[connection.fileno()] = connection
            self._epoll.register(connection, select.EPOLLIN)
        self._began: dict[int, float] = {}
        self._partial: dict[int, bytes] = {}
        self.latencies = array("d")
        self.statuses: Counter[bytes] = Counter()

    @property
    def made(self) -> int:
        return self._requests.made

    def ask_all(self) -> None:
        for number in self._connections:
            self._ask(number)

    def run_until(self, deadline: float) -> None:
        """Ask again after each answer until `deadline` (perf_counter)."""
        while time.perf_counter() < deadline:
            self._answers(again=True)

    def settle(self) -> None:
        """Take the answers that are under way, and close."""
        while self._began:
            self._answers(again=False)
        for connection in self._connections.values():
            connection.close()

    def _answers(self, *, again: bool) -> None:
        ready = self._epoll.poll(_SILENCE)
        if not ready:
            raise TimeoutError(f"no answer for {_SILENCE:.0f} s")
        for number, _ in ready:
            if self._take(number) and again:
                self._ask(number)

    def _ask(self, number: int) -> None:
        request = self._requests.next()
        self._began[number] = time.perf_counter()
        connection = self._connections[number]
        sent = connection.send(request)
        while sent < len(request):  # more than the socket's buffer holds
            select.select([], [connection], [], _SILENCE)
            sent += connection.send(request[sent:])

    def _take(self, number: int) -> bool:
        """Read what came; says whether the answer is complete."""
        data = self._connections[number].recv(262_144)
        if not data:
            raise ConnectionError("the server closed a connection")
        if number in self._partial:
            data = self._partial.pop(number) + data
        if not _is_complete(data):
            self._partial[number] = data
            return False
        self.latencies.append(time.perf_counter() - self._began.pop(number))
        self.statuses[data[9:12]] += 1
        return True


def _is_complete(data: bytes) -> bool:
    end = data.find(_END)
    if end < 0:
        return False
    start = data.find(_LENGTH, 0, end)
    if start < 0:
        return True
    line_end = data.index(b"\r\n", start)
    return len(data) >= end + len(_END) + int(data[start + len(_LENGTH) : line_end])


def load(job: Job) -> Load:
    """Make the requests of a job; raises TimeoutError or ConnectionError when the server does not keep up at all."""
    turn = _Turn(job)
    began = time.perf_counter()
    turn.ask_all()
    turn.run_until(began + job.warm_up)
    warm = len(turn.latencies)
    turn.statuses.clear()
    cpu, start = time.process_time(), time.perf_counter()
    turn.run_until(start + job.seconds)
    seconds, busy = time.perf_counter() - start, time.process_time() - cpu
    counted = turn.latencies[warm:]
    statuses = {status.decode(): count for status, count in turn.statuses.items()}
    turn.settle()
    return Load(
        requests=len(counted),
        seconds=seconds,
        statuses=statuses,
        sent_in_all=turn.made,
        p50=percentile(counted, 0.5) * 1000,
        p99=percentile(counted, 0.99) * 1000,
        busy=busy / seconds,
    )


# ---- a server that does nothing ----

_CANNED: Final = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class _Canned(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self._transport.write(_CANNED)


def respond(port: int) -> None:
    """Answer whatever ends like a request of ours, without reading it, until ended."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Canned, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    if sys.argv[1] == "respond":
        respond(int(sys.argv[2]))
    else:
        print(msgspec.json.encode(load(msgspec.json.decode(sys.argv[1], type=Job))).decode())
