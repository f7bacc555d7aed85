"""The embedded broker: users, rights, and what happens when it or its owner ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaException, Producer
from pydantic import SecretStr

from pulsestream.core.kafka import Admin, BrokerError, CompactedReader, TopicSpec, producer_config
from pulsestream.core.settings import Settings
from pulsestream.core.topics import TENANTS
from pulsestream.local.errors import HomeBusyError
from pulsestream.local.kafka import EmbeddedKafka, ensure_acls
from tests.support.e2e import eventually


def _produce(settings: Settings, topic: str) -> str | None:
    outcome: list[str | None] = []
    producer = Producer(producer_config(settings, settings.kafka_username) | {"message.timeout.ms": 10_000})
    producer.produce(topic, b"value", b"key", on_delivery=lambda error, _: outcome.append(error and error.name()))
    producer.flush(15)
    return outcome[0]


def test_each_service_may_write_a_tenants_topic(
    broker: EmbeddedKafka, tenant: str, make_topics: Callable[..., list[str]]
) -> None:
    (topic,) = make_topics(tenant, "ticks")

    outcomes = {user: _produce(broker.settings(user), topic) for user in ("ps-producer", "ps-stream", "ps-api")}

    assert outcomes == {"ps-producer": None, "ps-stream": None, "ps-api": None}


def test_only_the_relay_may_create_topics(broker: EmbeddedKafka) -> None:
    refused = {}
    for user in ("ps-producer", "ps-stream", "ps-sink", "ps-api"):
        with pytest.raises(BrokerError, match=r"AUTHORIZATION|authoriz") as caught:
            Admin(broker.settings(user)).create([_spec(f"ps.{user}.ticks.v1")])
        refused[user] = caught.value
    created = Admin(broker.settings("ps-relay")).create([_spec("ps.made-by-relay.ticks.v1")])

    assert len(refused) == 4
    assert created == ["ps.made-by-relay.ticks.v1"]


def test_a_service_reads_control_topics_without_a_group(broker: EmbeddedKafka) -> None:
    assert _produce(broker.settings("ps-relay"), TENANTS) is None

    for user in ("ps-producer", "ps-stream", "ps-sink", "ps-api"):
        reader = CompactedReader(broker.settings(user), TENANTS, f"{user}-control")
        records = reader.read_to_end()
        reader.close()

        assert records, user


def test_a_wrong_password_is_refused(broker: EmbeddedKafka) -> None:
    settings = broker.settings("ps-api").model_copy(update={"kafka_password": broker.settings().kafka_password})
    client = Admin(settings).client

    with pytest.raises(KafkaException, match=r"_TRANSPORT|_AUTHENTICATION|_TIMED_OUT"):
        client.list_topics(timeout=2)


def test_a_refused_login_is_said_to_be_one(broker: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulsestream.core.kafka.ADMIN_TIMEOUT", 2.0)
    admin = Admin(broker.settings("ps-api").model_copy(update={"kafka_password": SecretStr("hunter2")}))

    def said() -> None:
        for request in (admin.topics, lambda: admin.create([_spec("ps.wrong.ticks.v1")])):
            with pytest.raises(BrokerError) as caught:
                request()
            assert "Authentication failed" in str(caught.value)
            assert "check PULSESTREAM_KAFKA_USERNAME and PULSESTREAM_KAFKA_PASSWORD" in str(caught.value)
            assert "hunter2" not in str(caught.value)

    eventually(said)


def test_rights_can_be_ensured_again(broker: EmbeddedKafka) -> None:
    ensure_acls(broker.settings())


def test_passwords_are_readable_by_their_owner_only(broker: EmbeddedKafka) -> None:
    holders = [broker.home / "passwords.json", broker.home / "server.properties"]

    assert [holder.stat().st_mode & 0o777 for holder in holders] == [0o600, 0o600]
    assert not (broker.home / "format.arguments").exists()


def test_a_second_broker_on_one_folder_is_refused(broker: EmbeddedKafka) -> None:
    with pytest.raises(HomeBusyError, match=f"process {broker.pid}"):
        EmbeddedKafka(broker.home).start()


def test_records_and_address_survive_a_crash(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.start()
    address = kafka.bootstrap
    Admin(kafka.settings()).create([_spec("ps.acme.ticks.v1")])
    assert _produce(kafka.settings("ps-producer"), "ps.acme.ticks.v1") is None

    kafka.kill()
    again = EmbeddedKafka(tmp_path / "kafka")
    again.start()
    try:
        reader = CompactedReader(again.settings("ps-api"), "ps.acme.ticks.v1", "ps-api-test")
        records = reader.read_to_end()
        reader.close()
    finally:
        again.stop()

    assert again.bootstrap == address
    assert [record.value for record in records] == [b"value"]


_OWNER = """
import sys, time
from pathlib import Path
from pulsestream.local.kafka import EmbeddedKafka
kafka = EmbeddedKafka(Path(sys.argv[1]))
kafka.start()
print(kafka.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_a_broker_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _OWNER, tmp_path / "kafka"], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        broker_process = psutil.Process(int(owner.stdout.readline()))

        os.kill(owner.pid, signal.SIGKILL)

        broker_process.wait(10)


def _spec(name: str) -> TopicSpec:
    return TopicSpec(name, 1)
