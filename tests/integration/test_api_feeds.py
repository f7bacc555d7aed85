"""GET /api/v1/feeds over what the sink stored, as role ps_api with row level security, on a real database."""

import asyncio
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from api.database import Database
from api.feeds.ledger import Gap as ShownGap
from api.feeds.service import FeedList, Feeds
from pulsestream.core.clock import to_datetime
from pulsestream.core.settings import Settings
from pulsestream.core.sharding import feed_shard
from pulsestream.core.topics import FEEDS, tenant_topic
from schemas.records import Feed, Gap, Record
from sinks.database import Database as SinkDatabase
from sinks.plan import Place, Position, plan
from sinks.rows import Arrived
from tests.support.sinking import encoded, taken, trade

HOUR = 3_600_000_000
NOW = 1_800_000_000_000_000 // HOUR * HOUR + HOUR // 2
SHARDS = 8


@dataclass
class Store:
    """A database of its own: written as the sink, read as the API."""

    admin: psycopg.Connection[Any]
    sink: SinkDatabase
    runner: asyncio.Runner
    feeds: Feeds

    def subscribe(self, tenant: str, *products: str, days: int = 30) -> None:
        self.admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'T') ON CONFLICT DO NOTHING", (tenant,))
        for product in products:
            self.admin.execute(
                "INSERT INTO subscriptions (tenant, exchange, product, datasets, since)"
                " VALUES (%s, 'coinbase', %s, '{ticks,trades}', %s)",
                (tenant, product, to_datetime(NOW) - timedelta(days=days)),
            )

    def store(self, topic: str, keyed: Iterable[tuple[str, Record]]) -> None:
        place = Place(topic, topic, 0)
        held = self.sink.positions([place])[place]
        arrived = [
            Arrived(topic, 0, held + number, NOW, key.encode(), encoded([record])[0][1])
            for number, (key, record) in enumerate(keyed)
        ]
        done = self.sink.store(plan([taken(*arrived)], {(topic, 0): Position(place, held)}, NOW), lambda _: None)
        assert sum(done.rows.values()) + sum(done.duplicates.values()) == len(arrived)

    def say(self, **feeds: Feed) -> None:
        self.store(FEEDS, ((key.replace("__", ":"), feed) for key, feed in feeds.items()))

    def show(self, tenant: str, exchange: str | None = None, product: str | None = None, hours: int = 24) -> FeedList:
        return self.runner.run(self.feeds.show(tenant, exchange, product, hours))


@pytest.fixture
def store(database: Any) -> Iterator[Store]:
    sink = SinkDatabase(database.url("ps_sink"))
    sink.connect()
    with asyncio.Runner() as runner, psycopg.connect(database.url(), autocommit=True) as admin:

        async def opened() -> Database:
            made = Database(Settings(database_url=database.url("ps_api")))  # type: ignore[arg-type] # made secret
            await made.open()
            return made

        api = runner.run(opened())
        yield Store(admin, sink, runner, Feeds(api, lambda: NOW, SHARDS))
        runner.run(api.close())
    sink.close()


def feed(product: str | None = None, gap: Gap | None = None, **fields: Any) -> Feed:
    values = {"exchange": "coinbase", "product": product, "state": "connected", "at": NOW - HOUR, "version": 1}
    return Feed(**(values | fields), gap=gap)


def time_gap(cause: str, closed: int | None = None) -> Gap:
    return Gap(kind="time", opened=NOW - HOUR, closed=closed, cause=cause)


