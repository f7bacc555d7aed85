"""Ingestion to real topics: what is answered 202 is there, as it was sent."""

import asyncio
import concurrent.futures
import json
from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr

from api.ingestion import publisher
from api.ingestion.publisher import Publisher, QueueFullError
from pulsestream.core.clock import format_rfc3339
from pulsestream.core.settings import Settings
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Event
from tests.support.api import EVENT, installation, problem
from tests.support.e2e import Arrived, Installation, Tenant, eventually, read_topic

SINGLE, BATCH = "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("ingestion")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.fixture
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


def post(tenant: Tenant, path: str, body: object, **headers: str) -> httpx.Response:
    return tenant.http.post(path, json=body, headers={"X-API-Key": tenant.key} | headers)


def on_topic(running: Installation, tenant: Tenant) -> list[tuple[Arrived, Event]]:
    arrived = read_topic(running.admin, f"ps.{tenant.slug}.events.v1")
    return [(record, codec(Event).decode(record.value)) for record in arrived]


def test_an_accepted_event_is_on_the_tenants_topic_as_it_was_sent(running: Installation, tenant: Tenant) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    answer = post(tenant, SINGLE, EVENT | {"time": "2021-04-17T16:43:37.056746Z"}, traceparent=trace)

    assert answer.status_code == 202
    assert answer.json() == {"id": "fill-17", "event_id": "/desk/1:fill-17", "status": "accepted"}
    [(record, event)] = on_topic(running, tenant)
    assert (event.event_id, event.type, event.source, event.product) == (
        "/desk/1:fill-17",
        "order.filled",
        "/desk/1",
        "BTC-USD",
    )
    assert json.loads(event.data) == EVENT["data"]
    assert format_rfc3339(event.time) == "2021-04-17T16:43:37.056746Z"
    assert abs(event.received_time - record.appended_at) < 60_000_000
    assert record.key == b"BTC-USD"
    assert record.headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"/desk/1:fill-17",
        "ce_type": b"order.filled",
        "ce_source": b"/desk/1",
        "ce_time": b"2021-04-17T16:43:37.056746Z",
        "content-type": b"application/avro",
        "traceparent": trace.encode(),
    }


def test_an_event_without_a_product_is_keyed_by_its_source(running: Installation, tenant: Tenant) -> None:
    post(tenant, SINGLE, {"type": "note", "source": "/désk", "data": None})

    [(record, event)] = on_topic(running, tenant)
    assert record.key == "/désk".encode()
    assert (event.product, event.data) == (None, "null")


def test_an_id_made_at_the_edge_is_told_and_is_the_one_stored(running: Installation, tenant: Tenant) -> None:
    answers = [post(tenant, SINGLE, {"type": "note", "source": "s", "data": 1}).json() for _ in range(2)]

    assert [event.event_id for _, event in on_topic(running, tenant)] == [answer["event_id"] for answer in answers]
    assert len({answer["id"] for answer in answers}) == 2


def test_the_first_events_of_a_tenant_wait_for_its_topics_together(running: Installation, tenant: Tenant) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: post(tenant, SINGLE, EVENT | {"id": str(number)}), range(20)))

    assert {answer.status_code for answer in answers} == {202}
    assert {event.event_id for _, event in on_topic(running, tenant)} == {f"/desk/1:{number}" for number in range(20)}
    topics = tenant.call("GET", "/api/v1/subscriptions")["topics"]
    assert {topic["dataset"]: topic["status"] for topic in topics} == dict.fromkeys(
        ("alerts", "bars", "dlq", "events", "stats"), "active"
    )


def test_a_batch_is_on_the_topic_whole_and_in_order_by_key(running: Installation, tenant: Tenant) -> None:
    events = [EVENT | {"id": str(number), "product": f"P{number % 5}-USD"} for number in range(1000)]

    answer = post(tenant, BATCH, {"events": events})

    shown = answer.json()
    assert (answer.status_code, shown["accepted"], shown["rejected"], shown["unknown"]) == (202, 1000, 0, 0)
    assert [result["id"] for result in shown["results"]] == [event["id"] for event in events]
    arrived = on_topic(running, tenant)
    for key in {event["product"] for event in events}:
        ids = [event.event_id.rpartition(":")[2] for _, event in arrived if event.product == key]
        assert ids == [event["id"] for event in events if event["product"] == key]
        assert len({record.as_of.partition for record, event in arrived if event.product == key}) == 1


