"""The live view as server-sent events, over a real broker and database, by two processes of the API."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest

from pulsestream.client import ApiError, Client
from pulsestream.core.clock import wall_clock
from pulsestream.core.settings import environment
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation, problem
from tests.support.e2e import Installation, Tenant, eventually, logs_shown
from tests.support.live import EventClient, Market, rows, tenant_with_topics

PRODUCTS = ("BTC-USD", "ETH-USD")
TICKETS = "/api/v1/live/tickets"
EVENTS = "/api/v1/live/events"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("live-events")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture
def place(running: Installation) -> Iterator[tuple[Tenant, Market]]:
    with logs_shown(running):
        yield tenant_with_topics(running, "events", PRODUCTS)


def ticket(tenant: Tenant) -> str:
    return str(tenant.call("POST", TICKETS, expect=201)["ticket"])


def stored(tenant: Tenant, count: int) -> None:
    def all_there() -> None:
        assert len(tenant.walk(dataset="alerts", limit=1000)) == count

    eventually(all_there)


def test_a_ticket_opens_a_stream_of_what_is_there_and_then_what_comes(place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    first = market.alerts("BTC-USD", 3)
    stored(tenant, 3)

    with EventClient(tenant.http, ticket=ticket(tenant), datasets="alerts,ticks", products="BTC-USD") as client:
        client.read_until(lambda: any(message["type"] == "live" for message in client.messages))
        tick = market.ticks("BTC-USD", 1)[0]
        market.alerts("ETH-USD", 1)
        second = market.alerts("BTC-USD", 2)
        client.read_until(lambda: len(client.alerts()) == 5 and bool(rows(client.messages, "ticks")))

    assert client.answer.headers["content-type"].startswith("text/event-stream")
    assert client.alerts() == [alert.alert_id for alert in (*first, *second)]
    assert rows(client.messages, "ticks")[-1]["event_id"] == tick.event_id


def test_the_python_client_follows_alerts_over_a_killed_api_each_once_until_its_key_is_revoked(
    running: Installation, place: tuple[Tenant, Market]
) -> None:
    tenant, market = place
    with Client(str(tenant.http.base_url), tenant.key) as owner:
        made = owner.keys.create("follower", "viewer")
        with Client(str(tenant.http.base_url), made["api_key"]) as api:
            messages = api.follow(["alerts"], products=["BTC-USD"])
            seen = _until_live(messages)
            written = market.alerts("BTC-USD", 2)
            seen += _alerts(messages, 2)
            running["api"].kill()
            written += market.alerts("BTC-USD", 3)
            running["api"].start()
            running["api"].wait_ready()
            written += market.alerts("BTC-USD", 1)
            seen += _alerts(messages, 4)
            owner.keys.revoke(made["id"])

            with pytest.raises(ApiError) as excinfo:
                list(messages)

    assert seen == [alert.alert_id for alert in written]
    assert excinfo.value.status == 401


def _until_live(messages: Iterator[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for message in messages:
        found += [row["alert_id"] for row in message.get("rows", ())]
        if message["type"] == "live":
            return found
    raise AssertionError("the stream ended")


def _alerts(messages: Iterator[dict[str, Any]], count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found += [row["alert_id"] for row in next(messages).get("rows", ())]
    return found


@pytest.mark.parametrize("how", ["resume", "Last-Event-ID"])
def test_the_id_of_the_last_event_brings_every_alert_since(place: tuple[Tenant, Market], how: str) -> None:
    tenant, market = place
    header = {"X-API-Key": tenant.key}
    with EventClient(tenant.http, header, datasets="alerts") as client:
        seen = market.alerts("BTC-USD", 2)
        client.read_until(lambda: len(client.alerts()) == 2 and client.last_id is not None)
    missed = market.alerts("BTC-USD", 20)
    assert client.last_id is not None

    by_header = {"Last-Event-ID": client.last_id} if how == "Last-Event-ID" else {}
    by_query = {"resume": client.last_id} if how == "resume" else {}
    with EventClient(tenant.http, header | by_header, datasets="alerts", **by_query) as again:
        again.read_until(lambda: len(again.alerts()) == 20)

    assert client.alerts() == [alert.alert_id for alert in seen]
    assert again.alerts() == [alert.alert_id for alert in missed]


def test_a_ticket_is_taken_once_by_all_processes_together(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, _ = place
    other = replace(running["api"], log=running.folder / "other.log", ops_port=process.free_port(), running=None)
    port = process.free_port()
    other.env = running["api"].env | environment({"api_port": port, "ops_port": other.ops_port})
    other.start()
    try:
        other.wait_ready()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as elsewhere:
            first, second = ticket(tenant), ticket(tenant)
            with EventClient(tenant.http, ticket=first) as client:
                assert client.answer.status_code == 200
            with EventClient(elsewhere, ticket=second) as client:
                assert client.answer.status_code == 200

            for http in (elsewhere, tenant.http):
                for used in (first, second):
                    assert "used" in str(problem(http.get(EVENTS, params={"ticket": used}), 401, "unauthorized"))
    finally:
        assert other.stop() == 0


def test_what_is_no_ticket_opens_nothing(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, _ = place
    given = ticket(tenant)
    for wrong in ("", "x", given[:-3] + "AAA", given + "AAAA", "é" * 100):
        problem(tenant.http.get(EVENTS, params={"ticket": wrong}), 401, "unauthorized")
    problem(tenant.http.get(EVENTS), 401, "unauthorized")
    problem(tenant.http.post(TICKETS), 401, "unauthorized")

    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE api_keys SET revoked_at = now() WHERE tenant = %s", (tenant.slug,))

    def revoked() -> None:
        answer = tenant.http.get(EVENTS, params={"ticket": ticket_or(given)})
        problem(answer, 401, "unauthorized")

    def ticket_or(last: str) -> str:
        answer = tenant.http.post(TICKETS, headers={"X-API-Key": tenant.key})
        assert answer.status_code == 401
        return last

    eventually(revoked)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"datasets": "trades"}, "trades"),
        ({"datasets": ""}, "names"),
        ({"products": "BTC-USD,,"}, "names"),
        ({"product": "BTC-USD"}, "product"),
        ({"resume": "x"}, "resume token"),
        ({"tenant": "acme"}, "tenant"),
    ],
)
def test_what_cannot_be_asked_is_400_and_says_why(
    place: tuple[Tenant, Market], query: dict[str, str], words: str
) -> None:
    tenant, _ = place
    answer = tenant.http.get(EVENTS, params=query, headers={"X-API-Key": tenant.key})

    assert answer.status_code == 400
    assert words in answer.text


def test_a_stop_of_the_api_ends_streams_at_once_and_they_go_on_with_another_process(
    running: Installation, place: tuple[Tenant, Market]
) -> None:
    tenant, market = place
    header = {"X-API-Key": tenant.key}
    with EventClient(tenant.http, header, datasets="alerts") as client:
        market.alerts("BTC-USD", 1)
        client.read_until(lambda: client.last_id is not None and len(client.alerts()) == 1)
        began = wall_clock()
        assert running["api"].stop() == 0
        took = (wall_clock() - began) / 1e6
        client.read_until(lambda: client.messages[-1]["type"] == "bye")
    running["api"].start()
    running["api"].wait_ready()
    missed = market.alerts("BTC-USD", 3)
    with EventClient(tenant.http, header, datasets="alerts", resume=client.last_id or "") as again:
        again.read_until(lambda: len(again.alerts()) == 3)

    assert client.messages[-1]["code"] == 1012
    assert again.alerts() == [alert.alert_id for alert in missed]
    assert took < 60
