"""Searches of a running API: its document and docs/search.md hold; exports, and clients that do not take them."""

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from api.search import export, parameters, periods, plan, repository, service
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.api import installation, problem
from tests.support.contract import Operation
from tests.support.e2e import Installation, Tenant, eventually

START = datetime(2021, 4, 17, tzinfo=UTC)
MEBIBYTE = 1024 * 1024
LARGE = 1500
"""Events of 100 KiB each: 146 MiB."""


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("export")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.fixture(scope="module")
def tenant(running: Installation) -> Tenant:
    made = running.register("export")
    with psycopg.connect(running.database.url()) as connection:
        connection.execute(
            """INSERT INTO ticks (tenant, event_id, exchange, product, price, exchange_time, received_time, appended_at)
            SELECT %s, 'x:' || n, 'x', 'A,"B"', n / 8.0, %s + n / 3 * INTERVAL '1 second', now(), now()
            FROM generate_series(0, 2999) AS n""",
            (made.slug, START),
        )
        connection.execute(
            """INSERT INTO events (tenant, event_id, type, source, time, received_time, data, appended_at)
            SELECT %s, n::text, 't', 's', %s + n * INTERVAL '1 second', now(), to_jsonb(repeat('abcdefgh', 12800)),
                   now()
            FROM generate_series(1, %s) AS n""",
            (made.slug, START, LARGE),
        )
        connection.execute(
            """INSERT INTO bars (tenant, event_id, exchange, product, period, start, open, high, low, close, volume,
                                 complete, revision, origin, received_time, appended_at)
            SELECT %s, 'b:' || n, 'x', 'A', '1m', %s + n * INTERVAL '2 minutes', 1, 2, 0.5, n, 4, true, 0, 'trades',
                   now(), now()
            FROM generate_series(0, 9) AS n""",
            (made.slug, START),
        )
    return made


def get(tenant: Tenant, path: str) -> httpx.Response:
    answer = tenant.http.get(f"/api/v1/{path}", headers={"X-API-Key": tenant.key})
    assert answer.status_code == 200, answer.text
    return answer


