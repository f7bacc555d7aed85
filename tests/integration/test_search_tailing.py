"""Walks in the order of ingestion, on a real database whose transactions end in another order than they begin."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import Problem
from api.search.plan import SearchRequest
from schemas.records import AsOf
from sinks.database import Database
from sinks.plan import Place, Position, plan
from sinks.rows import Arrived
from tests.support.databases import BOTH_KINDS
from tests.support.searching import NOW, Store, bar, fill, ids, opened_store, slug, stat, tick
from tests.support.searching import TABLES as ROWS
from tests.support.sinking import bar as bar_record
from tests.support.sinking import encoded, taken

TICKS = SearchRequest("ticks", ingested=True)


@pytest.fixture(scope="module")
def store(database_server: str, migrated_template: str) -> Iterator[Store]:
    with opened_store(database_server, migrated_template) as opened:
        # Who makes a chunk of a hypertable holds it until the transaction ends.
        fill(opened, slug(), *[(dataset, "first", step) for dataset in ROWS for step in (0, 40)])
        yield opened


@dataclass
class Tail:
    """A reader that goes on from where it stands."""

    store: Store
    tenant: str
    request: SearchRequest = TICKS
    cursor: str | None = None
    seen: list[str] = field(default_factory=list)

    def read(self) -> list[str]:
        """Read until nothing comes; return the ids."""
        found: list[str] = []
        while True:
            page = self.store.page(self.tenant, self.request, self.cursor)
            assert page.next_cursor is not None
            self.cursor = page.next_cursor
            if not page.rows:
                self.seen += found
                return found
            found += ids(page)

    def await_rows(self, count: int) -> list[str]:
        """Read until so many ids have come, and once more; return them."""
        known = len(self.seen)
        deadline = time.monotonic() + 60
        while len(self.seen) < known + count and time.monotonic() < deadline:
            self.read()
            time.sleep(0.02)
        self.read()
        return self.seen[known:]


def writer(store: Store) -> psycopg.Connection[Any]:
    return psycopg.connect(store.urls.url("ps_sink"), options="-c lock_timeout=20s")


@BOTH_KINDS
def test_a_row_that_is_committed_late_is_not_skipped(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant)
    with writer(store) as slow, writer(store) as quick:
        store.insert("ticks", [tick(tenant, "slow", 1)], slow)
        store.insert("ticks", [tick(tenant, "quick", 2)], quick)
        quick.commit()

        before = tail.read()
        slow.commit()

    assert before == []
    assert tail.await_rows(2) == ["slow", "quick"]


def test_a_transaction_in_another_database_holds_no_tail_up(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant)
    with psycopg.connect(store.urls.server_url) as elsewhere, writer(store) as slow:
        elsewhere.execute("SELECT txid_current()")
        fill(store, tenant, ("ticks", "first", 1))
        assert tail.await_rows(1) == ["first"]

        store.insert("ticks", [tick(tenant, "slow", 1)], slow)
        fill(store, tenant, ("ticks", "second", 2))
        assert tail.read() == []
        slow.commit()
        assert tail.await_rows(2) == ["slow", "second"]


def test_a_row_of_a_transaction_that_fails_is_not_waited_for(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant)
    with writer(store) as slow:
        store.insert("ticks", [tick(tenant, "slow", 1)], slow)
        fill(store, tenant, ("ticks", "quick", 2))
        slow.rollback()

    assert tail.await_rows(1) == ["quick"]


STEPS = st.lists(st.tuples(st.sampled_from(["insert", "commit", "rollback", "read"]), st.integers(0, 2)), max_size=24)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limit=st.integers(1, 3), both=st.booleans())
def test_a_tail_sees_every_committed_row_once_however_transactions_end(
    store: Store, steps: list[tuple[str, int]], limit: int, *, both: bool
) -> None:
    tenant = slug()
    tail = Tail(store, tenant, SearchRequest(None if both else "ticks", ingested=True, limit=limit))
    waiting: list[list[str]] = [[], [], []]
    committed: list[str] = []
    connections = [writer(store) for _ in waiting]
    for number, (step, place) in enumerate(steps):
        if step == "read":
            tail.read()
        elif step == "insert":
            dataset = "events" if both and number % 2 else "ticks"
            store.insert(dataset, [ROWS[dataset](tenant, f"{number}", 30 - number)], connections[place])
            waiting[place].append(f"{number}")
        elif step == "commit":
            connections[place].commit()
            committed += waiting[place]
            waiting[place] = []
        else:
            connections[place].rollback()
            waiting[place] = []
    for connection in connections:
        connection.close()
    tail.await_rows(len(committed) - len(tail.seen))

    assert sorted(tail.seen) == sorted(committed)


def test_a_bar_that_the_sink_revises_comes_again(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant, SearchRequest("bars", ingested=True))
    sink = Database(store.urls.url("ps_sink"))
    sink.connect()
    place = Place(f"ps.{tenant}.bars.v1", f"id-{tenant}", 0)
    read: list[list[str]] = []
    for offset, as_of in enumerate((5, 6, 4)):
        record = bar_record(1, as_of=AsOf(topic_id="t", partition=0, offset=as_of))
        arrived = Arrived(place.topic, 0, offset, NOW, None, encoded([record])[0][1])
        position = Position(place, sink.positions([place])[place])
        sink.store(plan([taken(arrived)], {(place.topic, 0): position}, NOW), lambda _: None)
        read.append(tail.await_rows(1) if offset < 2 else tail.read())
    sink.close()

    assert read == [[record.event_id], [record.event_id], []]


def test_a_changed_row_comes_again_with_what_it_has_become(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant, SearchRequest("stats", ingested=True))
    store.insert("stats", [stat(tenant, "a", 1), stat(tenant, "b", 2)])
    assert tail.await_rows(2) == ["a", "b"]

    with psycopg.connect(store.urls.url("ps_sink")) as connection:
        connection.execute(
            "UPDATE stats SET count = 4, ingested = DEFAULT WHERE tenant = %s AND event_id = 'a'", (tenant,)
        )

    assert tail.await_rows(1) == ["a"]


def test_what_was_there_before_is_left_out_of_a_walk_that_begins_now(store: Store) -> None:
    tenant = slug()
    fill(store, tenant, ("ticks", "old", 1), ("events", "old", 2))
    request = SearchRequest(ingested=True)
    Tail(store, tenant, request).await_rows(2)
    with writer(store) as slow:
        store.insert("ticks", [tick(tenant, "slow", 1)], slow)
        beginning = store.runner.run(store.search.end(tenant, request))
        slow.commit()
    fill(store, tenant, ("ticks", "new", 0), ("events", "new", 0))

    tail = Tail(store, tenant, request, beginning.next_cursor)

    assert beginning.rows == []
    assert sorted(tail.await_rows(3)) == ["new", "new", "slow"]


def test_filters_and_times_narrow_a_tail(store: Store) -> None:
    tenant = slug()
    store.insert("bars", [bar(tenant, f"{number}", number, period="5m" if number % 2 else "1m") for number in range(8)])

    tail = Tail(store, tenant, SearchRequest("bars", {"period": "5m"}, ingested=True, limit=2))

    assert tail.await_rows(4) == ["1", "3", "5", "7"]


def test_a_database_restored_on_another_server_says_what_to_do_and_goes_on_above_all_that_was(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant)
    fill(store, tenant, ("ticks", "before", 1))
    assert tail.await_rows(1) == ["before"]
    store.admin.execute("UPDATE ingestion_clock SET system = 1, shift = shift - 10")

    with pytest.raises(Problem) as refused:
        tail.read()
    with psycopg.connect(store.urls.url()) as connection:
        connection.execute("SET ROLE ps_owner")
        connection.execute("SELECT set_ingestion_clock()")
    fill(store, tenant, ("ticks", "after", 1))

    assert refused.value.status == 503
    assert tail.await_rows(1) == ["after"]


def test_a_cursor_from_the_future_of_a_database_that_was_put_back_is_refused(store: Store) -> None:
    tenant = slug()
    tail = Tail(store, tenant)
    fill(store, tenant, ("ticks", "a", 1))
    store.admin.execute("UPDATE ticks SET ingested = ingested + 1000000000000000 WHERE tenant = %s", (tenant,))
    shift = store.admin.execute("SELECT shift FROM ingestion_clock").fetchone()
    store.admin.execute("UPDATE ingestion_clock SET shift = shift + 2000000000000000")
    assert tail.await_rows(1) == ["a"]
    store.admin.execute("UPDATE ingestion_clock SET shift = %s", shift)

    with pytest.raises(Problem, match="put back"):
        tail.read()
