"""State computed again from the topics, and tenants split over shards, by workers on a real broker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.topics import shard_app, state_topic
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.e2e import Service, eventually, read_topic
from tests.support.oracle import newest
from tests.support.streaming import Streams, assert_alerts_are, assert_stats_are, engine_run, market, streams_on

LEVEL = {"name": "level", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"}


TAKEN_OVER = "partitions taken over"


@pytest.fixture
def still(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    """A tenant with topics whose exchange is disconnected, so that records alone decide."""
    with streams_on(broker, tmp_path, tenant) as streams:
        streams.prepare()
        streams.put_feed(streams.exchange, "disconnected")
        yield streams


def outputs(streams: Streams) -> dict[str, Any]:
    """Return the newest of each statistic and each alert, by id."""
    return {**newest(streams.stats()), **{alert.alert_id: alert for alert in streams.alerts()}}


def assert_said(worker: Service, what: str) -> None:
    worker.assert_alive()
    assert what in worker.log.read_text()


def test_state_computed_again_gives_the_same_outputs_under_the_same_ids(still: Streams) -> None:
    still.put_rule(f"{still.tenant}-level", LEVEL)
    worker = still.start()
    still.send(market(1, 3_000, exchange=still.exchange))
    expected = engine_run(still.ticks(), still.rules())

    def complete() -> None:
        assert_stats_are(still.stats(), expected)
        assert_alerts_are(still.alerts(), expected.alerts)

    eventually(complete)
    assert worker.stop() == 0
    before, sent = outputs(still), len(still.stats())
    assert expected.alerts

    again = still.launch("--rebuild")

    eventually(lambda: assert_said(again, "state computed again"))
    assert "state emptied" in again.log.read_text()
    eventually(lambda: assert_sent(still, 2 * sent))
    assert outputs(still) == before
    assert again.stop() == 0
    restored = still.start()
    more = market(2, 500, exchange=still.exchange)
    still.send(more)
    expected = engine_run(still.ticks(), still.rules())
    eventually(complete)
    restored.assert_alive()


def assert_sent(streams: Streams, least: int) -> None:
    sent = len(streams.stats())
    assert sent >= least, f"{sent} statistics of {least} were sent"


def test_a_rebuild_beside_a_living_worker_is_refused_and_says_why(still: Streams) -> None:
    living = still.start()

    refused = still.launch("--rebuild")

    assert refused.running is not None
    assert refused.running.wait(60) == 2
    assert "1 workers of" in refused.log.read_text()
    assert "stop all of them before --rebuild" in refused.log.read_text()
    living.assert_alive()


def test_a_tenant_moves_from_one_shard_to_another_and_each_reads_its_own_alone(still: Streams) -> None:
    other, app = f"{still.tenant}o", shard_app(still.app, 1)
    admin = still.admin.model_copy(update={"stream_shards": 2})
    still.topics += Admin(admin).create([s for s in platform_topic_specs(admin) if s.name == state_topic(app)])
    still.prepare(tenant=other)
    still.put_tenant(other, 1)
    workers = [still.launch("--shard", str(shard), stream_shards=2) for shard in range(2)]
    for tenant in (still.tenant, other):
        still.send(market(3, 600, exchange=still.exchange), tenant=tenant)
    expected = {tenant: engine_run(still.ticks(tenant)) for tenant in (still.tenant, other)}
    for tenant, run in expected.items():
        eventually(lambda tenant=tenant, run=run: assert_stats_are(still.stats(tenant), run))  # type: ignore[misc]
    for worker, tenant in zip(workers, (still.tenant, other), strict=True):
        assert worker.metric("pulsestream_stream_keys") == len({tick.record.product for tick in still.ticks(tenant)})

    still.put_tenant(other, 0)
    still.send(market(4, 600, exchange=still.exchange), tenant=other)

    run = engine_run(still.ticks(other))
    eventually(lambda: assert_stats_are(still.stats(other), run))
    eventually(lambda: assert_holds_keys(workers[0], 10))
    eventually(lambda: assert_has_state(still, still.app, other))


@pytest.mark.parametrize(
    "running",
    [pytest.param(True, id="under a worker"), pytest.param(False, id="while none runs", marks=pytest.mark.heavy)],
)
def test_of_a_tenant_that_is_no_more_nothing_stays_in_the_state(still: Streams, *, running: bool) -> None:
    gone = f"{still.tenant}-gone"
    still.prepare(tenant=gone)
    for tenant in (still.tenant, gone):
        still.put_tenant(tenant, 0)
        still.put_rule(f"{tenant}-level", LEVEL, tenant=tenant)
        still.send(market(5, 500, exchange=still.exchange), tenant=tenant)
    worker = still.start()
    for tenant in (still.tenant, gone):
        eventually(lambda tenant=tenant: assert_has_state(still, still.app, tenant))
    if not running:
        worker.stop()
    taken_over = worker.log.read_text().count(TAKEN_OVER)
    still.delete_topics(gone)
    if running:
        eventually(lambda: assert_taken_over(worker, taken_over + 1))  # so that what comes next is the tenant's end
    still.end_tenant(gone)
    if not running:
        worker = still.start()

    eventually(lambda: assert_names_nowhere(still, gone))
    still.send(market(6, 100, exchange=still.exchange, products=10))
    expected = engine_run(still.ticks(), still.rules())
    eventually(lambda: assert_stats_are(still.stats(), expected))
    worker.assert_alive()


def assert_taken_over(worker: Service, times: int) -> None:
    worker.assert_alive()
    assert worker.log.read_text().count(TAKEN_OVER) >= times


def assert_names_nowhere(streams: Streams, tenant: str) -> None:
    newest = {record.key: record.value for record in read_topic(streams.admin, state_topic(streams.app))}
    assert not [key for key, value in newest.items() if value is not None and tenant.encode() in (key or b"") + value]


def assert_has_state(streams: Streams, app: str, tenant: str) -> None:
    assert state_entries(streams, app, tenant)


def assert_holds_keys(worker: Service, keys: int) -> None:
    assert worker.metric("pulsestream_stream_keys") == keys


def state_entries(streams: Streams, app: str, tenant: str) -> set[bytes]:
    """Return the names of a tenant's entries in the state topic of an application."""
    return {
        record.key
        for record in read_topic(streams.admin, state_topic(app))
        if record.key is not None and record.key.startswith(f"{tenant}/".encode())
    }
