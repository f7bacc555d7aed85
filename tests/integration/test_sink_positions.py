"""Where the sink goes on: new topics, topics made again, retention, and several sinks in one group."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin, BrokerError, client_config
from pulsestream.core.metrics import REGISTRY
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Tick
from sinks.database import Database, Settle, Stored
from sinks.errors import ForsakenError
from sinks.plan import Batch, moves
from sinks.source import Limits, Source
from sinks.taken import Taken
from sinks.writer import Sink
from tests.support.sinking import Load, Scene, event, running_sink, stopped, tick, wait_until


@pytest.fixture
def scene(service_settings: Callable[..., Settings], database: Any, tenant: str) -> Iterator[Scene]:
    settings = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    made = Scene(tenant, service_settings("admin"), settings, database.url())
    yield made
    made.delete_topics()


def test_a_new_tenants_topic_is_stored_within_seconds(scene: Scene) -> None:
    with running_sink(scene.settings) as sink:
        wait_until(lambda: not sink.readiness.problems())

        scene.make("dlq", "ticks")
        scene.send("ticks", [tick(1)])

        wait_until(lambda: scene.count("ticks") == 1, timeout=30)


def test_a_stopped_sink_goes_on_where_it_stopped(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(10)])
    with running_sink(scene.settings):
        scene.wait_stored("ticks", 10)
    scene.rows("DELETE FROM ticks RETURNING 1")

    scene.send("ticks", [tick(number) for number in range(10, 15)])
    with running_sink(scene.settings):
        scene.wait_stored("ticks", 15)

    assert scene.count("ticks") == 5, "records from before the stop were read again"


def test_another_group_goes_on_from_the_database_too(
    scene: Scene, service_settings: Callable[..., Settings], tenant: str
) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(10)])
    with running_sink(scene.settings):
        scene.wait_stored("ticks", 10)
    scene.rows("DELETE FROM ticks RETURNING 1")

    scene.send("ticks", [tick(number) for number in range(10, 15)])
    with running_sink(service_settings("sink", sink_group=f"ps-sink-other-{tenant}")):
        scene.wait_stored("ticks", 15)

    assert scene.count("ticks") == 5


@pytest.mark.parametrize("running", [True, False], ids=["under a running sink", "while no sink runs"])
@pytest.mark.parametrize("records", [5, 40], ids=["shorter than before", "longer than before"])
def test_a_topic_made_again_starts_at_its_beginning(scene: Scene, *, running: bool, records: int) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(20)], partition=0)

    with ExitStack() as stack:
        if running:
            stack.enter_context(running_sink(scene.settings))
            scene.wait_stored("ticks", 20)
        else:
            with running_sink(scene.settings):
                scene.wait_stored("ticks", 20)
        _make_again(scene)
        scene.send("ticks", [tick(1000 + number) for number in range(records)], partition=0)
        if not running:
            stack.enter_context(running_sink(scene.settings))
        wait_until(lambda: scene.count("ticks") == 20 + records, what="rows of both lives")

    lives = scene.rows("SELECT count(DISTINCT topic_id) FROM sink_offsets WHERE topic = %s", scene.topic("ticks"))
    assert lives == [(2,)]
    assert scene.rows("SELECT count(*) FROM sink_gaps") == [(0,)]


def _make_again(scene: Scene) -> None:
    admin = Admin(scene.admin)
    admin.delete([scene.topic("ticks")])
    wait_until(lambda: scene.topic("ticks") not in admin.topics(), what="topic gone")
    scene.make("ticks")


def test_a_deleted_topic_leaves_the_sink_running_and_ready(scene: Scene) -> None:
    scene.make("dlq", "ticks", "alerts")
    scene.send("ticks", [tick(number) for number in range(20)])
    with running_sink(scene.settings) as sink:
        scene.wait_stored("ticks", 20)

        Admin(scene.admin).delete([scene.topic("ticks")])

        wait_until(lambda: all(topic != scene.topic("ticks") for topic, _ in sink._source.positions), what="dropped")
        wait_until(lambda: not sink.readiness.problems(), what="ready again")


def test_the_groups_offsets_show_what_the_database_holds(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(10)], partition=2)
    with running_sink(scene.settings):
        scene.wait_stored("ticks", 10)

    consumer = Consumer(client_config(scene.admin, "test") | {"group.id": scene.settings.sink_group})
    (committed,) = consumer.committed([TopicPartition(scene.topic("ticks"), 2)], timeout=10)
    consumer.close()
    assert committed.offset == 10


def test_two_sinks_in_a_group_share_the_partitions_and_double_nothing(scene: Scene) -> None:
    def make(number: int) -> list[tuple[str, str, bytes | None]]:
        return [("ticks", str(number), codec(Tick).encode(tick(number)))]

    scene.make("dlq", "ticks")
    fenced = REGISTRY.get_sample_value("pulsestream_sink_fenced_total")
    with running_sink(scene.settings) as first, Load(scene, make, rate=200) as load:
        wait_until(lambda: sum(topic == scene.topic("ticks") for topic, _ in first._source.positions) == 3)
        with running_sink(scene.settings) as second:
            wait_until(lambda: second._source.positions and first._source.positions, what="both have partitions")
        wait_until(lambda: sum(topic == scene.topic("ticks") for topic, _ in first._source.positions) == 3)
    with running_sink(scene.settings):
        scene.wait_stored("ticks", load.numbers)

    assert scene.count("ticks") == load.numbers
    assert REGISTRY.get_sample_value("pulsestream_sink_fenced_total") == fenced, "a partition was given up in mid-air"


def test_partitions_are_given_up_only_when_what_is_on_its_way_has_ended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    real = Database.store
    fenced = REGISTRY.get_sample_value("pulsestream_sink_fenced_total")

    def send(first: int) -> None:
        for number in range(3):
            scene.send("ticks", [tick(each, f"P{number}") for each in range(first, first + 10)], partition=number)

    def slow(self: Database, batch: Batch, settle: Settle) -> Stored:
        if self is sink._database:
            entered.set()
            go_on.wait(30)
        return real(self, batch, settle)

    scene.make("ticks")  # no other topic, so that one of its partitions goes
    with running_sink(scene.settings) as sink:
        send(0)
        scene.wait_stored("ticks", 30)
        monkeypatch.setattr(Database, "store", slow)
        send(10)
        assert entered.wait(30), "no batch is on its way"
        with running_sink(scene.settings) as second:
            with suppress(AssertionError):
                wait_until(lambda: second._source.positions, timeout=6)
            given_up = set(second._source.positions)
            go_on.set()
            wait_until(lambda: second._source.positions and sink._source.positions, what="both have partitions")
            send(20)
            scene.wait_stored("ticks", 90)

    assert not {where for where in given_up if where[0] == scene.topic("ticks")}
    assert scene.count("ticks") == 90
    assert REGISTRY.get_sample_value("pulsestream_sink_fenced_total") == fenced


def test_the_next_batch_is_taken_while_one_is_stored_and_a_failure_drops_both_to_read_them_again(scene: Scene) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(10)], partition=0)
    where = [TopicPartition(scene.topic("ticks"), 0)]

    with running_sink(scene.settings) as sink, psycopg.connect(scene.url) as other:
        scene.wait_stored("ticks", 10)
        other.execute("SELECT 1 FROM sink_offsets FOR UPDATE")
        scene.send("ticks", [tick(number) for number in range(10, 110)], partition=0)
        wait_until(lambda: scene.rows(WAITING), what="a batch waits for its position")
        scene.send("ticks", [tick(number) for number in range(110, 210)], partition=0)
        wait_until(lambda: sink._source._consumer.position(where)[0].offset == 210, timeout=4, what="the next one")
        stored = scene.stored("ticks")
        scene.rows(f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting (pid)")
        wait_until(lambda: "storage" in sink.readiness.problems(), what="the sink notices")
        other.rollback()
        scene.wait_stored("ticks", 210)

    assert stored == 10
    ids = scene.rows("SELECT event_id FROM ticks WHERE tenant = %s", scene.tenant)
    assert sorted(ids) == sorted((tick(number).event_id,) for number in range(210))


WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'pulsestream-sink'"
    " AND datname = current_database() AND wait_event_type = 'Lock'"
)


def test_a_batch_is_as_large_as_its_limits_allow_and_no_larger(scene: Scene) -> None:
    scene.make("events")
    records = [event(number, data=json.dumps("x" * 9000)) for number in range(300)]
    scene.send("events", records, partition=1)
    source = Source(scene.settings, lambda places: dict.fromkeys(places, 0), lambda: None)

    def take(limits: Limits) -> list[Taken]:
        taken: list[Taken] = []
        wait_until(lambda: taken.extend(source.take(limits, 0.5, lambda: False)) or taken, what="a batch")
        source.advance(moves(taken, source.positions))
        return taken

    try:
        by_size = take(Limits(1000, 90_000))
        by_count = take(Limits(50, 10_000_000))
    finally:
        source.close()

    [large], [many] = by_size, by_count
    octets = [len(value or b"") for value in large.values]
    assert sum(octets[:-1]) < 90_000 <= sum(octets)
    assert len(many) == 50
    assert [*large.offsets, *many.offsets] == list(range(len(large) + 50))


@pytest.mark.heavy
def test_a_client_that_the_group_dropped_and_that_does_not_come_back_is_given_up(
    scene: Scene, broker: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.source.RETURN", 0.2)  # shorter than it takes to come back
    scene.make("events")
    source = Source(scene.settings, lambda places: dict.fromkeys(places, 0), lambda: None)

    def poll() -> bool:
        source.take(Limits(10, 1000), 0.05, lambda: True)
        return source.joined

    def poll_and_settle() -> bool:
        source.settle()
        return not poll()

    try:
        wait_until(poll, what="an assignment")
        source.settle()
        with stopped(broker):
            end = time.monotonic() + 8  # longer than a session
            while time.monotonic() < end:
                poll()
        with pytest.raises(ForsakenError):
            wait_until(poll_and_settle, what="the end")
    finally:
        source.close()


def test_what_a_resting_sink_threw_away_is_read_again(scene: Scene) -> None:
    scene.make("ticks")
    scene.send("ticks", [tick(1)])
    sink = Sink(scene.settings, wall_clock)

    def until(done: Callable[[], bool], act: Callable[[], None], what: str) -> None:
        def step() -> bool:
            act()
            return done()

        wait_until(step, 60, what)

    def read_on() -> int:
        where = [TopicPartition(scene.topic("ticks"), number) for number in range(scene.settings.partitions)]
        return sum(max(position.offset, 0) for position in sink._source._consumer.position(where))

    try:
        until(lambda: scene.stored("ticks") == 1, sink._turn, "the first tick is stored")
        sink._rest(BrokerError("dead letters were not acknowledged"))
        sink._source.settle()  # what a rebalance does in the meantime
        scene.send("ticks", [tick(2), tick(3)])
        until(lambda: read_on() == 3, lambda: sink._source.rest(0.1), "the resting sink threw both away")
        sink._try_at = 0.0
        until(lambda: scene.stored("ticks") == 3, sink._turn, "what was thrown away is stored")
    finally:
        sink.close()

    assert scene.count("ticks") == 3
