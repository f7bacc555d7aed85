"""A request again has one effect: by `Idempotency-Key` where its events bring no ids, and by their ids."""

import concurrent.futures
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation, problem
from tests.support.databases import execute
from tests.support.e2e import Installation, Tenant, eventually, read_topic, rows

SINGLE, BATCH = "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"
NAMELESS = {"type": "order.filled", "source": "/desk/1", "data": {"size": 0.25}}
SEVERAL = {"events": [NAMELESS, NAMELESS | {"id": "given"}, NAMELESS]}


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("idempotency")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


def post(tenant: Tenant, path: str, body: Any, key: str | None = "k-1", **headers: str) -> httpx.Response:
    named = {"X-API-Key": tenant.key} | ({} if key is None else {"Idempotency-Key": f'"{key}"'})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return tenant.http.post(path, content=content, headers=named | headers)


def assert_stored(running: Installation, tenant: Tenant, event_ids: list[str]) -> None:
    """Each id is one row, once the sink has read all; and there is no dead letter."""
    last = post(tenant, SINGLE, NAMELESS | {"id": "last"}, key=None)
    assert last.status_code == 202

    def stored() -> None:
        found = rows(running.database, "SELECT event_id FROM events WHERE tenant = %(tenant)s", tenant=tenant.slug)
        assert sorted(row["event_id"] for row in found) == sorted([*event_ids, "/desk/1:last"])

    eventually(stored)
    assert read_topic(running.admin, f"ps.{tenant.slug}.dlq.v1") == []


def age(running: Installation, tenant: Tenant, hours: float) -> None:
    execute(
        running.database.url(),
        f"UPDATE idempotency_keys SET used_at = used_at - interval '{hours} hours' WHERE tenant = '{tenant.slug}'",
    )


def test_an_event_without_an_id_sent_twice_with_a_key_is_one_row(running: Installation, tenant: Tenant) -> None:
    first, again = (post(tenant, SINGLE, NAMELESS) for _ in range(2))

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert_stored(running, tenant, [first.json()["event_id"]])


def test_without_a_key_each_request_is_an_event_of_its_own(running: Installation, tenant: Tenant) -> None:
    first, again = (post(tenant, SINGLE, NAMELESS, key=None) for _ in range(2))

    assert_stored(running, tenant, [first.json()["event_id"], again.json()["event_id"]])


def test_a_batch_sent_again_and_again_at_once_is_its_events_once(running: Installation, tenant: Tenant) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(tenant, BATCH, SEVERAL).json(), range(16)))

    assert all(answer == answers[0] for answer in answers)
    assert_stored(running, tenant, [result["event_id"] for result in answers[0]["results"]])


def test_the_key_holds_when_the_api_was_killed_in_between(running: Installation, tenant: Tenant) -> None:
    first = post(tenant, BATCH, SEVERAL)
    running["api"].kill()
    running["api"].start()
    running["api"].wait_ready()

    assert post(tenant, BATCH, SEVERAL).json() == first.json()
    assert_stored(running, tenant, [result["event_id"] for result in first.json()["results"]])


@pytest.mark.parametrize(("path", "body"), [(SINGLE, NAMELESS | {"data": 2}), (BATCH, {"events": [NAMELESS]})])
def test_a_key_with_another_body_or_route_is_422_and_does_nothing(
    running: Installation, tenant: Tenant, path: str, body: dict[str, Any]
) -> None:
    first = post(tenant, SINGLE, NAMELESS)

    refused = problem(post(tenant, path, body), 422, "idempotency-key-reused")

    assert "'k-1'" in str(refused["detail"])
    assert_stored(running, tenant, [first.json()["event_id"]])


def test_a_key_is_a_tenants_own(running: Installation, tenant: Tenant) -> None:
    other = running.register("beta")
    post(tenant, SINGLE, NAMELESS)

    assert post(other, SINGLE, NAMELESS | {"data": 2}).status_code == 202


def test_the_same_body_compressed_is_the_same_body(running: Installation, tenant: Tenant) -> None:
    first = post(tenant, SINGLE, NAMELESS)
    folded = gzip.compress(json.dumps(NAMELESS).encode())

    again = post(tenant, SINGLE, folded, **{"Content-Encoding": "gzip"})

    assert again.json() == first.json()
    assert_stored(running, tenant, [first.json()["event_id"]])


def test_a_request_that_was_refused_used_no_key(tenant: Tenant) -> None:
    problem(post(tenant, SINGLE, NAMELESS | {"type": 1}), 422, "invalid-body")
    problem(post(tenant, BATCH, {"events": [{"type": 1}]}), 422, "invalid-body")

    assert post(tenant, SINGLE, NAMELESS).status_code == 202


def test_what_is_no_key_is_400(tenant: Tenant) -> None:
    problem(post(tenant, SINGLE, NAMELESS, key=""), 400, "invalid-parameters")


def test_after_its_window_a_key_is_a_new_one_and_makes_new_ids(running: Installation, tenant: Tenant) -> None:
    first = post(tenant, SINGLE, NAMELESS)
    age(running, tenant, 23.9)
    problem(post(tenant, SINGLE, NAMELESS | {"data": 2}), 422, "idempotency-key-reused")
    age(running, tenant, 0.2)

    second, third = (post(tenant, SINGLE, NAMELESS | {"data": 2}) for _ in range(2))

    assert (second.status_code, third.json()) == (202, second.json())
    assert_stored(running, tenant, [first.json()["event_id"], second.json()["event_id"]])
