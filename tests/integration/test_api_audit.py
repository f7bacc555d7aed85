"""The audit over the API: every route that changes something leaves a row, which is found, exported and verified."""

import csv
import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import psycopg
import pytest

from pulsestream.client import Client
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, RULE, installation, problem, store_alert
from tests.support.e2e import Installation, Tenant, eventually
from tests.support.letters import Desk, good, open_desk
from tests.support.rounds import Rounds

AUDIT = "/api/v1/audit"
KEYS = "/api/v1/keys"
CHANNELS = "/api/v1/channels"
LOGINS = "/api/v1/kafka-credentials"
TENANT = "/api/v1/tenant"
SUBSCRIPTIONS, RULES, LETTERS = "/api/v1/subscriptions", "/api/v1/rules", "/api/v1/dead-letters"
PRODUCTS = [{"exchange": "coinbase", "product": "BTC-USD"}, {"exchange": "coinbase", "product": "ETH-USD"}]
NAMED = {"X-Request-ID": "asked-by-the-test"}
UNCHANGING = {
    "/api/v1/ingestion/events",
    "/api/v1/ingestion/events/batch",
    "/registry/subjects/{name}",
    "/registry/subjects/{name}/versions",
    "/api/v1/live/tickets",
    "/api/v1/silences/preview",
    "/api/v1/rules/test",
    "/api/v1/channels/{channel_id}/test",
}
"""Routes that change nothing of what a tenant is or wants: they take data, look something up, or let a reader in."""


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("audit")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture(scope="module")
def desk(running: Installation) -> Desk:
    return open_desk(running)


def send(tenant: Tenant, method: str, path: str, **request: Any) -> httpx.Response:
    answer = tenant.http.request(method, path, headers={"X-API-Key": tenant.key} | NAMED, **request)
    assert answer.is_success, answer.text
    return answer


