"""What the API tells browsers, and its log: of every answer, whatever becomes of the request."""

import json
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import EVENT, installation
from tests.support.e2e import Installation, Tenant, eventually

PAGE = "https://app.example.com"
EVENTS = "/api/v1/ingestion/events"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("edges")
    with installation(
        folder,
        broker,
        database_server,
        migrated_template,
        "relay",
        "api",
        cors_origins=f"{PAGE}, http://localhost:3000",
    ) as started:
        yield started


@pytest.fixture(scope="module")
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


def ask(tenant: Tenant, method: str, path: str, origin: str | None = None, **headers: str) -> httpx.Response:
    named = {"X-API-Key": tenant.key, **({} if origin is None else {"Origin": origin}), **headers}
    return tenant.http.request(method, path, headers=named, json=EVENT if method == "POST" else None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/rules", 200),
        ("GET", "/nowhere", 404),
        ("PATCH", "/api/v1/rules", 405),
        ("GET", "/api/v1/rules?tenant=a", 400),
        ("GET", "/openapi.json", 200),
        ("GET", "/health", 200),
        ("POST", EVENTS, 202),
        ("GET", EVENTS, 405),
    ],
)
def test_every_answer_is_private_and_what_its_type_says(tenant: Tenant, method: str, path: str, status: int) -> None:
    answer = ask(tenant, method, path)

    assert answer.status_code == status
    assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    if path != EVENTS:
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert (answer.headers["X-Frame-Options"], answer.headers["Referrer-Policy"]) == ("DENY", "no-referrer")


def test_the_pages_of_the_documents_may_load_what_they_need_and_nothing_else(tenant: Tenant) -> None:
    page = ask(tenant, "GET", "/docs")

    policy = page.headers["Content-Security-Policy"]
    loaded = {part.split("/")[2] for part in page.text.split('"') if part.startswith("https://")}
    assert loaded
    assert all(host in policy for host in loaded)
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("path", ["/api/v1/rules", EVENTS])
def test_a_page_of_an_origin_that_is_named_may_ask_with_a_key(tenant: Tenant, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    before = tenant.http.options(path, headers={"Origin": PAGE, **asked})
    answer = ask(tenant, "GET", path, PAGE)

    assert (before.status_code, before.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert "X-API-Key" in before.headers["Access-Control-Allow-Headers"]
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "RateLimit" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example.com", "https://app.example.com.evil.com", "null", PAGE + ":1"]
)
def test_a_page_of_another_origin_may_not(tenant: Tenant, origin: str) -> None:
    before = tenant.http.options("/api/v1/rules", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    answer = ask(tenant, "GET", "/api/v1/rules", origin)

    assert before.status_code == 400
    assert "Access-Control-Allow-Origin" not in {*before.headers, *answer.headers}


def test_each_request_is_a_line_of_the_log_without_its_key(running: Installation, tenant: Tenant) -> None:
    found = ask(tenant, "GET", "/api/v1/rules/x", **{"X-Request-ID": "line-1"})
    hot = ask(tenant, "POST", EVENTS, **{"X-Request-ID": "line-2"})
    lost = tenant.http.get(f"/{tenant.key}?contains={tenant.key}", headers={"X-Request-ID": "line-3"})

    ticket = ask(tenant, "POST", "/api/v1/live/tickets").json()["ticket"]
    with tenant.http.stream(
        "GET", f"/api/v1/live/events?ticket={ticket}", headers={"X-Request-ID": "line-4"}
    ) as events:
        next(events.iter_bytes())
    with connect(f"ws://127.0.0.1:{running.api_port}/api/v1/live", additional_headers={"X-Request-ID": "line-5"}) as ws:
        ws.send(json.dumps({"type": "subscribe", "key": tenant.key}))
        ws.recv(60)

    assert (found.status_code, hot.status_code, lost.status_code) == (404, 202, 404)
    lines = {}

    def written() -> None:
        for line in running["api"].log.read_text().splitlines():
            if line.startswith("{") and '"request"' in line:
                request = json.loads(line)
                lines[request["request_id"]] = request
        assert {f"line-{number}" for number in range(1, 6)} <= lines.keys()

    eventually(written)
    assert (lines["line-1"]["route"], lines["line-1"]["tenant"]) == ("/api/v1/rules/{rule_id}", tenant.slug)
    assert (lines["line-2"]["route"], lines["line-2"]["key_id"]) == (EVENTS, tenant.key.split("_")[2])
    assert (lines["line-3"]["route"], "tenant" in lines["line-3"]) == ("unmatched", False)
    assert (lines["line-4"]["route"], lines["line-4"]["tenant"]) == ("/api/v1/live/events", tenant.slug)
    assert (lines["line-5"]["route"], lines["line-5"]["status"]) == ("/api/v1/live", 101)
    assert lines["line-5"]["tenant"] == tenant.slug
    assert tenant.key not in running["api"].log.read_text()
