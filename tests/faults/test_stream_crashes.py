"""The streams worker under kill -9 and SIGSTOP: the final outputs are those of one uninterrupted run."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.e2e import Service, eventually
from tests.support.streaming import (
    Feeding,
    Streams,
    assert_alerts_are,
    assert_stats_are,
    engine_run,
    market,
    streams_on,
)

RULES = {
    "level": {"name": "level", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"},
    "edge": {"name": "edge", "product": "*", "condition": {"type": "price", "crosses": 101.6}},
    "slow": {
        "name": "slow",
        "product": ["P0-USD", "P3-USD"],
        "condition": {"type": "price", "below": 101},
        "keep_firing_for": "3s",
        "cooldown": "5s",
    },
}


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        made.prepare()
        made.put_feed(made.exchange, "disconnected")  # the clock stands still: records alone decide
        for name, definition in RULES.items():
            made.put_rule(f"{tenant}-{name}", definition)
        yield made


def assert_as_uninterrupted(streams: Streams, timeout: float = 40.0) -> None:
    expected = engine_run(streams.ticks(), streams.rules())
    assert len(expected.stats) > 500
    assert len(expected.alerts) > 50

    def complete() -> None:
        assert_stats_are(streams.stats(), expected)
        assert_alerts_are(streams.alerts(), expected.alerts)

    eventually(complete, timeout=timeout, every=1.0)


def test_a_worker_killed_again_and_again_leaves_the_outputs_of_one_uninterrupted_run(streams: Streams) -> None:
    chance = random.Random(1)
    worker = streams.start()

    with Feeding(streams, market(2, 16_000, products=6, exchange=streams.exchange), per_second=400) as feeding:
        while not feeding.over:
            kill_after(worker, chance.randrange(50, 1500), feeding)
            worker = streams.launch()

    assert sum(bool(killed.kills) for killed in streams.workers) >= 3
    assert_as_uninterrupted(streams)
    assert worker.stop() == 0


def kill_after(worker: Service, records: int, feeding: Feeding) -> None:
    """Kill a worker once it has folded so many records, wherever it is then in a batch or a checkpoint."""
    worker.wait_ready()
    while worker.metric("pulsestream_stream_records_total") < records and not feeding.over:
        worker.assert_alive()
        time.sleep(0.01)
    worker.kill()
