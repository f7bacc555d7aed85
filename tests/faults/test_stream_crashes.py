"""The streams worker under kill -9 and SIGSTOP: the final outputs are those of one uninterrupted run."""

import random
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pulsestream.local.kafka import EmbeddedKafka
from schemas.records import Alert, Tick
from tests.support.e2e import Service, eventually
from tests.support.rounds import Rounds
from tests.support.streaming import (
    PRICE_RULES,
    Feeding,
    Streams,
    assert_alerts_are,
    assert_stats_are,
    engine_run,
    make_tick,
    market,
    streams_on,
)

FOLLOWS = {
    "inactive": {"pending"},
    "pending": {"firing", "inactive"},
    "firing": {"resolved"},
    "resolved": {"pending"},
}


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        made.prepare()
        made.put_feed(made.exchange, "disconnected")  # the clock stands still: records alone decide
        for name, definition in PRICE_RULES.items():
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


@pytest.mark.heavy
@pytest.mark.timeout(1800)  # many rounds with --thorough
def test_a_worker_killed_again_and_again_leaves_the_outputs_of_one_uninterrupted_run(
    streams: Streams, rounds: Rounds
) -> None:
    chance = random.Random(1)
    worker = streams.start()

    with Feeding(streams, market(2, 60_000, products=6, exchange=streams.exchange), per_second=400) as feeding:
        for _ in range(rounds(3, 12)):
            kill_after(worker, chance.randrange(50, 1500))
            worker = streams.launch()
        feeding.enough()

    assert_as_uninterrupted(streams)
    assert worker.stop() == 0


def jumping_prices(exchange: str, count: int) -> Iterator[Tick]:
    """Prices that jump above and below the thresholds, each of the moment it is asked for."""
    chance = random.Random(6)
    for number in range(1, count + 1):
        product = f"P{chance.randrange(20)}-USD"
        at = time.time_ns() // 1000
        yield make_tick(exchange, product, number, chance.choice((100.0, 101.5, 103.0)), at=at)


def kill_after(worker: Service, records: int) -> None:
    """Kill a worker once it has folded so many records, wherever it is then in a batch or a checkpoint."""
    worker.wait_ready()
    while worker.metric("pulsestream_stream_records_total") < records:
        worker.assert_alive()
        time.sleep(0.01)
    worker.kill()


@pytest.mark.timeout(1800)  # many rounds with --thorough
def test_a_stopped_worker_that_wakes_after_its_successor_took_over_changes_nothing(
    streams: Streams, rounds: Rounds
) -> None:
    worker = streams.start()

    with Feeding(streams, market(3, 90_000, products=6, exchange=streams.exchange), per_second=600) as feeding:
        for _ in range(rounds(1, 5)):
            zombie = worker
            wait_folded(zombie, 1_000)
            signal_to(zombie, signal.SIGSTOP)
            worker = streams.launch()
            wait_folded(worker, 2_000)
            signal_to(zombie, signal.SIGCONT)

            assert zombie.running is not None
            assert zombie.running.wait(60) == 1
            assert_fenced(zombie)
        feeding.enough()
    assert_as_uninterrupted(streams)
    worker.assert_alive()


def assert_fenced(zombie: Service) -> None:
    """Assert that it ended over its state partition: refused, or with a checkpoint that its own clock gave up."""
    said = zombie.log.read_text()
    given_up = "timed out on ps._state." in said or "cannot commit ps._state." in said
    assert "another worker has taken" in said or given_up, said[-2_000:]


def test_a_worker_that_was_stopped_for_a_moment_goes_on(streams: Streams) -> None:
    ticks = market(4, 30_000, products=6, exchange=streams.exchange)
    worker = streams.start()

    with Feeding(streams, ticks, per_second=800) as feeding:
        wait_folded(worker, 1_000)
        signal_to(worker, signal.SIGSTOP)
        time.sleep(3)  # long enough to be noticed, shorter than the group's session
        signal_to(worker, signal.SIGCONT)
        wait_folded(worker, 5_000)
        feeding.enough()

    assert_as_uninterrupted(streams)
    worker.assert_alive()
    assert "asking whether the partition is still ours" in worker.log.read_text()


@pytest.mark.heavy
def test_what_the_clock_decides_about_alerts_is_decided_once_whatever_is_killed(
    streams: Streams, rounds: Rounds
) -> None:
    chance = random.Random(5)
    rule = {"name": "soon", "product": "*", "condition": {"type": "price", "above": 102, "clear": 101}, "for": "300ms"}
    streams.put_rule(f"{streams.tenant}-soon", {**rule, "keep_firing_for": "400ms"})
    streams.put_feed(streams.exchange, "connected")
    worker = streams.start()

    with Feeding(streams, jumping_prices(streams.exchange, 9_000), per_second=20) as feeding:
        for _ in range(rounds(3, 15)):
            time.sleep(chance.uniform(1.0, 3.0))  # a crash comes at any moment of a decision, its checkpoint, its send
            worker.kill()
            worker = streams.start()
            streams.put_feed(streams.exchange, "connected")  # a living feed goes on saying so
        feeding.enough()
    calm = time.time_ns() // 1000 + 5_000_000  # past whatever the clock decides before it arrives: that would come late
    streams.send([make_tick(streams.exchange, f"P{number}-USD", 10_000, 100.0, at=calm) for number in range(20)])

    def assert_resolved_by_a_living_feed() -> None:
        streams.put_feed(streams.exchange, "connected")  # a worker that has just taken over hears nothing else of it
        assert_resolved(soon(streams))

    eventually(assert_resolved_by_a_living_feed, every=1.0)
    alerts = soon(streams)
    assert len({alert.alert_id for alert in alerts if alert.state == "firing"}) > 20
    assert_consistent(alerts)


def soon(streams: Streams) -> list[Alert]:
    """Return the alerts of the rule whose every step the clock decides."""
    return [alert for alert in streams.alerts() if alert.rule_name == "soon"]


def assert_resolved(alerts: list[Alert]) -> None:
    """Each machine has said its last word: the last price is below the thresholds."""
    newest = {alert.product: alert for alert in sorted(alerts, key=lambda each: each.seq)}
    assert {alert.state for alert in newest.values()} <= {"resolved", "inactive"}


def assert_consistent(alerts: list[Alert]) -> None:
    """Each id has one content, and each machine's numbers count up through states that may follow each other."""
    once: dict[str, Alert] = {}
    for alert in alerts:
        assert once.setdefault(alert.alert_id, alert) == alert
    machines: dict[tuple[str, str], list[Alert]] = {}
    for alert in once.values():
        machines.setdefault((alert.rule_id, alert.product), []).append(alert)
    for own in machines.values():
        numbered = sorted(own, key=lambda alert: alert.seq)
        assert [alert.seq for alert in numbered] == list(range(1, len(numbered) + 1))
        for first, second in pairwise(numbered):
            assert second.state in FOLLOWS[first.state]
            assert second.at >= first.at


def signal_to(worker: Service, number: signal.Signals) -> None:
    assert worker.running is not None
    worker.running.send_signal(number)


def wait_folded(worker: Service, records: int) -> None:
    worker.wait_ready()
    while worker.metric("pulsestream_stream_records_total") < records:
        worker.assert_alive()
        time.sleep(0.02)
