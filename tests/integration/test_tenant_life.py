"""What operators do with tenants, seen on every part: API, live view, producer, streams, sink, relay."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from api.erasure.tables import tables
from api.relay_database import connect
from pulsestream.commands import operators
from pulsestream.core.errors import UsageError
from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.settings import Settings
from pulsestream.core.topics import SUBSCRIPTIONS, TENANTS, state_topic, tenant_topic
from schemas.codec import codec
from schemas.records import Tenant as TenantRecord
from tests.support.api import EVENT, problem
from tests.support.e2e import Installation, Tenant, eventually, installed, logs_shown, read_topic
from tests.support.live import LiveClient
from tests.support.operating import tenant_command

REFUSED_WITHIN = 3.0 + 1.0
"""Seconds until a key is refused everywhere, and one for the machine that this runs on."""
SILENCE = 12.0
"""Seconds without data after which the rule below would have fired."""
NO_DATA = {"name": "silent", "product": "BTC-USD", "condition": {"type": "no_data", "after": "10s"}}


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("life"), database_server, migrated_template) as started:
        started.serve_market(seed=7, rate=20, products=["BTC-USD"])
        started.start("relay", "api", "stream", "sink", "producer", exchange="coinbase")
        yield started


@pytest.fixture
def operator(running: Installation) -> Settings:
    """Settings that an operator's commands are run with."""
    return Settings(database_url=SecretStr(running.database.url("ps_relay")))


@pytest.fixture
def pair(running: Installation) -> Iterator[tuple[Tenant, Tenant]]:
    """Two tenants that are fed: one that something happens to, and one that must not notice."""
    with logs_shown(running):
        pair = running.register("life"), running.register("bystander")
        for tenant in pair:
            tenant.subscribe("coinbase", ["BTC-USD"])
        for tenant in pair:
            running.wait_for_topics(tenant)
            eventually(lambda tenant=tenant: growing(running, tenant, "ticks"))  # type: ignore[misc]
        yield pair


def end(running: Installation, tenant: Tenant, dataset: str) -> int:
    """Return how many records were written to a tenant's topic; of a young one that may take two tries."""
    topic = tenant_topic(tenant.slug, dataset)
    admin, found = Admin(running.admin), 0

    def known() -> None:
        nonlocal found
        try:
            found = sum(admin.ends({topic: running.admin.partitions})[topic].values())
        except BrokerError as error:
            raise AssertionError(str(error)) from error

    eventually(known)
    return found


def growing(running: Installation, tenant: Tenant, dataset: str) -> None:
    before = end(running, tenant, dataset)
    time.sleep(0.3)
    assert end(running, tenant, dataset) > before


def within(seconds: float, check: Callable[[], bool]) -> float:
    """Wait until a check holds and return how long that took; fails where it takes too long."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def said(show: Callable[[TextIO], None]) -> str:
    """Return what a command writes."""
    out = io.StringIO()
    show(out)
    return out.getvalue()


def status(tenant: Tenant, method: str, path: str, body: Any = None) -> int:
    return tenant.http.request(method, path, json=body, headers={"X-API-Key": tenant.key}).status_code


def subscribed(running: Installation, tenant: Tenant) -> list[bool]:
    """Return what the control topic says of the tenant's subscription, one after the other: there, or ended."""
    key = f"{tenant.slug}:coinbase:BTC-USD".encode()
    return [record.value is not None for record in read_topic(running.admin, SUBSCRIPTIONS) if record.key == key]


def statuses(running: Installation, tenant: Tenant) -> list[str]:
    found = [record for record in read_topic(running.admin, TENANTS) if record.key == tenant.slug.encode()]
    return [codec(TenantRecord).decode(record.value).status for record in found]