def entries(tenant: Tenant, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tenant.call("GET", AUDIT, params=query)["entries"]
    return found


def newest(tenant: Tenant) -> dict[str, Any]:
    return entries(tenant, limit=1)[0]


# ---- each route that changes something, and the row that tells of it ----


def registering(desk: Desk) -> dict[str, Any]:
    made = desk.running.register("audited")
    key, tenant = entries(made)
    assert (tenant["action"], tenant["target"]) == ("tenant.create", f"tenant:{made.slug}")
    assert tenant["after"] == {"name": "audited", "tier": "free", "status": "active"}
    assert key["actor"] == tenant["actor"] == {"id": None, "role": None}
    assert key["request_id"] == tenant["request_id"]
    return key


def deleting_the_tenant(desk: Desk) -> dict[str, Any]:
    tenant = desk.tenant
    answer = send(tenant, "DELETE", TENANT, json={"confirm": tenant.slug})
    assert answer.json()["status"] == "deleting"
    with psycopg.connect(desk.running.database.url(), autocommit=True) as admin:
        restored = "UPDATE tenants SET status = 'active', delete_after = NULL WHERE tenant = %s"
        admin.execute(restored, (tenant.slug,))

    def taken_again() -> None:
        newest(tenant)

    eventually(taken_again)
    row = newest(tenant)
    assert (row["target"], row["before"], row["after"]) == (
        f"tenant:{tenant.slug}",
        {"status": "active"},
        {"status": "deleting"},
    )
    return row


def subscribing(desk: Desk) -> dict[str, Any]:
    send(desk.tenant, "PUT", SUBSCRIPTIONS, json={"subscriptions": PRODUCTS[:1]})
    send(desk.tenant, "PUT", SUBSCRIPTIONS, json={"subscriptions": PRODUCTS[1:]})
    return newest(desk.tenant)


def making_a_rule(desk: Desk) -> dict[str, Any]:
    send(desk.tenant, "POST", RULES, json=RULE | {"name": "made"})
    return newest(desk.tenant)


def changing_a_rule(
    method: str, path: str, name: str, *, body: Any = None, paused: bool = False
) -> Callable[[Desk], dict[str, Any]]:
    def change(desk: Desk) -> dict[str, Any]:
        made = send(desk.tenant, "POST", RULES, json=RULE | {"name": name, "enabled": not paused}).json()
        headers = {"X-API-Key": desk.tenant.key, "If-Match": '"1"'} | NAMED
        answer = desk.tenant.http.request(method, f"{RULES}/{made['rule_id']}{path}", headers=headers, json=body)
        row = newest(desk.tenant)
        assert row["target"] == f"rule:{made['rule_id']}"
        assert row["before"] == {"version": 1, "definition": made["definition"]}
        assert row["after"] == {"version": 2, "definition": answer.json()["definition"]}
        return row

    return change


def marking_an_alert(how: str, *before: str) -> Callable[[Desk], dict[str, Any]]:
    def mark(desk: Desk) -> dict[str, Any]:
        rule_id = f"rule-{how}"
        alert_id = store_alert(desk.running.database, desk.tenant.slug, rule_id)
        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        for each in (*before, how):
            body = {"alert_id": alert_id} | ({"until": until} if each == "snooze" else {})
            send(desk.tenant, "POST", f"/api/v1/alerts/{each}", json=body)
        row = newest(desk.tenant)
        assert row["target"] == f"alert:{rule_id}:coinbase:BTC-USD"
        assert (row["before"] is None) is not how.startswith("un")
        return row

    return mark


SILENCE = {"matchers": [{"name": "product", "op": "=", "value": "NONE-USD"}], "comment": "audited"}


def making_a_silence(desk: Desk) -> dict[str, Any]:
    ends_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = send(desk.tenant, "POST", "/api/v1/silences", json=SILENCE | {"ends_at": ends_at}).json()
    row = newest(desk.tenant)
    assert (row["target"], row["after"]["comment"]) == (f"silence:{made['silence_id']}", "audited")
    return row


def ending_a_silence(desk: Desk) -> dict[str, Any]:
    silence_id = making_a_silence(desk)["target"].removeprefix("silence:")
    for _ in range(2):
        send(desk.tenant, "DELETE", f"/api/v1/silences/{silence_id}")
    return newest(desk.tenant)


def deleting_a_rule(desk: Desk) -> dict[str, Any]:
    made = send(desk.tenant, "POST", RULES, json=RULE | {"name": "deleted"}).json()
    send(desk.tenant, "DELETE", f"{RULES}/{made['rule_id']}")
    row = newest(desk.tenant)
    assert row["target"] == f"rule:{made['rule_id']}"
    return row


HOOK = {"target": {"kind": "webhook", "url": "https://example.com/a-secret-of-the-receiver"}}


def making_a_channel(desk: Desk) -> dict[str, Any]:
    made = send(desk.tenant, "POST", CHANNELS, json=HOOK | {"name": "made"}).json()
    row = newest(desk.tenant)
    assert row["target"] == f"channel:{made['id']}"
    assert row["after"]["target"] == {"url": "https://example.com:443/…"}
    assert made["secret"] not in json.dumps(row)
    return row


def changing_a_channel(method: str, body: Any) -> Callable[[Desk], dict[str, Any]]:
    def changes(desk: Desk) -> dict[str, Any]:
        made = send(desk.tenant, "POST", CHANNELS, json=HOOK | {"name": f"to {method}"}).json()
        send(desk.tenant, method, f"{CHANNELS}/{made['id']}", json=body)
        row = newest(desk.tenant)
        assert (row["target"], row["before"]["enabled"]) == (f"channel:{made['id']}", True)
        return row

    return changes


def resending(desk: Desk) -> dict[str, Any]:
    made = send(desk.tenant, "POST", CHANNELS, json=HOOK | {"name": "to be sent again"}).json()
    tested = send(desk.tenant, "POST", f"{CHANNELS}/{made['id']}/test").json()["message_id"]
    with psycopg.connect(desk.running.database.url()) as connection:
        connection.execute("UPDATE notifications SET state = 'failed', settled_at = now() WHERE id = %s", (tested,))
    send(desk.tenant, "POST", f"{CHANNELS}/{made['id']}/resend", json={"message_id": tested})
    row = newest(desk.tenant)
    assert (row["target"], row["after"]["messages"]) == (f"channel:{made['id']}", 1)
    return row


def replaying(desk: Desk) -> dict[str, Any]:
    (letter_id,) = desk.put([desk.letter(1, good(1))])
    send(desk.tenant, "POST", f"{LETTERS}/replay", json={"ids": [letter_id]})
    row = newest(desk.tenant)
    assert row["before"]["ids"] == row["after"]["ids"] == [letter_id]
    return row


def discarding(desk: Desk) -> dict[str, Any]:
    (letter_id,) = desk.put([desk.letter(2, b"?")])
    send(desk.tenant, "POST", f"{LETTERS}/discard", json={"ids": [letter_id], "reason": "noise"})
    row = newest(desk.tenant)
    assert (row["after"]["ids"], row["after"]["reason"]) == ([letter_id], "noise")
    return row


def changing_a_key(method: str, path: str, body: Any) -> Callable[[Desk], dict[str, Any]]:
    def changes(desk: Desk) -> dict[str, Any]:
        made = send(desk.tenant, "POST", KEYS, json={"name": "audited", "role": "viewer"}).json()
        send(desk.tenant, method, f"{KEYS}/{made['id']}{path}", json=body)
        row = newest(desk.tenant)
        assert row["target"] == f"key:{made['id']}"
        assert made["api_key"].split("_")[3] not in str(entries(desk.tenant))
        return row

    return changes


def making_a_key(desk: Desk) -> dict[str, Any]:
    made = send(desk.tenant, "POST", KEYS, json={"name": "audited", "role": "viewer"}).json()
    row = newest(desk.tenant)
    assert (row["target"], row["after"]) == (f"key:{made['id']}", {"name": "audited", "role": "viewer"})
    return row


def making_a_login(desk: Desk) -> dict[str, Any]:
    made = send(desk.tenant, "POST", LOGINS, json={"name": "audited"}).json()
    row = newest(desk.tenant)
    assert (row["target"], row["after"]) == (f"kafka-credential:{made['id']}", {"name": "audited"})
    assert made["password"] not in str(entries(desk.tenant))
    return row


def changing_a_login(method: str, path: str, body: Any) -> Callable[[Desk], dict[str, Any]]:
    def changes(desk: Desk) -> dict[str, Any]:
        made = send(desk.tenant, "POST", LOGINS, json={"name": "audited"}).json()
        send(desk.tenant, method, f"{LOGINS}/{made['id']}{path}", json=body)
        row = newest(desk.tenant)
        assert row["target"] == f"kafka-credential:{made['id']}"
        return row

    return changes


CASES: dict[tuple[str, str], tuple[Callable[[Desk], dict[str, Any]], str]] = {
    ("post", KEYS): (making_a_key, "key.create"),
    ("patch", KEYS + "/{key_id}"): (changing_a_key("PATCH", "", {"name": "renamed"}), "key.change"),
    ("post", KEYS + "/{key_id}/rotate"): (changing_a_key("POST", "/rotate", {"overlap_seconds": 0}), "key.rotate"),
    ("delete", KEYS + "/{key_id}"): (changing_a_key("DELETE", "", None), "key.revoke"),
    ("post", LOGINS): (making_a_login, "kafka-credential.create"),
    ("post", LOGINS + "/{credential_id}/rotate"): (
        changing_a_login("POST", "/rotate", {"overlap_seconds": 0}),
        "kafka-credential.rotate",
    ),
    ("delete", LOGINS + "/{credential_id}"): (changing_a_login("DELETE", "", None), "kafka-credential.revoke"),
    ("post", "/api/v1/auth/register/tenant"): (registering, "key.create"),
    ("delete", TENANT): (deleting_the_tenant, "tenant.delete"),
    ("put", SUBSCRIPTIONS): (subscribing, "subscriptions.replace"),
    ("post", RULES): (making_a_rule, "rule.create"),
    ("post", CHANNELS): (making_a_channel, "channel.create"),
    ("post", CHANNELS + "/{channel_id}/resend"): (resending, "channel.resend"),
    ("patch", CHANNELS + "/{channel_id}"): (changing_a_channel("PATCH", {"enabled": False}), "channel.change"),
    ("delete", CHANNELS + "/{channel_id}"): (changing_a_channel("DELETE", None), "channel.delete"),
    ("delete", RULES + "/{rule_id}"): (deleting_a_rule, "rule.delete"),
    ("put", RULES + "/{rule_id}"): (
        changing_a_rule("PUT", "", "changed", body=RULE | {"name": "to this"}),
        "rule.change",
    ),
    ("post", RULES + "/{rule_id}/pause"): (changing_a_rule("POST", "/pause", "paused"), "rule.pause"),
    ("post", RULES + "/{rule_id}/resume"): (changing_a_rule("POST", "/resume", "resumed", paused=True), "rule.resume"),
    ("post", "/api/v1/silences"): (making_a_silence, "silence.create"),
    ("delete", "/api/v1/silences/{silence_id}"): (ending_a_silence, "silence.expire"),
    ("post", "/api/v1/alerts/acknowledge"): (marking_an_alert("acknowledge"), "alert.acknowledge"),
    ("post", "/api/v1/alerts/snooze"): (marking_an_alert("snooze"), "alert.snooze"),
    ("post", "/api/v1/alerts/unacknowledge"): (
        marking_an_alert("unacknowledge", "acknowledge"),
        "alert.unacknowledge",
    ),
    ("post", "/api/v1/alerts/unsnooze"): (marking_an_alert("unsnooze", "snooze"), "alert.unsnooze"),
    ("post", LETTERS + "/replay"): (replaying, "dead-letters.replay"),
    ("post", LETTERS + "/discard"): (discarding, "dead-letters.discard"),
}


def test_every_route_that_changes_something_has_a_case(desk: Desk) -> None:
    paths = desk.tenant.http.get("/openapi.json").json()["paths"]

    changing = {(method, path) for path, methods in paths.items() for method in methods if method != "get"}
    assert {(method, path) for method, path in changing if path not in UNCHANGING} == set(CASES)


@pytest.mark.parametrize("route", CASES, ids=lambda route: f"{route[0].upper()} {route[1]}")
def test_a_change_leaves_a_row_with_who_asked_for_it_in_which_request(desk: Desk, route: tuple[str, str]) -> None:
    change, action = CASES[route]

    row = change(desk)

    assert row["action"] == action
    if route[1] != "/api/v1/auth/register/tenant":
        assert row["actor"]["role"] == "owner"
        assert row["actor"]["id"] in desk.tenant.key
        assert row["request_id"] == NAMED["X-Request-ID"]
    assert desk.tenant.call("GET", f"{AUDIT}/verify")["intact"]


def test_a_row_tells_what_was_there_before_and_what_is_there_now(desk: Desk) -> None:
    subscribed, made, deleted = subscribing(desk), making_a_rule_of_its_own(desk), deleting_a_rule(desk)

    assert subscribed["before"] == {"coinbase:BTC-USD": ["ticks", "trades"]}
    assert subscribed["after"] == {"coinbase:ETH-USD": ["ticks", "trades"]}
    assert made["before"] is None
    assert made["after"]["definition"]["condition"]["below"] == RULE["condition"]["below"]  # type: ignore[index]
    assert deleted["before"]["definition"]["name"] == "deleted"
    assert deleted["after"] is None


def making_a_rule_of_its_own(desk: Desk) -> dict[str, Any]:
    send(desk.tenant, "POST", RULES, json=RULE | {"name": "its own"})
    return newest(desk.tenant)


def test_what_changes_nothing_leaves_no_row(desk: Desk) -> None:
    send(desk.tenant, "PUT", SUBSCRIPTIONS, json={"subscriptions": PRODUCTS[1:]})
    before = newest(desk.tenant)["seq"]

    send(desk.tenant, "PUT", SUBSCRIPTIONS, json={"subscriptions": PRODUCTS[1:]})
    send(desk.tenant, "POST", RULES + "", json=RULE | {"name": "twice"})
    problem(
        desk.tenant.http.post(RULES, headers={"X-API-Key": desk.tenant.key}, json=RULE | {"name": "twice"}),
        409,
        "rule-exists",
    )
    desk.call("POST", "/replay", json={"where": {"reason": "no such"}})
    desk.tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)

    assert [row["action"] for row in entries(desk.tenant) if row["seq"] > before] == ["rule.create"]


