"""What the feeds' ledger says of one product: the connection that it comes over, and what is missing. Pure.

Keys: `conn:{exchange}:{shard}`, `trades:{exchange}:{product}`, `gap:{exchange}:{product}:…` of a product and
`gap:{exchange}:*{shard}:…` of a connection (without a number: of the whole exchange).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

SILENCE: Final = timedelta(seconds=10)
"""How long a connection may say nothing before it counts as stale: a producer that lives speaks every 2 s."""
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class FeedRow:
    """A row of the ledger that is no gap."""

    key: str
    exchange: str
    product: str | None
    state: str
    at: datetime
    last_trade_id: int | None
    complete_until: datetime | None
    appended_at: datetime | None


@dataclass(frozen=True, slots=True)
class GapRow:
    """A gap of the ledger; `of_all` is how many its product or connection has in the time asked for."""

    key: str
    exchange: str
    product: str | None
    gap_kind: str
    gap_from_id: int | None
    gap_to_id: int | None
    gap_missing: int | None
    gap_opened: datetime
    gap_closed: datetime | None
    gap_cause: str
    of_all: int


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection that a product comes over: the state it was last heard in, since when, when it last said so."""

    shard: int
    state: str
    since: datetime
    heard: datetime | None
    complete_until: datetime | None


@dataclass(frozen=True, slots=True)
class Gap:
    """Something missing: of the product itself, or of its connection and so of all that came over it."""

    kind: str
    scope: str
    from_id: int | None
    to_id: int | None
    missing: int | None
    opened: datetime
    closed: datetime | None
    cause: str


def connection(rows: Mapping[str, FeedRow], exchange: str, shard: int, now: datetime) -> Connection | None:
    """Return the connection of a shard; one that has fallen silent is stale, whatever it said last."""
    row = rows.get(f"conn:{exchange}:{shard}")
    if row is None:
        return None
    silent = row.appended_at is not None and now - row.appended_at > SILENCE
    state = "stale" if silent and row.state == "connected" else row.state
    return Connection(shard, state, row.at, row.appended_at, row.complete_until)


def last_trade_id(rows: Mapping[str, FeedRow], exchange: str, product: str) -> int | None:
    """Return the id up to which every trade of a product is with the broker, or in an open gap."""
    row = rows.get(f"trades:{exchange}:{product}")
    return None if row is None else row.last_trade_id


def gaps(rows: Iterable[GapRow], exchange: str, product: str, shard: int, limit: int) -> tuple[list[Gap], int]:
    """Return the gaps of a product and of its connection, open ones first, then the newest; and how many are left out.

    A gap of one tenant has its name behind the cause; whoever reads it is that tenant, so it is left out.
    """
    mine = [row for row in rows if row.exchange == exchange and _concerns(row, product, shard)]
    mine.sort(key=lambda row: (row.gap_closed is not None, -row.gap_opened.timestamp(), row.key))
    everything = sum({_scope(row): row.of_all for row in mine}.values())
    return [_gap(row) for row in mine[:limit]], everything - min(len(mine), limit)


def _concerns(row: GapRow, product: str, shard: int) -> bool:
    if row.product is not None:
        return row.product == product
    return _scope(row) in {"*", f"*{shard}"}


def _scope(row: GapRow) -> str:
    return row.key.split(":")[2]


def _gap(row: GapRow) -> Gap:
    scope = "connection" if row.product is None else "product"
    cause = row.gap_cause.partition(":")[0]
    ids = (row.gap_from_id, row.gap_to_id, row.gap_missing)
    return Gap(row.gap_kind, scope, *ids, row.gap_opened, row.gap_closed, cause)
