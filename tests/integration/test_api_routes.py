"""Every route of a running API, as its clients see it."""

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import Producer

from api import keys
from pulsestream.core.clock import parse_rfc3339, wall_clock
from pulsestream.core.kafka import client_config
from pulsestream.core.topics import PRODUCTS as PRODUCT_LISTS
from pulsestream.core.topics import RULES, SUBSCRIPTIONS, TENANTS
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import ProductList, Rule, Subscription
from schemas.records import Tenant as TenantRecord
from tests.support.api import EVENT, RULE, installation, problem
from tests.support.e2e import Arrived, Installation, Tenant, eventually, read_topic

PRODUCTS = [{"exchange": "coinbase", "product": "BTC-USD"}, {"exchange": "coinbase", "product": "ETH-USD"}]


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("api")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.fixture
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


def call(tenant: Tenant, method: str, path: str, **request: Any) -> httpx.Response:
    return tenant.http.request(method, path, headers={"X-API-Key": tenant.key} | request.pop("headers", {}), **request)


def on_topic(running: Installation, topic: str, about: Callable[[Arrived], bool]) -> list[Arrived]:
    return [record for record in read_topic(running.admin, topic) if about(record)]


# ---- operations ----


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_a_working_service_says_so(running: Installation, tenant: Tenant, path: str) -> None:
    del running

    assert tenant.http.get(path).status_code == 200


def test_the_operations_port_answers_too(running: Installation) -> None:
    answer = httpx.get(f"http://127.0.0.1:{running['api'].ops_port}/readyz", trust_env=False)

    assert answer.json() == {"status": "ready", "problems": {}, "details": {}}


def test_requests_are_counted_by_route_and_never_by_path(running: Installation, tenant: Tenant) -> None:
    tenant.http.get("/api/v1/rules/one-of-many", headers={"X-API-Key": tenant.key})
    tenant.http.get("/no/such/route")

    text = tenant.http.get("/metrics").text

    assert 'route="/api/v1/rules/{rule_id}",status="404"' in text
    assert 'route="unmatched",status="404"' in text
    assert "one-of-many" not in text
    assert running["api"].metric("pulsestream_http_requests_total", status="404") >= 2


