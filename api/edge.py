"""What holds for every request, around FastAPI and before any route is looked up.

It names the request, bounds and buffers its body, refuses a tenant parameter, answers the two hot routes by plain ASGI,
counts and logs the answer, and turns whatever was raised into a problem.
"""

import re
import time
from collections.abc import Callable
from itertools import count
from typing import Final
from urllib.parse import parse_qsl

from prometheus_client import Counter, Histogram

from api import errors
from api.access_log import CALLER, AccessLog
from api.admission import Admission
from api.asgi import (
    Answer,
    AsgiApp,
    AsgiMessage,
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    name_request,
    problem_answer,
    send_answer,
)
from api.audit.denials import Denials
from api.auth import Caller
from api.body import check_nesting, read_body
from api.browsers import PRIVATE, fields
from api.errors import Problem
from api.ids import uuid7
from api.ingestion.app import ROUTES, IngestionApp
from api.limits.limiter import Fields, Limiter
from pulsestream.core.clock import Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import HTTP_REQUESTS, HTTP_SECONDS

MAX_BODY: Final = 256 * 1024
"""Bytes of a body on any route but the batch."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID_HEADER: Final = b"x-request-id"
_UNMATCHED: Final = "unmatched"
_log = logger(__name__)


class Edge:
    """The outermost ASGI application; `app` is what stands behind it."""

    def __init__(
        self,
        app: AsgiApp,
        ingestion: IngestionApp,
        admission: Admission,
        limiter: Limiter,
        denials: Denials,
        *,
        access_log: AccessLog,
        clock: Clock,
    ) -> None:
        self._app = app
        self._ingestion = ingestion
        self._admission = admission
        self._limiter = limiter
        self._access_log = access_log
        self._denials = denials
        self._numbers = count()
        self._process = uuid7(clock()).encode()
        self._counts = _Counts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await self._follow(scope, receive, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in ROUTES:
            await self._answer_hot(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer_hot(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one of the ingestion routes: the same as `_answer`, with less between the request and its answer."""
        began = time.perf_counter()
        headers: Headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        status = 0
        try:
            try:
                _refuse_tenant(scope["query_string"])
                answer = await self._ingestion.answer(scope, headers, receive)
            except Problem as problem:
                self._denials.note(problem, request_id.decode())
                answer = problem_answer(problem)
            except ClientGoneError:
                return
            except Exception:  # noqa: BLE001 - whatever it is, the client gets a problem and the log the reason
                answer = _fault(scope, request_id)
            status = answer.status
            named = (_REQUEST_ID_HEADER, request_id)
            await send_answer(send, answer, named, *PRIVATE, *self._limiter.event_fields(scope))
        finally:
            self._note(scope, scope["path"], status, request_id, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers: Headers = dict(scope["headers"])
        always = fields(scope["path"])
        named = _Named(send, self._request_id(headers), lambda: (*always, *self._limiter.fields(scope)))
        name_request(scope, named.request_id)
        try:
            _refuse_tenant(scope["query_string"])
            await self._pass_on(scope, headers, receive, named.send)
        except Problem as problem:
            await send_answer(named.send, problem_answer(problem))
        except ClientGoneError:
            return
        except Exception:  # noqa: BLE001 - likewise
            answer = _fault(scope, named.request_id)
            if not named.status:
                await send_answer(named.send, answer)
        finally:
            route = getattr(scope.get("route"), "path", _UNMATCHED)
            self._note(scope, route, named.status, named.request_id, time.perf_counter() - began)

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket to its end, which is when it is logged; live metrics count it, those of requests do not."""
        began = time.perf_counter()
        opening = _Opening(send)
        request_id = self._request_id(dict(scope["headers"]))
        name_request(scope, request_id)
        try:
            await self._app(scope, receive, opening.send)
        finally:
            route = scope["path"] if "endpoint" in scope else _UNMATCHED
            self._access_log.add(scope, route, opening.status, request_id, time.perf_counter() - began)

    def _note(self, scope: Scope, route: str, status: int, request_id: bytes, seconds: float) -> None:
        self._counts.add(route, status, seconds)
        self._access_log.add(scope, route, status, request_id, seconds)

    async def _pass_on(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Let the framework answer, with the whole body there."""
        if scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        held = self._admission.admit()
        try:
            body = await read_body(headers, receive, MAX_BODY, held)
            check_nesting(body)
            await self._app(scope, _replay(body, receive), send)
        finally:
            held.release()

    def _request_id(self, headers: Headers) -> bytes:
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%s-%d" % (self._process, next(self._numbers))


class _Named:
    """Sends an answer with the request's id and what is left to its caller, and remembers its status."""

    __slots__ = ("_fields", "_send", "request_id", "status")

    def __init__(self, send: Send, request_id: bytes, fields: Callable[[], Fields]) -> None:
        self._send = send
        self._fields = fields
        self.request_id = request_id
        self.status = 0

    async def send(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            named = (_REQUEST_ID_HEADER, self.request_id)
            message["headers"] = [*message.get("headers", ()), named, *self._fields()]
        await self._send(message)


class _Opening:
    """Sends a WebSocket's messages, and remembers how its handshake was answered."""

    __slots__ = ("_send", "status")
    _ANSWERED: Final = {"websocket.accept": 101, "websocket.close": 403}

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: AsgiMessage) -> None:
        self.status = self.status or self._ANSWERED.get(message["type"], 0)
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
    if not query:
        return
    if b"tenant" not in query.lower() and b"%" not in query:
        return
    if any(name.lower() == "tenant" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        raise errors.tenant_not_allowed("The URL")


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[AsgiMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> AsgiMessage:
        return messages.pop() if messages else await receive()

    return replayed


def _fault(scope: Scope, request_id: bytes) -> Answer:
    """Log the exception that is being handled, and return what the client is told."""
    caller: Caller | None = scope.get(CALLER)
    tenant = None if caller is None else caller.tenant
    _log.exception("request failed", path=scope["path"], request_id=request_id.decode(), tenant=tenant)
    return problem_answer(errors.internal())
