"""A shard of which the exchange has no product at all: one tenant's misspelt name is no outage."""

import pytest

from producers.connection import SILENT_AT_MOST, Clocks, Connection, FeedConfig
from producers.errors import StaleFeedError
from producers.feed import Feed
from producers.plan import Refusals
from producers.storm import StormGuard
from producers.venues.protocol import Heartbeat, load
from schemas.records import Tick, Trade


class Nobody:
    """Takes what a feed or a connection tells, and does nothing with it."""

    async def record(self, record: Tick | Trade) -> None: ...
    def heartbeat(self, heartbeat: Heartbeat) -> None: ...
    def delivers(self, connection: Connection, at: int) -> None: ...
    def completes(self, connection: Connection, at: int) -> None: ...
    def delivering(self, at: int) -> None: ...
    def complete(self, at: int) -> None: ...
    def lost(self, since: int | None, cause: str) -> None: ...


EXCHANGE = load("kraken")
CONFIG = FeedConfig("ws://127.0.0.1:1", EXCHANGE.limits, stale_after=15.0)


def test_a_connection_of_refused_products_alone_is_not_stale_for_a_while() -> None:
    now, refusals = [0.0], Refusals()
    connection = Connection(CONFIG, EXCHANGE, Nobody(), refusals, Clocks(monotonic=lambda: now[0]))
    connection.want({"NOPE-USD", "BTC-USD"})
    refusals.add("NOPE-USD", "not known", 0.0)
    now[0] = 20.0

    with pytest.raises(StaleFeedError):
        connection._watch()
    refusals.add("BTC-USD", "not known", 0.0)
    connection._watch()
    now[0] = SILENT_AT_MOST
    with pytest.raises(StaleFeedError):
        connection._watch()


def test_a_feed_of_refused_products_alone_is_no_problem_of_the_exchange() -> None:
    feed = Feed(CONFIG, EXCHANGE, Nobody(), StormGuard())
    feed.want({"NOPE-USD", "BTC-USD"})

    feed._refusals.add("NOPE-USD", "not known", 0.0)
    assert "not connected yet" in str(feed.problem())
    feed._refusals.add("BTC-USD", "not known", 0.0)
    assert feed.problem() is None
    assert feed.refused() == {"NOPE-USD": "not known", "BTC-USD": "not known"}


def test_a_product_that_a_new_connection_is_refused_lacks_since_it_was_last_confirmed() -> None:
    feed = Feed(CONFIG, EXCHANGE, Nobody(), StormGuard())
    feed.want({"NOPE-USD", "OLD-USD", "BTC-USD"})

    def connection(*confirmed: str, last_good: int) -> None:
        made = Connection(CONFIG, EXCHANGE, Nobody(), feed._refusals, Clocks())
        made.want({"NOPE-USD", "OLD-USD", "BTC-USD"})
        made.plan.confirm(frozenset(confirmed))
        made.last_good, made.is_complete = last_good, True
        feed._connections[:] = [made]

    feed._refusals.add("NOPE-USD", "not known", 0.0)
    connection("OLD-USD", "BTC-USD", last_good=7)
    assert feed.lacking() == {}

    feed._refusals.add("OLD-USD", "delisted", 1.0)
    connection("BTC-USD", last_good=20)
    assert feed.lacking() == {"OLD-USD": 7}
    assert feed.confirmed() == {"BTC-USD"}

    connection("OLD-USD", "BTC-USD", last_good=30)
    assert feed.lacking() == {}
    feed.want({"BTC-USD"})
    feed._refusals.add("OLD-USD", "delisted", 2.0)
    assert feed.lacking() == {}
