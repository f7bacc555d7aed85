"""Rows of the feeds' ledger and of the hours of trades, as one tenant sees them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from api.database import Connection, fetch_all
from api.feeds.completeness import Span, StoredHour
from api.feeds.ledger import FeedRow, GapRow

Name = tuple[str, str]
"""An exchange and a product."""


async def feeds(connection: Connection, exchanges: Iterable[str]) -> dict[str, FeedRow]:
    """Return what the ledger says of connections and products, by key."""
    rows = await fetch_all(connection, "read_feeds", {"exchanges": sorted(exchanges)})
    return {row["key"]: FeedRow(**row) for row in rows}


async def gaps(connection: Connection, names: Sequence[Name], start: datetime, limit: int) -> list[GapRow]:
    """Return the gaps that are open or were closed since `start`; at most `limit` of each product."""
    named = {"exchanges": sorted({name[0] for name in names}), "products": sorted({name[1] for name in names})}
    rows = await fetch_all(connection, "read_feed_gaps", {**named, "from": start, "limit": limit})
    return [GapRow(**row) for row in rows]


async def skipped_ids(connection: Connection, names: Sequence[Name], start: datetime) -> dict[Name, list[Span]]:
    """Return the trade ids, first and last, that exchanges jumped over since `start`."""
    named = {"exchanges": sorted({name[0] for name in names}), "products": sorted({name[1] for name in names})}
    rows = await fetch_all(connection, "read_skipped_ids", {**named, "from": start})
    found: dict[Name, list[Span]] = {}
    for row in rows:
        found.setdefault((row["exchange"], row["product"]), []).append((row["gap_from_id"], row["gap_to_id"]))
    return found


async def trade_hours(
    connection: Connection, tenant: str, names: Sequence[Name], start: datetime
) -> dict[Name, list[StoredHour]]:
    """Return each product's hours of stored trades in order, from the last one before `start` on."""
    named = {"exchanges": [name[0] for name in names], "products": [name[1] for name in names]}
    rows = await fetch_all(connection, "read_trade_hours", {**named, "tenant": tenant, "from": start})
    return {
        name: [StoredHour(row["hour"], row["trades"], row["first_id"], row["last_id"]) for row in theirs]
        for name, theirs in groupby(rows, itemgetter("exchange", "product"))
    }
