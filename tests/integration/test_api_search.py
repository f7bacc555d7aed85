"""Search over stored rows, as role ps_api with row level security, on a real database."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from api.errors import Problem
from api.search import plan as planning
from api.search.plan import SearchRequest
from api.search.statements import rows as statement
from pulsestream.core.clock import to_micros
from tests.support.databases import BOTH_KINDS
from tests.support.searching import (
    SEAL,
    TABLES,
    Store,
    bar,
    event,
    fill,
    ids,
    moment,
    opened_store,
    shown,
    slug,
    stat,
    tick,
)


@pytest.fixture(scope="module")
def store(database_server: str, migrated_template: str) -> Iterator[Store]:
    with opened_store(database_server, migrated_template) as opened:
        yield opened


# ---- the walk ----

ROW = st.tuples(st.sampled_from(["ticks", "events"]), st.sampled_from("aAbBéz-_1"), st.integers(0, 20))
ROWS = st.lists(ROW, max_size=14, unique_by=lambda row: (row[0], row[1], row[2]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=ROWS, during=ROWS, limit=st.integers(1, 5), up=st.booleans(), single=st.booleans())
def test_no_row_visible_when_a_walk_began_is_skipped_or_repeated(
    store: Store, before: list[Any], during: list[Any], limit: int, *, up: bool, single: bool
) -> None:
    tenant, other = slug(), slug()
    fill(store, tenant, *before)
    fill(store, other, *before)
    arriving = [row for row in during if row not in before]
    request = SearchRequest("ticks" if single else None, ascending=up, limit=limit)

    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = store.page(tenant, request, cursor)
        rows += page.rows
        if page.next_cursor is None:
            break
        assert len(page.rows) == limit
        cursor = page.next_cursor
        fill(store, tenant, *[arriving.pop() for _ in arriving[:2]])

    places = [(row["dataset"], row["event_id"], row.get("exchange_time") or row["time"]) for row in rows]
    assert len(set(places)) == len(places)
    wanted = [row for row in before if row[0] == "ticks" or not single]
    assert set(places) >= {(dataset, name, shown(step)) for dataset, name, step in wanted}
    times = [time for _, _, time in places]
    assert times == sorted(times, reverse=not up)


def test_a_walk_backwards_is_the_walk_forwards_reversed(store: Store) -> None:
    tenant = slug()
    fill(
        store, tenant, *[(dataset, name, step) for dataset in ("ticks", "events") for name in "bAa" for step in (1, 2)]
    )

    up = store.page(tenant, SearchRequest(ascending=True))
    down = store.page(tenant, SearchRequest())

    assert [(row["dataset"], row["event_id"]) for row in up.rows] == [
        (row["dataset"], row["event_id"]) for row in down.rows[::-1]
    ]
    assert len(up.rows) == 12


def test_a_page_that_ends_with_the_last_row_has_no_next(store: Store) -> None:
    tenant = slug()
    fill(store, tenant, ("ticks", "a", 1), ("events", "b", 2))

    assert store.page(tenant, SearchRequest(limit=2)).next_cursor is None
    assert store.page(tenant, SearchRequest(limit=1)).next_cursor is not None


# ---- rows and filters ----


@pytest.mark.parametrize("dataset", TABLES)
def test_every_dataset_is_searchable_and_names_itself_and_its_ids(store: Store, dataset: str) -> None:
    tenant = slug()
    fill(store, tenant, (dataset, "one", 1))

    row = store.page(tenant, SearchRequest(dataset)).rows[0]

    assert (row["dataset"], row["event_id"]) == (dataset, "one")
    assert row.get("alert_id") == ("one" if dataset == "alerts" else None)
    assert "tenant" not in row
    json.loads(msgspec.json.encode(row))


def test_a_row_holds_what_the_record_held(store: Store) -> None:
    tenant = slug()
    data = '{"price": 1.10, "big": 12345678901234567890123, "text": "é\\n"}'
    store.insert("events", [event(tenant, "a", 10, data=data)])

    row = json.loads(msgspec.json.encode(store.page(tenant, SearchRequest("events")).rows[0]))

    assert row == {
        "dataset": "events",
        "event_id": "a",
        "type": "order.filled",
        "source": "/desk/1",
        "product": "BTC-USD",
        "time": "2021-04-18T00:00:00.000000Z",
        "received_time": "2021-04-18T00:00:00.000000Z",
        "data": {"price": 1.10, "big": 12345678901234567890123, "text": "é\n"},
    }


def test_the_default_is_ticks_and_events_newest_first(store: Store) -> None:
    tenant = slug()
    fill(store, tenant, ("ticks", "a", 1), ("events", "b", 2), ("ticks", "c", 3), ("stats", "d", 4), ("trades", "e", 5))

    assert ids(store.page(tenant, SearchRequest())) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (SearchRequest(filters={"product": "ETH-USD"}), ["4", "2"]),
        (SearchRequest(filters={"exchange": "simulator"}), ["1"]),
        (SearchRequest(filters={"type": "note"}), ["4"]),
        (SearchRequest(filters={"source": "/desk/2"}), ["3"]),
        (SearchRequest("ticks", {"product": "ETH-USD"}), ["2"]),
        (SearchRequest("events", {"type": "note", "product": "ETH-USD"}), ["4"]),
        (SearchRequest("events", {"type": "note", "product": "BTC-USD"}), []),
        (SearchRequest(from_time=to_micros(moment(2)), to_time=to_micros(moment(4))), ["3", "2"]),
        (SearchRequest(from_time=to_micros(moment(4))), ["4"]),
        (SearchRequest(to_time=to_micros(moment(1))), []),
    ],
)
def test_filters_keep_what_they_say(store: Store, request_: SearchRequest, found: list[str]) -> None:
    tenant = slug()
    store.insert("ticks", [tick(tenant, "1", 1, exchange="simulator"), tick(tenant, "2", 2, product="ETH-USD")])
    store.insert(
        "events", [event(tenant, "3", 3, source="/desk/2"), event(tenant, "4", 4, type="note", product="ETH-USD")]
    )

    assert ids(store.page(tenant, request_)) == found


def test_a_statistic_is_found_with_its_forecast(store: Store) -> None:
    tenant = slug()
    forecast = {"forecast_volatility": 0.75, "forecast_low": 99.5, "forecast_high": 100.5}
    store.insert("stats", [stat(tenant, "1", 1, **forecast), stat(tenant, "2", 2)])

    newest, oldest = store.page(tenant, SearchRequest("stats")).rows

    assert {name: oldest[name] for name in forecast} == forecast
    assert {name: newest[name] for name in forecast} == dict.fromkeys(forecast)


def test_bars_are_searched_by_period_and_walked_by_their_start(store: Store) -> None:
    tenant = slug()
    store.insert("bars", [bar(tenant, f"{number}", number, period="1m" if number % 2 else "5m") for number in range(9)])

    request, cursor, walked = SearchRequest("bars", {"period": "5m", "product": "BTC-USD"}, limit=2), None, []
    for _ in range(3):
        page = store.page(tenant, request, cursor)
        walked += [(row["event_id"], row["start"], row["period"]) for row in page.rows]
        cursor = page.next_cursor

    assert walked == [(f"{number}", shown(number), "5m") for number in (8, 6, 4, 2, 0)]
    assert cursor is None


# ---- tenants and cursors ----


def test_another_tenants_rows_are_never_found(store: Store) -> None:
    mine, theirs = slug(), slug()
    fill(store, theirs, *[(dataset, "x", 1) for dataset in TABLES])

    for dataset in (None, *TABLES):
        assert store.page(mine, SearchRequest(dataset)).rows == []


def test_without_a_tenant_the_apis_role_sees_nothing(store: Store) -> None:
    tenant = slug()
    fill(store, tenant, *[(dataset, "x", 1) for dataset in TABLES])
    url = store.admin.info
    with psycopg.connect(host=url.host, port=url.port, dbname=url.dbname, user="ps_api", autocommit=True) as connection:
        for table in (*TABLES, "tenants", "api_keys", "subscriptions", "rules", "tenant_topics"):
            count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
            assert count == (0,), table


def test_another_tenants_cursor_is_refused(store: Store) -> None:
    mine, theirs = slug(), slug()
    for tenant in (mine, theirs):
        fill(store, tenant, ("ticks", "a", 1), ("ticks", "b", 2))
    cursor = store.page(theirs, SearchRequest(limit=1)).next_cursor

    with pytest.raises(Problem, match="this tenant"):
        store.page(mine, SearchRequest(limit=1), cursor)


def test_a_cursor_belongs_to_its_filters_and_order_and_not_to_the_pages_size(store: Store) -> None:
    tenant = slug()
    fill(store, tenant, *[("ticks", name, 1) for name in "abcd"])
    cursor = store.page(tenant, SearchRequest("ticks", limit=1)).next_cursor

    assert len(store.page(tenant, SearchRequest("ticks", limit=3), cursor).rows) == 3
    for other in (
        SearchRequest(),
        SearchRequest("ticks", {"product": "BTC-USD"}),
        SearchRequest("ticks", ascending=True),
    ):
        with pytest.raises(Problem, match="other filters"):
            store.page(tenant, other, cursor)


# ---- indexes ----


@BOTH_KINDS
@pytest.mark.parametrize(
    ("dataset", "request_"),
    [
        ("ticks", SearchRequest("ticks")),
        ("ticks", SearchRequest("ticks", {"product": "BTC-USD"})),
        ("trades", SearchRequest("trades")),
        ("trades", SearchRequest("trades", {"product": "BTC-USD"})),
        ("bars", SearchRequest("bars")),
        ("bars", SearchRequest("bars", {"product": "BTC-USD"})),
        ("bars", SearchRequest("bars", {"product": "BTC-USD", "period": "1m"})),
        ("events", SearchRequest("events")),
        ("events", SearchRequest("events", {"type": "order.filled"})),
        ("stats", SearchRequest("stats")),
        ("alerts", SearchRequest("alerts")),
    ],
)
def test_a_page_is_read_from_an_index_in_order_under_row_level_security(
    store: Store, dataset: str, request_: SearchRequest
) -> None:
    tenant = slug()
    rows = [(dataset, f"{number:04}", number) for number in range(300)]
    fill(store, tenant, *rows)
    store.admin.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(dataset)))
    cursor = store.page(tenant, request_).next_cursor

    plan = _explained(store, tenant, request_, cursor)

    assert "Sort" not in plan, plan
    assert "Seq Scan" not in plan, plan
    assert "Rows Removed" not in plan, plan


def _explained(store: Store, tenant: str, request: SearchRequest, cursor: str | None) -> str:
    part = planning.plan(request, SEAL.open(cursor or "", tenant, request.identity()))[0]
    parameters: dict[str, Any] = {"tenant": tenant, "limit": 100}
    for condition in part.conditions:
        parameters |= condition.values

    async def explain() -> str:
        async with store.database.tenant(tenant) as connection:
            found = await connection.execute(sql.SQL("EXPLAIN (ANALYZE, TIMING OFF) ") + statement(part), parameters)
            return "\n".join(str(*row.values()) for row in await found.fetchall())

    return store.runner.run(explain())
