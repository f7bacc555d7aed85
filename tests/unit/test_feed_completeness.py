"""What GET /api/v1/feeds computes: completeness of hours of trades, and what the ledger says of a product."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.feeds.completeness import HOUR, HourOfTrades, StoredHour, by_hour
from api.feeds.ledger import FeedRow, GapRow, connection, gaps, last_trade_id

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
LONG_AGO = START - timedelta(days=365)


def hour(number: int, trades: int, first_id: int, last_id: int) -> StoredHour:
    return StoredHour(START + number * HOUR, trades, first_id, last_id)


def percents(stored: list[StoredHour], hours: int, since: datetime = LONG_AGO) -> list[float | None]:
    return [figure.percent for figure in by_hour(stored, since, START, START + hours * HOUR)]


def stored_hours(market: list[int], kept: set[int]) -> list[StoredHour]:
    """Return what is stored of a market: `market[n]` trades in hour n, ids from 1 on, of which `kept` came through."""
    found, next_id = [], 1
    for number, count in enumerate(market):
        ids = sorted(kept.intersection(range(next_id, next_id + count)))
        next_id += count
        if ids:
            found.append(hour(number, len(ids), ids[0], ids[-1]))
    return found


# ---- completeness ----


def test_an_hour_holds_its_trades_over_the_ids_since_the_hour_before() -> None:
    stored = [hour(-1, 10, 1, 10), hour(0, 100, 11, 110), hour(1, 75, 111, 210), hour(3, 1, 220, 220)]

    assert by_hour(stored, LONG_AGO, START, START + 4 * HOUR) == [
        HourOfTrades(START, 100, 100, 100.0),
        HourOfTrades(START + HOUR, 75, 100, 75.0),
        HourOfTrades(START + 2 * HOUR, 0),
        HourOfTrades(START + 3 * HOUR, 1, 10, 10.0),
    ]


def test_ids_that_an_exchange_jumped_over_are_not_expected() -> None:
    stored = [hour(0, 10, 1, 10), hour(1, 81, 11, 1_000_100), hour(2, 10, 1_000_101, 1_000_110)]

    figures = by_hour(stored, LONG_AGO, START, START + 3 * HOUR, [(51, 1_000_050)])

    assert [(figure.expected, figure.percent) for figure in figures] == [(10, 100.0), (90, 90.0), (10, 100.0)]


def test_the_first_hour_of_all_counts_from_its_first_trade_on() -> None:
    assert percents([hour(0, 5, 1001, 1010)], 1) == [50.0]


def test_what_was_stored_before_the_subscription_began_makes_nothing_missing() -> None:
    backfilled = [hour(-500, 10, 1, 10), hour(-499, 5, 11, 20)]

    assert percents([*backfilled, hour(0, 50, 9001, 9050), hour(2, 5, 9051, 9060)], 3, START) == [100.0, None, 50.0]
    assert percents([*backfilled, hour(0, 50, 9001, 9050)], 1, LONG_AGO) == [0.5537]


def test_hours_of_a_backfill_before_the_subscription_are_measured_against_each_other() -> None:
    assert percents([hour(0, 10, 1, 10), hour(1, 5, 11, 20)], 2, START + timedelta(days=9)) == [100.0, 50.0]


def test_one_missing_among_millions_is_not_100_per_cent() -> None:
    assert percents([hour(-1, 1, 1, 1), hour(0, 9_999_999, 2, 10_000_001)], 1) == [99.9999]


def test_ids_that_cross_the_hour_never_make_more_than_100_per_cent() -> None:
    assert percents([hour(-1, 10, 1, 11), hour(0, 10, 10, 20)], 1) == [100.0]


@given(
    market=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    lost=st.sets(st.integers(1, 360), max_size=120),
)
def test_the_missing_of_all_hours_are_exactly_the_holes_between_stored_trades(
    market: list[int], lost: set[int]
) -> None:
    kept = set(range(1, sum(market) + 1)) - lost
    figures = by_hour(stored_hours(market, kept), START, START, START + len(market) * HOUR)

    holes = max(kept) - min(kept) + 1 - len(kept) if kept else 0
    assert sum((figure.expected or 0) - figure.trades for figure in figures) == holes
    assert sum(figure.trades for figure in figures) == len(kept)
    assert all((figure.percent is None) == (figure.trades == 0) for figure in figures)
    assert all(figure.percent == 100.0 for figure in figures if figure.trades and figure.expected == figure.trades)
    assert all((figure.percent or 0) < 100.0 for figure in figures if figure.expected != figure.trades)


# ---- the ledger ----

NOW = START
CONNECTED = FeedRow("conn:coinbase:3", "coinbase", None, "connected", START - HOUR, None, START, START)
GAP = GapRow("gap:coinbase:BTC-USD:t5", "coinbase", "BTC-USD", "trade_id", 5, 9, 4, START, None, "missed", 1)


@pytest.mark.parametrize(
    ("silence", "said", "state"),
    [(10, "connected", "connected"), (11, "connected", "stale"), (11, "disconnected", "disconnected")],
)
def test_a_connection_that_is_not_heard_of_any_more_is_stale(silence: int, said: str, state: str) -> None:
    row = replace(CONNECTED, state=said, appended_at=NOW - timedelta(seconds=silence))

    found = connection({row.key: row}, "coinbase", 3, NOW)

    assert found is not None
    assert (found.state, found.since) == (state, START - HOUR)
    assert connection({row.key: row}, "coinbase", 2, NOW) is None


def test_a_products_last_trade_is_what_its_own_record_says() -> None:
    row = replace(CONNECTED, key="trades:coinbase:BTC-USD", last_trade_id=77)

    assert last_trade_id({row.key: row}, "coinbase", "BTC-USD") == 77
    assert last_trade_id({row.key: row}, "coinbase", "ETH-USD") is None


def test_a_product_shows_its_own_gaps_and_those_of_its_connection_open_and_new_ones_first() -> None:
    closed = replace(GAP, key="gap:coinbase:BTC-USD:t1", gap_closed=START, gap_opened=START - HOUR, of_all=2)
    mine = replace(GAP, key="gap:coinbase:*3:1", product=None, gap_kind="time", gap_closed=START, gap_opened=START)
    every = replace(mine, key="gap:coinbase:*:1", gap_opened=START - 2 * HOUR, gap_cause="killed")
    other = replace(mine, key="gap:coinbase:*4:1")
    ether = replace(GAP, key="gap:coinbase:ETH-USD:t5", product="ETH-USD")
    binance = replace(GAP, key="gap:binance:BTC-USD:t5", exchange="binance")
    rows = [closed, replace(GAP, of_all=2), mine, every, other, ether, binance]

    found, left_out = gaps(rows, "coinbase", "BTC-USD", 3, 10)

    assert [(gap.scope, gap.opened, gap.cause) for gap in found] == [
        ("product", START, "missed"),
        ("connection", START, "missed"),
        ("product", START - HOUR, "missed"),
        ("connection", START - 2 * HOUR, "killed"),
    ]
    assert left_out == 0


def test_gaps_beyond_the_limit_are_counted_also_those_that_were_not_read() -> None:
    rows = [replace(GAP, key=f"gap:coinbase:BTC-USD:t{number}", of_all=50) for number in range(5)]

    found, left_out = gaps(rows, "coinbase", "BTC-USD", 3, 3)

    assert (len(found), left_out) == (3, 47)


def test_a_tenant_is_not_named_in_the_cause_of_its_own_gap() -> None:
    (found,), _ = gaps([replace(GAP, gap_cause="topic_missing:acme")], "coinbase", "BTC-USD", 3, 3)

    assert found.cause == "topic_missing"
