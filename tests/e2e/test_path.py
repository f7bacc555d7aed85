"""The whole path on real processes: from an exchange's socket to rows, statistics and alerts, tenant by tenant."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.records import DeadLetter
from tests.support.e2e import Installation, Tenant, eventually, installed, logs_shown, records_of, rows
from tests.support.evidence import (
    Watched,
    assert_alerts_right,
    assert_statistics_right,
    assert_ticks_stored,
)
from tests.support.oracle import frame_ticks, read_frames

IDS = {"ticks": "event_id", "trades": "event_id", "events": "event_id", "stats": "event_id", "alerts": "alert_id"}
RECORDED_RULE = {
    "name": "skl-above",
    "product": "SKL-USD",
    "exchange": "coinbase",
    "condition": {"type": "price", "above": 0.7915},
    "severity": "critical",
    "labels": {"desk": "spot"},
}


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("path"), database_server, migrated_template) as path:
        path.start("relay", "api", "stream", "sink")
        yield path


@pytest.fixture
def register(installation: Installation) -> Callable[[str], Tenant]:
    return installation.register


def replay(installation: Installation, frames: Path, exchange: str, speed: float, watched: Sequence[Watched]) -> None:
    """Subscribe the tenants, play the recording to its end, and wait until every tenant's ticks are rows.

    The feed stays connected: while it is not, the event clock stands still and closes no pane.
    """
    for one in watched:
        one.tenant.subscribe(exchange, one.products)
    for one in watched:
        installation.wait_for_topics(one.tenant)
    installation.serve_exchange(frames, speed=speed)
    installation.start("producer", exchange=exchange)
    expected = frame_ticks(frames, exchange)

    def all_stored() -> None:
        for one in watched:
            assert_ticks_stored(installation, one, expected)

    with logs_shown(installation):
        eventually(all_stored, timeout=60)


def assert_searches_show_own_rows(installation: Installation, watched: Watched) -> None:
    """Assert that a tenant's key finds, in every dataset, the rows that the database holds of it and no others."""
    for dataset, name in IDS.items():
        query = f"SELECT {name} AS id FROM {dataset} WHERE tenant = %(tenant)s"
        stored = {row["id"] for row in rows(installation.database, query, tenant=watched.slug)}
        found = [row[name] for row in watched.tenant.walk(dataset=dataset, limit=1000)]
        assert sorted(found) == sorted(stored), f"{watched.slug}: {len(found)} {dataset}, {len(stored)} are stored"


def assert_walk_returns_every_row_once(installation: Installation, watched: Watched, limit: int) -> None:
    """Assert that pages of `limit` rows give each stored tick once, newest first."""
    walked = watched.tenant.walk(dataset="ticks", limit=limit)
    stored = rows(installation.database, "SELECT event_id FROM ticks WHERE tenant = %(tenant)s", tenant=watched.slug)

    assert len(walked) == len(stored)
    assert {row["event_id"] for row in walked} == {row["event_id"] for row in stored}
    times = [row["exchange_time"] for row in walked]
    assert times == sorted(times, reverse=True)


def assert_evidence(installation: Installation, watched: Sequence[Watched], outsider: Tenant) -> None:
    """Assert that what the tenants got is what the oracle computes from their records, and that nobody sees more."""
    for one in watched:
        assert_statistics_right(installation, one)
        assert_alerts_right(installation, one)
        assert records_of(installation.admin, one.slug, "dlq", DeadLetter) == []
    assert installation.stop("producer", "exchange") == {"producer": 0, "exchange": 0}
    for one in watched:
        eventually(lambda one=one: assert_searches_show_own_rows(installation, one))  # type: ignore[misc] # lambda
    assert all(outsider.walk(dataset=dataset) == [] for dataset in IDS)


def test_a_recording_becomes_rows_statistics_and_alerts_of_each_subscribed_tenant(
    installation: Installation, register: Callable[[str], Tenant], shared_data: Path
) -> None:
    first = Watched(register("first"), ("SKL-USD", "SKL-BTC", "NMR-EUR", "DASH-BTC", "CRV-EUR"))
    second = Watched(register("second"), ("SKL-USD", "BAND-GBP", "NMR-EUR"))
    with installation.rules_loaded(2):
        first.add_rule(RECORDED_RULE)
        first.add_rule({"name": "nmr-below", "product": "*", "condition": {"type": "price", "below": 67, "clear": 70}})

    replay(installation, shared_data / "coinbase" / "2021-04-17.frames", "coinbase", 4, [first, second])

    with logs_shown(installation):
        assert_evidence(installation, [first, second], register("outsider"))
        assert_walk_returns_every_row_once(installation, first, 7)
        fired = first.tenant.walk(dataset="alerts", product="SKL-USD", order="asc")
        assert [(row["state"], row["at"]) for row in fired if row["rule_id"] == first.rules[0][1]["rule_id"]] == [
            ("firing", "2021-04-17T16:43:37.314473Z"),
            ("resolved", "2021-04-17T16:43:47.839396Z"),
            ("firing", "2021-04-17T16:43:55.539586Z"),
        ]
        assert second.tenant.walk(dataset="alerts") == []