def test_completeness_is_the_share_of_a_markets_trades_that_were_stored(store: Store) -> None:
    chance = random.Random(7)
    market = {-5: 40, -4: 400, -3: 333, -1: 200, 0: 100}  # hour before now: trades in it; -2 is quiet
    lost_share = {-5: 0.0, -4: 0.25, -3: 0.9, -1: 0.0, 0: 0.5}
    next_id, expected = 1_000, {}
    for number, count in market.items():
        begin = NOW - HOUR // 2 + number * HOUR
        times = {next_id + nth: begin + nth * (HOUR // 2) // count for nth in range(count)}
        next_id += count
        kept = {one for one in times if chance.random() >= lost_share[number] or one in {min(times), max(times)}}
        records = [trade(one, exchange_time=times[one], received_time=times[one], price=1.0) for one in sorted(kept)]
        store.store(tenant_topic("acme", "trades"), (("BTC-USD", record) for record in records))
        expected[begin] = (len(kept), count, 100 * len(kept) / count)
    store.subscribe("acme", "BTC-USD")

    (shown,) = store.show("acme", hours=6).feeds

    figures = {int(figure.hour.timestamp()) * 1_000_000: figure for figure in shown.completeness}
    assert sorted(figures) == [NOW - HOUR // 2 + number * HOUR for number in range(-5, 1)]
    for begin, figure in figures.items():
        trades, all_of_them, percent = expected.get(begin, (0, None, None))
        assert (figure.trades, figure.expected) == (trades, all_of_them)
        assert figure.percent == (None if percent is None else pytest.approx(percent, abs=0.0001))
    assert {100.0, None} < {figure.percent for figure in figures.values()}


def test_filling_the_holes_makes_the_hour_complete_and_duplicates_change_nothing(store: Store) -> None:
    topic = tenant_topic("acme", "trades")
    trades = [
        ("BTC-USD", trade(number, exchange_time=NOW + number, received_time=NOW + number)) for number in range(1, 101)
    ]
    store.subscribe("acme", "BTC-USD")

    percents = []
    for part in ([*trades[:30], *trades[80:]], trades[:40], trades[30:80], trades):
        store.store(topic, part)
        percents.append(store.show("acme", hours=1).feeds[0].completeness[0].percent)

    assert percents == [50.0, 60.0, 100.0, 100.0]


def test_a_feed_shows_its_connection_its_last_trade_and_its_gaps(store: Store) -> None:
    shard = feed_shard("coinbase", "BTC-USD", SHARDS)
    hole = Gap(kind="trade_id", from_id=5, to_id=9, opened=NOW - HOUR, cause="missed", missing=3)
    store.subscribe("acme", "BTC-USD")
    store.say(
        **{
            f"conn__coinbase__{shard}": feed(complete_until=NOW),
            f"conn__coinbase__{shard + 1}": feed(state="disconnected"),
            "trades__coinbase__BTC-USD": feed("BTC-USD", last_trade_id=88),
            "gap__coinbase__BTC-USD__t5": feed("BTC-USD", hole),
            f"gap__coinbase__*{shard}__1": feed(None, time_gap("disconnected", NOW)),
            f"gap__coinbase__*{shard + 1}__1": feed(None, time_gap("another_shard")),
            "gap__coinbase__BTC-USD__2": feed("BTC-USD", time_gap("long_closed", NOW - 2 * HOUR)),
            "backfill__coinbase__BTC-USD__1__2": feed("BTC-USD", Gap(kind="backfill", opened=NOW, cause="backfill")),
        }
    )

    (shown,) = store.show("acme", hours=1).feeds

    opened = to_datetime(NOW - HOUR)
    assert (shown.state, shown.last_trade_id, shown.gaps_left_out) == ("connected", 88, 0)
    assert shown.connection is not None
    assert (shown.connection.shard, shown.connection.complete_until) == (shard, to_datetime(NOW))
    assert shown.gaps == [
        ShownGap("trade_id", "product", 5, 9, 3, opened, None, "missed"),
        ShownGap("time", "connection", None, None, None, opened, to_datetime(NOW), "disconnected"),
    ]


def test_filters_leave_the_products_that_fit(store: Store) -> None:
    store.subscribe("acme", "BTC-USD", "ETH-USD")

    assert [shown.product for shown in store.show("acme").feeds] == ["BTC-USD", "ETH-USD"]
    assert [shown.product for shown in store.show("acme", product="ETH-USD").feeds] == ["ETH-USD"]
    assert store.show("acme", exchange="kraken").feeds == []
    assert store.show("acme", "coinbase", "BTC-USD").feeds[0].state == "unknown"


def test_a_tenant_sees_neither_anothers_products_nor_gaps_nor_trades(store: Store, database: Any) -> None:
    store.subscribe("acme", "BTC-USD")
    store.subscribe("beta", "BTC-USD", "SECRET-USD")
    store.store(tenant_topic("beta", "trades"), [("BTC-USD", trade(1, exchange_time=NOW, received_time=NOW))])
    store.say(
        **{
            "gap__coinbase__BTC-USD__1": feed("BTC-USD", time_gap("topic_missing:beta")),
            "gap__coinbase__BTC-USD__2": feed("BTC-USD", time_gap("topic_denied:acme")),
            "gap__coinbase__*__3": feed(None, time_gap("buffer_full:beta")),
            "gap__coinbase__SECRET-USD__4": feed("SECRET-USD", time_gap("disconnected")),
            "trades__coinbase__SECRET-USD": feed("SECRET-USD", last_trade_id=9),
            "gap__kraken__*__5": feed(None, time_gap("killed"), exchange="kraken"),
        }
    )

    shown = store.show("acme")

    assert [(one.product, [gap.cause for gap in one.gaps]) for one in shown.feeds] == [("BTC-USD", ["topic_denied"])]
    assert all(figure.trades == 0 for figure in shown.feeds[0].completeness)
    assert "beta" not in repr(shown)
    assert store.show("nobody").feeds == []
    with psycopg.connect(database.url("ps_api")) as connection:
        connection.execute("SELECT set_config('pulsestream.tenant', 'acme', true)")
        assert connection.execute("SELECT key FROM feeds").fetchall() == [("gap:coinbase:BTC-USD:2",)]
