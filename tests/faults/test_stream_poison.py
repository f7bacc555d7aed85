"""Bad records of every kind on a tenant's topic: each is counted, and nobody's statistics miss anything."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Stat, Tick
from tests.support.accounts import assert_every_offset_accounted_for
from tests.support.e2e import Service, eventually, read_topic
from tests.support.oracle import WINDOWS, Sourced, assert_stats_equal, by_key, final_stats, passing_stats
from tests.support.poison import poisoned
from tests.support.rounds import Rounds
from tests.support.streaming import Streams, market, streams_on

SKIPPED = "pulsestream_stream_skipped_total"


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        made.prepare()
        made.put_feed(made.exchange, "disconnected")
        yield made


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0], ids=["1 %", "10 %", "100 %"])
def test_bad_records_are_counted_one_by_one_and_stop_neither_their_tenant_nor_another(
    streams: Streams, rounds: Rounds, share: float
) -> None:
    count, healthy = rounds(3_000, 20_000), f"{streams.tenant}h"
    streams.prepare(tenant=healthy)
    ticks = market(32, 2_000, exchange=streams.exchange)
    records = list(poisoned(market(31, count, exchange=streams.exchange), share, seed=31))
    bad = sum(not sound for _, sound in records)
    worker = streams.start()

    streams.send(ticks[:1_000], tenant=healthy)
    streams.send_bytes(tenant_topic(streams.tenant, "ticks"), [record for record, _ in records])
    streams.send(ticks[1_000:], tenant=healthy)

    good = {value for (_, value, _), sound in records if sound}
    eventually(lambda: assert_statistics(streams.stats(), sound_ticks(streams, good)), timeout=60)
    eventually(lambda: assert_statistics(streams.stats(healthy), streams.ticks(healthy)), timeout=60)
    eventually(lambda: assert_every_offset_accounted_for(streams, "ticks"))
    assert refused(worker) == bad
    assert folded(worker) + skipped(worker) == count_of(streams, streams.tenant) + count_of(streams, healthy)
    worker.assert_alive()


def sound_ticks(streams: Streams, good: set[bytes | None]) -> list[Sourced]:
    found = read_topic(streams.admin, tenant_topic(streams.tenant, "ticks"))
    return [Sourced(codec(Tick).decode(one.value), one.as_of, one.appended_at) for one in found if one.value in good]


def assert_statistics(actual: list[Stat], records: list[Sourced]) -> None:
    expected, allowed = {}, {}
    for own in by_key(records).values():
        expected |= final_stats(own, list(WINDOWS), ended=False)
        allowed |= passing_stats(own, list(WINDOWS))
    assert_stats_equal(actual, expected, allowed=allowed)


def refused(worker: Service) -> float:
    """Return how many records were skipped for what they are, not for when they came."""
    return skipped(worker) - sum(of_reason(worker, reason) for reason in ("duplicate", "late"))


def skipped(worker: Service) -> float:
    """Return how many records were not folded; those that alerts alone ignored were."""
    return worker.metric(SKIPPED) - of_reason(worker, "late_for_alerts")


def of_reason(worker: Service, reason: str) -> float:
    return worker.metric(SKIPPED, reason=reason)


def folded(worker: Service) -> float:
    return worker.metric("pulsestream_stream_records_total")


def count_of(streams: Streams, tenant: str) -> int:
    return len(read_topic(streams.admin, tenant_topic(tenant, "ticks")))
