"""Where a channel sends to, as a request says it: its kind, what may be shown of it, and its secret."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from api.models import Body
from pulsestream.core.targets import MAX_URL, Network, TargetError, is_allowed, is_public, parse_target


@dataclass(frozen=True, slots=True)
class Stored:
    """A target as it is stored: `shown` to whoever may read channels, `secret` to the notifier alone."""

    kind: str
    shown: dict[str, Any]
    secret: str | None = None


def _url(text: str) -> str:
    try:
        parse_target(text)
    except TargetError as error:
        raise ValueError(str(error)) from error
    return text


Url = Annotated[str, Field(max_length=MAX_URL, examples=["https://example.com/alerts"]), AfterValidator(_url)]


class WebhookTarget(Body):
    """An address that gets a signed POST for each message (Standard Webhooks)."""

    kind: Literal["webhook"]
    url: Url

    def stored(self) -> Stored:
        """Return what is stored of it: its signing secret is made, not given."""
        return Stored(self.kind, {"url": self.url})

    def urls(self) -> list[str]:
        """Return the addresses that are connected to."""
        return [self.url]


Target = WebhookTarget
_PLAIN: Final = "http"


def reach_fault(url: str, allowed: tuple[Network, ...]) -> str | None:
    """Return why an address cannot be reached whatever its name resolves to, or None: the notifier looks again."""
    target = parse_target(url)
    if target.scheme == _PLAIN and not allowed:
        return "has to begin with https://"
    try:
        address = ipaddress.ip_address(target.host)
    except ValueError:
        return None
    if is_allowed(address, allowed):
        return None
    if not is_public(address):
        return "is an address of a private or special network, which is not reached"
    return "has to begin with https://" if target.scheme == _PLAIN else None


def without_path(shown: dict[str, Any]) -> dict[str, Any]:
    """Return a target as the audit keeps it: paths of addresses may be secrets of the receiver."""
    return {name: _origin(value) if name.endswith("url") else value for name, value in shown.items()}


def _origin(url: str) -> str:
    target = parse_target(url)
    return f"{target.scheme}://{target.host}:{target.port}/…"
