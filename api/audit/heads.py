"""Ends of the chains as they are published: what is new of them, and what no longer fits. Pure.

A chain only grows. So the row at which it ended when that was published is there for good, with its hash: where it is
not, rows were removed, or the chain was made anew as a whole, which nothing inside the database shows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec


class PublishedHead(msgspec.Struct, frozen=True):
    """Where a tenant's chain ends: the number of its last row, and that row's hash in hexadecimal."""

    tenant: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """A chain that is not the one whose end was published, and how that shows."""

    published: PublishedHead
    reason: str


def encode(head: PublishedHead) -> bytes:
    """Return a head as its topic has it: JSON, as a line of `pulsestream audit verify-all --json`."""
    return msgspec.json.encode(head)


def newest(records: Iterable[tuple[str, bytes | None]]) -> dict[str, PublishedHead]:
    """Return the last head of each tenant in a topic's keys and values, oldest first; a null value takes it back.

    Raises ValueError for a value that is no head.
    """
    heads: dict[str, PublishedHead] = {}
    for tenant, value in records:
        heads.pop(tenant, None)
        if value is not None:
            heads[tenant] = msgspec.json.decode(value, type=PublishedHead)
    return heads


def misfits(
    published: Mapping[str, PublishedHead], ends: Mapping[str, PublishedHead], held: Mapping[str, str | None]
) -> Iterator[Misfit]:
    """Yield the chains that do not fit; `held` is the hash of the row that each published head names, None: no row."""
    for tenant, head in published.items():
        end = ends.get(tenant)
        if end is None or end.seq < head.seq or held.get(tenant) is None:
            now = "none" if end is None else f"row {end.seq}"
            yield Misfit(head, f"row {head.seq} was its last one, and is missing: the last one now is {now}")
        elif held[tenant] != head.hash:
            yield Misfit(head, f"row {head.seq} had the hash {head.hash}, and has {held[tenant]}: it was made anew")


def news(
    published: Mapping[str, PublishedHead], ends: Mapping[str, PublishedHead], wrong: Iterable[Misfit]
) -> Sequence[PublishedHead]:
    """Return the ends to be published: those that moved, of chains that fit. A misfit's last good end stays."""
    held_back = {misfit.published.tenant for misfit in wrong}
    return [end for tenant, end in ends.items() if tenant not in held_back and end != published.get(tenant)]
