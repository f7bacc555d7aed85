"""One attempt to deliver a message: from what was claimed to a request, and from its answer to an outcome.

Each kind of channel says how its request looks and which answers mean that the message has arrived.
"""

import email.utils
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sinks.notifier import signing
from sinks.notifier.outbound import Answer, Client, OutboundError

SHOWN: Final = 1000
"""Characters of an answer that are kept."""
_OK: Final = range(200, 300)
_GONE: Final = 410
_TIMES: Final = frozenset({429, 503})
"""Answers whose Retry-After is heeded."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that this process delivers now, with its channel. `attempt` counts from 1."""

    tenant: str
    id: str
    channel: str
    channel_name: str
    kind: str
    target: Mapping[str, Any]
    secret: str | None
    group: str | None
    type: str
    document: str
    told: tuple[tuple[str, str, str, int], ...]
    attempt: int
    step: int
    send_resolved: bool
    repeat_interval: float
    group_interval: float
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt. `wish`: seconds that the receiver asks to wait; `gone`: it wants no more messages."""

    delivered: bool
    status: int | None = None
    error: str | None = None
    response: str | None = None
    wish: float | None = None
    gone: bool = False


Send = Callable[[Claimed, int], Awaitable[Outcome]]
"""Makes an attempt at a time (seconds since 1970)."""


class Webhook:
    """A signed POST of the message's JSON."""

    def __init__(self, client: Client, version: str) -> None:
        self._client = client
        self._agent = f"PulseStream/{version}"

    async def __call__(self, claimed: Claimed, now: int) -> Outcome:
        """Make an attempt."""
        body = claimed.document.encode()
        fields = {"Content-Type": "application/json", "User-Agent": self._agent, "Accept-Encoding": "identity"}
        fields |= signing.headers(claimed.secret or "", claimed.id, now, body)
        try:
            answer = await self._client.post(claimed.target["url"], fields, body)
        except OutboundError as error:
            return Outcome(delivered=False, error=str(error))
        return of_answer(answer, now)


def of_answer(answer: Answer, now: int) -> Outcome:
    """Return what an answer of HTTP means: any 2xx is arrival, a redirect is not followed."""
    response = readable(answer.body)
    if answer.status in _OK:
        return Outcome(delivered=True, status=answer.status, response=response)
    error = f"answered {answer.status}"
    if 300 <= answer.status < 400:  # noqa: PLR2004 - the class of redirects
        error += ", and redirects are not followed: give the address that it leads to"
    wish = _retry_after(answer.headers.get("retry-after", ""), now) if answer.status in _TIMES else None
    return Outcome(
        delivered=False, status=answer.status, error=error, response=response, wish=wish, gone=answer.status == _GONE
    )


def readable(body: bytes) -> str | None:
    """Return the beginning of a body as text that a database can hold; None for an empty one."""
    text = body[: SHOWN * 4].decode("utf-8", "replace")[:SHOWN]
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text) or None


def _retry_after(text: str, now: int) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110, section 10.2.3), None where it is none."""
    if text.isascii() and text.isdigit() and len(text) < 10:  # noqa: PLR2004 - digits of any sensible number
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return max(0.0, moment.timestamp() - now) if moment.tzinfo else None
