"""Series of bars on a real database, held against a plain loop over the stored bars."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import Problem
from api.search.periods import parse
from api.search.series import Bar, SeriesRequest, as_ccxt
from pulsestream.core.clock import format_rfc3339, to_micros
from tests.support.searching import NOW, START, Store, bar, opened_store, slug

MIDNIGHT = START.replace(microsecond=0) + timedelta(seconds=1)
SERIES = to_micros(MIDNIGHT)
MINUTE = 60_000_000


@pytest.fixture(scope="module")
def store(database_server: str, migrated_template: str) -> Iterator[Store]:
    with opened_store(database_server, migrated_template) as opened:
        yield opened


def request(text: str = "3m", **changes: Any) -> SeriesRequest:
    asked: dict[str, Any] = {"exchange": None, "origin": None, "from_time": None, "to_time": None, "limit": 100}
    asked |= {"ascending": True, "fill": "none"} | changes
    return SeriesRequest(product="BTC-USD", period=parse(text), **asked)


def walk(store: Store, tenant: str, asked: SeriesRequest) -> list[Bar]:
    bars: list[Bar] = []
    cursor: str | None = None
    while True:
        page = store.runner.run(store.series.page(tenant, asked, cursor))
        assert len(page.rows) <= asked.limit
        bars += page.rows
        cursor = page.next_cursor
        if cursor is None:
            return bars


STORED = st.tuples(
    st.integers(0, 25),
    st.sampled_from(["coinbase", "kraken"]),
    st.sampled_from(["trades", "ticks", "exchange"]),
    st.booleans(),
    st.integers(1, 9),
    st.none() | st.integers(1, 9),
)
ORIGINS = ("trades", "exchange", "ticks")


def stored_bar(tenant: str, one: Any) -> dict[str, Any]:
    minute, exchange, origin, complete, price, quote = one
    return bar(
        tenant,
        f"{exchange}:BTC-USD:1m:{minute}:{origin}",
        0,
        exchange=exchange,
        origin=origin,
        complete=complete,
        start=MIDNIGHT + timedelta(minutes=minute),
        open=float(price),
        high=float(price + 2),
        low=price / 2,
        close=float(price + 1),
        volume=price / 4,
        quote_volume=quote,
        trades=quote,
    )


def gathered(rows: list[dict[str, Any]], asked: SeriesRequest) -> list[Bar]:
    """What a series is, by a plain loop."""
    best: dict[tuple[int, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (not row["complete"], ORIGINS.index(row["origin"]))):
        if asked.exchange in (None, row["exchange"]) and asked.origin in (None, row["origin"]):
            best.setdefault((to_micros(row["start"]), row["exchange"]), row)
    periods: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for (start, exchange), row in sorted(best.items(), key=lambda item: item[0]):
        periods.setdefault((asked.period.floor(start), exchange), []).append(row)
    bars = [_bar(start, exchange, parts, asked) for (start, exchange), parts in sorted(periods.items())]
    return bars if asked.ascending else bars[::-1]


def _bar(start: int, exchange: str, parts: list[dict[str, Any]], asked: SeriesRequest) -> Bar:
    quotes = [part["quote_volume"] for part in parts]
    quote, volume = None if None in quotes else float(sum(quotes)), sum(part["volume"] for part in parts)
    return {
        "product": "BTC-USD",
        "exchange": exchange,
        "period": asked.period.text,
        "start": format_rfc3339(start),
        "open": parts[0]["open"],
        "high": max(part["high"] for part in parts),
        "low": min(part["low"] for part in parts),
        "close": parts[-1]["close"],
        "volume": volume,
        "quote_volume": quote,
        "vwap": None if quote is None else quote / volume,
        "trades": None if None in quotes else sum(quotes),
        "buy_volume": None,
        "complete": all(part["complete"] for part in parts),
        "bars": len(parts),
        "filled": False,
    }


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.lists(STORED, max_size=30, unique_by=lambda one: one[:3]),
    text=st.sampled_from(["1m", "2m", "3m", "7m"]),
    limit=st.integers(1, 4),
    exchange=st.sampled_from([None, "coinbase"]),
    up=st.booleans(),
)
def test_the_pages_of_a_series_are_what_a_plain_loop_makes_of_the_stored_bars(
    store: Store, stored: list[Any], text: str, limit: int, exchange: str | None, *, up: bool
) -> None:
    tenant = slug()
    rows = [stored_bar(tenant, one) for one in stored]
    store.insert("bars", rows)
    asked = request(text, limit=limit, exchange=exchange, ascending=up)

    assert walk(store, tenant, asked) == gathered(rows, asked)


def test_times_choose_periods_by_their_beginning(store: Store) -> None:
    tenant = slug()
    rows = [stored_bar(tenant, (minute, "coinbase", "trades", True, 2, 1)) for minute in range(9)]
    store.insert("bars", rows)

    found = walk(store, tenant, request(from_time=SERIES + 1, to_time=SERIES + 6 * MINUTE + 1))

    assert [(one["start"][14:16], one["bars"]) for one in found] == [("03", 3), ("06", 3)]
    assert walk(store, tenant, request(from_time=SERIES, to_time=SERIES + 6 * MINUTE))[-1]["start"][14:16] == "03"


def test_a_filled_series_begins_with_the_close_of_before(store: Store) -> None:
    tenant = slug()
    store.insert("bars", [stored_bar(tenant, (minute, "coinbase", "trades", True, minute + 1, 1)) for minute in (0, 8)])
    asked = request(exchange="coinbase", fill="previous", from_time=SERIES + 3 * MINUTE, to_time=SERIES + 12 * MINUTE)

    for limit in (1, 2, 100):
        found = walk(store, tenant, SeriesRequest(**{**_members(asked), "limit": limit}))
        down = walk(store, tenant, SeriesRequest(**{**_members(asked), "limit": limit, "ascending": False}))

        assert [(one["start"][14:16], one["close"], one["filled"]) for one in found] == [
            ("03", 2.0, True),
            ("06", 10.0, False),
            ("09", 10.0, True),
        ]
        assert down == found[::-1]


def _members(asked: SeriesRequest) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in SeriesRequest.__slots__}


def test_a_period_that_is_not_over_is_not_complete(store: Store) -> None:
    tenant = slug()
    now = stored_bar(tenant, (0, "coinbase", "trades", True, 2, 1))
    store.insert("bars", [now | {"period": "1d", "start": MIDNIGHT + timedelta(days=29)}])

    (still,) = walk(store, tenant, request("1w"))

    assert to_micros(START) < NOW
    assert not still["complete"]


def test_a_bar_in_ccxts_columns_begins_with_milliseconds(store: Store) -> None:
    tenant = slug()
    store.insert("bars", [stored_bar(tenant, (0, "coinbase", "trades", True, 2, 1))])

    (found,) = walk(store, tenant, request("1m"))

    assert as_ccxt(found) == [SERIES // 1000, 2.0, 4.0, 1.0, 3.0, 0.5]


def test_another_tenants_bars_and_cursors_are_of_no_use(store: Store) -> None:
    mine, theirs = slug(), slug()
    store.insert("bars", [stored_bar(theirs, (minute, "coinbase", "trades", True, 2, 1)) for minute in range(4)])
    cursor = store.runner.run(store.series.page(theirs, request("1m", limit=1), None)).next_cursor

    assert cursor is not None
    assert walk(store, mine, request()) == []
    for tenant, asked in ((mine, request("1m")), (theirs, request("2m"))):
        with pytest.raises(Problem, match="cursor"):
            store.runner.run(store.series.page(tenant, asked, cursor))


def test_a_page_is_read_from_the_index_of_its_period(store: Store) -> None:
    tenant = slug()
    store.insert("bars", [stored_bar(tenant, (minute, "coinbase", "trades", True, 2, 1)) for minute in range(200)])
    store.admin.execute("ANALYZE bars")
    with psycopg.connect(store.urls.url("ps_api")) as connection:
        connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
        found = connection.execute(
            """EXPLAIN (ANALYZE, TIMING OFF) SELECT start FROM bars
            WHERE tenant = %s AND product = 'BTC-USD' AND period = '1m' ORDER BY start DESC LIMIT 10""",
            (tenant,),
        ).fetchall()

    plan = "\n".join(str(*row) for row in found)
    assert "bars_by_period" in plan, plan
    assert "Rows Removed" not in plan, plan
