"""What searches find by the contents of events, by prefixes, and of rows only some fields; and how many there are."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.database import Connection
from api.errors import Problem
from api.search import repository, service, steps
from api.search.collections import Match
from api.search.plan import Plan, SearchRequest
from api.search.repository import Part
from tests.support.databases import BOTH_KINDS
from tests.support.searching import Store, event, fill, ids, moment, opened_store, slug, tick


@pytest.fixture(scope="module")
def store(database_server: str, migrated_template: str) -> Iterator[Store]:
    with opened_store(database_server, migrated_template) as opened:
        yield opened


# ---- containment ----


def contains(data: Any, wanted: Any) -> bool:
    """PostgreSQL's `@>` (its documentation, "jsonb Containment"), of what lies within an object."""
    if isinstance(wanted, dict):
        return isinstance(data, dict) and all(name in data and contains(data[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return isinstance(data, list) and all(any(contains(item, one) for item in data) for one in wanted)
    return type(data) is type(wanted) and bool(data == wanted)


LEAF = st.sampled_from([0, 1, "a", "b", True, None])
DATA = st.dictionaries(
    st.sampled_from("xyz"), LEAF | st.lists(LEAF, max_size=2) | st.dictionaries(st.sampled_from("pq"), LEAF, max_size=2)
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(DATA | LEAF, max_size=16),
    wanted=st.dictionaries(
        st.sampled_from("xyz"), LEAF | st.dictionaries(st.sampled_from("pq"), LEAF, min_size=1), min_size=1
    ),
    limit=st.integers(1, 4),
    up=st.booleans(),
    typed=st.booleans(),
    scanned=st.sampled_from([0, 4]),
)
def test_events_that_contain_what_is_asked_for_are_found_in_order_near_and_far(
    store: Store, data: list[Any], wanted: Any, limit: int, scanned: int, *, up: bool, typed: bool
) -> None:
    tenant, other = slug(), slug()
    rows = [event(tenant, f"{step}", step // 2, data=json.dumps(one)) for step, one in enumerate(data)]
    store.insert("events", rows)
    store.insert("events", [row | {"tenant": other} for row in rows])
    filters = {"contains": json.dumps(wanted)} | ({"type": "order.filled"} if typed else {})

    with pytest.MonkeyPatch.context() as patched:
        for name, rows in (("NEAR", 2), ("SCANNED", scanned), ("WALKED", 6)):
            patched.setattr(steps, name, rows)
        found = store.walk(tenant, SearchRequest("events", filters, ascending=up, limit=limit))

    wanted_ids = {f"{step}" for step, one in enumerate(data) if contains(one, wanted)}
    everything = store.walk(tenant, SearchRequest("events", ascending=up))
    assert ids_of(found) == [name for name in ids_of(everything) if name in wanted_ids]


def test_a_busy_stretch_behind_a_quiet_one_is_not_looked_at_row_by_row(store: Store) -> None:
    """The nearest rows lie hours apart and all are hits: as far again lie thousands, of which none is one."""
    tenant, walked = slug(), []
    quiet = [event(tenant, f"quiet-{step}", 200_000 + step * 3600, data='{"x": 1}') for step in range(3)]
    busy = [event(tenant, f"busy-{step}", 199_000 + step, data='{"x": 2}') for step in range(300)]
    last = event(tenant, "last", 0, data='{"x": 1}')
    store.insert("events", [*quiet, *busy, last])
    walk = repository._walked

    async def counted(connection: Connection, plan: Plan, bound: Mapping[str, Any]) -> Part:
        others = replace(plan, conditions=tuple(one for one in plan.conditions if one.query != Match.CONTAINS))
        walked.append(len((await walk(connection, others, {**bound, "limit": 1000})).placed))
        return await walk(connection, plan, bound)

    with pytest.MonkeyPatch.context() as patched:
        for name, rows in (("NEAR", 3), ("SCANNED", 10), ("WALKED", 20)):
            patched.setattr(steps, name, rows)
        patched.setattr(repository, "_walked", counted)
        found = store.walk(tenant, SearchRequest("events", {"contains": '{"x": 1}'}, limit=4))

    assert ids_of(found) == ["quiet-2", "quiet-1", "quiet-0", "last"]
    assert len(walked) > 1
    assert max(walked) <= 10


def ids_of(rows: list[dict[str, Any]]) -> list[str]:
    return [row["event_id"] for row in rows]


def test_what_hardly_any_event_contains_is_found_by_the_index_of_data_alone(store: Store) -> None:
    tenant = slug()
    store.admin.execute(
        """INSERT INTO events (tenant, event_id, type, source, time, received_time, data, appended_at)
        SELECT %s, n::text, 't', 's', %s::timestamptz + n * INTERVAL '1 second', now(),
               jsonb_build_object('order', n), now()
        FROM generate_series(1, 20000) AS n""",
        (tenant, moment(0)),
    )
    store.admin.execute("ANALYZE events")

    (row,) = store.walk(tenant, SearchRequest("events", {"contains": '{"order": 17}'}))

    assert row["event_id"] == "17"
    plan = _explained_far(store, tenant)
    assert "events_by_data" in plan, plan
    assert "Rows Removed by Filter" not in plan, plan


def _explained_far(store: Store, tenant: str) -> str:
    with psycopg.connect(store.urls.url("ps_api")) as connection:
        connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
        found = connection.execute(
            """EXPLAIN (ANALYZE, TIMING OFF) SELECT event_id FROM own_events
            WHERE jsonb_set('{}', ARRAY[tenant], data) @> jsonb_build_object(%s::text, '{"order": 17}'::jsonb)
            ORDER BY time + INTERVAL '0', event_id LIMIT 100""",
            (tenant,),
        )
        return "\n".join(str(*row) for row in found.fetchall())


@BOTH_KINDS
def test_the_view_beside_row_level_security_shows_the_tenant_that_is_set_and_no_other(store: Store) -> None:
    tenant, other = slug(), slug()
    fill(store, tenant, ("events", "mine", 1))
    fill(store, other, ("events", "theirs", 1))

    with psycopg.connect(store.urls.url("ps_api")) as connection:
        assert connection.execute("SELECT count(*) FROM own_events").fetchone() == (0,)
        connection.execute("SELECT set_config('pulsestream.tenant', %s, true)", (tenant,))
        assert connection.execute("SELECT tenant, event_id FROM own_events").fetchall() == [(tenant, "mine")]


# ---- prefixes ----

NAMES = st.text("aAäz.\U0010ffff", max_size=3)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, max_size=8), NAMES.filter(bool))
def test_a_prefix_finds_the_names_that_begin_with_it(store: Store, names: list[str], prefix: str) -> None:
    tenant = slug()
    store.insert("events", [event(tenant, f"{step}", step, source=name) for step, name in enumerate(names)])

    found = ids(store.page(tenant, SearchRequest("events", {"source_prefix": prefix}, ascending=True)))

    assert found == [f"{step}" for step, name in enumerate(names) if name.startswith(prefix)]


# ---- fields and counts ----


def test_only_the_fields_that_are_asked_for_are_shown(store: Store) -> None:
    tenant = slug()
    store.insert("ticks", [tick(tenant, "a", 1), tick(tenant, "b", 2)])
    request = SearchRequest("ticks", fields=("price", "product"), limit=1)

    page = store.runner.run(store.search.page(tenant, request, None, named=False))
    further = store.runner.run(store.search.page(tenant, request, page.next_cursor, named=False))

    assert [page.rows, further.rows] == [[{"product": "BTC-USD", "price": 61902.5}]] * 2
    assert further.next_cursor is None


def test_an_unknown_field_is_refused_with_those_that_there_are(store: Store) -> None:
    with pytest.raises(Problem, match="fields: 'prize' is not a field of these rows: they have best_ask") as refused:
        store.page(slug(), SearchRequest("ticks", fields=("prize",)))

    assert refused.value.status == 400


def test_few_rows_are_counted_and_many_are_estimated_of_ones_own_tenant(store: Store) -> None:
    tenant, other = slug(), slug()
    for owner in (tenant, other):
        store.admin.execute(
            """INSERT INTO ticks (tenant, event_id, exchange, product, price, exchange_time, received_time, appended_at)
            SELECT %s, n::text, 'x', CASE WHEN n %% 4 = 0 THEN 'A' ELSE 'B' END, 1,
                   %s::timestamptz + n * INTERVAL '1 second', now(), now()
            FROM generate_series(1, 24000) AS n""",
            (owner, moment(0)),
        )
    store.admin.execute("ANALYZE ticks")

    few = counted(store, tenant, SearchRequest("ticks", {"product": "A"}, limit=1))
    many = counted(store, tenant, SearchRequest("ticks", limit=1))

    assert few == service.Count(6000, is_exact=True)
    assert not many.is_exact
    assert 12_000 < many.rows < 48_000


def counted(store: Store, tenant: str, request: SearchRequest) -> service.Count:
    page = store.runner.run(store.search.page(tenant, request, None, counted=True))
    assert page.count is not None
    return page.count


# ---- bounds ----


def test_a_search_that_takes_too_long_is_ended_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "TIMEOUT", 0.2)
    with psycopg.connect(store.urls.url()) as connection:
        connection.execute("LOCK TABLE trades IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(Problem) as refused:
            store.page(slug(), SearchRequest("trades"))

    assert (refused.value.status, refused.value.code) == (503, "too-slow")
    assert store.page(slug(), SearchRequest("trades")).rows == []
