"""The outermost layer of our own: what holds for every request, before any route is looked up.

It names the request, bounds and buffers its body, refuses a tenant parameter, hands the two hot routes to their ASGI
application, counts the answer, and turns whatever was raised into a problem.
"""

import re
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final
from urllib.parse import parse_qsl

from api import errors
from api.errors import Problem
from api.ids import uuid7
from api.ingestion.app import ROUTES, IngestionApp, send_problem
from api.ingestion.body import AsgiMessage, ClientGoneError, Receive, Scope, Send, check_nesting, header, read_body
from pulsestream.core.clock import Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import HTTP_REQUESTS, HTTP_SECONDS

MAX_BODY: Final = 256 * 1024
"""Bytes of a body on any route but the batch."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNMATCHED: Final = "unmatched"
_log = logger(__name__)

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Edge:
    """ASGI middleware around the application."""

    def __init__(self, app: AsgiApp, ingestion: IngestionApp, clock: Clock) -> None:
        self._app = app
        self._ingestion = ingestion
        self._numbers = count()
        self._process = uuid7(clock())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(send, _request_id(scope) or f"{self._process}-{next(self._numbers)}")
        try:
            await self._route(scope, receive, answer.send)
        except Problem as problem:
            await send_problem(answer.send, problem)
        except ClientGoneError:
            return
        except Exception:  # noqa: BLE001 - whatever it is, the client gets a problem and the log the reason
            _log.exception("request failed", path=scope["path"], request_id=answer.request_id)
            if not answer.status:
                await send_problem(answer.send, errors.internal())
        finally:
            _count(scope, answer.status, time.perf_counter() - began)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        _refuse_tenant(scope)
        if scope["path"] in ROUTES:
            await self._ingestion(scope, receive, send)
        elif scope["method"] in _WITH_BODY:
            body = await read_body(scope, receive, MAX_BODY)
            check_nesting(body)
            await self._app(scope, _replay(body, receive), send)
        else:
            await self._app(scope, receive, send)


class _Answer:
    """Sends an answer with the request's id, and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0

    async def send(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)


def _refuse_tenant(scope: Scope) -> None:
    query = scope["query_string"]
    if b"tenant" not in query.lower() and b"%" not in query:
        return
    if any(name.lower() == "tenant" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        raise errors.tenant_not_allowed("The URL")


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[AsgiMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> AsgiMessage:
        return messages.pop() if messages else await receive()

    return replayed


def _request_id(scope: Scope) -> str | None:
    given = header(scope, b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def _count(scope: Scope, status: int, seconds: float) -> None:
    path = scope["path"]
    route = path if path in ROUTES else getattr(scope.get("route"), "path", _UNMATCHED)
    HTTP_REQUESTS.labels(route, str(status)).inc()
    HTTP_SECONDS.labels(route).observe(seconds)
