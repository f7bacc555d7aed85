"""Tenants' own logins to the broker: what they may do there, what they may not, and how they come and go."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewPartitions, NewTopic
from pydantic import SecretStr

from api.kafka_credentials import requests
from api.kafka_credentials.broker import TenantUsers
from api.kafka_credentials.login import salted
from pulsestream.core.kafka import BrokerError
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, installation, problem
from tests.support.e2e import Installation, eventually
from tests.support.logins import (
    PATH,
    WAIT,
    Login,
    await_state,
    first_of,
    login,
    open_login,
    refusal,
    register,
    send,
)

DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("logins")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.fixture(scope="module")
def slug() -> str:
    return f"acme{secrets.token_hex(3)}"


@pytest.fixture(scope="module")
def acme(running: Installation, slug: str) -> Login:
    return open_login(register(running, slug))


@pytest.fixture(scope="module")
def acme2(running: Installation, slug: str) -> Login:
    """A tenant whose name begins with the other's."""
    made = open_login(register(running, f"{slug}2"))
    made.tenant.call("POST", "/api/v1/ingestion/events", json=EVENT | {"id": "acme2s-own"})
    return made


def rows(running: Installation, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(running.database.url(), autocommit=True) as connection:
        return connection.execute(query, parameters).fetchall()


# ---- what a login may do ----


def test_a_login_reads_the_topics_of_its_tenant_in_groups_of_its_own(acme: Login) -> None:
    acme.tenant.call("POST", "/api/v1/ingestion/events", json=EVENT | {"id": "read"})

    with acme.consumer(f"^ps\\.{acme.tenant.slug}\\..*") as consumer:
        message = first_of(consumer)
        committed = consumer.commit(message=message, asynchronous=False)

    assert message.topic() == acme.topic("events")
    assert committed[0].error is None


def test_a_login_sees_its_own_topics_and_groups_and_no_others(acme: Login, acme2: Login) -> None:
    with acme.consumer(acme.topic("events"), group=f"t.{acme.tenant.slug}.seen") as one:
        first_of(one)
        with acme2.consumer(acme2.topic("events"), group=f"t.{acme2.tenant.slug}.seen") as two:
            first_of(two)
            topics = acme.admin.list_topics(timeout=WAIT).topics
            groups = acme.admin.list_consumer_groups(request_timeout=WAIT).result().valid

    assert {name.split(".")[1] for name in topics} == {acme.tenant.slug}
    assert {group.group_id.split(".")[1] for group in groups} == {acme.tenant.slug}


@pytest.mark.parametrize("dataset", ["events", "own-ticks"])
def test_a_login_writes_what_is_its_tenants_own_with_an_idempotent_producer(acme: Login, dataset: str) -> None:
    assert acme.send(acme.topic(dataset)) is None


# ---- what it may not ----


@pytest.mark.parametrize("dataset", ["stats", "bars", "alerts", "dlq"])
def test_a_login_does_not_write_what_the_platform_says(acme: Login, dataset: str) -> None:
    error = acme.send(acme.topic(dataset))

    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize("dataset", ["events", "own-ticks", "stats", "dlq"])
def test_a_login_neither_reads_nor_writes_another_tenants_topics(acme: Login, acme2: Login, dataset: str) -> None:
    error = acme.send(acme2.topic(dataset))
    with acme.consumer(acme2.topic(dataset)) as consumer:
        read = refusal(consumer)

    assert error is not None
    assert {error.code(), read.code()} == {KafkaError.TOPIC_AUTHORIZATION_FAILED}


@pytest.mark.parametrize("topic", ["ps._platform.tenants.v1", "ps._platform.rules.v1", "__consumer_offsets"])
def test_a_login_reads_nothing_of_the_platforms(acme: Login, topic: str) -> None:
    with acme.consumer(topic) as consumer:
        assert refusal(consumer).code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def of_result(future: Any) -> KafkaError:
    with pytest.raises(KafkaException) as caught:
        future.result(WAIT)
    error: KafkaError = caught.value.args[0]
    return error


def only(futures: dict[Any, Any]) -> KafkaError:
    ((_, future),) = futures.items()
    return of_result(future)


def joins_a_group(name: str) -> Callable[[Login, Login], KafkaError]:
    def tries(mine: Login, theirs: Login) -> KafkaError:
        group = name.format(mine=mine.tenant.slug, theirs=theirs.tenant.slug)
        with mine.consumer(mine.topic("events"), group=group) as consumer:
            return refusal(consumer)

    return tries


def commits_for_another_group(mine: Login, theirs: Login) -> KafkaError:
    places = [TopicPartition(mine.topic("events"), 0, 1)]
    wanted = ConsumerGroupTopicPartitions(f"t.{theirs.tenant.slug}.seen", places)
    return only(mine.admin.alter_consumer_group_offsets([wanted], request_timeout=WAIT))


def begins_a_transaction(name: str) -> Callable[[Login, Login], KafkaError]:
    def tries(mine: Login, theirs: Login) -> KafkaError:
        named = name.format(mine=mine.tenant.slug, theirs=theirs.tenant.slug)
        with pytest.raises(KafkaException) as caught:
            mine.producer(**{"transactional.id": named}).init_transactions(WAIT)
        error: KafkaError = caught.value.args[0]
        return error

    return tries


def makes_a_topic(name: str) -> Callable[[Login, Login], KafkaError]:
    def tries(mine: Login, theirs: Login) -> KafkaError:
        named = name.format(mine=mine.tenant.slug, theirs=theirs.tenant.slug)
        return only(mine.admin.create_topics([NewTopic(named, 1, 1)], request_timeout=WAIT))

    return tries


def deletes_a_topic(mine: Login, theirs: Login) -> KafkaError:
    for topic in (theirs.topic("events"), theirs.topic("ticks")):
        assert only(mine.admin.delete_topics([topic], request_timeout=WAIT)).code() in DENIED
    return only(mine.admin.delete_topics([mine.topic("events")], request_timeout=WAIT))


def deletes_records(mine: Login, theirs: Login) -> KafkaError:
    place = TopicPartition(theirs.topic("events"), 0, 0)
    assert only(mine.admin.delete_records([place], request_timeout=WAIT)).code() == KafkaError._NOENT  # it sees none
    return only(mine.admin.delete_records([TopicPartition(mine.topic("events"), 0, 0)], request_timeout=WAIT))


def adds_partitions(mine: Login, _: Login) -> KafkaError:
    return only(mine.admin.create_partitions([NewPartitions(mine.topic("events"), 9)], request_timeout=WAIT))


def alters_a_topic(mine: Login, theirs: Login) -> KafkaError:
    answers = []
    for topic in (theirs.topic("events"), mine.topic("events")):
        change = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
        answers.append(only(mine.admin.incremental_alter_configs([resource], request_timeout=WAIT)))
    assert answers[0].code() in DENIED
    return answers[1]


def alters_the_broker(mine: Login, _: Login) -> KafkaError:
    change = ConfigEntry("log.retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[change])
    return only(mine.admin.incremental_alter_configs([resource], request_timeout=WAIT))


def deletes_a_group(mine: Login, theirs: Login) -> KafkaError:
    return only(mine.admin.delete_consumer_groups([f"t.{theirs.tenant.slug}.seen"], request_timeout=WAIT))


def gives_itself_rights(mine: Login, _: Login) -> KafkaError:
    rule = AclBinding(
        ResourceType.TOPIC,
        "ps.",
        ResourcePatternType.PREFIXED,
        f"User:{mine.user}",
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    return only(mine.admin.create_acls([rule], request_timeout=WAIT))


def changes_a_password(user: str) -> Callable[[Login, Login], KafkaError]:
    def tries(mine: Login, theirs: Login) -> KafkaError:
        named = user.format(mine=mine.user, theirs=theirs.user)
        hashing = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        wanted = UserScramCredentialUpsertion(named, hashing, b"guessed")
        return only(mine.admin.alter_user_scram_credentials([wanted], request_timeout=WAIT))

    return tries


ATTEMPTS = {
    "join another tenant's group": joins_a_group("t.{theirs}.seen"),
    "join a group without a tenant": joins_a_group("desk"),
    "join a group of the platform": joins_a_group("ps-sink"),
    "join a group that begins with its own user's name": joins_a_group("t.{mine}"),
    "commit for another tenant's group": commits_for_another_group,
    "delete another tenant's group": deletes_a_group,
    "begin a transaction of another tenant": begins_a_transaction("t.{theirs}.one"),
    "begin a transaction of the platform": begins_a_transaction("ps-stream"),
    "begin a transaction of its own": begins_a_transaction("t.{mine}.one"),
    "make a topic of another tenant": makes_a_topic("ps.{theirs}.mine.v1"),
    "make a topic of its own": makes_a_topic("ps.{mine}.mine.v1"),
    "make any other topic": makes_a_topic("mine"),
    "delete a topic": deletes_a_topic,
    "delete records": deletes_records,
    "add partitions": adds_partitions,
    "alter a topic": alters_a_topic,
    "alter the broker": alters_the_broker,
    "give itself rights": gives_itself_rights,
    "change another's password": changes_a_password("{theirs}"),
    "change the administrator's password": changes_a_password("admin"),
    "change its own password": changes_a_password("{mine}"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_login_cannot(acme: Login, acme2: Login, attempt: str) -> None:
    error = ATTEMPTS[attempt](acme, acme2)

    assert error.code() in DENIED, f"{error.name()}: {error.str()}"


def test_a_login_neither_lists_users_nor_sees_or_changes_quotas(acme: Login) -> None:
    password = SecretStr(acme.made["password"])
    bootstrap = acme.config["bootstrap.servers"]
    settings = Settings(kafka_bootstrap=bootstrap, kafka_username=acme.user, kafka_password=password)

    for asked in (
        lambda: requests.scram_users(settings),
        lambda: requests.user_quotas(settings),
        lambda: requests.set_quotas(settings, {acme.user: {"producer_byte_rate": 1e12}}),
        lambda: requests.put_users(settings, {acme.user: salted("guessed")}),
    ):
        with pytest.raises(BrokerError, match="error 31"):
            asked()


# ---- how it comes and goes ----


def test_a_password_is_shown_once_and_kept_nowhere(running: Installation, acme: Login) -> None:
    password = acme.made["password"]
    shown = [acme.tenant.call("GET", PATH), acme.tenant.call("GET", f"{PATH}/{acme.id}")]

    assert acme.made["state"] == "provisioning"
    assert password in acme.made["clients"]["python"]
    assert password not in str(shown)
    assert password not in running.logs()
    assert password not in str(rows(running, "SELECT to_jsonb(audit)::text FROM audit"))
    (kept,) = rows(running, "SELECT * FROM kafka_credentials WHERE id = %s", acme.id)
    assert password.encode() not in b"".join(value for value in kept if isinstance(value, bytes))
    (secret,) = rows(running, "SELECT salted_password FROM kafka_credentials WHERE id = %s", acme.id)
    assert secret == (None,)


def test_another_password_is_refused(acme: Login) -> None:
    guessed = login(acme.tenant, {**acme.made, "password": acme.made["password"][::-1]})

    assert acme.can_log_in()
    assert not guessed.can_log_in()


def test_a_revoked_login_is_refused_also_where_it_is_connected_and_leaves_nothing_at_the_broker(
    acme: Login, broker: EmbeddedKafka
) -> None:
    revoked = open_login(acme.tenant, "revoked")
    producer = revoked.producer()
    assert send(producer, revoked.topic("events")) is None

    with revoked.consumer(revoked.topic("events")) as consumer:
        first_of(consumer)
        acme.tenant.call("DELETE", f"{PATH}/{revoked.id}", expect=204)
        await_state(acme.tenant, revoked.id, "revoked")

        def cut() -> None:
            error = send(producer, revoked.topic("events"))
            assert error is not None
            assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

        eventually(cut, timeout=5)
        reading = refusal_soon(consumer)

    assert reading in DENIED
    assert not revoked.can_log_in()
    assert acme.send(acme.topic("events")) is None
    found = TenantUsers(broker.settings()).found()
    assert revoked.user not in str(found)
    assert acme.user in found.users


def refusal_soon(consumer: Consumer) -> int:
    """Return the code of the first error; records that were fetched before may still come."""
    told: list[int] = []

    def refused() -> None:
        message = consumer.poll(0.2)
        if message is not None and message.error() is not None:
            told.append(message.error().code())
        assert told

    eventually(refused, timeout=WAIT, every=0)
    return told[0]


def test_after_a_rotation_both_work_until_the_overlap_is_over(acme: Login) -> None:
    old = open_login(acme.tenant, "rotated")
    made = acme.tenant.call("POST", f"{PATH}/{old.id}/rotate", json={"overlap_seconds": 2})
    new = login(acme.tenant, made)
    await_state(acme.tenant, new.id, "active")

    assert made["name"] == "rotated"
    eventually(lambda: _assert_both_write(old, new), timeout=2)
    await_state(acme.tenant, old.id, "expired")
    assert not old.can_log_in()
    assert new.send(new.topic("events")) is None
    again = acme.tenant.http.post(f"{PATH}/{old.id}/rotate", headers={"X-API-Key": acme.tenant.key}, json={})
    assert problem(again, 409, "kafka-credential-rotated")["credential_id"] == new.id
    acme.tenant.call("DELETE", f"{PATH}/{new.id}", expect=204)


def _assert_both_write(old: Login, new: Login) -> None:
    assert [one.send(one.topic("events")) for one in (old, new)] == [None, None]


def test_a_suspended_tenants_logins_are_refused_until_it_is_active_again(running: Installation, acme2: Login) -> None:
    def suspend(status: str, *, refused: bool) -> None:
        rows(running, "UPDATE tenants SET status = %s WHERE tenant = %s RETURNING 1", status, acme2.tenant.slug)

        def holds() -> None:
            plain = acme2.producer(**{"enable.idempotence": False})  # the other kind fails as a whole
            assert (send(plain, acme2.topic("events")) is not None) is refused

        eventually(holds, timeout=10, every=0.1)

    suspend("suspended", refused=True)
    suspend("active", refused=False)
