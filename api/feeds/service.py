"""The feeds of a tenant's products: how they are connected, what is missing, how complete the stored trades are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from api.database import Database
from api.feeds import ledger, repository
from api.feeds.completeness import HOUR, HourOfTrades, Span, StoredHour, by_hour, whole_hour
from api.feeds.ledger import FeedRow, Gap, GapRow
from api.subscriptions.repository import SubscriptionRow, list_subscriptions
from pulsestream.core.clock import Clock, to_datetime
from pulsestream.core.sharding import feed_shard

MAX_GAPS: Final = 100
"""Gaps shown of a product."""


@dataclass(frozen=True, slots=True)
class ProductFeed:
    """One product's feed."""

    exchange: str
    product: str
    datasets: list[str]
    since: datetime
    state: str
    connection: ledger.Connection | None
    last_trade_id: int | None
    gaps: list[Gap]
    gaps_left_out: int
    completeness: list[HourOfTrades]


@dataclass(frozen=True, slots=True)
class FeedList:
    """The feeds of a tenant's products, at a moment."""

    at: datetime
    feeds: list[ProductFeed]


@dataclass(frozen=True, slots=True)
class _Known:
    rows: Mapping[str, FeedRow]
    gaps: Mapping[tuple[str, str | None], Sequence[GapRow]]
    hours: Mapping[repository.Name, Sequence[StoredHour]]
    skipped: Mapping[repository.Name, Sequence[Span]]


class Feeds:
    """What can be asked about feeds. `shards`: how many parts an exchange's products are divided into."""

    def __init__(self, database: Database, clock: Clock, shards: int) -> None:
        self._database = database
        self._clock = clock
        self._shards = shards

    async def show(self, tenant: str, exchange: str | None, product: str | None, hours: int) -> FeedList:
        """Return the feeds of the products that the tenant gets, over the present hour and those before it."""
        now = to_datetime(self._clock())
        start = whole_hour(now) - (hours - 1) * HOUR
        async with self._database.tenant(tenant) as connection:
            own = [
                row
                for row in await list_subscriptions(connection, tenant)
                if exchange in {None, row.exchange} and product in {None, row.product}
            ]
            names = [(row.exchange, row.product) for row in own]
            known = _Known(
                await repository.feeds(connection, {name[0] for name in names}),
                _by_scope(await repository.gaps(connection, names, start, MAX_GAPS)),
                await repository.trade_hours(connection, tenant, names, start),
                await repository.skipped_ids(connection, names, start),
            )
        return FeedList(now, [self._feed(row, known, start, now) for row in own])

    def _feed(self, own: SubscriptionRow, known: _Known, start: datetime, now: datetime) -> ProductFeed:
        name = (own.exchange, own.product)
        shard = feed_shard(own.exchange, own.product, self._shards)
        connection = ledger.connection(known.rows, own.exchange, shard, now)
        rows = [*known.gaps.get(name, ()), *known.gaps.get((own.exchange, None), ())]
        gaps, left_out = ledger.gaps(rows, own.exchange, own.product, shard, MAX_GAPS)
        return ProductFeed(
            *name,
            own.datasets,
            own.since,
            connection.state if connection else ledger.UNKNOWN,
            connection,
            ledger.last_trade_id(known.rows, *name),
            gaps,
            left_out,
            by_hour(known.hours.get(name, ()), own.since, start, whole_hour(now) + HOUR, known.skipped.get(name, ())),
        )


def _by_scope(rows: Sequence[GapRow]) -> dict[tuple[str, str | None], list[GapRow]]:
    found = defaultdict(list)
    for row in rows:
        found[row.exchange, row.product].append(row)
    return dict(found)
