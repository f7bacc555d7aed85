"""The exchange's REST answers over the port of its WebSocket: plain HTTP GET, one request a connection.

Requests over the exchange's rate are answered with 429 and Retry-After, as are those that a fault plan names. Pure but
for the clock that is passed in.
"""

import math
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from producers.exchange.dialects.base import Answer, Query, RestLimit, document
from producers.exchange.faults import Rest500, RestTruncated, TooMany

_UPGRADE: Final = "Upgrade"


class Bucket:
    """A token bucket: how long a request has to wait."""

    def __init__(self, limit: RestLimit) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._filled = 0.0

    def wait(self, monotonic: float) -> float:
        """Take a token and return 0, or return the seconds until there is one; a limit of 0 a second is none."""
        if not self._limit.per_second:
            return 0.0
        gained = (monotonic - self._filled) * self._limit.per_second if self._filled else 0.0
        self._tokens = min(float(self._limit.burst), self._tokens + gained)
        self._filled = monotonic
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._limit.per_second


def is_handshake(request: Request) -> bool:
    """Whether a request asks for a WebSocket."""
    return request.headers.get(_UPGRADE, "").lower() == "websocket"


def query_of(request: Request) -> Query:
    """Return a request's path and parameters."""
    address = urlsplit(request.path)
    return Query(unquote(address.path), dict(parse_qsl(address.query)))


def too_many(seconds: float) -> Answer:
    """Return the refusal of a request that came too early."""
    return document({"message": "Rate limit exceeded"}, 429, {"Retry-After": str(max(0, math.ceil(seconds)))})


def spoilt(answer: Answer, fault: TooMany | Rest500 | RestTruncated) -> Answer:
    """Return what a fault makes of an answer."""
    match fault:
        case TooMany():
            return too_many(fault.retry_after)
        case Rest500():
            return document({"message": "Internal server error"}, 500)
        case RestTruncated():
            length = str(len(answer.body))
            return Answer(
                answer.status, answer.body[: len(answer.body) // 2], {**answer.headers, "Content-Length": length}
            )


def response(answer: Answer) -> Response:
    """Return the HTTP response; the connection ends after it."""
    headers = Headers({"Content-Type": "application/json", "Connection": "close", **answer.headers})
    if "Content-Length" not in headers:
        headers["Content-Length"] = str(len(answer.body))
    return Response(answer.status, HTTPStatus(answer.status).phrase, headers, answer.body)