def test_an_answer_carries_the_requests_id(tenant: Tenant) -> None:
    assert call(tenant, "GET", "/health", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert re.fullmatch(r"[0-9a-f-]{36}-[0-9]+", call(tenant, "GET", "/health").headers["x-request-id"])
    forged = call(tenant, "GET", "/health", headers={"X-Request-ID": "a b"})
    assert forged.headers["x-request-id"] != "a b"


def test_an_unknown_route_and_an_unknown_method_are_problems(tenant: Tenant) -> None:
    problem(tenant.http.get("/api/v2/rules"), 404, "not-found")
    refused = tenant.http.patch("/api/v1/rules")
    problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == "GET, POST"
    problem(tenant.http.get("/api/v1/ingestion/events"), 405, "method-not-allowed")
    assert tenant.http.put("/api/v1/silences/preview").headers["allow"] == "POST"
    assert tenant.http.put("/api/v1/silences/one-of-many").headers["allow"] == "DELETE, GET"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/api/v1/tenant"), ("POST", "/api/v1/rules")])
def test_a_body_is_bounded_whatever_the_method_and_without_a_key(tenant: Tenant, method: str, path: str) -> None:
    body = b'{"confirm": "' + b"x" * 300_000 + b'"}'

    answer = tenant.http.request(method, path, content=body, headers={"Content-Type": "application/json"})

    problem(answer, 413, "too-large")


# ---- registration ----


def test_registering_gives_an_owners_key_that_works_at_once(running: Installation) -> None:
    tenant = running.register("fresh")

    assert keys.parse(tenant.key) is not None
    assert call(tenant, "GET", "/api/v1/rules").json() == {"rules": []}


def test_a_registered_tenant_reaches_its_control_topic(running: Installation) -> None:
    tenant = running.register("fresh")

    def arrived() -> None:
        found = on_topic(running, TENANTS, lambda record: record.key == tenant.slug.encode())
        assert [codec(TenantRecord).decode(record.value).tenant for record in found] == [tenant.slug]

    eventually(arrived)


def test_the_answer_of_a_registration_says_what_was_made(running: Installation, tenant: Tenant) -> None:
    slug = f"{tenant.slug}-b"

    answer = tenant.http.post("/api/v1/auth/register/tenant", json={"tenant": slug, "name": "B & Söhne"})

    made = answer.json()
    assert answer.status_code == 201
    assert made == {
        "tenant": slug,
        "name": "B & Söhne",
        "tier": "free",
        "api_key": made["api_key"],
        "key_id": made["api_key"].split("_")[2],
        "role": "owner",
    }
    with psycopg.connect(running.database.url()) as connection:
        row = connection.execute("SELECT k.* FROM api_keys AS k WHERE tenant = %s", (slug,)).fetchone()
    assert made["api_key"].split("_")[3] not in str(row)


def test_a_slug_can_be_taken_once(tenant: Tenant) -> None:
    answer = tenant.http.post("/api/v1/auth/register/tenant", json={"tenant": tenant.slug})

    problem(answer, 409, "tenant-exists")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"tenant": "Acme"}, "/tenant"),
        ({"tenant": "_platform"}, "/tenant"),
        ({"tenant": "admin"}, "/tenant"),
        ({"tenant": "ps-relay"}, "/tenant"),
        ({"tenant": "a" * 65}, "/tenant"),
        ({"tenant": 7}, "/tenant"),
        ({}, "/tenant"),
        ({"tenant": "acme-x", "tier": "enterprise"}, "/tier"),
    ],
)
def test_a_registration_that_cannot_be_names_the_member(tenant: Tenant, body: object, pointer: str) -> None:
    found = problem(tenant.http.post("/api/v1/auth/register/tenant", json=body), 422, "invalid-body")

    assert found["errors"][0]["pointer"] == pointer  # type: ignore[index] # a problem's errors are a list


def test_text_with_nul_is_a_problem_and_no_fault_of_the_server(tenant: Tenant) -> None:
    body = {"tenant": f"{tenant.slug}-n", "name": "a\0b"}

    assert tenant.http.post("/api/v1/auth/register/tenant", json=body).status_code == 400


# ---- keys and permissions ----


def test_without_a_key_or_with_a_wrong_one_every_route_is_401(tenant: Tenant) -> None:
    for key in (None, "nonsense", tenant.key[:-1] + ("x" if tenant.key[-1] != "x" else "y"), keys.generate().text):
        headers = {} if key is None else {"X-API-Key": key}
        for method, path, body in (
            ("GET", "/api/v1/rules", None),
            ("POST", "/api/v1/rules", RULE),
            ("DELETE", "/api/v1/rules/x", None),
            ("GET", "/api/v1/subscriptions", None),
            ("PUT", "/api/v1/subscriptions", {"subscriptions": []}),
            ("GET", "/api/v1/ingestion/events/search", None),
            *(("GET", f"/api/v1/{name}", None) for name in ("ticks", "trades", "bars", "stats", "alerts")),
            ("GET", "/api/v1/dead-letters", None),
            ("GET", "/api/v1/dead-letters/x", None),
            ("POST", "/api/v1/dead-letters/replay", {"where": {}}),
            ("POST", "/api/v1/dead-letters/discard", {"where": {}, "reason": "x"}),
            ("POST", "/api/v1/ingestion/events", EVENT),
            ("POST", "/api/v1/ingestion/events/batch", {"events": [EVENT]}),
        ):
            answer = tenant.http.request(method, path, json=body, headers=headers)
            problem(answer, 401, "unauthorized")
            assert "ApiKey" in answer.headers["www-authenticate"]


