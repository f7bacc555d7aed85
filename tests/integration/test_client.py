"""The client on a running API, and the command line on top of it: what it does, many pages, an API that is killed."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pulsestream.cli import app
from pulsestream.client import ApiError, Client
from pulsestream.client.objects import Matcher
from pulsestream.core.errors import UsageError
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, RULE, installation, store_alert
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
    made = api.rules.create(RULE)
    gets = api.subscriptions.set([("coinbase", "BTC-USD")], ["ticks"])

    assert [rule["rule_id"] for rule in api.rules.list()] == [made["rule_id"]]
    assert api.rules.get(made["rule_id"])["name"] == RULE["name"]
    api.rules.delete(made["rule_id"])
    assert api.rules.list() == []
    assert [(each["exchange"], each["product"], each["datasets"]) for each in gets] == [
        ("coinbase", "BTC-USD", ["ticks"])
    ]
    assert api.subscriptions.list() == gets
    assert [feed["product"] for feed in api.feeds(hours=1)["feeds"]] == ["BTC-USD"]
    assert api.status()["newest"] == []
    assert [list(walk) for walk in (api.ticks(), api.trades(), api.stats(), api.bars(), api.alerts.history())] == [
        []
    ] * 5
    assert list(api.dead_letters.list(state="any")) == []
    assert api.dead_letters.settle("discard", {"where": {}, "reason": "none is there"})["results"] == []


def test_what_a_tenant_has_is_made_changed_and_ended(api: Client) -> None:
    key = api.keys.create("desk", "viewer", expires_at="2100-01-31T12:00:00Z")
    renamed = api.keys.change(key["id"], name="desk 2", expires_at=None)
    successor = api.keys.rotate(key["id"], overlap_seconds=0)
    api.keys.revoke(successor["id"])
    assert (renamed["name"], renamed["expires_at"], successor["role"]) == ("desk 2", None, "viewer")
    assert [one["state"] for one in api.keys.list("any")][:2] == ["revoked", "expired"]

    credential = api.kafka_credentials.create("desk")
    rotated = api.kafka_credentials.rotate(credential["id"], overlap_seconds=0)
    api.kafka_credentials.revoke(rotated["id"])
    assert credential["password"] in credential["clients"]["python"]
    assert api.kafka_credentials.get(rotated["id"])["connection"] == api.kafka_credentials.connection()
    assert len(list(api.kafka_credentials.list(ended=True))) == 2

    channel = api.channels.create("desk", {"kind": "webhook", "url": "https://example.com/alerts"}, group_wait="10s")
    tested = api.channels.test(channel["id"])
    paused = api.channels.change(channel["id"], enabled=False)
    assert (channel["group_wait"], paused["state"]) == ("10s", "paused")
    assert [each["id"] for each in api.channels.messages(channel["id"])] == [tested]
    assert list(api.channels.attempts(channel["id"])) == []
    with pytest.raises(ApiError, match="enable it first"):
        api.channels.resend(channel["id"], message_id=tested)
    api.channels.delete(channel["id"])
    assert api.channels.list() == []

    bitcoin: Matcher = {"name": "product", "op": "=~", "value": "BTC-*"}
    silences = [api.silences.create([bitcoin], str(number), ends_at="2100-01-31T12:00:00Z") for number in range(3)]
    assert api.silences.preview([bitcoin]) == []
    api.silences.end(silences[0]["silence_id"])
    assert [each["comment"] for each in api.silences.list("active", page=1)] == ["2", "1"]

    assert api.tenant.show()["quotas"]["channels"]["use"] == 0
    assert api.tenant.usage(from_="2026-01-01", to="2026-01-31") == []
    assert api.ticket()["expires_at"]
    assert api.audit.verify()["intact"]


def test_a_change_of_a_rule_is_made_from_the_version_that_was_seen(api: Client) -> None:
    rule_id = api.rules.create(RULE)["rule_id"]

    changed = api.rules.replace(rule_id, RULE | {"severity": "critical"}, version=1)
    with pytest.raises(ApiError) as replaced:
        api.rules.replace(rule_id, RULE, version=1)
    with pytest.raises(ApiError) as deleted:
        api.rules.delete(rule_id, version=1)

    assert changed["version"] == 2
    assert {replaced.value.code, deleted.value.code} == {"precondition-failed"}
    assert [each["change"] for each in api.rules.versions(rule_id)] == ["changed", "created"]


def test_a_tenant_is_deleted_by_its_owner(running: Installation) -> None:
    leaving = running.register("leaving")
    with Client(f"http://127.0.0.1:{running.api_port}", leaving.key) as api:
        assert api.tenant.delete(leaving.slug)["status"] == "deleting"


def test_a_refusal_says_what_is_wrong(api: Client, tenant: Tenant, running: Installation) -> None:
    for request, code in (
        (lambda: api.tenant.register(tenant.slug), "tenant-exists"),
        (lambda: api.rules.get("a/../b?c"), "not-found"),
        (lambda: api.rules.create({**RULE, "condition": {"type": "price"}}), "invalid-body"),
        (lambda: list(api.ticks(prodcut="BTC-USD")), "invalid-parameters"),
        (lambda: list(api.export("events", tenant="acme")), "tenant-not-allowed"),
    ):
        with pytest.raises(ApiError) as excinfo:
            request()
        assert excinfo.value.code == code
    with Client(f"http://127.0.0.1:{running.api_port}") as nobody, pytest.raises(ApiError, match="X-API-Key"):
        nobody.rules.list()


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


# ---- the command line on top of it ----


@pytest.fixture
def run(running: Installation, tenant: Tenant) -> Callable[..., str]:
    """Run a command for the tenant and return what it prints; fails where it ends otherwise than with `code`."""
    env = {
        "PULSESTREAM_API_PORT": str(running.api_port),
        "PULSESTREAM_HOME": os.devnull + "/nowhere",
        "PULSESTREAM_API_KEY": tenant.key,
    }

    def command(*arguments: str, given: str = "", refused: bool = False) -> str:
        done = CliRunner().invoke(app, arguments, input=given, env=env)
        if refused:
            assert isinstance(done.exception, UsageError), done.output
            return str(done.exception)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    return command


def test_rules_are_applied_from_a_file_and_looked_after(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    low, high = ({**RULE, "name": name} for name in ("low", "high"))
    file.write_text(json.dumps({"rules": [low, high]}))  # which is YAML, too

    assert run("rules", "apply", str(file), "--dry-run") == "low: would be created\nhigh: would be created\n"
    assert run("rules", "list", "--json") == ""
    assert run("rules", "apply", str(file)) == "low: created\nhigh: created\n"
    assert run("rules", "apply", str(file)) == "low: as it was\nhigh: as it was\n"
    file.write_text(json.dumps({"rules": [low | {"severity": "critical"}]}))
    assert run("rules", "apply", str(file)) == "low: changed: /severity\n"
    assert run("rules", "apply", str(file), "--prune") == "high: deleted\nlow: as it was\n"

    assert "paused since version 3" in run("rules", "pause", "low")
    assert re.search(r"low +3 +paused +BTC-USD +price below \d", run("rules", "list"))
    assert "since version 4" in run("rules", "resume", "low")
    changes = [line.split()[1] for line in run("rules", "versions", "low").splitlines()]
    assert changes == ["CHANGE", "resumed", "paused", "changed", "created"]
    rule_id = json.loads(run("rules", "show", "low"))["rule_id"]
    assert "low deleted" in run("rules", "delete", rule_id)
    assert "none so far" in run("rules", "pause", "low", refused=True)


def test_channels_are_made_tried_and_looked_after(run: Callable[..., str]) -> None:
    made = run("channels", "create", "desk", "--webhook", "https://example.com/a", "--severity", "critical")
    chat = {"kind": "slack", "url": "https://example.com/secret"}
    run("channels", "create", "chat", "--target", "-", "--label", "desk=spot", given=json.dumps(chat))

    assert made.splitlines()[-1].startswith("whsec_")
    assert [line.split()[1:3] for line in run("channels", "list").splitlines()[1:]] == [
        ["desk", "active"], ["chat", "active"]
    ]  # fmt: skip
    assert "webhook https://example.com/a  severities=critical" in run("channels", "list")
    shown = json.loads(run("channels", "show", "chat"))
    assert (shown["target"], shown["matchers"]["labels"]) == (
        {"kind": "slack", "host": "example.com"}, {"desk": ["spot"]}
    )  # fmt: skip
    sent = run("channels", "test", "desk").split()[0]
    assert [json.loads(line)["id"] for line in run("channels", "messages", "desk", "--json").splitlines()] == [sent]
    assert run("channels", "attempts", "desk", "--message", sent, "--json") == ""
    assert run("channels", "resend", "desk", "--message", sent).startswith("0 messages on the way")  # it waits
    assert "paused" in run("channels", "pause", "desk")
    assert "enable it first" in run("channels", "resend", "desk", "--message", sent, refused=True)
    assert "active" in run("channels", "resume", "desk")
    assert "night" in run("channels", "change", "desk", "--name", "night", "--product", "BTC-USD")
    matchers = json.loads(run("channels", "show", "night"))["matchers"]
    assert {name: values for name, values in matchers.items() if values} == {
        "severities": ["critical"], "products": ["BTC-USD"]
    }  # fmt: skip
    assert "deleted" in run("channels", "delete", "night")
    assert "the tenant has chat" in run("channels", "test", "night", refused=True)
    assert "one target" in run("channels", "change", "chat", "--webhook", "x", "--email", "y", refused=True)
    assert "nothing to change" in run("channels", "change", "chat", refused=True)
    assert "is no JSON" in run("channels", "create", "x", "--target", "-", given="{", refused=True)


def test_alerts_are_looked_at_marked_and_silenced(
    run: Callable[..., str], running: Installation, tenant: Tenant
) -> None:
    alert_id = store_alert(running.database, tenant.slug, "rule")

    assert run("alerts", "list").splitlines()[1].split()[-1] == alert_id
    assert "acknowledged" in run("alerts", "acknowledge", alert_id, "--comment", "on it")
    assert "people are told" in run("alerts", "unacknowledge", alert_id)
    assert "snoozed until" in run("alerts", "snooze", alert_id, "--for", "2h")
    assert json.loads(run("alerts", "unsnooze", alert_id, "--json"))["snoozed"] is None
    history = run("alerts", "history", "--product", "BTC-USD", "--json")
    assert [json.loads(line)["alert_id"] for line in history.splitlines()] == [alert_id]
    assert "--for 2h" in run("alerts", "snooze", alert_id, refused=True)

    matching = ("--match", "product=~BTC-*", "--match", "severity!=critical")
    assert run("silences", "preview", *matching).splitlines()[1].split()[-1] == alert_id
    assert "is active" in run("silences", "create", *matching, "--for", "2h", "--comment", "maintenance")
    assert "silence " in run("alerts", "list").splitlines()[1]
    weekly = ("--weekly", "sat,sun@22:30", "--for", "3h", "--zone", "Europe/Berlin")
    window = json.loads(run("silences", "create", *matching, *weekly, "--comment", "weekend", "--json"))
    assert window["weekly"]["minutes"] == 180
    assert "sat,sun@22:30 for 180m Europe/Berlin" in run("silences", "list")
    assert "is over" in run("silences", "end", window["silence_id"])
    assert json.loads(run("silences", "show", window["silence_id"]))["state"] == "expired"
    assert "a silence ends" in run("silences", "create", *matching, "--comment", "x", refused=True)
    assert "is not NAME=VALUE" in run("silences", "preview", "--match", "product", refused=True)
    assert "is not DAYS@TIME" in run(
        "silences", "create", *matching, "--weekly", "sat", "--for", "1h", "--comment", "x", refused=True
    )


def test_logins_to_the_broker_are_made_shown_rotated_and_revoked(run: Callable[..., str]) -> None:
    words, password = run("kafka-credentials", "create", "desk 1").splitlines()
    login = words.split()[1].rstrip(",")

    assert "SCRAM-SHA-256" in words
    assert "names of consumer groups begin with t.acme" in run("kafka-credentials", "show", login)
    properties = run("kafka-credentials", "rotate", login, "--overlap", "0", "--client", "java")
    assert "sasl.jaas.config" in properties
    assert password not in properties
    newest = json.loads(run("kafka-credentials", "list", "--json").splitlines()[0])
    assert "revoked" in run("kafka-credentials", "revoke", newest["username"])
    assert len(run("kafka-credentials", "list", "--ended").splitlines()) == 3
    assert "is no id" in run("kafka-credentials", "revoke", "../x", refused=True)
