"""Limits of a running API: what passes, what is refused and when again, and that nobody else is held up."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from api import keys
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.records import Event
from tests.support.api import EVENT, RULE, installation, problem
from tests.support.e2e import Installation, Tenant, eventually, records_of

SINGLE, BATCH = "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"
RULES, SUBSCRIPTIONS = "/api/v1/rules", "/api/v1/subscriptions"
LIMITS = "free.requests=5, free.events=10, free.products=3, free.rules=2, pro.requests=1000, pro.events=1000"
"""Buckets of a free tenant: 50 requests (40 a key), 1000 events (1000 a key)."""


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("limits")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", limits=LIMITS) as started:
        yield started


def ask(tenant: Tenant, method: str, path: str, **request: Any) -> httpx.Response:
    return tenant.http.request(method, path, headers={"X-API-Key": tenant.key}, **request)


def exhaust(tenant: Tenant) -> httpx.Response:
    """Ask until a request is refused, and return the refusal."""
    for _ in range(1000):
        answer = ask(tenant, "GET", RULES)
        if answer.status_code != 200:
            return answer
    raise AssertionError("1000 requests passed a bucket of 50")


def batch(count: int, name: str) -> dict[str, Any]:
    return {"events": [EVENT | {"id": f"{name}-{number}"} for number in range(count)]}


def lift(running: Installation, tenant: Tenant, tier: str) -> None:
    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE tenants SET tier = %s WHERE tenant = %s", (tier, tenant.slug))


def test_a_tenant_that_asks_too_often_is_told_when_to_come_again_and_then_passes(running: Installation) -> None:
    tenant = running.register("eager")

    refused = exhaust(tenant)

    told = problem(refused, 429, "rate-limited")
    assert told["violated-policies"] == ["key-requests"]
    assert refused.headers["RateLimit-Policy"] == '"requests";q=50;w=10, "key-requests";q=40;w=10'
    assert refused.headers["RateLimit"].endswith('"key-requests";r=0;t=1')
    assert refused.headers["X-Request-ID"]
    time.sleep(int(refused.headers["Retry-After"]))
    _passes(tenant)


def _passes(tenant: Tenant) -> None:
    assert ask(tenant, "GET", RULES).status_code == 200


def test_one_tenants_refusals_hold_up_no_other(running: Installation) -> None:
    eager, calm = running.register("eager"), running.register("calm")
    with ThreadPoolExecutor(4) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: ask(eager, "GET", RULES), range(100))]

    assert 429 in statuses
    assert ask(calm, "GET", RULES).status_code == 200


def test_every_route_with_a_key_tells_what_is_left_also_when_it_refuses(running: Installation) -> None:
    tenant = running.register("told")
    lift(running, tenant, "pro")
    document = tenant.http.get("/openapi.json").json()
    asked = [
        (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation.get("security") and "{" not in path
    ]
    assert len(asked) > 10

    for method, path in asked:
        told = told_by(tenant, method.upper(), path)
        assert '"key-requests";r=' in told["RateLimit"], (method, path)
        assert '"key-requests";q=' in told["RateLimit-Policy"], (method, path)
        assert ('"events"' in told["RateLimit"]) is (path in {SINGLE, BATCH})


def told_by(tenant: Tenant, method: str, path: str) -> httpx.Headers:
    """Return the header fields of an answer, which may have no end."""
    body, named = b"{}" if method in {"POST", "PUT"} else None, {"X-API-Key": tenant.key}
    with tenant.http.stream(method, path, content=body, headers=named) as answer:
        return answer.headers


def test_routes_without_a_key_tell_nothing_of_limits(running: Installation) -> None:
    tenant = running.register("open")

    for answer in (tenant.http.get("/livez"), tenant.http.get(RULES), tenant.http.get("/nowhere")):
        assert "RateLimit" not in answer.headers


def test_a_batch_costs_as_many_events_as_it_has_and_what_is_refused_is_not_stored(running: Installation) -> None:
    tenant = running.register("batches")
    tenant.call("POST", SINGLE, json=EVENT | {"id": "first"})

    passed = ask(tenant, "POST", BATCH, json=batch(600, "passed"))
    refused = ask(tenant, "POST", BATCH, json=batch(600, "refused"))

    assert passed.status_code == 202
    assert refused.status_code == 429
    assert problem(refused, 429, "rate-limited")["violated-policies"] == ["events", "key-events"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert ask(tenant, "POST", BATCH, json=batch(100, "smaller")).status_code == 202
    stored = [record.event_id for record in records_of(running.admin, tenant.slug, "events", Event)]
    assert len(stored) == 701
    assert not any("refused" in event_id for event_id in stored)


def test_a_refused_event_leaves_its_idempotency_key_free(running: Installation) -> None:
    tenant = running.register("again")
    tenant.call("POST", SINGLE, json=EVENT)
    named = {"X-API-Key": tenant.key, "Idempotency-Key": "order-1"}
    ask(tenant, "POST", BATCH, json=batch(999, "all"))

    refused = tenant.http.post(BATCH, json=batch(900, "named"), headers=named)
    lift(running, tenant, "pro")
    eventually(lambda: _has_events(tenant))
    other = tenant.http.post(BATCH, json=batch(1, "another"), headers=named)

    problem(refused, 429, "rate-limited")
    assert other.status_code == 202


def _has_events(tenant: Tenant) -> None:
    assert ask(tenant, "POST", BATCH, json=batch(500, "more")).status_code == 202


def test_a_change_of_tier_holds_within_seconds(running: Installation) -> None:
    tenant = running.register("rising")
    exhaust(tenant)

    lift(running, tenant, "pro")

    def risen() -> None:
        assert '"requests";q=10000;w=10' in ask(tenant, "GET", RULES).headers["RateLimit-Policy"]

    eventually(risen)


def test_an_address_that_guesses_keys_is_refused_and_a_key_that_works_goes_on_there(running: Installation) -> None:
    tenant, stranger = running.register("working"), running.register("new-here")
    _passes(tenant)

    answers = [guess(stranger, f"192.0.2.{number}") for number in range(100)]

    assert {answer.status_code for answer in answers} == {401, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    problem(refused, 429, "too-many-bad-keys")
    assert int(refused.headers["Retry-After"]) >= 1
    assert "RateLimit" not in refused.headers
    tenant.call("POST", SINGLE, json=EVENT)
    assert running["api"].metric("pulsestream_rate_limited_total", policy="bad-keys") >= 1
    eventually(lambda: _passes(stranger))


def guess(tenant: Tenant, address: str, path: str = SINGLE) -> httpx.Response:
    """Send a key that is none, and say that another address did it."""
    return tenant.http.post(
        path, headers={"X-API-Key": keys.generate().text, "X-Forwarded-For": f"{address}, 10.0.0.1"}
    )


# ---- quotas ----


def subscribed(tenant: Tenant, count: int) -> httpx.Response:
    wanted = [{"exchange": "coinbase", "product": f"P{number}-USD"} for number in range(count)]
    return ask(tenant, "PUT", SUBSCRIPTIONS, json={"subscriptions": wanted})


def test_a_tenant_gets_no_more_products_than_its_tier_allows(running: Installation) -> None:
    tenant = running.register("products")
    assert subscribed(tenant, 3).status_code == 200

    refused = problem(subscribed(tenant, 4), 403, "quota-exceeded")

    assert [refused[name] for name in ("quota", "limit", "use", "tier")] == ["products", 3, 3, "free"]
    assert len(tenant.call("GET", SUBSCRIPTIONS)["subscriptions"]) == 3
    assert subscribed(tenant, 2).status_code == 200


def test_a_tenant_gets_no_more_rules_than_its_tier_allows_however_many_are_made_at_once(running: Installation) -> None:
    tenant = running.register("rules")
    bodies = [RULE | {"name": f"rule-{number}"} for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda body: ask(tenant, "POST", RULES, json=body), bodies)]

    assert sorted(answer.status_code for answer in answers) == [201, 201, 403, 403, 403, 403, 403, 403]
    refused = problem(next(answer for answer in answers if answer.status_code == 403), 403, "quota-exceeded")
    assert [refused[name] for name in ("quota", "limit", "use", "tier")] == ["rules", 2, 2, "free"]
    tenant.call("DELETE", f"{RULES}/{tenant.call('GET', RULES)['rules'][0]['rule_id']}", expect=204)
    assert ask(tenant, "POST", RULES, json=RULE | {"name": "another"}).status_code == 201


def test_a_tenant_whose_tier_was_lowered_keeps_what_it_has_and_gets_no_more(running: Installation) -> None:
    tenant = running.register("lowered")
    lift(running, tenant, "pro")
    assert subscribed(tenant, 10).status_code == 200

    lift(running, tenant, "free")

    assert subscribed(tenant, 9).status_code == 200
    assert problem(subscribed(tenant, 10), 403, "quota-exceeded")["use"] == 9


def test_a_tenant_sees_its_tier_what_it_allows_and_how_much_is_in_use(running: Installation) -> None:
    tenant = running.register("standing")
    subscribed(tenant, 2)
    tenant.create_rule(RULE)

    shown = tenant.call("GET", "/api/v1/tenant")

    created = shown.pop("created_at")
    assert created.endswith("Z")
    assert shown == {
        "tenant": tenant.slug,
        "name": "standing",
        "tier": "free",
        "status": "active",
        "rates": {"requests": 5, "events": 10},
        "quotas": {
            "products": {"limit": 3, "use": 2},
            "rules": {"limit": 2, "use": 1},
            "keys": {"limit": 10, "use": 1},
            "channels": {"limit": 5, "use": 0},
            "kafka_credentials": {"limit": 2, "use": 0},
        },
        "retention_days": 30,
    }


# ---- settings ----


def test_what_a_trusted_proxy_says_of_a_client_counts(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    proxies = {"limits": "", "trusted_proxies": "127.0.0.1, 10.0.0.0/8"}
    with installation(tmp_path, broker, database_server, migrated_template, "api", **proxies) as running:
        tenant = running.register("behind")

        answers = [guess(tenant, f"192.0.2.{number}", RULES) for number in range(50)]
        one = [guess(tenant, "2001:db8::1", RULES) for _ in range(100)]

        assert {answer.status_code for answer in answers} == {401}
        assert {answer.status_code for answer in one} == {401, 429}


def test_processes_that_share_the_limits_together_let_no_more_pass_than_the_tier_says(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    shared = {"limits": "free.requests=1", "api_processes": 2}
    with installation(tmp_path, broker, database_server, migrated_template, "relay", "api", **shared) as running:
        tenant = running.register("spread")
        first, running.api_port = running.services.pop("api"), process.free_port()
        running.services["other-api"] = first
        running.start("api", **shared)
        both = [tenant, Tenant(tenant.slug, tenant.key, httpx.Client(base_url=_url(running, ""), trust_env=False))]
        running.clients.append(both[1].http)

        began = time.monotonic()
        answers = [ask(one, "GET", RULES).status_code for _ in range(40) for one in both]
        passed, seconds = answers.count(200), time.monotonic() - began

        assert 10 <= passed <= 10 + seconds
        assert first.stop() == running.stop("api")["api"] == 0


def _url(running: Installation, path: str) -> str:
    return f"http://127.0.0.1:{running.api_port}{path}"