@pytest.fixture
def viewer(running: Installation, tenant: Tenant) -> Tenant:
    key = keys.generate()
    digest = keys.digest(key, b"pepper-of-the-tests")
    with psycopg.connect(running.database.url()) as connection:
        connection.execute(
            "INSERT INTO api_keys (tenant, id, name, role, hmac, pepper_version) VALUES (%s, %s, 'v', 'viewer', %s, 1)",
            (tenant.slug, key.id, digest),
        )
    return Tenant(tenant.slug, key.text, tenant.http)


def test_a_viewer_reads_and_does_not_write(viewer: Tenant) -> None:
    for path in ("/api/v1/rules", "/api/v1/subscriptions", "/api/v1/ingestion/events/search"):
        assert call(viewer, "GET", path).status_code == 200
    for method, path, body in (
        ("POST", "/api/v1/rules", RULE),
        ("DELETE", "/api/v1/rules/x", None),
        ("PUT", "/api/v1/subscriptions", {"subscriptions": []}),
        ("POST", "/api/v1/ingestion/events", EVENT),
        ("POST", "/api/v1/ingestion/events/batch", {"events": [EVENT]}),
    ):
        problem(call(viewer, method, path, json=body), 403, "forbidden")


def test_a_revoked_key_is_refused_within_seconds(running: Installation, viewer: Tenant) -> None:
    assert call(viewer, "GET", "/api/v1/rules").status_code == 200

    with psycopg.connect(running.database.url()) as connection:
        connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = %s", (viewer.key.split("_")[2],))

    eventually(lambda: problem(call(viewer, "GET", "/api/v1/rules"), 401, "unauthorized") and None)


# ---- the tenant comes from the key ----


@pytest.mark.parametrize("query", ["tenant=acme", "TENANT=x", "tenant", "%74enant=acme", "a=1&tenant="])
@pytest.mark.parametrize(
    "path", ["/api/v1/rules", "/api/v1/ingestion/events/search", "/api/v1/subscriptions", "/api/v1/dead-letters"]
)
def test_a_tenant_in_the_url_is_400(tenant: Tenant, path: str, query: str) -> None:
    problem(call(tenant, "GET", f"{path}?{query}"), 400, "tenant-not-allowed")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/rules", RULE),
        ("PUT", "/api/v1/subscriptions", {"subscriptions": []}),
        ("POST", "/api/v1/ingestion/events", EVENT),
        ("POST", "/api/v1/ingestion/events/batch", {"events": [EVENT]}),
        ("POST", "/api/v1/dead-letters/replay", {"where": {}}),
        ("POST", "/api/v1/dead-letters/discard", {"where": {}, "reason": "x"}),
    ],
)
def test_a_tenant_in_a_body_or_beside_it_is_400(tenant: Tenant, method: str, path: str, body: dict[str, Any]) -> None:
    problem(call(tenant, method, path, json=body | {"tenant": tenant.slug}), 400, "tenant-not-allowed")
    problem(call(tenant, method, f"{path}?tenant=x", json=body), 400, "tenant-not-allowed")