@pytest.mark.heavy
def test_a_suspended_tenant_gets_nothing_until_it_is_resumed(
    running: Installation, operator: Settings, pair: tuple[Tenant, Tenant]
) -> None:
    tenant, bystander = pair
    tenant.create_rule(NO_DATA)
    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
        operators.suspend(operator, tenant.slug, "invoice of March")
        code, _ = client.read_closed()
    assert code == 4403

    within(REFUSED_WITHIN, lambda: status(tenant, "GET", "/api/v1/rules") == 403)
    assert status(tenant, "POST", "/api/v1/ingestion/events", EVENT) == 403
    with LiveClient(running.api_port, key=tenant.key) as client:
        assert client.read_closed()[0] == 4403
    eventually(lambda: no_longer_fed(running, tenant))
    quiet = {dataset: end(running, tenant, dataset) for dataset in ("ticks", "trades", "alerts")}
    growing(running, bystander, "ticks")
    time.sleep(SILENCE)
    assert {dataset: end(running, tenant, dataset) for dataset in quiet} == quiet

    operators.resume(operator, tenant.slug)

    within(REFUSED_WITHIN, lambda: status(tenant, "GET", "/api/v1/rules") == 200)
    eventually(lambda: growing(running, tenant, "ticks"))
    assert [rule["name"] for rule in tenant.call("GET", "/api/v1/rules")["rules"]] == ["silent"]
    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
    assert subscribed(running, tenant) == [True, False, True]
    assert statuses(running, tenant) == ["active", "suspended", "active"]


@pytest.mark.heavy
def test_of_a_deleted_tenant_under_load_nothing_stays_anywhere_and_its_neighbour_notices_nothing(
    running: Installation, operator: Settings, pair: tuple[Tenant, Tenant]
) -> None:
    tenant, bystander = pair
    tenant.create_rule(NO_DATA)
    tenant.call("POST", "/api/v1/ingestion/events", json=EVENT)
    eventually(lambda: stored(tenant, "ticks", "stats", "events"))
    eventually(lambda: kept(running, tenant))

    operators.delete(operator, tenant.slug)
    operators.erase(operator, tenant.slug)

    eventually(lambda: erased(operator, tenant), timeout=90)
    eventually(lambda: nothing_kept(running, tenant))
    with connect(operator, "test") as connection:
        named = {table.name: table.count(connection, tenant.slug) for table in tables(connection)}
    assert {name: count for name, count in named.items() if count} == {}
    assert [topic for topic in Admin(running.admin).topics() if topic.startswith(f"ps.{tenant.slug}.")] == []
    growing(running, bystander, "ticks")
    before = len(bystander.walk(dataset="ticks", limit=1000))
    eventually(lambda: more_stored(bystander, before))
    for part in ("relay", "api", "stream", "sink", "producer"):
        running[part].assert_alive()


def stored(tenant: Tenant, *datasets: str) -> None:
    for dataset in datasets:
        assert tenant.walk(dataset=dataset, limit=10)


def more_stored(tenant: Tenant, before: int) -> None:
    assert len(tenant.walk(dataset="ticks", limit=1000)) > before


def erased(operator: Settings, tenant: Tenant) -> None:
    shown = said(lambda out: operators.show(operator, tenant.slug, as_json=True, out=out))
    assert json.loads(shown)["status"] == "deleted"


def state_of(running: Installation, tenant: Tenant) -> list[bytes | None]:
    """Return the names of state entries that hold a value in which the tenant is named."""
    entries = read_topic(running.admin, state_topic(running.admin.stream_app))
    newest = {entry.key: entry.value for entry in entries}
    slug = tenant.slug.encode()
    return [key for key, value in newest.items() if value is not None and slug in (key or b"") + value]


def kept(running: Installation, tenant: Tenant) -> None:
    assert state_of(running, tenant)


def nothing_kept(running: Installation, tenant: Tenant) -> None:
    assert state_of(running, tenant) == []


def no_longer_fed(running: Installation, tenant: Tenant) -> None:
    before = end(running, tenant, "ticks")
    time.sleep(0.5)
    assert end(running, tenant, "ticks") == before


