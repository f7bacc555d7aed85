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


def _base(text: str) -> str:
    if "?" in _url(text):
        raise ValueError("has a query: give the address that the methods' names come behind")
    return text.rstrip("/")


Base = Annotated[str, Field(max_length=MAX_URL), AfterValidator(_base)]
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
Mailbox = Annotated[
    str,
    Field(
        max_length=254,
        pattern=rf"^{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})*$",
        examples=["desk@example.com"],
    ),
]
"""A dot-atom at a host (RFC 5321, 4.1.2): it goes into a header and SMTP's commands, and nothing in it ends a line."""


class WebhookTarget(Body):
    """An address that gets a signed POST for each message (Standard Webhooks)."""

    kind: Literal["webhook"]
    url: Url

    def stored(self) -> Stored:
        """Return what is stored of it: its signing secret is made, not given."""
        return Stored(self.kind, {"url": self.url})

    def urls(self) -> dict[str, str]:
        """Return the addresses that are connected to, by their members."""
        return {"url": self.url}


class EmailTarget(Body):
    """Addresses that get each message as e-mail, through the operator's relay."""

    kind: Literal["email"]
    to: list[Mailbox] = Field(min_length=1, max_length=20)

    def stored(self) -> Stored:
        """Return what is stored of it."""
        return Stored(self.kind, {"to": list(dict.fromkeys(self.to))})

    def urls(self) -> dict[str, str]:
        """Return none: the relay is the operator's."""
        return {}


class SlackTarget(Body):
    """An incoming webhook of Slack, or of what is compatible with it; its address is the secret."""

    kind: Literal["slack"]
    url: Url

    def stored(self) -> Stored:
        """Return what is stored of it."""
        return Stored(self.kind, {"host": parse_target(self.url).host}, self.url)

    def urls(self) -> dict[str, str]:
        """Return the addresses that are connected to, by their members."""
        return {"url": self.url}


class TelegramTarget(Body):
    """A chat that a bot of Telegram writes to."""

    kind: Literal["telegram"]
    token: str = Field(pattern=r"^[0-9]{1,20}:[A-Za-z0-9_-]{20,100}$", description="of the bot; never shown again")
    chat_id: str = Field(pattern=r"^(-?[0-9]{1,20}|@[A-Za-z0-9_]{1,64})$", examples=["-1001234567890"])
    base_url: Base = Field("https://api.telegram.org", description="of the bot API")

    def stored(self) -> Stored:
        """Return what is stored of it."""
        return Stored(self.kind, {"chat_id": self.chat_id, "base_url": self.base_url}, self.token)

    def urls(self) -> dict[str, str]:
        """Return the addresses that are connected to, by their members."""
        return {"base_url": self.base_url}


Target = Annotated[WebhookTarget | EmailTarget | SlackTarget | TelegramTarget, Field(discriminator="kind")]
AnyTarget = WebhookTarget | EmailTarget | SlackTarget | TelegramTarget
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
