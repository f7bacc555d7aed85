"""Requests, made again while that can help and cannot harm.

A request is made again when it surely had no effect (no connection; 429), and, where its effect is the same however
often it is made, after any failure of the way or the server. Between two tries it rests for as long as the answer asks
(`Retry-After`), else for a random time up to a bound that doubles (full jitter: see "Exponential Backoff And Jitter",
M. Brooker, AWS Architecture Blog, 2015).
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx

from pulsestream.client.errors import ApiError, UnavailableError

TRIES: Final = 5
CONNECT: Final = 5.0
"""Seconds in which a connection has to stand."""
_FIRST_REST: Final = 0.25
_LONGEST_REST: Final = 30.0
_DOUBLED_AT_MOST: Final = 16
TOO_MANY: Final = 429

Query = Mapping[str, Any]


class Transport:
    """A connection to the API of one installation with one key; not for several threads at once."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        timeout: float,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._timeout = timeout
        self._tries = tries
        self._sleep = sleep
        self._jitter = jitter
        self._http = httpx.Client(
            base_url=url,
            headers={} if key is None else {"X-API-Key": key},
            timeout=httpx.Timeout(timeout, connect=CONNECT),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Any:
        """Return the JSON answer, None where there is none; raises ApiError, UnavailableError.

        `repeatable` says that to make the request twice is as to make it once.
        """
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        for attempt in range(1, self._tries + 1):
            is_last = attempt == self._tries
            try:
                response = self._http.request(method, path, params=asked, json=body, headers=headers)
            except (httpx.TransportError, UnicodeEncodeError) as error:
                if is_last or not (repeatable or isinstance(error, httpx.ConnectError)):
                    raise self._away(error) from error
                self.rest(attempt, None)
                continue
            if response.is_success:
                return self._document(response)
            if not (response.status_code == TOO_MANY or (response.is_server_error and repeatable)) or is_last:
                raise self._refusal(response)
            self.rest(attempt, response)
        raise AssertionError("the last attempt returns or raises")

    def walk(self, path: str, member: str, query: Query, by: str = "cursor") -> Iterator[dict[str, Any]]:
        """Yield what all pages hold in `member`, each page fetched when it is come to.

        `next_` + `by` of an answer is `by` of the next request. A walk ends where there is no more, a tail's, too.
        """
        at = query.get(by)
        while True:
            answer = self.request("GET", path, query={**query, by: at})
            yield from answer[member]
            following = answer[f"next_{by}"]
            if following in (None, at) or not answer[member]:
                return
            at = following

    def lines(self, path: str, query: Query, *, silence: float | None = None) -> Iterator[str]:
        """Yield the lines of an answer as they come; raises ApiError, UnavailableError. It is not begun again.

        `silence`: seconds without a byte that it may last; None: as of any answer.
        """
        asked = {name: value for name, value in query.items() if value is not None}
        try:
            timeout = httpx.Timeout(self._timeout if silence is None else silence, connect=CONNECT)
            with self._http.stream("GET", path, params=asked, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                yield from _lines(response.iter_text())
        except httpx.TransportError as error:
            raise self._away(error) from error

    def rest(self, attempt: int, response: httpx.Response | None = None) -> None:
        """Wait before the next attempt, for as long as the answer to this one asks, if there was one."""
        asked = _seconds(response.headers.get("Retry-After")) if response is not None else None
        longest = min(_FIRST_REST * 2 ** min(attempt, _DOUBLED_AT_MOST), _LONGEST_REST)
        self._sleep(self._jitter(0, longest) if asked is None else min(asked, _LONGEST_REST))

    def _away(self, error: Exception) -> UnavailableError:
        return UnavailableError(f"no answer from {self._http.base_url}: {error}. Is `pulsestream up` running?")

    def _refusal(self, response: httpx.Response) -> ApiError | UnavailableError:
        document = _json(response)
        known = document if isinstance(document, dict) else {}
        refusal = ApiError(response.status_code, known, response.text)
        return UnavailableError(str(refusal)) if response.is_server_error else refusal

    def _document(self, response: httpx.Response) -> Any:
        if not response.content:
            return None
        document = _json(response)
        if document is None:
            raise UnavailableError(f"{response.url} is not PulseStream's API: it answered {response.text[:80]!r}")
        return document


def route(*segments: str) -> str:
    """Return the path of a route below /api/v1; nothing in a segment leaves its place."""
    return "/api/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def parameters(filters: Query) -> dict[str, Any]:
    """Return filters under the names of the API: `from_` is `from`, which is no name in Python."""
    return {name.removesuffix("_"): value for name, value in filters.items()}


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdecimal() else None


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield lines that end with a line feed; `iter_lines` would end them at U+2028 and others too, which JSON holds."""
    rest = ""
    for text in texts:
        *whole, rest = (rest + text).split("\n")
        yield from (line.removesuffix("\r") for line in whole)
    if rest:
        yield rest
