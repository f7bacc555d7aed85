"""One line of JSON for each request: who asked for what, how it ended, and how long it took.

A line has the fields of every other line of the log. They are gathered and written together, at most `PAUSE` seconds
later, so that the ingestion routes pay for an encoding and not for a system call.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from api.asgi import Scope
from api.auth import Caller
from pulsestream.core.clock import Clock, format_rfc3339
from pulsestream.core.log import masked

CALLER: Final = "pulsestream.caller"
"""Where a request's scope holds its Caller, once that is known."""
PAUSE: Final = 0.2
MOST: Final = 1000
"""Lines that are held back at most."""
LONGEST_PATH: Final = 200
_GONE: Final = 499
"""For a client that closed its connection before the answer began, as nginx has it."""
_REFUSED: Final = 400
_HANDSHAKE: Final = "GET"
"""A WebSocket's scope names no method: its handshake has this one (RFC 6455, 4.1)."""

Level = Literal["all", "refused", "off"]
Write = Callable[[bytes], object]
_encoder: Final = msgspec.json.Encoder()


class Line(msgspec.Struct, omit_defaults=True):
    """A request; `seconds` until its answer was sent, or a WebSocket ended; `route` as the documents name it."""

    event: str
    process: str
    level: str
    timestamp: str
    request_id: str
    method: str
    path: str
    route: str
    status: int
    seconds: float
    client: str
    tenant: str | None = None
    key_id: str | None = None


def to_stderr(data: bytes) -> None:
    """Write to where the log goes."""
    sys.stderr.buffer.write(data)
    sys.stderr.flush()


class AccessLog:
    """Gathers lines, and writes them from the running loop; `level` says which requests are of interest."""

    def __init__(self, level: Level, clock: Clock, write: Write = to_stderr) -> None:
        self._from = {"all": 0, "refused": _REFUSED}.get(level)
        self._clock = clock
        self._write = write
        self._lines: list[bytes] = []
        self._due: asyncio.TimerHandle | None = None

    def add(self, scope: Scope, route: str, status: int, request_id: bytes, seconds: float) -> None:
        """Note a request that is over; status 0: its client has gone."""
        status = status or _GONE
        if self._from is None or status < self._from:
            return
        caller: Caller | None = scope.get(CALLER)
        line = Line(
            event="request",
            process="api",
            level="info",
            timestamp=format_rfc3339(self._clock()),
            request_id=request_id.decode(),
            method=scope.get("method", _HANDSHAKE),
            path=_shown(scope["path"]),
            route=route,
            status=status,
            seconds=round(seconds, 6),
            client=(scope.get("client") or ("",))[0],
            tenant=None if caller is None else caller.tenant,
            key_id=None if caller is None else caller.key_id,
        )
        self._lines.append(_encoder.encode(line))
        if len(self._lines) >= MOST:
            self.flush()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(PAUSE, self.flush)

    def flush(self) -> None:
        """Write what is held back."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._lines:
            self._lines.append(b"")
            data = b"\n".join(self._lines)
            self._lines.clear()
            self._write(data)


def _shown(path: str) -> str:
    return masked(path.encode("utf-8", "replace").decode())[:LONGEST_PATH]
