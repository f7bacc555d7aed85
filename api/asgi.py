"""What the edge and the ingestion routes have in common as plain ASGI: its words, headers, whole answers, problems."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from api import errors
from api.errors import Problem

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[bytes, bytes]
"""A request's headers by name in lower case; of a name that comes again the last one."""

_REQUEST_ID: Final = "pulsestream.request_id"
_JSON: Final = (b"content-type", b"application/json")
_PROBLEM: Final = (b"content-type", errors.MEDIA_TYPE.encode())


def name_request(scope: Scope, request_id: bytes) -> None:
    """Let whoever answers a request know by which id its client does."""
    scope[_REQUEST_ID] = request_id.decode()


def request_id(scope: Scope) -> str:
    """Return the id of a request."""
    found: str = scope[_REQUEST_ID]
    return found


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete."""


class Answer(NamedTuple):
    """A whole answer; `headers` as ASGI takes them, the length left out."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


def problem_answer(problem: Problem) -> Answer:
    """Return the answer that a problem is."""
    own = ((name.lower().encode(), value.encode("latin-1", "replace")) for name, value in problem.headers.items())
    return Answer(problem.status, problem.encoded(), (_PROBLEM, *own))


async def send_answer(send: Send, answer: Answer, *more: tuple[bytes, bytes]) -> None:
    """Send a whole answer with `more` headers."""
    length = (b"content-length", b"%d" % len(answer.body))
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length, *more]})
    await send({"type": "http.response.body", "body": answer.body})