def pages(tenant: Tenant, path: str, **query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = tenant.call("GET", f"/api/v1/{path}", params=query | more | {"limit": "1000"})
        rows += page["rows"]
        cursor = page["next_cursor"]
        if cursor is None:
            return rows


ROUTES = ("ingestion/events/search", "ticks", "trades", "bars", "stats", "alerts")


@pytest.mark.parametrize(
    "query",
    [
        "ingestion/events/search?dataset=ticks",
        "ingestion/events/search?dataset=events&limit=2",
        "ticks?count=true&order=ingested&limit=2",
        "bars",
        "bars?period=3m&product=A",
        "bars?period=1m&product=A&exchange=x&fill=null&from=2021-04-17T00:00:00Z",
        "bars?period=1m&product=A&exchange=x&columns=ccxt",
    ],
)
def test_every_answer_is_as_the_document_says(tenant: Tenant, query: str) -> None:
    document = tenant.http.get("/openapi.json").json()
    described = document["paths"]["/api/v1/" + query.partition("?")[0]]["get"]
    answer = get(tenant, query)

    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer.json()["rows"]
    assert Operation(document, described).disagreements(schema, answer.json()) == []


@pytest.mark.parametrize("route", ROUTES)
def test_every_example_agrees_with_its_schema_and_every_export_is_described(tenant: Tenant, route: str) -> None:
    document = tenant.http.get("/openapi.json").json()
    described = document["paths"][f"/api/v1/{route}"]["get"]
    content = described["responses"]["200"]["content"]

    page = content["application/json"]
    faults = [
        Operation(document, described).disagreements(page["schema"], one["value"]) for one in page["examples"].values()
    ]
    assert faults == [[]]
    assert {"application/x-ndjson", "text/csv; charset=utf-8"} < set(content)
    assert {"400", "401", "403", "503"} < set(described["responses"])


# ---- docs/search.md ----

TEXT = (Path(__file__).parents[2] / "docs" / "search.md").read_text("utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the document asks with curl, which is not installed")
@pytest.mark.parametrize("command", re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
def test_every_command_of_the_document_is_answered(
    running: Installation, tenant: Tenant, tmp_path: Path, command: str
) -> None:
    own = command.replace("127.0.0.1:8000", f"127.0.0.1:{running.api_port}").replace("curl ", "curl --fail-with-body ")

    said = subprocess.run(
        ["bash", "-euc", own], cwd=tmp_path, env=os.environ | {"KEY": tenant.key}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert said.returncode == 0, said.stdout + said.stderr
    assert "next_cursor" in said.stdout or (tmp_path / "trades.csv").read_bytes() == b"price,size,exchange_time\r\n"


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        ("(100, at most {})", plan.MAX_LIMIT),
        ("counted up to {}", repository.COUNTED),
        ("may take {} s", int(service.TIMEOUT)),
        ("more than {} MiB", repository.MAX_BYTES // MEBIBYTE),
        ("Memory: {} rows", parameters.EXPORT_PAGE),
        ("nothing for\n  {} s", int(export.STALL)),
        ("{} exports of a tenant", export.OF_TENANT),
        ("and {} of all", export.AT_ONCE),
        ("at most {} stored bars", periods.MAX_MULTIPLE),
    ],
)
def test_every_bound_of_the_document_is_the_codes(words: str, bound: int) -> None:
    assert words.format(f"{bound:,}") in TEXT


# ---- exports ----


def test_an_export_as_json_lines_is_the_whole_walk(tenant: Tenant) -> None:
    answer = get(tenant, "ticks?format=ndjson&order=asc")

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == pages(tenant, "ticks", order="asc")
    assert len(answer.text.splitlines()) == 3000


def test_an_export_as_csv_holds_the_same(tenant: Tenant) -> None:
    answer = get(tenant, "ingestion/events/search?format=csv&dataset=ticks&fields=product,price,size&limit=1200")

    read = list(csv.DictReader(io.StringIO(answer.text)))
    wanted = pages(tenant, "ticks")[:1200]
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert [(one["event_id"], one["product"], float(one["price"]), one["size"]) for one in read] == [
        (row["event_id"], row["product"], row["price"], "") for row in wanted
    ]
    assert [*read[0]] == ["dataset", "event_id", "product", "price", "size"]


def test_a_series_is_exported_with_its_gaps_filled_in_ccxts_columns(tenant: Tenant) -> None:
    query = "bars?product=A&exchange=x&period=1m&order=asc&columns=ccxt&fill=previous&limit=5&from=2021-04-17T00:00:00Z"

    lines = [json.loads(line) for line in get(tenant, query + "&format=ndjson").text.splitlines()]
    read = list(csv.reader(io.StringIO(get(tenant, query + "&format=csv").text)))

    begin = int(START.timestamp() * 1000)
    assert [line[0] for line in lines] == [begin + 60_000 * minute for minute in range(5)]
    assert [line[4] for line in lines] == [0, 0, 1, 1, 2]
    assert read[0] == ["start", "open", "high", "low", "close", "volume"]
    assert [[float(cell) for cell in row] for row in read[1:]] == lines


def test_an_export_of_nothing_is_empty(tenant: Tenant) -> None:
    assert get(tenant, "trades?format=ndjson").text == ""
    assert get(tenant, "trades?format=csv&fields=price").text == "price\r\n"


@pytest.mark.parametrize("query", ["limit=10000001", "cursor=x", "count=true", "begin=now&order=ingested"])
def test_what_an_export_cannot_do_is_refused(tenant: Tenant, query: str) -> None:
    answer = tenant.http.get(f"/api/v1/ticks?format=csv&{query}", headers={"X-API-Key": tenant.key})

    found = problem(answer, 400, "invalid-parameters")
    assert found["errors"][0]["pointer"] == query.partition("=")[0]  # type: ignore[index] # a list


def test_memory_does_not_grow_with_what_is_exported(running: Installation, tenant: Tenant) -> None:
    process = psutil.Process(_pid(running))
    get(tenant, "ingestion/events/search?format=ndjson&dataset=events&limit=200")
    before = process.memory_info().rss
    most, seen = before, 0
    url = "/api/v1/ingestion/events/search?format=ndjson&dataset=events"
    with tenant.http.stream("GET", url, headers={"X-API-Key": tenant.key}) as answer:
        for block in answer.iter_bytes(MEBIBYTE):
            seen += len(block)
            most = max(most, process.memory_info().rss)

    assert seen > LARGE * 100 * 1024
    assert most - before < 32 * MEBIBYTE


def test_pages_of_large_events_end_early_and_go_on(tenant: Tenant) -> None:
    found = pages(tenant, "ingestion/events/search", dataset="events", to="2021-04-17T00:01:00Z")
    both = pages(tenant, "ingestion/events/search", to="2021-04-17T00:01:00Z")

    assert [row["event_id"] for row in found] == [str(number) for number in range(59, 0, -1)]
    assert len(both) == 59 + 180
    assert len({(row["dataset"], row["event_id"]) for row in both}) == len(both)


def test_a_client_that_takes_nothing_holds_no_transaction_and_one_that_goes_away_ends_its_export(
    running: Installation, tenant: Tenant
) -> None:
    gone = running["api"].metric("pulsestream_exports_total", outcome="gone")
    process = psutil.Process(_pid(running))
    before = process.memory_info().rss
    path = "/api/v1/ingestion/events/search?format=ndjson&dataset=events"
    with socket.create_connection(("127.0.0.1", running.api_port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {tenant.key}\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"

        eventually(lambda: _assert_idle(running))
        assert tenant.call("GET", "/api/v1/ticks?limit=1")["rows"]
        assert process.memory_info().rss - before < 32 * MEBIBYTE

    eventually(lambda: _assert_gone(running, gone + 1))


def _assert_gone(running: Installation, wanted: float) -> None:
    assert running["api"].metric("pulsestream_exports_total", outcome="gone") == wanted


def _assert_idle(running: Installation) -> None:
    with psycopg.connect(running.database.url()) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ps_api' AND datname = current_database()"
            " AND state <> 'idle'"
        ).fetchone()
    assert found == (0,)


def _pid(running: Installation) -> int:
    process = running["api"].running
    assert process is not None
    return process.pid


def test_two_exports_of_a_tenant_run_at_once_and_a_third_is_told_to_come_again(
    running: Installation, tenant: Tenant
) -> None:
    path = "/api/v1/ingestion/events/search?format=csv&dataset=events"
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {tenant.key}\r\n\r\n".encode()
    clients = [socket.create_connection(("127.0.0.1", running.api_port)) for _ in range(2)]
    for client in clients:
        client.sendall(request)
        assert client.recv(12) == b"HTTP/1.1 200"

    refused = tenant.http.get(path, headers={"X-API-Key": tenant.key})
    for client in clients:
        client.close()

    problem(refused, 503, "overloaded")
    assert "2 exports of this tenant" in refused.text
    eventually(lambda: get(tenant, "ticks?format=csv&limit=1") and None)
