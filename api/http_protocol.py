"""uvicorn's HTTP/1.1 protocol with bounds that it has not: on a request's head, and on the time until it is there.

httptools keeps whatever a client sends as a header until it ends, and waits for ever for the first request. What is
refused is a problem, like everything else that is.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import errors
from api.asgi import Receive, Scope, Send, problem_answer, send_answer
from api.errors import Problem

MAX_HEAD: Final = 32 * 1024
"""Bytes of request line and headers."""
MAX_HEADERS: Final = 100
ABORT: Final = "pulsestream.abort"
HEAD_WITHIN: Final = 10.0
"""Seconds from a connection, or from a head's first byte, until the head is complete; up to twice that."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _is_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to watch."""
        super().connection_made(transport)
        self._head_since: float | None = self.loop.time()
        self._watch = self.loop.call_later(HEAD_WITHIN, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that is not complete may not grow for ever."""
        if self.transport.is_closing():
            return
        self._is_large = len(data) > MAX_HEAD
        super().data_received(data)
        if self._head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {ABORT: self.transport.abort}}
        self._head_since = self.loop.time()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Let a request through to the application, or to its refusal."""
        self._head_since = None
        if len(self.headers) <= MAX_HEADERS and not (self._is_large and self._head_size() > MAX_HEAD):
            super().on_headers_complete()
            return
        app, self.app = self.app, _refuse_request
        super().on_headers_complete()
        self.app = app

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(errors.malformed_request(msg))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _look(self) -> None:
        if self._head_since is not None and self.loop.time() - self._head_since >= HEAD_WITHIN:
            self._refuse(errors.head_timeout(HEAD_WITHIN))
        elif not self.transport.is_closing():
            self._watch = self.loop.call_later(HEAD_WITHIN, self._look)

    def _refuse(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        answer = problem_answer(problem)
        headers = (*answer.headers, (b"content-length", b"%d" % len(answer.body)))
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[answer.status] + lines + b"\r\n" + answer.body)
        self.transport.close()


def abort(scope: Scope) -> None:
    """End a request's connection at once, whatever of its answer is not taken yet."""
    extension = scope.get("extensions", {}).get(ABORT)
    if extension is not None:
        extension[ABORT]()


async def _refuse_request(_: Scope, __: Receive, send: Send) -> None:
    await send_answer(send, problem_answer(_too_large()))


def _too_large() -> Problem:
    return errors.head_too_large(MAX_HEAD, MAX_HEADERS)