def test_no_secret_is_in_any_row(running: Installation, desk: Desk) -> None:
    made = running.register("secret")
    secret = made.key.split("_")[3]
    send(made, "POST", RULES, json=RULE | {"labels": {"note": f"my key is {made.key}"}})

    whole = made.http.get(AUDIT, headers={"X-API-Key": made.key}, params={"format": "ndjson"}).text

    assert made.key.split("_")[2] in whole
    assert secret not in whole
    assert secret not in str(desk.rows("SELECT to_jsonb(audit)::text FROM audit WHERE %s::text IS NOT NULL"))


def test_a_killed_api_leaves_no_change_without_its_row_and_no_row_without_its_change(
    running: Installation, rounds: Rounds
) -> None:
    changing = running.register("killed")
    for _ in range(rounds(2, 20)):
        _change_until_killed(running, changing)
        running["api"].start()
        running["api"].wait_ready()

    with psycopg.connect(running.database.url()) as connection:
        versions = connection.execute("SELECT rule_id, deleted FROM rules WHERE tenant = %s", (changing.slug,))
        changes = {(f"rule:{rule_id}", "rule.delete" if deleted else "rule.create") for rule_id, deleted in versions}
    found: list[dict[str, Any]] = []
    with Client(f"http://127.0.0.1:{running.api_port}", changing.key) as api:
        found += [row for row in api.audit.list() if row["action"].startswith("rule.")]
        verdict = api.audit.verify()
    assert len(changes) > 2
    assert {(row["target"], row["action"]) for row in found} == changes
    assert len(found) == len(changes)
    assert verdict["intact"]


