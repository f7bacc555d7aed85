"""Addresses on other people's networks: how one is written, and which may be connected to. Pure.

Whoever names a target may name one inside our own network (server-side request forgery, OWASP): so only public
unicast addresses are reached, as the IANA registries of special-purpose addresses (RFC 6890) have them, and what an
operator allows on purpose. An address that carries an IPv4 one inside counts as special, whatever is inside.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pulsestream.core.errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_URL: Final = 2000
_PORTS: Final = {"http": 80, "https": 443}
_SHOWN: Final = re.compile(r"[\x21-\x7e]+")
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\]")

_UNREACHED_4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3", "168.63.129.16/32",
    )
)  # fmt: skip
"""All but public unicast; the last one is a cloud's (Azure's wire server), reached from inside its machines only."""
_REACHED_6: Final = ipaddress.IPv6Network("2000::/3")
_UNREACHED_6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)  # fmt: skip
"""Of those: Teredo and other protocols' own, documentation, 6to4, and a sink of name servers."""


class TargetError(ValueError):
    """The text is no target; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. `host` is without brackets; `path` with its query, never empty."""

    scheme: str
    host: str
    port: int
    path: str


def parse_target(url: str) -> Target:
    """Take an http or https URL apart; raises TargetError."""
    if len(url) > MAX_URL or not _SHOWN.fullmatch(url):
        raise TargetError(f"has to be at most {MAX_URL} printable ASCII characters without blanks")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TargetError(f"is no URL: {error}") from error
    if parts.scheme not in _PORTS:
        raise TargetError("has to begin with https://")
    if "@" in parts.netloc:
        raise TargetError("holds a user or a password: leave them out, they would be shown to everybody who may look")
    if "#" in url:
        raise TargetError("has a fragment (#…), which is never sent: leave it out")
    host = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    if not _HOST.fullmatch(host.removesuffix(":")):
        raise TargetError("names no host: write it as https://example.com/path, an international name in its xn-- form")
    if port == 0:
        raise TargetError("names port 0")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host.removesuffix(":").strip("[]").lower(), port or _PORTS[parts.scheme], path)


def parse_networks(text: str, setting: str) -> tuple[Network, ...]:
    """Return comma-separated networks or addresses; raises SettingsError that names `setting`."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"{setting}: {error}; write networks such as 10.1.0.0/16, 127.0.0.1/32") from error


def is_public(address: Address) -> bool:
    """Say whether anybody on the internet could be at this address."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _UNREACHED_4)
    return address in _REACHED_6 and not any(address in network for network in _UNREACHED_6)


def is_allowed(address: Address, networks: Iterable[Network]) -> bool:
    """Say whether an operator allows this address on purpose."""
    return any(address.version == network.version and address in network for network in networks)
