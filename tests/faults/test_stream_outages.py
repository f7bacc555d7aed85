"""The streams worker when the broker goes away, and when the broker has thrown away what was not read yet."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.e2e import eventually
from tests.support.streaming import Streams, assert_alerts_are, assert_stats_are, engine_run, market, streams_on

LEVEL = {"name": "level", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"}


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.start()
    try:
        Admin(kafka.settings()).create(platform_topic_specs(kafka.settings()))
        yield kafka
    finally:
        kafka.kill()


def test_a_worker_without_any_topic_is_ready_and_reads_the_first_one_that_comes(
    own_broker: EmbeddedKafka, tmp_path: Path, tenant: str
) -> None:
    with streams_on(own_broker, tmp_path, tenant) as streams:
        streams.prepare("stats", "bars", "alerts")
        streams.start()

        streams.prepare("ticks")
        streams.send(market(14, 500, exchange=streams.exchange))

        eventually(lambda: assert_stats_are(streams.stats(), engine_run(streams.ticks())))


@pytest.mark.heavy
@pytest.mark.parametrize("crash", [True, False], ids=["killed", "stopped"])
def test_the_outputs_are_whole_after_the_broker_was_away(
    own_broker: EmbeddedKafka, tmp_path: Path, tenant: str, *, crash: bool
) -> None:
    with streams_on(own_broker, tmp_path, tenant) as streams:
        streams.prepare()
        streams.put_feed(streams.exchange, "disconnected")
        streams.put_rule(f"{tenant}-level", LEVEL)
        ticks = market(11, 6_000, exchange=streams.exchange)
        worker = streams.start()
        streams.send(ticks[:3_000])
        eventually(lambda: assert_begun(streams), every=0.05)

        if crash:
            own_broker.kill()
        else:
            own_broker.stop()
        time.sleep(3)  # longer than the clients' first retries
        own_broker.start()
        if worker.running is None or worker.running.poll() is not None:
            worker = streams.launch()  # as a supervisor would
        streams.send(ticks[3_000:])

        def complete() -> None:
            if worker.running is not None and worker.running.poll() is not None:
                streams.launch()
            expected = engine_run(streams.ticks(), streams.rules())
            assert_stats_are(streams.stats(), expected)
            assert_alerts_are(streams.alerts(), expected.alerts)

        eventually(complete, timeout=90, every=0.5)


def assert_begun(streams: Streams) -> None:
    assert streams.stats()


def test_records_that_retention_took_are_counted_and_the_rest_is_folded(
    broker: EmbeddedKafka, tmp_path: Path, tenant: str
) -> None:
    with streams_on(broker, tmp_path, tenant) as streams:
        streams.prepare()
        streams.put_feed(streams.exchange, "disconnected")
        ticks = market(12, 4_000, exchange=streams.exchange, products=1)
        worker = streams.start()
        streams.send(ticks[:1_000])
        eventually(lambda: assert_stats_are(streams.stats(), engine_run(streams.ticks())))
        assert worker.stop() == 0

        streams.send(ticks[1_000:3_000])
        held = streams.ticks()
        place = TopicPartition(tenant_topic(tenant, "ticks"), held[0].as_of.partition, 2_500)
        admin = Admin(streams.admin)  # held: its futures end with it
        for future in admin.client.delete_records([place]).values():
            future.result(30)
        worker = streams.start()
        streams.send(ticks[3_000:])

        expected = engine_run([*held[:1_000], *streams.ticks()])
        eventually(lambda: assert_stats_are(streams.stats(), expected))
        assert worker.metric("pulsestream_stream_skipped_total", reason="retention") == 1_500
        assert "retention overtook the streams" in worker.log.read_text()


def test_records_that_retention_takes_from_a_running_worker_are_counted_too(
    broker: EmbeddedKafka, tmp_path: Path, tenant: str
) -> None:
    with streams_on(broker, tmp_path, tenant) as streams:
        streams.prepare()
        streams.put_feed(streams.exchange, "disconnected")
        ticks = market(13, 3_000, exchange=streams.exchange, products=1)
        worker = streams.start()
        assert worker.running is not None
        streams.send(ticks[:1_000])
        eventually(lambda: assert_stats_are(streams.stats(), engine_run(streams.ticks())))
        admin = Admin(streams.admin)

        worker.running.send_signal(signal.SIGSTOP)
        streams.send(ticks[1_000:2_000])
        held = streams.ticks()
        place = TopicPartition(tenant_topic(tenant, "ticks"), held[0].as_of.partition, 1_700)
        for future in admin.client.delete_records([place]).values():
            future.result(30)
        worker.running.send_signal(signal.SIGCONT)
        streams.send(ticks[2_000:])

        def complete() -> None:
            lost = int(worker.metric("pulsestream_stream_skipped_total", reason="retention"))
            assert 0 < lost <= 700  # the fetch that was under way when it was stopped may have brought some
            assert_stats_are(streams.stats(), engine_run([*held[: 1_700 - lost], *streams.ticks()]))

        eventually(complete)
        worker.assert_alive()


def test_a_topic_that_was_deleted_and_made_anew_begins_anew(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> None:
    with streams_on(broker, tmp_path, tenant) as streams:
        streams.prepare()
        streams.put_feed(streams.exchange, "disconnected")
        worker = streams.start()
        streams.send(market(15, 1_000, exchange=streams.exchange))
        eventually(lambda: assert_stats_are(streams.stats(), engine_run(streams.ticks())))
        assert worker.stop() == 0

        topic = tenant_topic(tenant, "ticks")
        Admin(streams.admin).delete({topic})
        eventually(lambda: assert_gone(streams, topic))
        streams.prepare("ticks")
        streams.send(market(16, 1_200, exchange=streams.exchange, start=time.time_ns() // 1000 - 12_000_000))
        streams.start()

        records = streams.ticks()
        expected, anew = engine_run(records), records[0].as_of.topic_id
        eventually(lambda: assert_stats_are([one for one in streams.stats() if one.as_of.topic_id == anew], expected))


def assert_gone(streams: Streams, topic: str) -> None:
    assert topic not in Admin(streams.admin).topics()
