"""Bodies, bounded before anything parses them: bytes while they arrive and as they unfold, nesting before the parser.

What was read counts as under way until the request is answered.
"""

import asyncio
import re
from collections.abc import Awaitable, Collection, Coroutine, Generator, Iterable
from itertools import accumulate
from types import coroutine
from typing import Any, Final, TypeVar, cast

from api import encodings, errors
from api.admission import Held
from api.asgi import AsgiMessage, ClientGoneError, Headers, Receive

T = TypeVar("T")
MAX_NESTING: Final = 32
"""Objects and arrays inside each other."""

ARRIVE_WITHIN: Final = 30.0
"""Seconds in which a body has to arrive."""
DRAIN: Final = 2 * 1024 * 1024

_NO_BRACKETS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[^\[\]{}"]++', re.DOTALL)
"""Whole strings (an unterminated one runs to the end) and everything else that is no bracket; linear in its input."""
_STEPS: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_JSON: Final = "application/json"
_JSON_SUFFIX: Final = "+json"
"""Of other types that are JSON (RFC 6839, section 3.1)."""


def read_body(
    headers: Headers, receive: Receive, limit: int, held: Held, accepted: Collection[str] = ()
) -> Awaitable[bytes]:
    """Return a request's whole body, unfolded when it came in one of the `accepted` content encodings.

    Raises Problem 413 beyond `limit` bytes, on the way or unfolded; 415 when it says it is not JSON or is encoded
    otherwise; 400 when it is not what its encoding says; 408 when it takes too long to arrive; 503 when there is no
    room for it; and ClientGoneError.
    """
    return _in_time(_read(headers, receive, limit, held, accepted))


async def _read(headers: Headers, receive: Receive, limit: int, held: Held, accepted: Collection[str]) -> bytes:
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise await _too_large(headers, receive, limit)
    encoding = _checked(headers, accepted)
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        chunk, more = _chunk(await receive())
        size += len(chunk)
        if size > limit:
            raise await _too_large(headers, receive, limit, more=more)
        held.take(len(chunk))
        chunks.append(chunk)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if encoding is None:
        return body
    unfolded = encodings.decoded(body, encoding, limit)
    held.take(len(unfolded))
    return unfolded


def _chunk(message: AsgiMessage) -> tuple[bytes, bool]:
    """Return what came of a body, and whether there is more."""
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)


async def _too_large(headers: Headers, receive: Receive, limit: int, *, more: bool = True) -> errors.Problem:
    """Return the problem, once the client has had the time to send a little more than it should have.

    Closing on a client that still writes would lose the answer; reading whatever it sends would be endless. So up to
    DRAIN bytes are thrown away, and the connection of whoever goes on is closed.
    """
    drained = 0
    if b"expect" not in headers:
        while more and drained <= DRAIN:
            chunk, more = _chunk(await receive())
            drained += len(chunk)
    return errors.body_too_large(limit, close=more)


def check_nesting(body: bytes, deepest: int = MAX_NESTING) -> None:
    """Raise Problem 413 when objects and arrays nest deeper than `deepest`; `body` need not be JSON."""
    if body.count(b"{") + body.count(b"[") <= deepest:
        return
    if any(depth > deepest for depth in _depths(_NO_BRACKETS.sub(b"", body))):
        raise errors.too_large(f"Objects and arrays are nested deeper than {MAX_NESTING} levels: send flatter JSON.")


def _checked(headers: Headers, accepted: Collection[str]) -> str | None:
    """Return the body's content encoding; None where there is none."""
    content_type = headers.get(b"content-type")
    if content_type is not None and content_type != b"application/json":
        named = content_type.decode("latin-1")
        essence = named.partition(";")[0].strip().lower()
        if essence != _JSON and not essence.endswith(_JSON_SUFFIX):
            raise errors.unsupported_media_type(named)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if encoding == "identity":
        return None
    if encoding not in accepted:
        raise errors.unsupported_encoding(encoding, ", ".join(sorted(accepted)) or "identity")
    return encoding


def _depths(brackets: bytes) -> Iterable[int]:
    return accumulate(map(_STEPS.__getitem__, brackets))


# ---- time ----


async def _in_time(reading: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine for ARRIVE_WITHIN; one that need not wait, since all is there, costs no timer."""
    try:
        waits_for = reading.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    try:
        async with asyncio.timeout(ARRIVE_WITHIN):
            return await _resumed(reading, waits_for)
    except TimeoutError:
        raise errors.body_timeout(ARRIVE_WITHIN) from None


@coroutine
def _resumed(reading: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that has been started, from what it waits for."""
    try:
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                waits_for = reading.throw(error)
            else:
                waits_for = reading.send(sent)
    except StopIteration as done:
        return cast(T, done.value)
