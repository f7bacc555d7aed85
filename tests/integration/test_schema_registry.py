"""The schema registry as Confluent's own clients use it: records of a running API are read by its ids alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas import registry
from schemas.codec import codec
from schemas.records import Event
from tests.support.api import EVENT, installation
from tests.support.e2e import Installation, Tenant, read_topic

READ_ONLY = {"auto.register.schemas": False, "use.latest.version": True}


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("registry")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.fixture(scope="module")
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


def key_id(tenant: Tenant) -> str:
    return tenant.key.split("_")[2]


@contextmanager
def connected(tenant: Tenant, user: str | None = None) -> Iterator[SchemaRegistryClient]:
    login = f"{user or key_id(tenant)}:{tenant.key}"
    with SchemaRegistryClient({"url": f"{tenant.http.base_url}/registry", "basic.auth.user.info": login}) as client:
        yield client


@pytest.fixture
def client(tenant: Tenant) -> Iterator[SchemaRegistryClient]:
    with connected(tenant) as one:
        yield one


def events(tenant: Tenant) -> tuple[str, SerializationContext]:
    topic = tenant_topic(tenant.slug, "events")
    return topic, SerializationContext(topic, MessageField.VALUE)


def test_an_ingested_event_is_read_by_confluents_deserialiser(
    running: Installation, tenant: Tenant, client: SchemaRegistryClient
) -> None:
    tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)
    topic, context = events(tenant)
    [record] = read_topic(running.admin, topic)

    read: Any = AvroDeserializer(client)(record.value, context)

    assert (read["type"], read["source"], json.loads(read["data"])) == (EVENT["type"], EVENT["source"], EVENT["data"])


def test_confluents_serialiser_writes_what_our_codec_reads(tenant: Tenant, client: SchemaRegistryClient) -> None:
    event = Event(event_id="a", type="b", source="c", time=1, received_time=2, data="{}", product="BTC-USD")
    written = codec(Event).encode(event)
    _, context = events(tenant)
    row: Any = AvroDeserializer(client)(written, context)

    serialiser = AvroSerializer(client, registry.current("event").text, conf=READ_ONLY)

    assert codec(Event).decode(serialiser(row, context)) == event


def test_a_serialiser_that_registers_its_schema_gets_the_one_that_is_there(
    tenant: Tenant, client: SchemaRegistryClient
) -> None:
    topic, _ = events(tenant)
    text = registry.current("event").text

    known = client.register_schema(f"{topic}-value", Schema(text, "AVRO"))

    assert known == registry.current("event").schema_id


def test_a_schema_that_is_not_there_cannot_be_registered(tenant: Tenant, client: SchemaRegistryClient) -> None:
    topic, _ = events(tenant)

    with pytest.raises(SchemaRegistryError) as excinfo:
        client.register_schema(f"{topic}-value", Schema('{"type": "record", "name": "x", "fields": []}', "AVRO"))

    assert (excinfo.value.http_status_code, excinfo.value.error_code) == (422, 42205)
    assert "auto.register.schemas=false" in str(excinfo.value)


def test_a_browser_of_registries_finds_its_way(tenant: Tenant, client: SchemaRegistryClient) -> None:
    names = client.get_subjects()

    assert tenant_topic(tenant.slug, "ticks") + "-value" in names
    for name in names:
        versions = client.get_versions(name)
        latest = client.get_latest_version(name)
        assert client.get_version(name, versions[-1]).schema_id == latest.schema_id
        assert client.get_schema(latest.schema_id).schema_str == latest.schema.schema_str
        assert client.lookup_schema(name, latest.schema).version == versions[-1]
        assert client.get_compatibility(name) == "FULL_TRANSITIVE"
    assert client.get_compatibility() == "FULL_TRANSITIVE"
    assert ask(tenant, "/mode").json() == {"mode": "READONLY"}
    assert ask(tenant, "/schemas/types").json() == ["AVRO"]


def ask(tenant: Tenant, path: str, **request: Any) -> httpx.Response:
    return tenant.http.get(f"/registry{path}", headers={"X-API-Key": tenant.key}, **request)


def test_the_bare_schema_and_where_it_is_used_are_answered_too(tenant: Tenant) -> None:
    newest = registry.current("event")
    name = f"{tenant_topic(tenant.slug, 'events')}-value"

    assert ask(tenant, f"/schemas/ids/{newest.schema_id}/schema").json() == newest.json
    assert ask(tenant, f"/subjects/{name}/versions/latest/schema").json() == newest.json
    assert ask(tenant, f"/schemas/ids/{newest.schema_id}/versions").json() == [
        {"subject": name, "version": len(registry.versions("event"))}
    ]


@pytest.mark.parametrize("user", ["nobody", "03kV8sLq2ZxYb"])
def test_a_login_whose_user_is_not_the_keys_id_is_refused(tenant: Tenant, user: str) -> None:
    with connected(tenant, user) as there, pytest.raises(SchemaRegistryError) as excinfo:
        there.get_subjects()

    assert (excinfo.value.http_status_code, excinfo.value.error_code) == (401, 40101)


def test_without_a_key_a_browser_is_asked_for_one(tenant: Tenant) -> None:
    answer = tenant.http.get("/registry/subjects")

    assert (answer.status_code, answer.json()["error_code"]) == (401, 40101)
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_a_body_that_is_none_is_answered_in_the_registrys_own_form(tenant: Tenant) -> None:
    path = f"/registry/subjects/{tenant_topic(tenant.slug, 'events')}-value"
    for body in (b"{", b"{}", b'{"schema": 1}', json.dumps({"schema": "x" * 60_000}).encode()):
        answer = tenant.http.post(path, content=body, headers={"X-API-Key": tenant.key})
        assert answer.status_code in (400, 422)
        assert answer.json()["error_code"] // 100 == answer.status_code
        assert answer.headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"
