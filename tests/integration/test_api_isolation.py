"""For every route: another tenant's key finds nothing and changes nothing. A route without a case fails."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import DeadLetter
from tests.support.api import EVENT, RULE, installation, problem
from tests.support.e2e import Installation, Tenant, read_topic
from tests.support.live import EventClient, LiveClient, rows

PRODUCT = {"exchange": "coinbase", "product": "BTC-USD"}
TENANT, USAGE = "/api/v1/tenant", "/api/v1/usage"
SUBSCRIPTIONS = "/api/v1/subscriptions"
RULES = "/api/v1/rules"
SEARCH = "/api/v1/ingestion/events/search"
LISTS = ("ticks", "trades", "bars", "stats", "alerts")
FEEDS = "/api/v1/feeds"
STATUS = "/api/v1/ingestion/status"
LETTERS = "/api/v1/dead-letters"
TICKETS = "/api/v1/live/tickets"
STREAM = "/api/v1/live/events"
AUDIT = "/api/v1/audit"
KEYS = "/api/v1/keys"
SILENCES = "/api/v1/silences"
CHANNELS = "/api/v1/channels"
HOOK = {"name": "victims-own", "target": {"kind": "webhook", "url": "https://example.com/victims-own"}}
LOGINS = "/api/v1/kafka-credentials"
CURRENT_ALERT = "r:1:coinbase:BTC-USD:firing:1"
"""Names the rule and product of the alert that the victim has."""


@dataclass
class Pair:
    """A tenant that has everything, and an intruder with a valid key of another tenant."""

    running: Installation
    victim: Tenant
    intruder: Tenant
    rule_id: str
    login_id: str

    def intrude(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self.intruder.http.request(method, path, headers={"X-API-Key": self.intruder.key}, **request)

    def assert_hidden(self, answer: httpx.Response) -> None:
        for secret in (self.victim.slug, self.victim.key, self.rule_id, self.login_id, "victims-own"):
            assert secret not in answer.text, answer.text


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("isolation")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as running:
        victim, intruder = running.register("victim"), running.register("victim")
        victim.subscribe("coinbase", ["BTC-USD"])
        victim.call("POST", "/api/v1/ingestion/events", json=EVENT | {"id": "victims-own"})
        rule_id = victim.create_rule(RULE | {"name": "victims-own"})["rule_id"]
        login_id = victim.call("POST", LOGINS, json={"name": "victims-own"})["id"]
        _store_rows(running, victim.slug)
        yield Pair(running, victim, intruder, rule_id, login_id)


def _store_rows(running: Installation, tenant: str) -> None:
    with psycopg.connect(running.database.url()) as connection:
        connection.execute(
            """INSERT INTO ticks (tenant, event_id, exchange, product, price, exchange_time, received_time, appended_at)
            VALUES (%s, 'victims-own', 'coinbase', 'BTC-USD', 1, now(), now(), now())""",
            (tenant,),
        )
        connection.execute(
            """INSERT INTO events (tenant, event_id, type, source, time, received_time, data, appended_at)
            VALUES (%s, 'victims-own', 'a', 'b', now(), now(), '1', now())""",
            (tenant,),
        )
        connection.execute(
            """INSERT INTO alerts (tenant, alert_id, seq, rule_id, rule_name, rule_version, exchange, product, state,
            at, reason, severity, labels, last_prices, appended_at)
            VALUES (%s, 'victims-own', 1, 'r', 'n', 1, 'coinbase', 'BTC-USD', 'firing', now(), 'x', 'info', '{}', '[]',
            now())""",
            (tenant,),
        )
        connection.execute(
            """INSERT INTO stats (tenant, event_id, exchange, product, "window", at, basis, count, as_of_topic,
            as_of_partition, as_of_offset, revision, appended_at)
            VALUES (%s, 'victims-own', 'coinbase', 'BTC-USD', '1m', now(), 'ticks', 1, 't', 0, 0, 0, now())""",
            (tenant,),
        )
        connection.execute(
            """INSERT INTO trades (tenant, event_id, exchange, product, trade_id, price, size, side, exchange_time,
            received_time, appended_at)
            VALUES (%s, 'victims-own', 'coinbase', 'BTC-USD', 1, 1, 1, 'buy', now(), now(), now())""",
            (tenant,),
        )
        connection.execute(
            """INSERT INTO bars (tenant, event_id, exchange, product, period, start, open, high, low, close, volume,
            complete, revision, origin, received_time, appended_at)
            VALUES (%s, 'victims-own', 'coinbase', 'BTC-USD', '1m', now(), 1, 1, 1, 1, 1, true, 0, 'exchange', now(),
            now())""",
            (tenant,),
        )
        letter = DeadLetter(
            reason="r", message="m", topic=f"ps.{tenant}.events.v1", partition=0, offset=1, headers=[], first_seen=0
        )
        connection.execute(
            """INSERT INTO dead_letters
            (tenant, id, reason, message, topic, partition, "offset", first_seen, replays, letter, appended_at)
            VALUES (%s, 'victims-own', 'r', 'm', %s, 0, 1, now(), 0, %s, now())""",
            (tenant, letter.topic, codec(DeadLetter).encode(letter)),
        )
        connection.execute(
            """INSERT INTO feeds (key, exchange, product, state, at, gap_kind, gap_opened, gap_cause, version)
            VALUES ('gap:coinbase:BTC-USD:1', 'coinbase', 'BTC-USD', 'connected', now(), 'time', now(), %s, 1)""",
            (f"victims-own:{tenant}",),
        )


def making_a_channel_meets_no_namesake(pair: Pair) -> None:
    pair.victim.call("POST", CHANNELS, json=HOOK)
    answer = pair.intrude("POST", CHANNELS, json=HOOK | {"target": {"kind": "webhook", "url": "https://example.com"}})
    assert answer.status_code == 201
    assert pair.intrude("DELETE", f"{CHANNELS}/{answer.json()['id']}").status_code == 204


def listing_channels_shows_ones_own(pair: Pair) -> None:
    pair.victim.call("POST", CHANNELS, json=HOOK | {"name": "victims-own, listed"})
    answer = pair.intrude("GET", CHANNELS)
    assert answer.json()["channels"] == []
    pair.assert_hidden(answer)


def another_tenants_channel_does_not_exist(method: str, path: str, body: object = None) -> Callable[[Pair], None]:
    def hides(pair: Pair) -> None:
        made = pair.victim.call("POST", CHANNELS, json=HOOK | {"name": f"victims-own, {method} {path}"})
        answer = pair.intrude(method, f"{CHANNELS}/{made['id']}{path}", json=body)
        problem(answer, 404, "not-found")
        pair.assert_hidden(answer)
        kept = pair.victim.call("GET", f"{CHANNELS}/{made['id']}")
        assert kept == {name: value for name, value in made.items() if name != "secret"}
        with psycopg.connect(pair.running.database.url()) as connection:
            messages = connection.execute("SELECT FROM notifications WHERE channel_id = %s", (made["id"],))
            assert messages.rowcount == 0

    return hides


def registering_again_gives_no_key(pair: Pair) -> None:
    answer = pair.intruder.http.post("/api/v1/auth/register/tenant", json={"tenant": pair.victim.slug})
    problem(answer, 409, "tenant-exists")
    assert "api_key" not in answer.text


def listing_subscriptions_shows_ones_own(pair: Pair) -> None:
    answer = pair.intrude("GET", SUBSCRIPTIONS)
    assert answer.json()["subscriptions"] == []
    pair.assert_hidden(answer)


def setting_subscriptions_leaves_the_others_alone(pair: Pair) -> None:
    pair.assert_hidden(pair.intrude("PUT", SUBSCRIPTIONS, json={"subscriptions": [PRODUCT]}))
    pair.assert_hidden(pair.intrude("PUT", SUBSCRIPTIONS, json={"subscriptions": []}))
    assert len(pair.victim.call("GET", SUBSCRIPTIONS)["subscriptions"]) == 1


def making_a_rule_meets_no_namesake(pair: Pair) -> None:
    answer = pair.intrude("POST", RULES, json=RULE | {"name": "victims-own"})
    assert answer.status_code == 201
    assert pair.intrude("DELETE", f"{RULES}/{answer.json()['rule_id']}").status_code == 204


def trying_a_rule_sees_ones_own(pair: Pair) -> None:
    answer = pair.intrude("POST", RULES + "/test", json=RULE)
    assert answer.status_code == 200
    assert (answer.json()["count"], answer.json()["records"]["count"]) == (0, 0)
    pair.assert_hidden(answer)
    assert pair.victim.call("POST", RULES + "/test", json=RULE, expect=200)["summary"]["fired"] == 1


def another_tenants_rule_is_not_touched(method: str, path: str, body: Any = None) -> Callable[[Pair], None]:
    def touch(pair: Pair) -> None:
        request = {"json": body, "headers": {"X-API-Key": pair.intruder.key, "If-Match": "*"}}
        there = pair.intruder.http.request(method, f"{RULES}/{pair.rule_id}{path}", **request)
        nowhere = pair.intruder.http.request(method, f"{RULES}/{pair.rule_id[::-1]}{path}", **request)
        told = problem(there, 404, "not-found")["detail"], problem(nowhere, 404, "not-found")["detail"]
        assert str(told[0]).replace(pair.rule_id, "") == str(told[1]).replace(pair.rule_id[::-1], "")
        shown = pair.victim.call("GET", f"{RULES}/{pair.rule_id}")
        assert (shown["version"], shown["enabled"]) == (1, True)

    return touch


def another_tenants_alert_is_not_marked(how: str) -> Callable[[Pair], None]:
    def mark(pair: Pair) -> None:
        body = {"alert_id": CURRENT_ALERT}
        if how == "snooze":
            body["until"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        problem(pair.intrude("POST", f"/api/v1/alerts/{how}", json=body), 404, "not-found")
        (alert,) = pair.victim.call("GET", "/api/v1/alerts/current")["alerts"]
        assert (alert["acknowledged"], alert["snoozed"], alert["muted"]) == (None, None, None)

    return mark


def silences_are_ones_own(pair: Pair) -> None:
    body = {"matchers": [{"name": "product", "op": "=~", "value": "*"}], "comment": "victims-own"}
    body["ends_at"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert pair.intrude("POST", SILENCES + "/preview", json={"matchers": body["matchers"]}).json() == {"alerts": []}
    assert pair.intrude("POST", SILENCES, json=body | {"comment": "own"}).status_code == 201
    (alert,) = pair.victim.call("GET", "/api/v1/alerts/current")["alerts"]
    assert alert["muted"] is None
    made = pair.victim.call("POST", SILENCES, json=body, expect=201)["silence_id"]
    pair.assert_hidden(pair.intrude("GET", SILENCES))
    for method in ("GET", "DELETE"):
        problem(pair.intrude(method, f"{SILENCES}/{made}"), 404, "not-found")
    assert pair.victim.call("GET", f"{SILENCES}/{made}")["state"] == "active"
    pair.victim.call("DELETE", f"{SILENCES}/{made}", expect=204)


def alerts_as_they_stand_are_ones_own(pair: Pair) -> None:
    assert pair.intrude("GET", "/api/v1/alerts/current", params={"state": "any"}).json()["alerts"] == []
    assert len(pair.victim.call("GET", "/api/v1/alerts/current")["alerts"]) == 1


def listing_rules_shows_ones_own(pair: Pair) -> None:
    pair.assert_hidden(pair.intrude("GET", RULES))


def another_tenants_rule_does_not_exist(pair: Pair) -> None:
    there = problem(pair.intrude("GET", f"{RULES}/{pair.rule_id}"), 404, "not-found")
    nowhere = problem(pair.intrude("GET", f"{RULES}/{pair.rule_id[::-1]}"), 404, "not-found")
    assert str(there["detail"]).replace(pair.rule_id, "") == str(nowhere["detail"]).replace(pair.rule_id[::-1], "")


def another_tenants_rule_cannot_be_deleted(pair: Pair) -> None:
    problem(pair.intrude("DELETE", f"{RULES}/{pair.rule_id}"), 404, "not-found")
    assert pair.victim.call("GET", f"{RULES}/{pair.rule_id}")["version"] == 1


def searching_finds_ones_own(pair: Pair) -> None:
    named = [f"?dataset={name}" for name in ("ticks", "trades", "events", "stats", "bars", "alerts")]
    for dataset in ("", *named, "?product=BTC-USD"):
        assert pair.intrude("GET", SEARCH + dataset).json()["rows"] == [], dataset
        assert "victims-own" in pair.victim.http.get(SEARCH + dataset, headers={"X-API-Key": pair.victim.key}).text or (
            dataset == "?product=BTC-USD"
        )


def the_status_is_that_of_ones_own_topics(pair: Pair) -> None:
    answer = pair.intrude("GET", STATUS)
    pair.assert_hidden(answer)
    assert pair.victim.slug in str(pair.victim.call("GET", STATUS))
    assert answer.json()["newest"] == []
    assert {topic["topic"].split(".")[1] for topic in answer.json()["topics"]} <= {pair.intruder.slug}


def listing_finds_ones_own(path: str) -> Callable[[Pair], None]:
    def finds(pair: Pair) -> None:
        for query in ("", "?order=asc", "?order=ingested"):
            assert pair.intrude("GET", path + query).json()["rows"] == [], query
        found = pair.victim.http.get(path, headers={"X-API-Key": pair.victim.key})
        assert len(found.json()["rows"]) == 1

    return finds


def the_feeds_are_those_of_ones_own_products(pair: Pair) -> None:
    assert pair.intrude("GET", FEEDS).json()["feeds"] == []
    assert "victims-own" in str(pair.victim.call("GET", FEEDS))
    pair.intrude("PUT", SUBSCRIPTIONS, json={"subscriptions": [PRODUCT]})
    answer = pair.intrude("GET", FEEDS)
    assert [feed["product"] for feed in answer.json()["feeds"]] == ["BTC-USD"]
    pair.assert_hidden(answer)
    pair.intrude("PUT", SUBSCRIPTIONS, json={"subscriptions": []})


def listing_dead_letters_shows_ones_own(pair: Pair) -> None:
    for query in ("", "?state=any", f"?topic=ps.{pair.victim.slug}.events.v1", "?topic=events"):
        assert pair.intrude("GET", LETTERS + query).json()["dead_letters"] == []
        assert "victims-own" in str(pair.victim.call("GET", LETTERS + query))


def another_tenants_dead_letter_does_not_exist(pair: Pair) -> None:
    there = problem(pair.intrude("GET", f"{LETTERS}/victims-own"), 404, "not-found")
    nowhere = problem(pair.intrude("GET", f"{LETTERS}/nobodys-own"), 404, "not-found")
    assert str(there["detail"]).replace("victims-own", "") == str(nowhere["detail"]).replace("nobodys-own", "")
    assert pair.victim.call("GET", f"{LETTERS}/victims-own")["state"] == "open"


def another_tenants_dead_letter_is_not_replayed(pair: Pair) -> None:
    _leaves_the_letter(pair, "/replay", {"force": True})
    _leaves_the_letter(pair, "/replay", {"dry_run": True})


def another_tenants_dead_letter_is_not_discarded(pair: Pair) -> None:
    _leaves_the_letter(pair, "/discard", {"reason": "gone"})


def _leaves_the_letter(pair: Pair, path: str, more: dict[str, Any]) -> None:
    problem(pair.intrude("POST", LETTERS + path, json={"ids": ["victims-own"]} | more), 404, "not-found")
    answer = pair.intrude("POST", LETTERS + path, json={"where": {}} | more)
    assert (answer.status_code, answer.json()["results"]) == (200, [])
    assert pair.victim.call("GET", f"{LETTERS}/victims-own")["state"] == "open"


def the_audit_is_ones_own(pair: Pair) -> None:
    named = (f"?target=rule:{pair.rule_id}", f"?target=tenant:{pair.victim.slug}")
    for query in ("", "?format=ndjson", "?format=csv", *named):
        answer = pair.intrude("GET", AUDIT + query)
        assert answer.status_code == 200
        # Its own rules may have had the name of the victim's.
        assert not any(secret in answer.text for secret in (pair.victim.slug, pair.victim.key, pair.rule_id))
    assert [pair.intrude("GET", AUDIT + query).json()["entries"] for query in named] == [[], []]
    assert pair.rule_id in str(pair.victim.call("GET", AUDIT))


def the_chain_that_is_verified_is_ones_own(pair: Pair) -> None:
    cursor = pair.victim.call("GET", f"{AUDIT}/verify?limit=1")["next_cursor"]
    problem(pair.intrude("GET", f"{AUDIT}/verify?cursor={cursor}"), 400, "invalid-cursor")
    pair.assert_hidden(pair.intrude("GET", f"{AUDIT}/verify"))


def listing_keys_shows_ones_own(pair: Pair) -> None:
    for query in ("", "?state=any", "?limit=1000"):
        answer = pair.intrude("GET", KEYS + query)
        assert pair.intruder.key.split("_")[2] in answer.text
        assert pair.victim.key.split("_")[2] not in answer.text
        assert {key["created_by"] for key in answer.json()["keys"]} <= {None, pair.intruder.key.split("_")[2]}


def making_a_key_gives_none_of_another_tenant(pair: Pair) -> None:
    made = pair.intrude("POST", KEYS, json={"name": "victims-own", "role": "owner"}).json()
    with_it = pair.intruder.http.get(SUBSCRIPTIONS, headers={"X-API-Key": made["api_key"]})
    pair.assert_hidden(with_it)
    assert len(pair.victim.call("GET", KEYS)["keys"]) == 1
    assert pair.intrude("DELETE", f"{KEYS}/{made['id']}").status_code == 204


def another_tenants_key_does_not_exist(method: str, path: str, body: Any = None) -> Callable[[Pair], None]:
    def hides(pair: Pair) -> None:
        key_id = pair.victim.key.split("_")[2]
        there = problem(pair.intrude(method, f"{KEYS}/{key_id}{path}", json=body), 404, "not-found")
        nowhere = problem(pair.intrude(method, f"{KEYS}/{key_id[::-1]}{path}", json=body), 404, "not-found")
        assert str(there["detail"]).replace(key_id, "") == str(nowhere["detail"]).replace(key_id[::-1], "")
        (key,) = pair.victim.call("GET", KEYS + "?state=any")["keys"]
        assert [key["id"], key["name"], key["expires_at"], key["replaced_by"]] == [key_id, "first key", None, None]

    return hides


def listing_logins_shows_ones_own(pair: Pair) -> None:
    for query in ("", "?ended=true", "?limit=1000"):
        answer = pair.intrude("GET", LOGINS + query)
        assert answer.status_code == 200
        pair.assert_hidden(answer)
        assert pair.intruder.slug in answer.text
    assert pair.login_id in str(pair.victim.call("GET", LOGINS))


def making_a_login_gives_none_of_another_tenant(pair: Pair) -> None:
    answer = pair.intrude("POST", LOGINS, json={"name": "mine"})
    pair.assert_hidden(answer)
    assert answer.json()["username"].startswith(f"t.{pair.intruder.slug}.")
    assert len(pair.victim.call("GET", LOGINS)["credentials"]) == 1


def another_tenants_login_does_not_exist(method: str, path: str, body: Any = None) -> Callable[[Pair], None]:
    def hides(pair: Pair) -> None:
        there = problem(pair.intrude(method, f"{LOGINS}/{pair.login_id}{path}", json=body), 404, "not-found")
        nowhere = problem(pair.intrude(method, f"{LOGINS}/0000{path}", json=body), 404, "not-found")
        assert str(there["detail"]).replace(pair.login_id, "") == str(nowhere["detail"]).replace("0000", "")
        (held,) = pair.victim.call("GET", LOGINS + "?ended=true")["credentials"]
        assert [held["id"], held["expires_at"], held["revoked_at"]] == [pair.login_id, None, None]

    return hides


def an_event_goes_to_ones_own_topic(pair: Pair) -> None:
    _stays_out(pair, lambda event: pair.intrude("POST", "/api/v1/ingestion/events", json=event))


def a_batch_goes_to_ones_own_topic(pair: Pair) -> None:
    _stays_out(pair, lambda event: pair.intrude("POST", "/api/v1/ingestion/events/batch", json={"events": [event]}))


def _stays_out(pair: Pair, send: Callable[[dict[str, Any]], httpx.Response]) -> None:
    mark = secrets.token_hex(8)
    assert send(EVENT | {"id": "victims-own", "data": mark}).status_code == 202
    topics = [f"ps.{tenant.slug}.events.v1" for tenant in (pair.victim, pair.intruder)]
    theirs, own = (read_topic(pair.running.admin, topic) for topic in topics)
    assert not any(mark.encode() in (record.value or b"") for record in theirs)
    assert any(mark.encode() in (record.value or b"") for record in own)


def another_tenants_subjects_do_not_exist(path: str, method: str = "GET") -> Callable[[Pair], None]:
    def hidden(pair: Pair) -> None:
        body = {"schema": "{}"} if method == "POST" else None
        theirs, nobodys = (f"ps.{slug}.ticks.v1-value" for slug in (pair.victim.slug, "nobody-at-all"))
        there = pair.intrude(method, path.format(name=theirs, version="latest"), json=body)
        nowhere = pair.intrude(method, path.format(name=nobodys, version="latest"), json=body)
        assert there.status_code == nowhere.status_code == 404
        assert there.json()["error_code"] == 40401
        assert there.text.replace(theirs, "") == nowhere.text.replace(nobodys, "")
        own = path.format(name=f"ps.{pair.victim.slug}.ticks.v1-value", version="latest")
        assert pair.victim.http.request(method, own, headers={"X-API-Key": pair.victim.key}, json=body).status_code in (
            200,
            422,
        )

    return hidden


def the_registrys_subjects_are_ones_own(pair: Pair) -> None:
    for path in ("/registry/subjects", "/registry/schemas/ids/1/versions"):
        answer = pair.intrude("GET", path)
        pair.assert_hidden(answer)
        assert f"ps.{pair.intruder.slug}." in answer.text


def deleting_takes_the_slug_of_the_keys_own_tenant(pair: Pair) -> None:
    answer = pair.intrude("DELETE", TENANT, json={"confirm": pair.victim.slug})
    problem(answer, 422, "invalid-body")
    assert pair.victim.call("GET", TENANT)["status"] == "active"


def the_tenant_is_ones_own(pair: Pair) -> None:
    answer = pair.intrude("GET", TENANT)
    pair.assert_hidden(answer)
    shown = answer.json()
    assert (shown["tenant"], shown["quotas"]["rules"]["use"]) == (pair.intruder.slug, 0)
    assert pair.victim.call("GET", TENANT)["quotas"]["products"]["use"] == 1


def the_usage_is_ones_own(pair: Pair) -> None:
    with psycopg.connect(pair.running.database.url()) as connection:
        connection.execute("INSERT INTO usage VALUES (%s, '2020-01-01', 1, 1, 123456789, 1)", (pair.victim.slug,))
    days = "?from=2019-12-01&to=2020-01-31"
    assert pair.intrude("GET", USAGE + days).json() == {"days": []}
    assert "123456789" in str(pair.victim.call("GET", USAGE + days))


def a_ticket_opens_ones_own_stream(pair: Pair) -> None:
    made = pair.intrude("POST", TICKETS)
    assert made.status_code == 201
    pair.assert_hidden(made)
    with EventClient(pair.intruder.http, ticket=made.json()["ticket"]) as intruder:
        intruder.read_until(lambda: any(message["type"] == "live" for message in intruder.messages))
    assert intruder.alerts() == []


def a_stream_of_events_shows_ones_own(pair: Pair) -> None:
    with (
        EventClient(pair.victim.http, {"X-API-Key": pair.victim.key}) as victim,
        EventClient(pair.intruder.http, {"X-API-Key": pair.intruder.key}) as intruder,
    ):
        for client in (victim, intruder):
            client.read_until(lambda client=client: any(said["type"] == "live" for said in client.messages))  # type: ignore[misc]
        victim.read_until(lambda: victim.last_id is not None)
    assert victim.alerts() == ["victims-own"]
    assert intruder.alerts() == []
    pair.assert_hidden(pair.intrude("GET", STREAM, params={"resume": victim.last_id}))


def shows_no_tenant(path: str) -> Callable[[Pair], None]:
    return lambda pair: pair.assert_hidden(pair.intrude("GET", path))


_VERSIONS = "/registry/subjects/{name}/versions"
REGISTRY: dict[tuple[str, str], Callable[[Pair], None]] = {
    ("get", "/registry/subjects"): the_registrys_subjects_are_ones_own,
    ("get", "/registry/schemas/ids/{schema_id}/versions"): the_registrys_subjects_are_ones_own,
    ("get", "/registry/schemas/ids/{schema_id}"): shows_no_tenant("/registry/schemas/ids/1"),
    ("get", "/registry/schemas/ids/{schema_id}/schema"): shows_no_tenant("/registry/schemas/ids/1/schema"),
    **{
        ("get", f"/registry/{name}"): shows_no_tenant(f"/registry/{name}")
        for name in ("schemas/types", "config", "mode")
    },
    **{
        ("get", path): another_tenants_subjects_do_not_exist(path)
        for path in (
            _VERSIONS,
            f"{_VERSIONS}/{{version}}",
            f"{_VERSIONS}/{{version}}/schema",
            "/registry/config/{name}",
        )
    },
    **{
        ("post", path): another_tenants_subjects_do_not_exist(path, "POST")
        for path in ("/registry/subjects/{name}", _VERSIONS)
    },
}
CASES: dict[tuple[str, str], Callable[[Pair], None]] = {
    **REGISTRY,
    ("get", "/health"): shows_no_tenant("/health"),
    ("get", "/livez"): shows_no_tenant("/livez"),
    ("get", "/readyz"): shows_no_tenant("/readyz"),
    ("get", "/metrics"): shows_no_tenant("/metrics"),
    ("post", "/api/v1/auth/register/tenant"): registering_again_gives_no_key,
    ("get", USAGE): the_usage_is_ones_own,
    ("get", TENANT): the_tenant_is_ones_own,
    ("delete", TENANT): deleting_takes_the_slug_of_the_keys_own_tenant,
    ("get", SUBSCRIPTIONS): listing_subscriptions_shows_ones_own,
    ("put", SUBSCRIPTIONS): setting_subscriptions_leaves_the_others_alone,
    ("post", RULES): making_a_rule_meets_no_namesake,
    ("post", RULES + "/test"): trying_a_rule_sees_ones_own,
    ("get", RULES): listing_rules_shows_ones_own,
    ("get", RULES + "/{rule_id}"): another_tenants_rule_does_not_exist,
    ("put", RULES + "/{rule_id}"): another_tenants_rule_is_not_touched("PUT", "", RULE),
    ("delete", RULES + "/{rule_id}"): another_tenants_rule_cannot_be_deleted,
    ("get", RULES + "/{rule_id}/versions"): another_tenants_rule_is_not_touched("GET", "/versions"),
    ("post", RULES + "/{rule_id}/pause"): another_tenants_rule_is_not_touched("POST", "/pause"),
    ("post", RULES + "/{rule_id}/resume"): another_tenants_rule_is_not_touched("POST", "/resume"),
    ("post", CHANNELS): making_a_channel_meets_no_namesake,
    ("get", CHANNELS): listing_channels_shows_ones_own,
    ("get", CHANNELS + "/{channel_id}"): another_tenants_channel_does_not_exist("GET", ""),
    ("patch", CHANNELS + "/{channel_id}"): another_tenants_channel_does_not_exist("PATCH", "", {"enabled": False}),
    ("delete", CHANNELS + "/{channel_id}"): another_tenants_channel_does_not_exist("DELETE", ""),
    ("post", CHANNELS + "/{channel_id}/test"): another_tenants_channel_does_not_exist("POST", "/test"),
    ("get", CHANNELS + "/{channel_id}/messages"): another_tenants_channel_does_not_exist("GET", "/messages"),
    ("post", CHANNELS + "/{channel_id}/resend"): another_tenants_channel_does_not_exist(
        "POST", "/resend", {"failed_since": "2026-01-01T00:00:00Z"}
    ),
    ("get", CHANNELS + "/{channel_id}/attempts"): another_tenants_channel_does_not_exist("GET", "/attempts"),
    **dict.fromkeys(
        (
            ("get", SILENCES),
            ("post", SILENCES),
            ("post", SILENCES + "/preview"),
            ("get", SILENCES + "/{silence_id}"),
            ("delete", SILENCES + "/{silence_id}"),
        ),
        silences_are_ones_own,
    ),
    ("get", "/api/v1/alerts/current"): alerts_as_they_stand_are_ones_own,
    **{
        ("post", f"/api/v1/alerts/{how}"): another_tenants_alert_is_not_marked(how)
        for how in ("acknowledge", "unacknowledge", "snooze", "unsnooze")
    },
    ("get", SEARCH): searching_finds_ones_own,
    **{("get", f"/api/v1/{name}"): listing_finds_ones_own(f"/api/v1/{name}") for name in LISTS},
    ("get", LETTERS): listing_dead_letters_shows_ones_own,
    ("get", LETTERS + "/{letter_id}"): another_tenants_dead_letter_does_not_exist,
    ("post", LETTERS + "/replay"): another_tenants_dead_letter_is_not_replayed,
    ("post", LETTERS + "/discard"): another_tenants_dead_letter_is_not_discarded,
    ("get", AUDIT): the_audit_is_ones_own,
    ("get", AUDIT + "/verify"): the_chain_that_is_verified_is_ones_own,
    ("get", KEYS): listing_keys_shows_ones_own,
    ("post", KEYS): making_a_key_gives_none_of_another_tenant,
    ("get", KEYS + "/{key_id}"): another_tenants_key_does_not_exist("GET", ""),
    ("delete", KEYS + "/{key_id}"): another_tenants_key_does_not_exist("DELETE", ""),
    ("patch", KEYS + "/{key_id}"): another_tenants_key_does_not_exist("PATCH", "", {"name": "taken"}),
    ("post", KEYS + "/{key_id}/rotate"): another_tenants_key_does_not_exist("POST", "/rotate", {"overlap_seconds": 0}),
    ("get", LOGINS): listing_logins_shows_ones_own,
    ("post", LOGINS): making_a_login_gives_none_of_another_tenant,
    ("get", LOGINS + "/{credential_id}"): another_tenants_login_does_not_exist("GET", ""),
    ("delete", LOGINS + "/{credential_id}"): another_tenants_login_does_not_exist("DELETE", ""),
    ("post", LOGINS + "/{credential_id}/rotate"): another_tenants_login_does_not_exist("POST", "/rotate", {}),
    ("post", TICKETS): a_ticket_opens_ones_own_stream,
    ("get", STREAM): a_stream_of_events_shows_ones_own,
    ("get", STATUS): the_status_is_that_of_ones_own_topics,
    ("get", FEEDS): the_feeds_are_those_of_ones_own_products,
    ("post", "/api/v1/ingestion/events"): an_event_goes_to_ones_own_topic,
    ("post", "/api/v1/ingestion/events/batch"): a_batch_goes_to_ones_own_topic,
}


def test_every_route_of_the_document_has_a_case(pair: Pair) -> None:
    paths = pair.intruder.http.get("/openapi.json").json()["paths"]

    assert {(method, path) for path, methods in paths.items() for method in methods} == set(CASES)


@pytest.mark.parametrize("route", CASES, ids=lambda route: f"{route[0].upper()} {route[1]}")
def test_another_tenants_key_finds_and_changes_nothing(pair: Pair, route: tuple[str, str]) -> None:
    CASES[route](pair)


def test_the_live_view_shows_ones_own(pair: Pair) -> None:
    pair.intrude("PUT", SUBSCRIPTIONS, json={"subscriptions": [PRODUCT]})
    with (
        LiveClient(pair.running.api_port, key=pair.victim.key) as victim,
        LiveClient(pair.running.api_port, key=pair.intruder.key) as intruder,
    ):
        victim.read_live()
        intruder.read_live()

    for dataset in ("ticks", "stats", "alerts"):
        assert "victims-own" in str(rows(victim.messages, dataset))
        assert rows(intruder.messages, dataset) == []
    assert pair.victim.slug not in str(intruder.messages)


def test_another_tenants_resume_token_is_refused(pair: Pair) -> None:
    with LiveClient(pair.running.api_port, key=pair.victim.key, datasets=["alerts"]) as victim:
        token = victim.read_token()

    with LiveClient(pair.running.api_port, key=pair.intruder.key, resume=token) as intruder:
        assert intruder.read_closed()[0] == 4409
        assert pair.victim.slug not in intruder.reason
