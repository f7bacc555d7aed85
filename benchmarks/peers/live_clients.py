"""Clients of the live view, many in one process: `python -m benchmarks.peers.live_clients JOB` (the JSON of a `Job`).

Each is a WebSocket that subscribes to ticks (or a stream of server-sent events) and reads all that comes, by plain
sockets and epoll. Prints `ready` when every one has its snapshot; ends when its input does, and writes which ticks
each message held, and when which client had read it. What many clients get in the same bytes is taken apart once.
"""

import base64
import json
import os
import re
import select
import socket
import struct
import sys
import time
from array import array
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

PATH: Final = "/api/v1/live"
EVENTS: Final = "/api/v1/live/events"
SILENCE: Final = 60.0
"""Seconds in which every client has to have its snapshot."""
_SEQUENCE: Final = re.compile(rb'"sequence":(\d+)')
_RECENT: Final = 16
"""Messages that a new one is compared with before it counts as one that nobody had."""
_AT_ONCE: Final = 65_536
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_SHORT, _LONG = 126, 127


class Job(msgspec.Struct, frozen=True):
    """`clients` connections to a port, whose keys they use in turn; what they read goes into the file `out`."""

    port: int
    keys: list[str]
    clients: int
    out: str
    by_events: bool = False


class Frames:
    """Takes a server's WebSocket frames out of the bytes of one connection (RFC 6455, section 5.2)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return opcode and payload of each frame that is whole now."""
        data = self._rest + data if self._rest else data
        found, place, end = [], 0, len(data)
        while end - place >= 2:
            length, head = data[place + 1], 2
            if length == _SHORT:
                head = 4
                length = int.from_bytes(data[place + 2 : place + 4], "big")
            elif length == _LONG:
                head = 10
                length = int.from_bytes(data[place + 2 : place + 10], "big")
            if end - place < head + length:
                break
            found.append((data[place] & 15, data[place + head : place + head + length]))
            place += head + length
        self._rest = data[place:]
        return found


class Events:
    """Takes server-sent events out of a chunked answer of one connection, whose head was read; as texts."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the `data` of each event that is whole now, as if it came in a frame."""
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        return [(_TEXT, each.rpartition(b"data: ")[2]) for each in whole if b"data: " in each]


class Texts:
    """Messages that came, by number; those of the same bytes are one."""

    def __init__(self) -> None:
        self.sequences: list[list[int]] = []
        self._recent: list[tuple[bytes, int]] = []

    def number(self, text: bytes) -> int:
        """Return the number of a message."""
        for known, number in reversed(self._recent):
            if known == text:
                return number
        number = len(self.sequences)
        self.sequences.append([int(found) for found in _SEQUENCE.findall(text)])
        self._recent.append((text, number))
        del self._recent[:-_RECENT]
        return number


class _Crowd:
    def __init__(self, job: Job) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._readers: dict[int, Frames | Events] = {}
        self._numbers: dict[int, int] = {}
        self._waiting: set[int] = set()
        self.texts = Texts()
        self.times, self.messages, self.clients = array("d"), array("i"), array("i")
        for number in range(job.clients):
            self._connect(job, number)

    def _connect(self, job: Job, number: int) -> None:
        connection = socket.create_connection(("127.0.0.1", job.port), SILENCE)
        key = job.keys[number % len(job.keys)]
        reader = _events(connection, key) if job.by_events else _web_socket(connection, key)
        connection.setblocking(False)
        self._sockets[connection.fileno()] = connection
        self._readers[connection.fileno()] = reader
        self._numbers[connection.fileno()] = number
        self._waiting.add(connection.fileno())
        self._epoll.register(connection, select.EPOLLIN)
        self._read_on(0.0)

    def wait_live(self) -> None:
        """Read until every client has its snapshot; raises TimeoutError."""
        deadline = time.monotonic() + SILENCE
        while self._waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._waiting)} clients have no snapshot after {SILENCE:.0f} s")
            self._read_on(1.0)

    def read_until_told(self) -> None:
        """Read until this process's input ends."""
        told = sys.stdin.fileno()
        self._epoll.register(told, select.EPOLLIN | select.EPOLLHUP)
        while told not in self._read_on(1.0):
            pass

    def _read_on(self, seconds: float) -> set[int]:
        """Read what is there; returns what is ready and none of the clients."""
        others = set()
        for place, _ in self._epoll.poll(seconds):
            if place in self._sockets:
                self._read(place)
            else:
                others.add(place)
        return others

    def _read(self, place: int) -> None:
        data = self._sockets[place].recv(_AT_ONCE)
        now = time.time()
        if not data:
            raise ConnectionError(f"the server closed the connection of client {self._numbers[place]}")
        for opcode, payload in self._readers[place].feed(data):
            if opcode == _TEXT:
                self._take(place, payload, now)
            elif opcode == _PING:
                self._sockets[place].send(masked(_PONG, payload))
            elif opcode == _CLOSE:
                raise ConnectionError(f"the server closes: {payload[2:].decode()}")

    def _take(self, place: int, text: bytes, now: float) -> None:
        if text.startswith(b'{"type":"ticks"'):
            self.times.append(now)
            self.messages.append(self.texts.number(text))
            self.clients.append(self._numbers[place])
        elif text.startswith(b'{"type":"live"'):
            self._waiting.discard(place)
        elif text.startswith(b'{"type":"bye"'):
            raise ConnectionError(f"the server says {text.decode()}")


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame; the mask of zeros is one, too."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < _SHORT else bytes([0x80 | _SHORT]) + struct.pack("!H", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def _web_socket(connection: socket.socket, key: str) -> Frames:
    nonce = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    _expect(connection, b"101")
    asked = {"type": "subscribe", "key": key, "datasets": ["ticks"]}
    connection.sendall(masked(_TEXT, json.dumps(asked).encode()))
    return Frames()


def _events(connection: socket.socket, key: str) -> Events:
    connection.sendall(f"GET {EVENTS}?datasets=ticks HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n\r\n".encode())
    _expect(connection, b"200")
    return Events()


def _expect(connection: socket.socket, status: bytes) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the server closed a connection before it was open")
        head += byte
    if head.split(b" ", 2)[1] != status:
        raise ConnectionError(f"the server answers {head[:200]!r}")


def main(job: Job) -> None:
    """Connect, say so, read until told, and write what was read."""
    crowd = _Crowd(job)
    crowd.wait_live()
    print("ready", flush=True)
    crowd.read_until_told()
    sequences = crowd.texts.sequences
    with Path(job.out).open("wb") as file:
        np.savez(
            file,
            times=np.frombuffer(crowd.times, np.float64),
            messages=np.frombuffer(crowd.messages, np.int32),
            clients=np.frombuffer(crowd.clients, np.int32),
            sequences=np.array([each for held in sequences for each in held], np.int64),
            counts=np.array([len(held) for held in sequences], np.int64),
        )


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Job))
