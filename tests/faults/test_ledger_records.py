"""Records and topics that are not as they should be: poison, duplicates, disorder, and topics that change.

By the ledger, what a sender was promised holds, or what is missing is told of.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import TopicPartition

from pulsestream.core.kafka import Admin
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.records import Record
from sinks import writer
from tests.support.e2e import Service, eventually
from tests.support.ledger import Ledger, assert_kept
from tests.support.poison import poisoned
from tests.support.rounds import Rounds
from tests.support.sinking import (
    Load,
    Scene,
    encoded,
    event,
    held,
    running_sink,
    send,
    tick,
    wait_until,
)
from tests.support.streaming import assert_stats_are, engine_run, market, streams_on


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}", sink_batch=500, sink_topic_refresh=1.0)
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    yield made
    made.delete_topics()


def put(
    scene: Scene, ledger: Ledger, dataset: str, records: Sequence[tuple[str, bytes | None]], names: Sequence[str]
) -> None:
    """Send records, all to partition 0, and write them into the ledger under these names."""
    topic = scene.topic(dataset)
    for (key, _), name in zip(records, names, strict=True):
        ledger.send(name, key)
    for (partition, offset), name in zip(send(scene.admin, topic, records, partition=0), names, strict=True):
        ledger.accept(name, (topic, partition, offset))


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0], ids=["1 %", "10 %", "100 %"])
def test_of_poisoned_records_each_bad_one_is_a_dead_letter_and_each_good_one_a_row(
    scene: Scene, share: float, rounds: Rounds
) -> None:
    ticks = [tick(number) for number in range(rounds(2_000, 20_000))]
    records = list(poisoned(ticks, share, seed=5))
    names = [one.event_id if sound else f"bad {one.event_id}" for one, (_, sound) in zip(ticks, records, strict=True)]
    ledger = Ledger()
    scene.make("dlq", "ticks")
    put(scene, ledger, "ticks", [(key, value) for (key, value, _), _ in records], names)

    with running_sink(scene.settings):
        scene.wait_stored("ticks", len(ticks), timeout=120)

    found = held(scene, ledger)
    assert_kept(ledger, found)
    assert found.rows.keys() == {one.event_id for one, (_, sound) in zip(ticks, records, strict=True) if sound}
    letters = {letter.offset: letter.value for letter in scene.dead_letters(len(found.letters))}
    assert letters == {number: value for number, ((_, value, _), sound) in enumerate(records) if not sound}


def test_what_comes_twice_and_in_any_order_is_stored_once(scene: Scene, rounds: Rounds) -> None:
    """As after a producer's restart, a backfill beside live records, and clients that send again."""
    dice = random.Random(11)
    count = rounds(1_500, 20_000)
    ledger = Ledger()
    scene.make("dlq", "ticks", "events")
    with running_sink(scene.settings), running_sink(scene.settings):
        for dataset, make in (("ticks", tick), ("events", event)):
            records = delivered(dice, [make(number) for number in range(count)])
            names = [record.event_id for record in records]  # type: ignore[attr-defined] # both have one
            put(scene, ledger, dataset, encoded(records), names)
            scene.send(dataset, dice.sample(records, count))  # and again, elsewhere
        for dataset in ("ticks", "events"):
            scene.wait_stored(dataset, 3 * count, timeout=120)

    found = held(scene, ledger)
    assert_kept(ledger, dataclasses.replace(found, places={}))  # which copy is stored is a matter of chance
    assert len(found.rows) == 2 * count
    assert not found.letters


def delivered(dice: random.Random, records: Sequence[Record]) -> list[Record]:
    """Return records as a network might bring them: each once or more, up to 50 places from where it belongs."""
    more = [*records, *dice.choices(records, k=len(records))]
    numbered = sorted(enumerate(more), key=lambda each: each[0] % len(records) + dice.uniform(0, 50))
    return [record for _, record in numbered]


def test_partitions_that_an_events_topic_gains_under_load_are_stored_too(scene: Scene) -> None:
    def make(number: int) -> list[tuple[str, str, bytes | None]]:
        ((key, value),) = encoded([event(number, product=f"P{number % 31}")])
        return [("events", key, value)]

    scene.make("dlq", "events")
    topic = scene.topic("events")
    with running_sink(scene.settings) as sink:
        with Load(scene, make, rate=300) as load:
            scene.wait_stored("events", 200)
            assert Admin(scene.admin).grow(topic, 6)
            wait_until(lambda: sum(where[0] == topic for where in sink._source.positions) == 6, what="all six are read")
        with Load(scene, lambda number: make(1_000_000 + number), rate=300, ledger=load.ledger) as later:
            wait_until(lambda: later.sent["events"] > 200)
        scene.wait_stored("events", load.sent["events"] + later.sent["events"])

    used = {partition for (_, partition, _) in load.ledger.placed}
    assert used > {0, 1, 2}, "nothing went to a partition that was added"
    assert_kept(load.ledger, held(scene, load.ledger))