# ---- bodies ----


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/rules"),
        ("PUT", "/api/v1/subscriptions"),
        ("POST", "/api/v1/ingestion/events"),
        ("POST", "/api/v1/ingestion/events/batch"),
        ("POST", "/api/v1/dead-letters/replay"),
    ],
)
def test_hostile_bodies_are_refused_before_they_are_parsed(tenant: Tenant, method: str, path: str) -> None:
    json_type = {"Content-Type": "application/json"}
    limit = 1024 * 1024 if path.endswith("batch") else 256 * 1024

    problem(call(tenant, method, path, content=b"{", headers=json_type), 400, "malformed-body")
    problem(call(tenant, method, path, content=b"\xff\xfe", headers=json_type), 400, "malformed-body")
    problem(call(tenant, method, path, content=b" " * (limit + 1), headers=json_type), 413, "too-large")
    problem(call(tenant, method, path, content=b'{"a":' * 5000, headers=json_type), 413, "too-large")
    problem(
        call(tenant, method, path, content=b"a=1", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported-media-type",
    )


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff\\ud800", "\\u0000"])
def test_text_that_nothing_can_hold_is_a_problem_wherever_it_stands(tenant: Tenant, text: str) -> None:
    bodies = [
        ("POST", "/api/v1/auth/register/tenant", {"tenant": "TEXT"}),
        ("POST", "/api/v1/auth/register/tenant", {"tenant": f"{tenant.slug}-s", "name": "TEXT"}),
        ("POST", "/api/v1/rules", RULE | {"name": "TEXT"}),
        ("POST", "/api/v1/rules", RULE | {"product": "TEXT"}),
        ("POST", "/api/v1/rules", RULE | {"labels": {"a": "TEXT"}}),
        ("POST", "/api/v1/rules", RULE | {"TEXT": 1}),
        ("PUT", "/api/v1/subscriptions", {"subscriptions": [{"exchange": "TEXT", "product": "TEXT"}]}),
        ("POST", "/api/v1/ingestion/events", EVENT | {"type": "TEXT"}),
        ("POST", "/api/v1/ingestion/events", EVENT | {"id": "TEXT"}),
        ("POST", "/api/v1/ingestion/events", EVENT | {"data": {"TEXT": "TEXT"}}),
        ("POST", "/api/v1/ingestion/events", EVENT | {"TEXT": 1}),
        ("POST", "/api/v1/ingestion/events/batch", {"events": [{"TEXT": 1}]}),
    ]

    for method, path, body in bodies:
        content = json.dumps(body).replace("TEXT", text).encode()
        answer = call(tenant, method, path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 422}, (path, body, answer.text)
        answer.json()


def test_an_endless_body_without_a_length_is_cut_at_the_bound(tenant: Tenant) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 65_536
            yield b" " * 65_536

    with suppress(httpx.TransportError):  # the server may close while the client still writes
        problem(call(tenant, "POST", "/api/v1/ingestion/events", content=endless()), 413, "too-large")
    assert sent < 8 * 1024 * 1024 + 65_536


# ---- subscriptions ----


def test_the_full_set_of_products_is_brought_about_and_shown(running: Installation, tenant: Tenant) -> None:
    shown = call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS}).json()

    assert [(row["exchange"], row["product"], row["datasets"]) for row in shown["subscriptions"]] == [
        ("coinbase", "BTC-USD", ["ticks", "trades"]),
        ("coinbase", "ETH-USD", ["ticks", "trades"]),
    ]
    running.wait_for_topics(tenant)
    topics = call(tenant, "GET", "/api/v1/subscriptions").json()["topics"]
    assert {topic["topic"] for topic in topics} == {
        f"ps.{tenant.slug}.{dataset}.v1" for dataset in ("stats", "bars", "alerts", "dlq", "ticks", "trades")
    }


def test_sending_the_same_set_again_changes_nothing(running: Installation, tenant: Tenant) -> None:
    first = call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS}).json()["subscriptions"]

    again = call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS[::-1] * 2}).json()

    assert again["subscriptions"] == first
    eventually(lambda: _assert_on_topic(running, tenant, {"BTC-USD": 1, "ETH-USD": 1}))


