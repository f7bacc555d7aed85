"""Which records of the ledger have served: closed intervals and gaps, and finished backfills, after some days. Pure.

Every reader of the feeds topic reads all of it and keeps it in memory, so what nobody asks for any more has to go.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Feed

KEEP: Final = 8 * 86_400 * MICROS_PER_SECOND
"""How long, in microseconds: a day longer than `GET /api/v1/feeds` looks back."""
MOST: Final = 1_000
"""Closed intervals and gaps of one product or shard, if they come faster: ten times what a request shows."""
_COUNTED: Final = frozenset({"time", "trade_id"})
_NEEDED: Final = "renumbered"
"""Cause of the gaps without which the completeness of an hour cannot be told."""


def outdated(records: Mapping[str, Feed], exchange: str, now: int) -> list[str]:
    """Return the keys of an exchange's records that may be removed, oldest first."""
    closed = sorted(
        (feed.gap.closed, key)
        for key, feed in records.items()
        if feed.exchange == exchange and feed.gap is not None and feed.gap.closed is not None
    )
    scopes: defaultdict[str, list[str]] = defaultdict(list)
    for _, key in closed:
        gap = records[key].gap
        if gap is not None and gap.kind in _COUNTED and gap.cause != _NEEDED:
            scopes[key.split(":")[2]].append(key)
    too_many = {key for keys in scopes.values() for key in keys[:-MOST]}
    return [key for at, key in closed if now - at > KEEP or key in too_many]
