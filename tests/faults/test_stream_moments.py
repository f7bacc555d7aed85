"""The streams worker killed at the worst moments, each hit exactly: what is left equals the oracle's.

Between the outputs and their checkpoint the outputs are sent twice, with the same ids; within a checkpoint none of it
shows; between a checkpoint and the acknowledgement of its batches nothing is folded twice.
"""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.accounts import assert_every_offset_accounted_for, assert_true, truth_of
from tests.support.dying_worker import MOMENTS
from tests.support.e2e import Service, eventually
from tests.support.rounds import Rounds
from tests.support.streaming import PRICE_RULES, Feeding, Streams, market, streams_on


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        made.prepare()
        made.put_feed(made.exchange, "disconnected")  # the clock stands still: records alone decide
        for name, definition in PRICE_RULES.items():
            made.put_rule(f"{tenant}-{name}", definition)
        yield made


@pytest.mark.timeout(1800)  # many rounds with --thorough
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_killed_at_the_worst_moment_leaves_what_the_oracle_says(
    streams: Streams, rounds: Rounds, moment: str
) -> None:
    chance = random.Random(moment)

    with Feeding(streams, market(21, 60_000, products=6, exchange=streams.exchange), per_second=400) as feeding:
        for _ in range(rounds(1, 8)):
            wait_killed(streams.launch_dying(moment, chance.randrange(2, 9)))
        feeding.enough()
    worker = streams.start()

    truth = truth_of(streams)
    eventually(lambda: assert_true(streams, truth), timeout=60, every=1.0)
    eventually(lambda: assert_every_offset_accounted_for(streams, "ticks"))
    assert worker.stop() == 0


def wait_killed(worker: Service) -> None:
    assert worker.running is not None
    assert worker.running.wait(60) == -signal.SIGKILL, worker.log.read_text()