def _change_until_killed(running: Installation, changing: Tenant) -> None:
    """Make and delete rules in three threads, and kill the API under them as soon as some were made."""
    made: list[str] = []

    def change(worker: int) -> None:
        with suppress(httpx.TransportError), httpx.Client(base_url=changing.http.base_url, trust_env=False) as http:
            for number in count():
                named = RULE | {"name": f"{worker}-{number}-{secrets.token_hex(4)}"}
                answer = http.post(RULES, headers={"X-API-Key": changing.key}, json=named)
                if answer.status_code != 201:
                    return
                made.append(answer.json()["rule_id"])
                http.delete(f"{RULES}/{made[-1]}", headers={"X-API-Key": changing.key})

    def some_are_made() -> None:
        assert len(made) >= 10

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(change, worker) for worker in range(3)]
        eventually(some_are_made, every=0.01)
        running["api"].kill()
        for worker in workers:
            worker.result()


# ---- found, exported, verified ----


@pytest.fixture(scope="module")
def busy(running: Installation) -> Tenant:
    """A tenant with two rows of its registration and three pairs of a rule that is made and deleted."""
    made = running.register("busy")
    for number in range(3):
        rule = made.create_rule(RULE | {"name": f"rule {number}"})
        made.call("DELETE", f"{RULES}/{rule['rule_id']}", expect=204)
    return made