def assert_every_trade_is_stored_and_told(watched: Watched, frames: Path) -> None:
    """Assert that the market's trades are rows, and that the feeds' completeness says so."""
    sent = Counter(
        frame["product_id"]
        for _, frame in read_frames(frames)
        if frame["type"] == "match" and frame["product_id"] in watched.products
    )
    stored = Counter(row["product"] for row in watched.tenant.walk(dataset="trades", limit=1000))
    feeds = watched.tenant.call("GET", "/api/v1/feeds", params={"hours": 2})["feeds"]

    assert stored == sent
    assert {feed["product"]: sum(hour["trades"] for hour in feed["completeness"]) for feed in feeds} == {
        product: sent[product] for product in watched.products
    }
    assert {hour["percent"] for feed in feeds for hour in feed["completeness"]} == {100.0, None}


@pytest.mark.heavy
def test_a_simulated_market_becomes_rows_statistics_and_alerts_of_each_subscribed_tenant(
    installation: Installation, register: Callable[[str], Tenant], tmp_path: Path
) -> None:
    frames = tmp_path / "market.frames"
    installation.record_market(frames, seed=11, seconds=60, rate=3)
    middle = {product: _median(frames, product) for product in ("BTC-USD", "ETH-USD", "SOL-USD")}
    first = Watched(register("buyer"), ("BTC-USD", "ETH-USD", "MONA-USD"))
    second = Watched(register("seller"), ("ETH-USD", "SOL-USD"))
    with installation.rules_loaded(4):
        first.add_rule(_rule("btc", "BTC-USD", {"above": middle["BTC-USD"]}))
        first.add_rule(_rule("held", "ETH-USD", {"below": middle["ETH-USD"]}, **{"for": "1500ms"}))
        second.add_rule(_rule("kept", "ETH-USD", {"above": middle["ETH-USD"]}, keep_firing_for="2s", cooldown="0s"))
        second.add_rule(_rule("crossing", "SOL-USD", {"crosses": middle["SOL-USD"] + 0.001, "direction": "both"}))

    replay(installation, frames, "simulator", 5, [first, second])

    with logs_shown(installation):
        assert_evidence(installation, [first, second], register("stranger"))
        assert_walk_returns_every_row_once(installation, second, 50)
        for one in (first, second):
            eventually(lambda one=one: assert_every_trade_is_stored_and_told(one, frames))  # type: ignore[misc] # lambda
        assert first.tenant.search(dataset="ticks", product="MONA-USD")["rows"] == []
        assert {row["rule_name"] for one in (first, second) for row in one.tenant.walk(dataset="alerts")} == {
            "btc",
            "held",
            "kept",
            "crossing",
        }


def test_an_accepted_event_is_one_row_and_a_retry_adds_none(
    installation: Installation, register: Callable[[str], Tenant]
) -> None:
    tenant = register("desk")
    events = [{"id": f"order-{n}", "type": "order.filled", "source": "/desk/1", "data": {"n": n}} for n in range(5)]

    with logs_shown(installation):
        for event in [*events, *events[:3]]:
            _ingest(tenant, event)
        eventually(lambda: _assert_rows(installation, tenant, [f"{n}" for n in range(5)]))
        page = tenant.search(dataset="events", type="order.filled")

    assert sorted(row["data"]["n"] for row in page["rows"]) == [0, 1, 2, 3, 4]


def _ingest(tenant: Tenant, event: dict[str, Any]) -> None:
    """Send an event until it is accepted: a 503 asks for the same again."""

    def accepted() -> None:
        tenant.call("POST", "/api/v1/ingestion/events", json=event, expect=202)

    eventually(accepted)


def _assert_rows(installation: Installation, tenant: Tenant, numbers: list[str]) -> None:
    found = rows(installation.database, "SELECT event_id FROM events WHERE tenant = %(tenant)s", tenant=tenant.slug)
    assert sorted(row["event_id"] for row in found) == [f"/desk/1:order-{number}" for number in numbers]


def _rule(name: str, product: str, condition: dict[str, Any], **fields: str) -> dict[str, Any]:
    return {"name": name, "product": product, "condition": {"type": "price", **condition}, **fields}


def _median(frames: Path, product: str) -> float:
    return statistics.median(tick.price for tick in frame_ticks(frames) if tick.product == product)
