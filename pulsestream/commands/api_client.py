"""Requests to the HTTP API from the command line: the key, the address, and answers or one clear error."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from pulsestream.core.errors import OutageError, UsageError
from pulsestream.core.settings import Settings

TIMEOUT: Final = 60.0
"""Seconds that an answer may take: a page of a replay waits for the broker."""
_TRIES: Final = 5
"""How often a request that may be repeated is sent before an API that is not ready counts as away."""
_LONGEST_REST: Final = 10.0


class ApiError(UsageError):
    """The API refused a request; the message is the problem's own."""


def call(
    settings: Settings,
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    key: str = "",
) -> dict[str, Any]:
    """Make a request and return the JSON answer; raises ApiError for a refusal, OutageError for no answer or 5xx."""
    url = f"http://{settings.api_host}:{settings.api_port}{path}"
    headers = {"X-API-Key": key} if key else {}
    try:
        response = httpx.request(
            method, url, json=body, params=query, headers=headers, timeout=TIMEOUT, trust_env=False
        )
    except (httpx.HTTPError, UnicodeEncodeError) as error:
        raise OutageError(f"no answer from {url}: {error}. Is `pulsestream up` running?") from error
    answer = _document(response)
    if response.is_error:
        said = f"{answer.get('title', response.reason_phrase)}: {answer.get('detail', response.text[:200])}"
        if response.is_server_error:
            raise NotReadyError(said, float(response.headers.get("Retry-After", 1)))
        raise ApiError(said)
    return answer


class NotReadyError(OutageError):
    """The API answered that it cannot now; `rest` is how many seconds it asks for."""

    def __init__(self, said: str, rest: float) -> None:
        super().__init__(said)
        self.rest = rest


def persist(request: Callable[[], dict[str, Any]], sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Make a request that may be repeated, again while the API asks for patience; raises as `call` does."""
    for _ in range(_TRIES - 1):
        try:
            return request()
        except NotReadyError as error:
            sleep(min(error.rest, _LONGEST_REST))
    return request()


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if response.is_error:
            return {}
        raise OutageError(f"{response.url} is not PulseStream's API: it answered {response.text[:80]!r}")
    return answer