def test_a_batch_that_is_partly_wrong_stores_the_rest_and_says_which(running: Installation, tenant: Tenant) -> None:
    events = [EVENT | {"id": "a"}, EVENT | {"id": "b", "type": 5}, EVENT | {"id": "c"}]

    answer = post(tenant, BATCH, {"events": events})

    assert answer.status_code == 207
    assert [(result["id"], result["status"]) for result in answer.json()["results"]] == [
        ("a", "accepted"),
        ("b", "rejected"),
        ("c", "accepted"),
    ]
    assert answer.json()["results"][1]["errors"] == [{"pointer": "/type", "message": "expected `str`, got `int`"}]
    assert {event.event_id for _, event in on_topic(running, tenant)} == {"/desk/1:a", "/desk/1:c"}


def test_a_batch_that_is_wholly_wrong_is_422_with_every_fault(running: Installation, tenant: Tenant) -> None:
    answer = post(tenant, BATCH, {"events": [{"type": 1}, EVENT | {"source": ""}]})

    found = problem(answer, 422, "invalid-body")
    pointers = [error["pointer"] for error in found["errors"]]  # type: ignore[attr-defined] # a list
    assert pointers == ["/events/0/type", "/events/1/source"]
    assert on_topic(running, tenant) == []


def test_the_largest_event_that_is_taken_fits_the_topic(running: Installation, tenant: Tenant) -> None:
    empty = len(json.dumps(EVENT | {"data": ""}, ensure_ascii=False).encode())
    text = "é" * ((256 * 1024 - empty) // 2)
    body = json.dumps(EVENT | {"data": text}, ensure_ascii=False).encode()

    answer = tenant.http.post(SINGLE, content=body, headers={"X-API-Key": tenant.key})

    assert answer.status_code == 202, answer.text
    assert json.loads(on_topic(running, tenant)[0][1].data) == text


def test_a_tenant_whose_topics_do_not_fit_is_told_so(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    folder = tmp_path_factory.mktemp("budget")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", partition_budget=1) as full:
        tenant = full.register("late")

        answer = post(tenant, SINGLE, EVENT)

        refused = problem(answer, 503, "topics-refused")
        assert "PULSESTREAM_PARTITION_BUDGET" in str(refused["detail"])
        assert int(answer.headers["retry-after"]) > 1


def test_without_a_relay_the_first_event_is_503_and_is_taken_once_there_is_one(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    folder = tmp_path_factory.mktemp("no-relay")
    with installation(folder, broker, database_server, migrated_template, "api") as started:
        tenant = started.register("early")

        answer = post(tenant, SINGLE, EVENT)

        problem(answer, 503, "topics-provisioning")
        assert answer.headers["retry-after"] == "1"
        started.start("relay")

        def taken() -> None:
            assert post(tenant, SINGLE, EVENT).status_code == 202

        eventually(taken)
        assert [event.event_id for _, event in on_topic(started, tenant)] == ["/desk/1:fill-17"]


# ---- the producer alone, without a broker ----


@pytest.fixture
def unreachable() -> Settings:
    bootstrap = f"127.0.0.1:{process.free_port()}"
    return Settings(kafka_bootstrap=bootstrap, kafka_username="ps-api", kafka_password=SecretStr("x"))


def fill(settings: Settings, records: int) -> tuple[int, list[str]]:
    """Send records at once; returns how many fitted, and what each of those was reported as."""

    async def run() -> tuple[int, list[str]]:
        made = Publisher(settings, on_fatal=lambda error: pytest.fail(str(error)))
        deliveries = made.deliveries(records)
        sent = made.queue("ps.acme.events.v1", [(b"k", b"v", [])] * records, deliveries)
        await deliveries.done
        said = [report.name() if report else "" for report in deliveries.reports[:sent]]
        await made.close()
        return sent, said

    return asyncio.run(run())


def test_more_than_the_queue_holds_is_refused_at_once(unreachable: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "QUEUE_RECORDS", 10)
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 0.2)

    assert fill(unreachable, 11)[0] == 10


def test_a_record_that_nobody_confirms_is_reported_within_the_bound(
    unreachable: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 0.2)

    assert fill(unreachable, 2) == (2, ["_MSG_TIMED_OUT"] * 2)


def test_a_request_is_not_kept_beyond_the_backstop(unreachable: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 2.0)
    monkeypatch.setattr(publisher, "BACKSTOP", 0.1)

    assert fill(unreachable, 1) == (1, ["_TIMED_OUT"])


def test_a_record_sent_by_itself_has_a_future_of_its_own(
    unreachable: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "QUEUE_RECORDS", 1)
    monkeypatch.setattr(publisher, "CONFIRM_WITHIN", 0.2)

    async def run() -> str:
        made = Publisher(unreachable, on_fatal=lambda error: pytest.fail(str(error)))
        reported = made.send("ps.acme.events.v1", None, b"v", [])
        with pytest.raises(QueueFullError):
            made.send("ps.acme.events.v1", None, b"v", [])
        report = await reported
        await made.close()
        assert report is not None
        return report.name()

    assert asyncio.run(run()) == "_MSG_TIMED_OUT"
