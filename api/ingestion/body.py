"""Bodies, bounded before anything parses them: bytes while they arrive, nesting before the parser recurses."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from itertools import accumulate
from typing import Any, Final

from api import errors

MAX_NESTING: Final = 32
"""Objects and arrays inside each other."""

ARRIVE_WITHIN: Final = 30.0
"""Seconds in which a body has to arrive."""
DRAIN: Final = 2 * 1024 * 1024

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

_NO_BRACKETS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[^\[\]{}"]++', re.DOTALL)
"""Whole strings (an unterminated one runs to the end) and everything else that is no bracket; linear in its input."""
_STEPS: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return a request's whole body.

    Raises Problem 413 beyond `limit` bytes, 415 when it says it is not JSON, 408 when it takes too long to arrive, and
    ClientGoneError.
    """
    try:
        async with asyncio.timeout(ARRIVE_WITHIN):
            declared = header(scope, b"content-length")
            if declared is not None and declared.isdigit() and int(declared) > limit:
                raise await _too_large(scope, receive, limit)
            _check_type(scope)
            return await _collected(scope, receive, limit)
    except TimeoutError:
        raise errors.body_timeout(ARRIVE_WITHIN) from None


async def _collected(scope: Scope, receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        chunk, more = await _next_chunk(receive)
        size += len(chunk)
        if size > limit:
            raise await _too_large(scope, receive, limit, more=more)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)


async def _too_large(scope: Scope, receive: Receive, limit: int, *, more: bool = True) -> errors.Problem:
    """Return the problem, once the client has had the time to send a little more than it should have.

    Closing on a client that still writes would lose the answer; reading whatever it sends would be endless. So up to
    DRAIN bytes are thrown away, and the connection of whoever goes on is closed.
    """
    drained = 0
    if header(scope, b"expect") is None:
        while more and drained <= DRAIN:
            chunk, more = await _next_chunk(receive)
            drained += len(chunk)
    return errors.body_too_large(limit, close=more)


def check_nesting(body: bytes) -> None:
    """Raise Problem 413 when objects and arrays nest deeper than MAX_NESTING; `body` need not be JSON."""
    if body.count(b"{") + body.count(b"[") <= MAX_NESTING:
        return
    if any(depth > MAX_NESTING for depth in _depths(_NO_BRACKETS.sub(b"", body))):
        raise errors.too_large(f"Objects and arrays are nested deeper than {MAX_NESTING} levels: send flatter JSON.")


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header's first value; `name` in lower case."""
    for found, value in scope["headers"]:
        if found == name:
            text: str = value.decode("latin-1")
            return text
    return None


def _check_type(scope: Scope) -> None:
    content_type = header(scope, b"content-type")
    if content_type is not None and content_type.partition(";")[0].strip().lower() != "application/json":
        raise errors.unsupported_media_type(content_type)
    encoding = header(scope, b"content-encoding")
    if encoding not in {None, "identity"}:
        raise errors.unsupported_media_type(f"{content_type} with Content-Encoding {encoding}")


def _depths(brackets: bytes) -> Iterable[int]:
    return accumulate(map(_STEPS.__getitem__, brackets))
