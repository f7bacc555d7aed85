"""Asks an exchange's REST API, politely: at a bounded rate, with bounded retries, answers and time.

429 and 418 hold up every request until the exchange's Retry-After. Failures of the server and of the network are tried
again with full jitter, and an API that is away is left alone for growing times. Any other 4xx is the caller's. No
redirect is followed: the address is the operator's to set.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import httpx

from producers.errors import RestAwayError, RestRefusedError
from producers.source import is_local
from producers.throttle import Circuit, Throttle, Uniform, retry_after
from producers.venues.protocol import RestRequest
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, wall_clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import REST_CLOSED, REST_REQUESTS, REST_SECONDS

_LIMITED: Final = frozenset({418, 429})
"""Too many requests; Binance says 418 to an address that went on all the same."""
_TRY_AGAIN: Final = frozenset({408, 425})
_OK, _REDIRECT, _CLIENT_ERROR, _SERVER_ERROR = 200, 300, 400, 500
_SHOWN: Final = 200
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class RestLimits:
    """Bounds of a client. Times in seconds.

    `attempts`: of one request. `first_pause`, `longest_pause`: upper bounds of the jitter before the second attempt and
    before any. `longest_hold`: a longer Retry-After is not waited for but raised. `within`: one attempt, body included.
    """

    attempts: int = 5
    first_pause: float = 0.5
    longest_pause: float = 10.0
    longest_hold: float = 120.0
    connect: float = 5.0
    read: float = 10.0
    within: float = 30.0
    body_bytes: int = 8 * 1024 * 1024
    burst: int = 2


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt that may be repeated: what went wrong, and how long the exchange wants to be left alone."""

    reason: str
    outcome: str
    hold: float = 0.0


class RestClient:
    """One exchange's REST API. Safe to share between the tasks of one event loop; to be closed."""

    def __init__(
        self,
        exchange: str,
        url: str,
        rate: float,
        limits: RestLimits | None = None,
        *,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Uniform = random.uniform,
    ) -> None:
        """Ask `url` at most `rate` times a second."""
        self._exchange = exchange
        self._url = url.rstrip("/")
        self._limits = limits or RestLimits()
        self._throttle = Throttle(rate, self._limits.burst)
        self._circuit = Circuit(uniform)
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(self._limits.read, connect=self._limits.connect),
            follow_redirects=False,
            trust_env=not is_local(url),
            headers={"User-Agent": "pulsestream", "Accept": "application/json"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def set_rate(self, rate: float) -> None:
        """Change the requests a second: this process's share of what the exchange allows."""
        self._throttle.set_rate(rate)

    async def get(self, request: RestRequest) -> bytes:
        """Return the body of a good answer.

        Raises RestRefusedError for an answer that asking again cannot change, RestAwayError when the API is away or
        wants to be left alone for longer than is waited here; its `retry_in` says for how long.
        """
        failure = _Failure("no attempt was made", "failed")
        for attempt in range(self._limits.attempts):
            await self._turn(failure)
            answer = await self._attempt(request)
            if isinstance(answer, bytes):
                return answer
            failure = answer
            if attempt + 1 < self._limits.attempts and not failure.hold:
                longest = min(self._limits.longest_pause, self._limits.first_pause * 2.0**attempt)
                await self._sleep(self._uniform(0.0, longest))
        raise RestAwayError(
            f"{self._url}{request.path} failed {self._limits.attempts} times, the last time with: {failure.reason}",
            retry_in=self._limits.longest_pause,
        )

    async def _turn(self, failure: _Failure) -> None:
        """Wait until a request may start; raises RestAwayError when that is too far off."""
        now = self._monotonic()
        held, rest = self._throttle.held(now), self._circuit.rest(now)
        if held > self._limits.longest_hold or rest > 0:
            what = "wants no requests" if held > rest else "is away"
            raise RestAwayError(
                f"{self._url} {what} for {max(held, rest):.0f} s more: {failure.reason}", retry_in=max(held, rest)
            )
        pause = self._throttle.reserve(now)
        while pause > 0:
            await self._sleep(pause)
            pause = self._throttle.held(self._monotonic())

    async def _attempt(self, request: RestRequest) -> bytes | _Failure:
        started = self._monotonic()
        try:
            async with asyncio.timeout(self._limits.within):
                answer = await self._ask(request)
        except TimeoutError:
            answer = _Failure(f"no whole answer within {self._limits.within:g} s", "failed")
        except httpx.HTTPError as error:
            answer = _Failure(f"{type(error).__name__}: {error}"[:_SHOWN], "failed")
        self._count(answer, started)
        return answer

    async def _ask(self, request: RestRequest) -> bytes | _Failure:
        async with self._http.stream("GET", self._url + request.path, params=dict(request.query)) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > self._limits.body_bytes:
                    self._circuit.answered()
                    raise RestRefusedError(
                        f"{response.url} answers with more than {self._limits.body_bytes} bytes", status=_OK
                    )
        return self._judged(response, bytes(body))

    def _judged(self, response: httpx.Response, body: bytes) -> bytes | _Failure:
        """Decide what an answer means: the one place that does."""
        status = response.status_code
        if _OK <= status < _REDIRECT:
            return body
        said = f"{status} {response.reason_phrase}: {body[:_SHOWN].decode('utf-8', 'replace')}".strip(": ")
        if status in _LIMITED:
            asked = retry_after(response.headers.get("Retry-After"), self._clock() / MICROS_PER_SECOND)
            return _Failure(said, "limited", hold=max(asked, self._limits.first_pause))
        if status >= _SERVER_ERROR or status in _TRY_AGAIN:
            return _Failure(said, "failed")
        self._circuit.answered()
        REST_REQUESTS.labels(self._exchange, "refused").inc()
        if status < _CLIENT_ERROR:
            said += f" (to {response.headers.get('Location')}): redirects are not followed"
        raise RestRefusedError(f"{response.url} refuses: {said}", status=status)

    def _count(self, answer: bytes | _Failure, started: float) -> None:
        now = self._monotonic()
        REST_SECONDS.labels(self._exchange).observe(now - started)
        if isinstance(answer, _Failure):
            REST_REQUESTS.labels(self._exchange, answer.outcome).inc()
            if answer.hold:
                self._circuit.answered()
                self._throttle.hold(now + answer.hold)
            else:
                self._circuit.failed(now)
            _log.warning("REST request failed", exchange=self._exchange, reason=answer.reason)
        else:
            REST_REQUESTS.labels(self._exchange, "ok").inc()
            self._circuit.answered()
        REST_CLOSED.labels(self._exchange).set(int(self._circuit.is_open))
