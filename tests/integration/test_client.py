"""The client on a running API: every method, a walk over many pages, and an API that is killed meanwhile."""

import json
import threading
from collections.abc import Iterator

import pytest

from pulsestream.client import ApiError, Client
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, RULE, installation
from tests.support.e2e import Installation, Tenant, eventually


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("client")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


@pytest.fixture
def api(running: Installation, tenant: Tenant) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{running.api_port}", tenant.key) as client:
        yield client


def test_events_are_sent_in_batches_and_found_again_on_many_pages(api: Client) -> None:
    good = [{"id": f"e{number}", "type": "a", "source": "b", "data": {"n": number}} for number in range(25)]
    bad = {"id": "bad", "type": 1, "source": "b", "data": None}

    sent = list(api.send_all([*good[:12], bad, *good[12:]], batch=10))
    refused = list(api.send_all([bad, bad | {"data": 1}]))

    assert [each["status"] for each in sent] == ["accepted"] * 12 + ["rejected"] + ["accepted"] * 13
    assert [each["id"] for each in sent if each["status"] == "accepted"] == [event["id"] for event in good]
    assert [(each["id"], each["status"], each["errors"][0]["pointer"]) for each in refused] == [
        ("bad", "rejected", "/type")
    ] * 2
    numbers = list(range(25))
    eventually(lambda: _equal(sorted(row["data"]["n"] for row in api.events()), numbers))
    for page in (1, 7, 25, 1000):
        for order in ("asc", "desc", "ingested"):
            assert sorted(row["data"]["n"] for row in api.events(order=order, page=page)) == numbers
    assert [row["event_id"] for row in api.events(contains='{"n": 7}')] == ["b:e7"]
    assert sorted(json.loads(line)["data"]["n"] for line in api.export("events")) == numbers
    assert len(list(api.export("events", format="csv", fields="event_id", type="a"))) == 26


def _equal(found: object, expected: object) -> None:
    assert found == expected


def test_rules_subscriptions_feeds_and_lag(api: Client) -> None:
    made = api.create_rule(RULE)
    gets = api.set_subscriptions([("coinbase", "BTC-USD")], ["ticks"])

    assert [rule["rule_id"] for rule in api.rules()] == [made["rule_id"]]
    assert api.rule(made["rule_id"])["name"] == RULE["name"]
    api.delete_rule(made["rule_id"])
    assert api.rules() == []
    assert [(each["exchange"], each["product"], each["datasets"]) for each in gets] == [
        ("coinbase", "BTC-USD", ["ticks"])
    ]
    assert api.subscriptions() == gets
    assert [feed["product"] for feed in api.feeds(hours=1)["feeds"]] == ["BTC-USD"]
    assert api.status()["newest"] == []
    assert [list(walk) for walk in (api.ticks(), api.trades(), api.stats(), api.bars(), api.alerts())] == [[]] * 5
    assert list(api.dead_letters(state="any")) == []
    assert api.settle("discard", {"where": {}, "reason": "none is there"})["results"] == []


def test_a_refusal_says_what_is_wrong(api: Client, tenant: Tenant, running: Installation) -> None:
    for request, code in (
        (lambda: api.register(tenant.slug), "tenant-exists"),
        (lambda: api.rule("a/../b?c"), "not-found"),
        (lambda: api.create_rule({**RULE, "condition": {"type": "price"}}), "invalid-body"),
        (lambda: list(api.ticks(prodcut="BTC-USD")), "invalid-parameters"),
        (lambda: list(api.export("events", tenant="acme")), "tenant-not-allowed"),
    ):
        with pytest.raises(ApiError) as excinfo:
            request()
        assert excinfo.value.code == code
    with Client(f"http://127.0.0.1:{running.api_port}") as nobody, pytest.raises(ApiError, match="X-API-Key"):
        nobody.rules()


def test_an_api_that_is_killed_under_a_client_loses_and_doubles_nothing(
    running: Installation, tenant: Tenant, api: Client
) -> None:
    del api
    events = [{**EVENT, "id": f"k{number}"} for number in range(400)]
    with Client(f"http://127.0.0.1:{running.api_port}", tenant.key, tries=40) as patient:
        sent = patient.send_all(events, batch=5)
        accepted = [next(sent) for _ in range(20)]
        running["api"].kill()
        again = threading.Timer(1, running["api"].start)
        again.start()
        accepted += sent
        again.join()

        assert [each["id"] for each in accepted] == [event["id"] for event in events]
        eventually(lambda: _equal(sum(1 for _ in patient.events(page=1000)), len(events)))
