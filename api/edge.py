"""What holds for every request, around FastAPI and before any route is looked up.

It names the request, bounds and buffers its body, refuses a tenant parameter, answers the two hot routes by plain ASGI,
counts the answer, and turns whatever was raised into a problem.
"""

import re
import time
from itertools import count
from typing import Final
from urllib.parse import parse_qsl

from prometheus_client import Counter, Histogram

from api import errors
from api.admission import Admission
from api.asgi import (
    AsgiApp,
    AsgiMessage,
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    problem_answer,
    send_answer,
)
from api.body import check_nesting, read_body
from api.errors import Problem
from api.ids import uuid7
from api.ingestion.app import ROUTES, IngestionApp
from pulsestream.core.clock import Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import HTTP_REQUESTS, HTTP_SECONDS

MAX_BODY: Final = 256 * 1024
"""Bytes of a body on any route but the batch."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_UNMATCHED: Final = "unmatched"
_log = logger(__name__)


class Edge:
    """The outermost ASGI application; `app` is what stands behind it."""

    def __init__(self, app: AsgiApp, ingestion: IngestionApp, admission: Admission, clock: Clock) -> None:
        self._app = app
        self._ingestion = ingestion
        self._admission = admission
        self._numbers = count()
        self._process = uuid7(clock()).encode()
        self._counts = _Counts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers: Headers = dict(scope["headers"])
        answer = _Answer(send, self._request_id(headers))
        try:
            await self._route(scope, headers, receive, answer.send)
        except Problem as problem:
            await send_answer(answer.send, problem_answer(problem))
        except ClientGoneError:
            return
        except Exception:  # noqa: BLE001 - whatever it is, the client gets a problem and the log the reason
            _log.exception("request failed", path=scope["path"], request_id=answer.request_id.decode())
            if not answer.status:
                await send_answer(answer.send, problem_answer(errors.internal()))
        finally:
            self._counts.add(_route_name(scope), answer.status, time.perf_counter() - began)

    async def _route(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        if scope["query_string"]:
            _refuse_tenant(scope["query_string"])
        if scope["path"] in ROUTES:
            await send_answer(send, await self._ingestion.answer(scope, headers, receive))
        elif scope["method"] in _WITH_BODY:
            held = self._admission.admit()
            try:
                body = await read_body(headers, receive, MAX_BODY, held)
                check_nesting(body)
                await self._app(scope, _replay(body, receive), send)
            finally:
                held.release()
        else:
            await self._app(scope, receive, send)

    def _request_id(self, headers: Headers) -> bytes:
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%s-%d" % (self._process, next(self._numbers))


class _Answer:
    """Sends an answer with the request's id, and remembers its status."""

    __slots__ = ("_send", "request_id", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0

    async def send(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id)]
        await self._send(message)


class _Counts:
    """Counts answers; a metric's child is looked up once for each route and status."""

    def __init__(self) -> None:
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def add(self, route: str, status: int, seconds: float) -> None:
        children = self._children.get((route, status))
        if children is None:
            children = HTTP_REQUESTS.labels(route, str(status)), HTTP_SECONDS.labels(route)
            self._children[route, status] = children
        requests, durations = children
        requests.inc()
        durations.observe(seconds)


def _refuse_tenant(query: bytes) -> None:
    if b"tenant" not in query.lower() and b"%" not in query:
        return
    if any(name.lower() == "tenant" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        raise errors.tenant_not_allowed("The URL")


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[AsgiMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> AsgiMessage:
        return messages.pop() if messages else await receive()

    return replayed


def _route_name(scope: Scope) -> str:
    path: str = scope["path"]
    return path if path in ROUTES else getattr(scope.get("route"), "path", _UNMATCHED)