def test_what_an_operator_did_is_in_the_tenants_audit(operator: Settings, pair: tuple[Tenant, Tenant]) -> None:
    tenant, _ = pair
    operators.change_tier(operator, tenant.slug, "pro")
    operators.suspend(operator, tenant.slug, "invoice of March")
    operators.resume(operator, tenant.slug)
    within(REFUSED_WITHIN, lambda: status(tenant, "GET", "/api/v1/tenant") == 200)

    rows = tenant.call("GET", "/api/v1/audit?limit=10")["entries"]

    ours = [row for row in reversed(rows) if row["actor"] == {"id": None, "role": "operator"}]
    assert [(row["action"], row["before"], row["after"]) for row in ours] == [
        ("tenant.tier", {"tier": "free"}, {"tier": "pro"}),
        ("tenant.suspend", {"status": "active"}, {"status": "suspended", "reason": "invoice of March"}),
        ("tenant.resume", {"status": "suspended"}, {"status": "active"}),
    ]
    assert {row["target"] for row in ours} == {f"tenant:{tenant.slug}"}
    assert tenant.call("GET", "/api/v1/audit/verify")["intact"]
    assert tenant.call("GET", "/api/v1/tenant")["tier"] == "pro"


def test_a_change_whose_key_was_looked_up_before_the_suspension_is_refused_after_it(
    running: Installation, pair: tuple[Tenant, Tenant]
) -> None:
    tenant, _ = pair
    wanted = {"subscriptions": [{"exchange": "coinbase", "product": "ETH-USD"}]}
    headers = {"X-API-Key": tenant.key}
    with psycopg.connect(running.database.url(), autocommit=True) as admin:
        assert status(tenant, "GET", "/api/v1/rules") == 200
        admin.execute("UPDATE tenants SET status = 'suspended' WHERE tenant = %s", (tenant.slug,))

        answers: list[httpx.Response] = [
            tenant.http.put("/api/v1/subscriptions", json=wanted, headers=headers),
            tenant.http.post("/api/v1/keys", json={"name": "late", "role": "viewer"}, headers=headers),
            tenant.http.post("/api/v1/rules", json=NO_DATA, headers=headers),
        ]

        for answer in answers:
            assert "suspended" in str(problem(answer, 403, "forbidden")["detail"])
        held = admin.execute("SELECT product FROM subscriptions WHERE tenant = %s", (tenant.slug,)).fetchall()
        admin.execute("UPDATE tenants SET status = 'active' WHERE tenant = %s", (tenant.slug,))
    assert held == [("BTC-USD",)]


def test_operators_see_all_tenants_and_one_whole(
    running: Installation, operator: Settings, pair: tuple[Tenant, Tenant]
) -> None:
    tenant, bystander = pair

    listed = said(lambda out: operators.listed(operator, "active", as_json=True, out=out)).splitlines()
    shown = json.loads(said(lambda out: operators.show(operator, tenant.slug, as_json=True, out=out)))
    text = tenant_command(running, "show", tenant.slug)

    assert {json.loads(line)["tenant"] for line in listed} >= {tenant.slug, bystander.slug}
    assert (shown["tier"], shown["status"], shown["products"], shown["keys"]) == ("free", "active", 1, 1)
    assert {topic["dataset"] for topic in shown["topics"]} >= {"ticks", "trades", "alerts"}
    assert [key["id"] for key in shown["api_keys"]] == [tenant.key.split("_")[2]]
    assert tenant.key.split("_")[3] not in json.dumps(shown)
    assert "first key" in text


def test_what_an_operator_cannot_do_is_one_clear_line(running: Installation, operator: Settings) -> None:
    slug = running.register("still").slug

    for change, said in (
        (lambda: operators.suspend(operator, "no-such-one", ""), "there is no tenant 'no-such-one'"),
        (lambda: operators.show(operator, "no-such-one", as_json=True, out=sys.stdout), "there is no tenant"),
        (lambda: operators.resume(operator, slug), "is active: only one that is suspended can be resumed"),
    ):
        with pytest.raises(UsageError, match=said):
            change()
    assert "already" in operators.change_tier(operator, slug, "free")
    assert "no-such-one" in tenant_command(running, "suspend", "no-such-one", code=2)