def test_a_product_that_its_exchange_does_not_have_is_refused_with_those_that_are_like_it(
    running: Installation, tenant: Tenant
) -> None:
    def wanted(*named: str) -> httpx.Response:
        both = [dict(zip(("exchange", "product"), name.split(":"), strict=True)) for name in named]
        return call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": both})

    assert wanted("listed:GONE-USD").status_code == 200  # no list is known
    tell(running, "listed", "BTC-USD", "BTC-EUR", "ETH-USD")
    tell(running, "listed-long-ago", "BTC-USD", age=25 * 3600)

    eventually(lambda: _assert_refused(wanted("listed:GONE-USD", f"listed:{secrets.token_hex(4).upper()}-USD")))
    held = ("listed:GONE-USD", "listed:ETH-USD", "unlisted:X-USD", "listed-long-ago:X-USD")

    refused = wanted(*held, "listed:BTC-UDS", "listed:QQQQQQ")

    assert problem(refused, 422, "invalid-body")["errors"] == [
        {
            "pointer": "/subscriptions/4/product",
            "message": "listed has no product 'BTC-UDS': did you mean BTC-USD, BTC-EUR?",
        },
        {"pointer": "/subscriptions/5/product", "message": "listed has no product 'QQQQQQ'"},
    ]
    assert wanted(*held).status_code == 200
    assert [one["product"] for one in call(tenant, "GET", "/api/v1/subscriptions").json()["subscriptions"]] == [
        "ETH-USD", "GONE-USD", "X-USD", "X-USD"
    ]  # fmt: skip


def _assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 422


def tell(running: Installation, exchange: str, *products: str, age: int = 0) -> None:
    """Tell an exchange's products, as its producer does, so many seconds ago."""
    at = wall_clock() - age * 1_000_000
    told = ProductList(exchange=exchange, products=list(products), at=at, version=at)
    producer = Producer(client_config(running.kafka.settings(), "test-producer"))
    producer.produce(PRODUCT_LISTS, codec(ProductList).encode(told), exchange)
    assert producer.flush(30) == 0


def test_what_is_left_out_ends_with_a_null_on_the_control_topic(running: Installation, tenant: Tenant) -> None:
    call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS})
    call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS[1:]})
    call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS})

    eventually(lambda: _assert_on_topic(running, tenant, {"BTC-USD": 3, "ETH-USD": 1}))
    key = f"{tenant.slug}:coinbase:BTC-USD".encode()
    values = [record.value for record in on_topic(running, SUBSCRIPTIONS, lambda record: record.key == key)]
    first, gone, last = (None if value is None else codec(Subscription).decode(value) for value in values)
    assert gone is None
    assert first is not None
    assert last is not None
    assert last.version > first.version
    assert (last.exchange, last.product, last.datasets) == ("coinbase", "BTC-USD", ["ticks", "trades"])


def test_a_subscription_made_before_there_were_trades_gets_them_when_its_set_is_sent_again(
    running: Installation, tenant: Tenant
) -> None:
    call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": [PRODUCTS[0] | {"datasets": ["ticks"]}]})
    before = call(tenant, "GET", "/api/v1/subscriptions").json()["subscriptions"]

    after = call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS[:1]}).json()["subscriptions"]

    assert [row["datasets"] for row in (*before, *after)] == [["ticks"], ["ticks", "trades"]]
    assert after[0]["since"] == before[0]["since"]
    eventually(lambda: _assert_on_topic(running, tenant, {"BTC-USD": 2}))


@pytest.mark.parametrize("datasets", [[], ["stats"], ["ticks", "tocks"], "ticks", None])
def test_datasets_that_no_feed_has_are_refused(tenant: Tenant, datasets: object) -> None:
    body = {"subscriptions": [PRODUCTS[0] | {"datasets": datasets}]}

    answer = call(tenant, "PUT", "/api/v1/subscriptions", json=body)

    document = problem(answer, 422, "invalid-body")
    assert "/subscriptions/0/datasets" in str(document["errors"])


@pytest.mark.parametrize("query", ["hours=0", "hours=169", "hours=x", "products=BTC-USD", "exchange=" + "x" * 257])
def test_feeds_asked_for_in_a_way_that_means_nothing_are_refused(tenant: Tenant, query: str) -> None:
    problem(call(tenant, "GET", f"/api/v1/feeds?{query}"), 400, "invalid-parameters")


