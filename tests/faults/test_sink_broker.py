"""The sink and a broker of its own: away and back, a wrong password, a group that is not its own."""

import shutil
import tempfile
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
from sinks.errors import GroupRefusedError
from sinks.writer import Sink
from tests.support.sinking import Scene, running_sink, tick, wait_until


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


def test_a_sink_goes_on_when_the_broker_is_back(own_broker: EmbeddedKafka, database: Any, tenant: str) -> None:
    url = SecretStr(database.url("ps_sink"))
    settings = own_broker.settings("ps-sink").model_copy(update={"database_url": url})
    scene = Scene(tenant, own_broker.settings(), settings, database.url())
    scene.make("dlq", "ticks")
    scene.send("ticks", [tick(number) for number in range(100)])

    with running_sink(settings) as sink:
        scene.wait_stored("ticks", 100)
        own_broker.kill()
        wait_until(lambda: "broker" in sink.readiness.problems(), timeout=60, what="the sink notices")
        own_broker.start()
        scene.send("ticks", [tick(number) for number in range(100, 200)])
        scene.send_bytes("ticks", b"noise")
        scene.wait_stored("ticks", 201, timeout=90)
        wait_until(lambda: not sink.readiness.problems(), timeout=60, what="ready again")

    assert scene.count("ticks") == 200
    assert [letter.value for letter in scene.dead_letters(1)] == [b"noise"]


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
