"""Bodies, bounded before anything parses them: bytes while they arrive, nesting before the parser recurses."""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from itertools import accumulate
from typing import Any, Final

from api import errors

MAX_NESTING: Final = 32
"""Objects and arrays inside each other."""

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
    """Return a request's whole body; raises Problem 413 beyond `limit` bytes, 415 when it says it is not JSON."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _body_too_large(limit)
    _check_type(scope)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _body_too_large(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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


def _body_too_large(limit: int) -> errors.Problem:
    return errors.too_large(f"The body has more than {limit} bytes: send less at once.")