def test_the_feeds_of_a_new_tenant_say_that_nothing_is_known_yet(tenant: Tenant) -> None:
    call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": PRODUCTS[:1]})

    [feed] = call(tenant, "GET", "/api/v1/feeds?hours=2").json()["feeds"]

    assert (feed["state"], feed["connection"], feed["last_trade_id"], feed["gaps"]) == ("unknown", None, None, [])
    assert [(hour["trades"], hour["percent"]) for hour in feed["completeness"]] == [(0, None), (0, None)]
    assert parse_rfc3339(feed["completeness"][0]["hour"]) % 3_600_000_000 == 0


def _assert_on_topic(running: Installation, tenant: Tenant, counts: dict[str, int]) -> None:
    prefix = f"{tenant.slug}:".encode()
    found = on_topic(running, SUBSCRIPTIONS, lambda record: (record.key or b"").startswith(prefix))
    products = [(record.key or b"").decode().rpartition(":")[2] for record in found]
    assert {product: products.count(product) for product in products} == counts


@pytest.mark.parametrize(
    ("product", "pointer"),
    [
        ({"exchange": "Coinbase", "product": "BTC-USD"}, "/subscriptions/1"),
        ({"exchange": "coinbase", "product": "btc usd"}, "/subscriptions/1"),
        ({"exchange": "x-mine", "product": "BTC-USD"}, "/subscriptions/1/exchange"),
        ({"exchange": "coinbase"}, "/subscriptions/1/product"),
        ({"exchange": "coinbase", "product": "BTC-USD", "depth": 3}, "/subscriptions/1/depth"),
    ],
)
def test_an_impossible_product_changes_nothing_and_is_pointed_at(
    tenant: Tenant, product: dict[str, object], pointer: str
) -> None:
    answer = call(tenant, "PUT", "/api/v1/subscriptions", json={"subscriptions": [PRODUCTS[0], product]})

    found = problem(answer, 422, "invalid-body")
    assert found["errors"][0]["pointer"] == pointer  # type: ignore[index] # a problem's errors are a list
    assert call(tenant, "GET", "/api/v1/subscriptions").json() == {"subscriptions": [], "topics": []}


# ---- rules ----


def test_a_rule_is_made_shown_and_takes_effect_when_it_is_on_its_topic(running: Installation, tenant: Tenant) -> None:
    answer = call(tenant, "POST", "/api/v1/rules", json=RULE | {"for": "60s", "labels": {"desk": "spot"}})

    made = answer.json()
    path = f"/api/v1/rules/{made['rule_id']}"
    assert answer.status_code == 201
    assert (made["version"], made["effective_at"], made["definition"]["for"]) == (1, None, "1m")

    def effective() -> None:
        assert call(tenant, "GET", path).json()["effective_at"] is not None

    eventually(effective)
    shown = call(tenant, "GET", path).json()
    records = on_topic(running, RULES, lambda record: record.key == made["rule_id"].encode())
    assert [record.appended_at for record in records] == [parse_rfc3339(shown["effective_at"])]
    rule = codec(Rule).decode(records[0].value)
    assert (rule.tenant, rule.name, rule.version, rule.deleted, rule.effective_at) == (
        tenant.slug,
        "btc-low",
        1,
        False,
        None,
    )
    assert json.loads(rule.definition) == shown["definition"]
    assert call(tenant, "GET", "/api/v1/rules").json() == {"rules": [shown]}


def test_a_deleted_rule_is_gone_and_says_so_to_the_streams(running: Installation, tenant: Tenant) -> None:
    made = call(tenant, "POST", "/api/v1/rules", json=RULE).json()
    path = f"/api/v1/rules/{made['rule_id']}"

    answer = call(tenant, "DELETE", path)

    assert (answer.status_code, answer.content) == (204, b"")
    problem(call(tenant, "GET", path), 404, "not-found")
    problem(call(tenant, "DELETE", path), 404, "not-found")
    assert call(tenant, "GET", "/api/v1/rules").json() == {"rules": []}

    def closed() -> None:
        records = on_topic(running, RULES, lambda record: record.key == made["rule_id"].encode())
        last = codec(Rule).decode(records[-1].value)
        assert (last.version, last.deleted) == (2, True)
        assert json.loads(last.definition) == made["definition"]

    eventually(closed)


