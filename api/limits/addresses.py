"""What an address may try, in bounded memory. Pure.

A bucket for each address, forgotten only when it is full. IPv6 addresses of one /64 are one: a host has them all. When
the table is full, whoever is not in it shares one more bucket, so a flood of addresses grows nothing and frees nobody.
"""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from api.limits.bucket import Bucket, Shape
from pulsestream.core.errors import SettingsError

MOST: Final = 10_000
"""Addresses that are held at once."""
SHARED: Final = 50
"""How many times what one address may do all those may that are not in the table."""
_HOST_BITS: Final = 64


class Addresses:
    """Buckets by address, all of one shape."""

    def __init__(self, shape: Shape, most: int = MOST) -> None:
        self.shape: Final = shape
        self._most = most
        self._ends = 0
        self._young: dict[str, Bucket] = {}
        self._old: dict[str, Bucket] = {}
        self._others: Final = Bucket()
        self._others_shape: Final = Shape(shape.burst * SHARED, max(1, shape.cost // SHARED))

    def wait(self, address: str, now: int) -> int:
        """Return the nanoseconds until an address may try again; 0: it may now."""
        self._turn(now)
        group = group_of(address)
        found = self._young.get(group) or self._old.get(group)
        if found is not None:
            return found.wait(self.shape, 1, now)
        return self._others.wait(self._others_shape, 1, now) if self._is_full() else 0

    def count(self, address: str, now: int) -> None:
        """Count what an address has tried."""
        self._turn(now)
        group = group_of(address)
        found = self._young.get(group)
        if found is None:
            found = self._old.pop(group, None)
            if found is None and self._is_full():
                self._others.take(self._others_shape, 1, now)
                return
            found = self._young[group] = found or Bucket()
        if not found.wait(self.shape, 1, now):
            found.take(self.shape, 1, now)

    def __len__(self) -> int:
        """Return how many addresses are held."""
        return len(self._young) + len(self._old)

    def _is_full(self) -> bool:
        return len(self) >= self._most

    def _turn(self, now: int) -> None:
        if now >= self._ends:
            self._old = self._young if now < self._ends + self.shape.window else {}
            self._young = {}
            self._ends = now + self.shape.window


def group_of(address: str) -> str:
    """Return what counts as one with an address: an IPv6 network of 64 bits, or the address, IPv4 in IPv6 as IPv4."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> _HOST_BITS << _HOST_BITS))


def check_networks(text: str) -> None:
    """Raise SettingsError unless a comma-separated text names addresses and networks only."""
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            ip_network(part)
        except ValueError as error:
            raise SettingsError(
                f"PULSESTREAM_TRUSTED_PROXIES has {part[:60]!r}: {error}. Write addresses and networks like "
                "10.0.0.7, 10.1.0.0/16, fd00::/8"
            ) from error