def test_a_topic_deleted_and_made_again_keeps_what_was_stored_and_takes_what_comes(scene: Scene) -> None:
    def life(first: int) -> Load:
        return Load(scene, lambda number: [("events", *encoded([event(first + number)])[0])], rate=400, ledger=ledger)

    ledger = Ledger()
    admin, topic = Admin(scene.admin), scene.topic("events")
    scene.make("dlq")
    with running_sink(scene.settings):
        for first in (0, 1_000_000, 2_000_000):
            scene.make("events")
            with life(first) as load:
                wait_until(lambda load=load: load.sent["events"] > 200)
            wait_until(lambda: scene.count("events") == len(ledger.entries), what="all of this life")
            admin.delete([topic])
            wait_until(lambda: topic not in admin.topics(), what="topic gone")

    assert_kept(ledger, held(scene, ledger))
    assert scene.rows("SELECT count(*) FROM sink_gaps") == [(0,)]


@pytest.mark.parametrize(
    "running",
    [pytest.param(False, id="stopped"), pytest.param(True, id="waiting for the database", marks=pytest.mark.heavy)],
)
def test_what_retention_takes_is_told_of_and_nothing_else_is_missing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    def send_more(*, first: int, count: int) -> None:
        records = [tick(number) for number in range(first, first + count)]
        put(scene, ledger, "ticks", encoded(records), [record.event_id for record in records])

    monkeypatch.setattr(writer, "FIRST_BACKOFF", 20.0)  # it rests for half of that at least
    ledger = Ledger()
    scene.make("dlq", "ticks")
    gaps = REGISTRY.get_sample_value("pulsestream_sink_retention_gaps_total") or 0.0
    send_more(first=0, count=10)
    with running_sink(scene.settings) as sink:
        scene.wait_stored("ticks", 10)
        if running:
            with psycopg.connect(scene.url) as connection:
                connection.execute("LOCK TABLE ticks")
                send_more(first=10, count=20)
                wait_until(lambda: sink._resting, what="the sink rests, and has dropped what it had taken")
                remove_before(scene, 25)
            scene.wait_stored("ticks", 30)
    if not running:
        send_more(first=10, count=20)
        remove_before(scene, 25)
        with running_sink(scene.settings):
            scene.wait_stored("ticks", 30)

    found = held(scene, ledger)
    assert_kept(ledger, found)
    recorded = scene.rows("SELECT topic, partition, to_offset, cause FROM sink_gaps")
    assert recorded == [(scene.topic("ticks"), 0, 25, "retention")]
    assert REGISTRY.get_sample_value("pulsestream_sink_retention_gaps_total") == gaps + 1
    assert found.told == {tick(number).event_id for number in range(10, 25)}


def remove_before(scene: Scene, offset: int) -> None:
    """Remove the oldest records of partition 0, as retention does."""
    admin = Admin(scene.admin)  # its futures are never done once it is collected
    for future in admin.client.delete_records([TopicPartition(scene.topic("ticks"), 0, offset)]).values():
        future.result(10)


def test_a_tick_topic_that_gains_partitions_under_load_is_refused_for_its_tenant_alone(
    broker: EmbeddedKafka, tmp_path: Path, tenant: str
) -> None:
    with streams_on(broker, tmp_path, tenant) as streams:
        grown = f"{tenant}g"
        for each in (tenant, grown):
            streams.prepare(tenant=each)
        streams.put_feed(streams.exchange, "disconnected")
        worker = streams.start()
        ticks = market(17, 2_000, exchange=streams.exchange)
        for each in (tenant, grown):
            streams.send(ticks[:1_000], tenant=each)
        eventually(lambda: assert_stats_are(streams.stats(grown), engine_run(streams.ticks(grown))))

        assert Admin(streams.admin).grow(tenant_topic(grown, "ticks"), streams.admin.partitions + 1)
        for each in (tenant, grown):
            streams.send(ticks[1_000:1_500], tenant=each)
        eventually(lambda: assert_refused(worker, tenant_topic(grown, "ticks")), timeout=120)
        for each in (tenant, grown):
            streams.send(ticks[1_500:], tenant=each)
        expected = engine_run(streams.ticks())

        eventually(lambda: assert_stats_are(streams.stats(), expected), timeout=120)
        worker.assert_alive()


def assert_refused(worker: Service, topic: str) -> None:
    """The topic is counted and named, and the worker is ready for everybody else."""
    assert worker.metric("pulsestream_stream_refused_topics") == 1
    answer = httpx.get(f"http://127.0.0.1:{worker.ops_port}/readyz", timeout=5, trust_env=False)
    assert answer.status_code == httpx.codes.OK
    assert f"1 topics refused, they need 3 partitions: {topic} has 4" in answer.json()["details"]["topics"]