def test_a_name_is_given_once_and_is_free_again_after_deletion(tenant: Tenant) -> None:
    made = call(tenant, "POST", "/api/v1/rules", json=RULE).json()

    refused = problem(call(tenant, "POST", "/api/v1/rules", json=RULE), 409, "rule-exists")

    assert refused["rule_id"] == made["rule_id"]
    call(tenant, "DELETE", f"/api/v1/rules/{made['rule_id']}")
    assert call(tenant, "POST", "/api/v1/rules", json=RULE).status_code == 201


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"condition": {"type": "price"}}, "/condition", "exactly one"),
        ({"condition": {"type": "price", "below": "low"}}, "/condition/below", "number"),
        ({"condition": {"type": "price", "below": -1}}, "/condition/below", "greater"),
        ({"condition": {"type": "price", "below": 5, "clear": 4}}, "/condition/clear", "must not lie below"),
        ({"condition": {"type": "price", "crosses": 5, "direction": "left"}}, "/condition/direction", "'up'"),
        ({"condition": {"type": "price", "below": 5, "abvoe": 5}}, "/condition/abvoe", "unknown"),
        ({"condition": {"type": "moon"}}, "/condition", "moon"),
        ({"condition": {"below": 5}}, "/condition", "type"),
        ({"for": "soon"}, "/for", "duration"),
        ({"product": ["BTC-USD", "x y"]}, "/product", "x y"),
        ({"severity": "loud"}, "/severity", "'warning'"),
        ({"name": ""}, "/name", "at least 1"),
        ({"colour": "red"}, "/colour", "unknown"),
        ({"labels": {"a/b~": "x"}}, "/labels/a~1b~0", "pattern"),
    ],
)
def test_a_wrong_rule_is_refused_with_a_pointer_into_it(
    tenant: Tenant, change: dict[str, object], pointer: str, words: str
) -> None:
    found = problem(call(tenant, "POST", "/api/v1/rules", json=RULE | change), 422, "invalid-body")

    errors = {error["pointer"]: error["message"] for error in found["errors"]}  # type: ignore[attr-defined] # a list
    assert pointer in errors, errors
    assert words in errors[pointer]
    assert call(tenant, "GET", "/api/v1/rules").json() == {"rules": []}


# ---- search parameters ----


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("dataset=bogus", "dataset"),
        ("dataset=trade", "dataset"),
        ("dataset=ticks&type=a", "type"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("order=random", "order"),
        ("from=yesterday", "from"),
        ("from=2021-04-17T16:43:30", "from"),
        ("to=0001-01-01T00:00:00%2B14:00", "to"),
        ("from=2021-04-18T00:00:00Z&to=2021-04-17T00:00:00Z", "to"),
        ("produkt=BTC-USD", "produkt"),
        ("contains={", "contains"),
        ("contains=1", "contains"),
        ('contains={"a":[{}]}', "contains"),
        ("contains=" + '{"a":' * 11 + "1" + "}" * 11, "contains"),
        ("contains=" + "[" * 4000, "contains"),
        ("type_prefix=", "type_prefix"),
        ("dataset=trades&source_prefix=a", "source_prefix"),
        ("fields=prize", "fields"),
        ("begin=now", "begin"),
    ],
)
def test_an_impossible_search_is_400_and_names_the_parameter(tenant: Tenant, query: str, parameter: str) -> None:
    found = problem(call(tenant, "GET", f"/api/v1/ingestion/events/search?{query}"), 400, "invalid-parameters")

    assert found["errors"][0]["pointer"] == parameter  # type: ignore[index] # a problem's errors are a list


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("ticks?type=a", "type"),
        ("ticks?fields=price,data", "fields"),
        ("trades?side=up", "side"),
        ("stats?window=2m", "window"),
        ("alerts?state=loud", "state"),
        ("bars?fill=previous", "fill"),
        ("bars?columns=ccxt", "columns"),
        ("bars?period=1m", "product"),
        ("bars?period=1q&product=A", "period"),
        ("bars?period=99999s&product=A", "period"),
        ("bars?period=3m&product=A&order=ingested", "period"),
        ("bars?period=1m&product=A&fill=previous", "exchange"),
        ("bars?period=1m&product=A&exchange=x&fill=null", "from"),
        ("bars?period=1m&product=A&columns=ccxt", "exchange"),
        ("bars?period=1m&product=A&fields=event_id", "fields"),
        ("bars?period=1m&product=A&count=true", "count"),
        ("bars?period=1m&product=A&limit=1001", "limit"),
    ],
)
def test_an_impossible_list_is_400_and_names_the_parameter(tenant: Tenant, path: str, parameter: str) -> None:
    found = problem(call(tenant, "GET", f"/api/v1/{path}"), 400, "invalid-parameters")

    assert found["errors"][0]["pointer"] == parameter  # type: ignore[index] # a problem's errors are a list


