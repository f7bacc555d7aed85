"""The sink and a broker of its own: away and back, a wrong password, a group that is not its own."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import platform_topic_specs
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Tick
from sinks.errors import GroupRefusedError
from sinks.writer import Sink
from tests.support.sinking import Scene, running_sink, stopped, tick, wait_until


@pytest.fixture
def own_broker() -> Iterator[EmbeddedKafka]:
    home = Path(tempfile.mkdtemp(prefix="pulsestream-kafka-"))
    kafka = EmbeddedKafka(home)
    try:
        kafka.start()
        Admin(kafka.settings()).create(platform_topic_specs(kafka.settings()))
        yield kafka
    finally:
        kafka.stop()
        shutil.rmtree(home)


@pytest.fixture
def scene(own_broker: EmbeddedKafka, database: Any, tenant: str) -> Scene:
    url = SecretStr(database.url("ps_sink"))
    settings = own_broker.settings("ps-sink").model_copy(update={"database_url": url})
    return Scene(tenant, own_broker.settings(), settings, database.url())


@pytest.mark.heavy
def test_a_sink_goes_on_when_the_broker_is_back_and_keeps_its_session_with_the_database_meanwhile(
    scene: Scene, own_broker: EmbeddedKafka
) -> None:
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(100)])

    with running_sink(scene.settings) as sink:
        scene.wait_stored("ticks", 100)
        before = sessions(scene)
        own_broker.kill()
        wait_until(lambda: "broker" in sink.readiness.problems(), timeout=60, what="the sink notices")
        wait_until(lambda: sink._resting, timeout=60, what="the sink rests")
        own_broker.start()
        scene.send("ticks", [tick(number) for number in range(100, 200)])
        scene.send_bytes("ticks", b"noise")
        scene.wait_stored("ticks", 201, timeout=90)
        wait_until(lambda: not sink.readiness.problems(), timeout=60, what="ready again")
        after = sessions(scene)

    assert len(before) == 1
    assert after == before
    assert scene.count("ticks") == 200
    assert [letter.value for letter in scene.dead_letters(1)] == [b"noise"]


def sessions(scene: Scene) -> list[tuple[int]]:
    return scene.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'pulsestream-sink' AND datname = current_database()"
    )


@pytest.mark.heavy
def test_nothing_of_a_batch_is_stored_before_its_dead_letters_are_acknowledged(
    scene: Scene, own_broker: EmbeddedKafka
) -> None:
    in_hand, go_on = threading.Event(), threading.Event()

    def clock() -> int:
        in_hand.set()
        go_on.wait(60)
        return wall_clock()

    scene.make("dlq", "ticks")
    scene.send_bytes("ticks", codec(Tick).encode(tick(1)), b"noise")

    with running_sink(scene.settings, clock=clock) as sink:
        assert in_hand.wait(30), "the sink took no batch"
        with stopped(own_broker):
            go_on.set()
            wait_until(lambda: "dead letters" in (sink.readiness.problems().get("storage") or ""), timeout=60)
            held = (scene.count("ticks"), scene.stored("ticks"))
        scene.wait_stored("ticks", 2, timeout=60)

    assert held == (0, 0)
    assert scene.count("ticks") == 1
    assert {letter.value for letter in scene.dead_letters(1)} == {b"noise"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kafka_password": SecretStr("guess")}, "user"),
        ({"sink_group": "somebody-elses"}, "GROUP_AUTHORIZATION_FAILED"),
    ],
)
def test_a_sink_that_the_broker_refuses_ends_and_says_why(
    service_settings: Callable[..., Settings], wrong: dict[str, Any], said: str
) -> None:
    sink = Sink(service_settings("sink", **wrong), wall_clock)

    with pytest.raises(GroupRefusedError, match=said):
        sink.run(lambda: False)
