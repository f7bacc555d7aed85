"""The streams while workers come and go all the time, and while the broker dies again and again, under load."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.accounts import assert_every_offset_accounted_for, assert_true, truth_of
from tests.support.e2e import Service, eventually
from tests.support.rounds import Rounds
from tests.support.streaming import Feeding, Streams, market, streams_on

pytestmark = pytest.mark.heavy
RULES = {
    "level": {"name": "level", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"},
    "change": {"name": "change", "product": "*", "condition": {"type": "change", "window": "1m", "above_pct": 0.5}},
}


def prepared(streams: Streams) -> Streams:
    streams.prepare()
    streams.put_feed(streams.exchange, "disconnected")  # the clock stands still: records alone decide
    for name, definition in RULES.items():
        streams.put_rule(f"{streams.tenant}-{name}", definition)
    return streams


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        yield prepared(made)


@pytest.fixture
def fragile(tmp_path: Path, tenant: str) -> Iterator[Streams]:
    """Streams on a broker of their own."""
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.start()
    try:
        Admin(kafka.settings()).create(platform_topic_specs(kafka.settings()))
        with streams_on(kafka, tmp_path, tenant) as made:
            yield prepared(made)
    finally:
        kafka.kill()


@pytest.mark.timeout(1800)  # many rounds with --thorough
def test_workers_that_come_and_go_all_the_time_lose_and_double_nothing(streams: Streams, rounds: Rounds) -> None:
    chance = random.Random(61)
    guests: list[Service] = []
    steady = streams.start()

    with Feeding(streams, market(61, 90_000, products=6, exchange=streams.exchange), per_second=400) as feeding:
        for _ in range(rounds(4, 20)):
            guests.append(streams.launch())
            time.sleep(chance.uniform(1.0, 2.0))  # a rebalance is met at any moment of the one before it
            if len(guests) > 1:
                leave(guests.pop(0), chance)
        for guest in guests:
            leave(guest, chance)
        feeding.enough()

    truth = truth_of(streams)
    eventually(lambda: assert_true(streams, truth), timeout=90, every=1.0)
    eventually(lambda: assert_every_offset_accounted_for(streams, "ticks"))
    steady.assert_alive()


def leave(worker: Service, chance: random.Random) -> None:
    """End a worker, by a signal that it may answer or as kill -9 does."""
    assert worker.running is not None
    if chance.random() < 0.5:
        worker.kill()
    else:
        assert worker.stop() in {0, -signal.SIGTERM}  # it may not even have begun to listen


@pytest.mark.timeout(1800)  # many rounds with --thorough
def test_a_broker_killed_again_and_again_under_load_leaves_the_oracles_outputs(
    fragile: Streams, rounds: Rounds
) -> None:
    chance = random.Random(62)
    worker = fragile.start()

    with Feeding(fragile, market(62, 90_000, products=6, exchange=fragile.exchange), per_second=400) as feeding:
        for _ in range(rounds(1, 5)):
            wait_more(fragile, counted(fragile) + 50)
            time.sleep(chance.uniform(0.0, 1.0))  # wherever a batch or a checkpoint is then
            fragile.broker.kill()
            fragile.broker.start()
            worker = supervised(fragile, worker)
        feeding.enough()

    truth = truth_of(fragile)

    def complete() -> None:
        supervised(fragile, fragile.workers[-1])
        assert_true(fragile, truth)

    eventually(complete, timeout=120, every=1.0)
    eventually(lambda: assert_every_offset_accounted_for(fragile, "ticks"))


def supervised(streams: Streams, worker: Service) -> Service:
    """Start a worker anew where it has ended, as a supervisor does."""
    if worker.running is not None and worker.running.poll() is None:
        return worker
    return streams.launch()


def counted(streams: Streams) -> int:
    return len(streams.stats())


def wait_more(streams: Streams, statistics: int) -> None:
    """Wait until so many statistics are on the topic."""

    def more() -> None:
        supervised(streams, streams.workers[-1])
        assert counted(streams) >= statistics

    eventually(more, timeout=60)