@pytest.mark.parametrize("path", ["ticks", "trades", "stats", "bars", "alerts"])
def test_an_empty_list_is_a_page_and_a_tail_of_it_goes_on(tenant: Tenant, path: str) -> None:
    plain = call(tenant, "GET", f"/api/v1/{path}?count=true")
    tail = call(tenant, "GET", f"/api/v1/{path}?order=ingested&begin=now").json()
    further = call(tenant, "GET", f"/api/v1/{path}", params={"order": "ingested", "cursor": tail["next_cursor"]}).json()

    assert plain.json() == {"rows": [], "next_cursor": None, "count": {"rows": 0, "exact": True}}
    assert (tail["rows"], further["rows"]) == ([], [])
    assert tail["next_cursor"]
    assert further["next_cursor"]


def test_a_series_without_bars_is_empty(tenant: Tenant) -> None:
    assert call(tenant, "GET", "/api/v1/bars?period=4h&product=BTC-USD").json() == {"rows": [], "next_cursor": None}


@pytest.mark.parametrize("cursor", ["x", "%00", "AAAA", "é", "A" * 2000])
def test_a_malformed_cursor_is_400(tenant: Tenant, cursor: str) -> None:
    problem(call(tenant, "GET", f"/api/v1/ingestion/events/search?cursor={cursor}"), 400, "invalid-cursor")


def test_a_filter_with_nul_is_a_problem(tenant: Tenant) -> None:
    assert call(tenant, "GET", "/api/v1/ingestion/events/search?product=%00").status_code == 400


# ---- the document ----


def test_the_document_describes_the_two_hot_routes_as_they_are(tenant: Tenant) -> None:
    document = tenant.http.get("/openapi.json").json()

    for path in ("/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"):
        operation = document["paths"][path]["post"]
        assert operation["security"] == [{"ApiKey": []}]
        assert {"202", "400", "401", "403", "413", "415", "422", "503"} <= set(operation["responses"])
    example = document["components"]["schemas"]["EventIn"]["example"]
    assert call(tenant, "POST", "/api/v1/ingestion/events", json=example).status_code == 202
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_reference_in_the_document_leads_somewhere(tenant: Tenant) -> None:
    text = tenant.http.get("/openapi.json").text
    document = json.loads(text)

    for reference in set(re.findall(r'"\$ref": ?"#/([^"]+)"', text)):
        node = document
        for part in reference.split("/"):
            node = node[part]


def test_the_examples_of_the_document_are_accepted(tenant: Tenant) -> None:
    document = tenant.http.get("/openapi.json").json()

    rule = document["paths"]["/api/v1/rules"]["post"]["requestBody"]["content"]["application/json"]
    example = rule["schema"]["examples"][0]
    assert call(tenant, "POST", "/api/v1/rules", json=example).status_code == 201