def test_a_walk_shows_every_row_once_newest_first(busy: Tenant) -> None:
    walked: list[int] = []
    page = busy.call("GET", AUDIT, params={"limit": 3})
    while True:
        walked += [row["seq"] for row in page["entries"]]
        if page["next_cursor"] is None:
            break
        page = busy.call("GET", AUDIT, params={"limit": 3, "cursor": page["next_cursor"]})

    assert walked == [8, 7, 6, 5, 4, 3, 2, 1]


def test_rows_are_found_by_action_actor_target_and_time(busy: Tenant) -> None:
    everything = entries(busy)
    key_id = busy.key.split("_")[2]

    assert [row["seq"] for row in entries(busy, action="rule.delete")] == [8, 6, 4]
    assert [row["seq"] for row in entries(busy, actor=key_id)] == [8, 7, 6, 5, 4, 3]
    assert [row["seq"] for row in entries(busy, target=everything[0]["target"])] == [8, 7]
    window = {"from": everything[5]["at"], "to": everything[2]["at"], "action": "rule.create"}
    assert [row["seq"] for row in entries(busy, **window)] == [5, 3]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"action": "rule.destroy"}, "invalid-parameters"),
        ({"actr": "x"}, "invalid-parameters"),
        ({"from": "yesterday"}, "invalid-parameters"),
        ({"limit": 0}, "invalid-parameters"),
        ({"format": "xml"}, "invalid-parameters"),
        ({"cursor": "x"}, "invalid-cursor"),
        ({"actor": "\0"}, "refused-value"),
    ],
)
def test_what_cannot_be_meant_is_refused(busy: Tenant, query: dict[str, Any], code: str) -> None:
    problem(busy.http.get(AUDIT, headers={"X-API-Key": busy.key}, params=query), 400, code)


def test_a_cursor_belongs_to_its_filters(busy: Tenant) -> None:
    cursor = busy.call("GET", AUDIT, params={"limit": 1})["next_cursor"]

    for path, query in ((AUDIT, {"action": "rule.create"}), (f"{AUDIT}/verify", {})):
        answer = busy.http.get(path, headers={"X-API-Key": busy.key}, params=query | {"cursor": cursor})
        problem(answer, 400, "invalid-cursor")


def test_an_export_holds_the_rows_of_a_walk(busy: Tenant) -> None:
    shown = entries(busy)
    lines = busy.http.get(AUDIT, headers={"X-API-Key": busy.key}, params={"format": "ndjson"})
    table = busy.http.get(AUDIT, headers={"X-API-Key": busy.key}, params={"format": "csv", "action": "rule.create"})

    assert [json.loads(line) for line in lines.text.splitlines()] == shown
    rows = list(csv.DictReader(table.text.splitlines()))
    assert [int(row["seq"]) for row in rows] == [7, 5, 3]
    assert json.loads(rows[0]["after"]) == shown[1]["after"]


def test_a_chain_is_verified_in_parts_up_to_its_head(busy: Tenant) -> None:
    first = busy.call("GET", f"{AUDIT}/verify", params={"limit": 5})
    rest = busy.call("GET", f"{AUDIT}/verify", params={"limit": 5, "cursor": first["next_cursor"]})

    assert (first["first"], first["last"], first["head"]) == (1, 5, 8)
    assert (rest["intact"], rest["first"], rest["last"], rest["next_cursor"]) == (True, 6, 8, None)
    assert rest["hash"] == entries(busy, limit=1)[0]["hash"]


def test_a_viewer_does_not_read_the_audit(desk: Desk) -> None:
    viewer = desk.viewer()

    for path in (AUDIT, f"{AUDIT}/verify"):
        problem(viewer.http.get(path, headers={"X-API-Key": viewer.key}), 403, "forbidden")


def test_answers_are_as_the_document_describes_them(busy: Tenant, desk: Desk) -> None:
    pytest.importorskip("jsonschema", reason="jsonschema checks answers against the document: make install")
    from tests.support.contract import Operation  # noqa: PLC0415 - it needs jsonschema

    document = busy.http.get("/openapi.json").json()
    for tenant, path in ((busy, AUDIT), (desk.tenant, AUDIT), (busy, f"{AUDIT}/verify")):
        described = document["paths"][path]["get"]
        schema = described["responses"]["200"]["content"]["application/json"]["schema"]
        assert Operation(document, described).disagreements(schema, tenant.call("GET", path)) == []
    assert {"application/json", "application/x-ndjson", "text/csv"} == {
        *document["paths"][AUDIT]["get"]["responses"]["200"]["content"]
    }
