"""Rules over their whole life, and alerts that people mark, as clients of a running API see them."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from pulsestream.cli import app
from pulsestream.client import ApiError, Client
from pulsestream.core.topics import RULES
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Rule
from tests.support.api import RULE, installation, problem, store_alert
from tests.support.e2e import Installation, Tenant, eventually, read_topic, rows

PATH = "/api/v1/rules"


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("alerting")
    with installation(folder, broker, database_server, migrated_template, "relay", "api") as started:
        yield started


@pytest.fixture
def tenant(running: Installation) -> Tenant:
    return running.register("acme")


@pytest.fixture
def client(tenant: Tenant) -> Iterator[Client]:
    with Client(str(tenant.http.base_url), tenant.key) as opened:
        yield opened


def call(tenant: Tenant, method: str, path: str, match: str | None = None, **request: Any) -> httpx.Response:
    headers = {"X-API-Key": tenant.key} | ({} if match is None else {"If-Match": match})
    return tenant.http.request(method, path, headers=headers, **request)


def below(price: float, **other: object) -> dict[str, object]:
    return RULE | {"condition": {"type": "price", "below": price}} | other


# ---- changes ----


def test_a_change_makes_a_version_that_reaches_the_streams(running: Installation, tenant: Tenant) -> None:
    made = call(tenant, "POST", PATH, json=below(15000))
    path = f"{PATH}/{made.json()['rule_id']}"

    changed = call(tenant, "PUT", path, made.headers["etag"], json=below(14000, name="renamed"))

    shown = changed.json()
    assert (made.headers["etag"], changed.headers["etag"], changed.status_code) == ('"1"', '"2"', 200)
    assert (shown["version"], shown["name"], shown["definition"]["condition"]["below"]) == (2, "renamed", 14000)
    assert call(tenant, "GET", path).headers["etag"] == '"2"'

    def published() -> None:
        records = [record for record in read_topic(running.admin, RULES) if record.key == shown["rule_id"].encode()]
        last = codec(Rule).decode(records[-1].value)
        assert (last.version, last.enabled, last.name) == (2, True, "renamed")
        assert call(tenant, "GET", path).json()["effective_at"] is not None

    eventually(published)


@pytest.mark.parametrize("match", ['"1"', '"7"', 'W/"2"', '"soon"', '"1", "9"'])
def test_a_change_of_what_has_changed_is_refused(tenant: Tenant, match: str) -> None:
    path = f"{PATH}/{call(tenant, 'POST', PATH, json=below(15000)).json()['rule_id']}"
    call(tenant, "PUT", path, '"1"', json=below(14000))

    for method, target, body in (("PUT", path, below(13000)), ("POST", f"{path}/pause", None), ("DELETE", path, None)):
        refused = problem(call(tenant, method, target, match, json=body), 412, "precondition-failed")
        assert refused["version"] == 2

    assert call(tenant, "PUT", path, '"1", "2"', json=below(13000)).json()["version"] == 3
    assert call(tenant, "PUT", path, "*", json=below(12000)).json()["version"] == 4


def test_a_change_says_what_it_was_made_from(tenant: Tenant) -> None:
    path = f"{PATH}/{call(tenant, 'POST', PATH, json=below(15000)).json()['rule_id']}"

    problem(call(tenant, "PUT", path, json=below(14000)), 428, "precondition-required")
    for nonsense in ("1", '"1', "**", '"1" "2"', "," * 2000):
        problem(call(tenant, "PUT", path, nonsense, json=below(14000)), 400, "invalid-parameters")

    assert call(tenant, "GET", path).json()["version"] == 1


def test_of_many_changes_of_one_version_one_succeeds(tenant: Tenant) -> None:
    path = f"{PATH}/{call(tenant, 'POST', PATH, json=below(15000)).json()['rule_id']}"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: call(tenant, "PUT", path, '"1"', json=below(14000 + n)), range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    assert call(tenant, "GET", path).json()["version"] == 2


def test_what_is_so_already_makes_no_version(tenant: Tenant) -> None:
    path = f"{PATH}/{call(tenant, 'POST', PATH, json=below(15000)).json()['rule_id']}"
    call(tenant, "PUT", path, '"1"', json=below(14000))

    again = call(tenant, "PUT", path, '"1"', json=below(14000))
    resumed = call(tenant, "POST", f"{path}/resume", '"1"')

    assert [(answer.status_code, answer.json()["version"]) for answer in (again, resumed)] == [(200, 2)] * 2
    assert len(call(tenant, "GET", f"{path}/versions").json()["versions"]) == 2


def test_a_rule_takes_no_other_ones_name_and_keeps_its_own(tenant: Tenant) -> None:
    first = call(tenant, "POST", PATH, json=below(15000, name="first")).json()["rule_id"]
    second = call(tenant, "POST", PATH, json=below(15000, name="second")).json()["rule_id"]

    refused = problem(call(tenant, "PUT", f"{PATH}/{second}", "*", json=below(1, name="first")), 409, "rule-exists")

    assert refused["rule_id"] == first
    assert call(tenant, "PUT", f"{PATH}/{second}", "*", json=below(1, name="second")).json()["version"] == 2


@pytest.mark.parametrize(
    ("condition", "pointer"),
    [
        ({"type": "volume", "window": "1h", "baseline": "1m", "above_ratio": 5}, "/condition/baseline"),
        ({"type": "divergence", "exchanges": ["coinbase"], "above_bps": 5}, "/condition/exchanges"),
        ({"type": "price", "below": 5, "clear": 4}, "/condition/clear"),
        ({"type": "no_data", "after": "0s"}, "/condition/after"),
    ],
)
def test_a_wrong_change_points_into_the_condition(tenant: Tenant, condition: dict[str, Any], pointer: str) -> None:
    path = f"{PATH}/{call(tenant, 'POST', PATH, json=RULE).json()['rule_id']}"

    found = problem(call(tenant, "PUT", path, "*", json=RULE | {"condition": condition}), 422, "invalid-body")

    assert [error["pointer"] for error in found["errors"]] == [pointer]  # type: ignore[attr-defined]  # a list
    assert call(tenant, "GET", path).json()["version"] == 1


# ---- trials ----


TRY = f"{PATH}/test"
DAY = {"from": "2021-04-08T00:00:00Z", "to": "2021-04-09T00:00:00Z"}


@pytest.fixture
def priced(running: Installation, tenant: Tenant) -> Tenant:
    """A tenant with ten trades a second apart, at 14,995, 14,996 and so on; of ETH-USD a tenth of that."""
    with psycopg.connect(running.database.url()) as connection:
        connection.execute(
            "INSERT INTO trades (tenant, event_id, exchange, product, trade_id, price, size, side, exchange_time,"
            " received_time, appended_at) SELECT %s, product || n, 'coinbase', product, n, (14994 + n) * part, 1,"
            " 'buy', at, at, at FROM generate_series(1, 10) AS n,"
            " (VALUES ('BTC-USD', 1.0), ('ETH-USD', 0.1)) AS products (product, part),"
            " LATERAL (SELECT '2021-04-08T12:00:00Z'::timestamptz + n * interval '1 s') AS times (at)",
            (tenant.slug,),
        )
    return tenant


def test_a_rule_is_tried_before_it_is_saved(priced: Tenant, client: Client) -> None:
    paused = below(15000, enabled=False)

    found = client.rules.test(paused, from_=DAY["from"], to=DAY["to"])

    assert [(one["state"], one["at"], one["value"], one["reason"]) for one in found["transitions"]] == [
        ("firing", "2021-04-08T12:00:01.000000Z", 14995.0, "price 14995 is below 15000"),
        ("resolved", "2021-04-08T12:00:06.000000Z", 15000.0, "price 15000 is at or above 15000"),
    ]
    assert found["summary"] == {
        "fired": 1, "would_notify": 1, "firing_seconds": 5.0, "longest_seconds": 5.0, "firing_at_end": 0
    }  # fmt: skip
    assert (found["records"]["count"], found["truncated"]) == (10, False)
    assert client.rules.list() == []
    assert "rule" not in call(priced, "GET", "/api/v1/audit").text


def test_a_trial_can_look_at_some_of_the_products_only(priced: Tenant, client: Client) -> None:
    everywhere = below(15000, product="*")

    found = client.rules.test(everywhere, from_=DAY["from"], to=DAY["to"], products=["ETH-USD"])
    refused = call(priced, "POST", TRY, json=below(15000) | {"products": ["BTC-USD", "ETH-USD"]})

    assert {one["product"] for one in found["transitions"]} == {"ETH-USD"}
    assert found["summary"]["firing_at_end"] == 1
    [fault] = problem(refused, 422, "invalid-body")["errors"]  # type: ignore[misc]  # a list
    assert fault["pointer"] == "/products/1"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"condition": {"type": "price", "below": 5, "clear": 4}}, "/condition/clear"),
        ({"condition": {"type": "zscore", "window": "24h", "above": 4}}, "/condition/window"),
        ({"from": "yesterday"}, "/from"),
        ({"to": "2021-13-01"}, "/to"),
        ({"from": "2021-04-08T00:00:00Z", "to": "2021-04-16T00:00:00Z"}, "/from"),
        ({"products": "BTC-USD"}, "/products"),
        ({"products": ["B T C"]}, "/products"),
        ({"foor": "5s"}, "/foor"),
    ],
)
def test_a_trial_that_cannot_be_points_to_what_is_wrong(tenant: Tenant, change: dict[str, Any], pointer: str) -> None:
    found = problem(call(tenant, "POST", TRY, json=RULE | change), 422, "invalid-body")

    assert [error["pointer"] for error in found["errors"]] == [pointer]  # type: ignore[attr-defined]  # a list


def test_a_trial_that_takes_its_time_delays_no_other_request(running: Installation, priced: Tenant) -> None:
    with ThreadPoolExecutor(1) as pool, psycopg.connect(running.database.url()) as lock:
        lock.execute("LOCK TABLE trades IN ACCESS EXCLUSIVE MODE")
        trial = pool.submit(call, priced, "POST", TRY, json=RULE | DAY, timeout=60)
        eventually(lambda: assert_somebody_waits(running), every=0.05)
        problem(call(priced, "POST", TRY, json=RULE), 503, "overloaded")

        answered = [call(priced, "GET", PATH).status_code for _ in range(50)]

        assert (answered, trial.done()) == ([200] * 50, False)
        lock.rollback()
        assert trial.result().status_code == 200


def assert_somebody_waits(running: Installation) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    assert rows(running.database, waiting)


def test_the_command_line_tries_the_rules_of_a_file(
    running: Installation, priced: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"rules": [below(15000), below(1, name="never")]}))
    monkeypatch.setenv("PULSESTREAM_API_PORT", str(running.api_port))
    command = ["rules", "try", str(path), "--key", priced.key, "--from", "2021-04-08", "--to", "2021-04-09"]

    table = CliRunner().invoke(app, command, catch_exceptions=False)
    lines = CliRunner().invoke(app, [*command, "--rule", "btc-low", "--json"], catch_exceptions=False)

    assert [json.loads(line)["state"] for line in lines.stdout.splitlines()] == ["firing", "resolved"]
    assert [line.split()[1] for line in table.stdout.splitlines()[1:3]] == ["firing", "resolved"]
    assert [line.split() for line in table.stdout.splitlines()[-2:]] == [
        ["btc-low", "1", "1", "5s", "5s", "-", "10"],
        ["never", "0", "0", "0s", "0s", "-", "10"],
    ]


# ---- pause and versions ----


def test_a_pause_reaches_the_streams_and_ends(running: Installation, client: Client) -> None:
    made = client.rules.create(RULE)

    paused = client.rules.pause(made["rule_id"])
    assert (client.rules.pause(made["rule_id"])["version"], paused["version"], paused["enabled"]) == (2, 2, False)
    resumed = client.rules.resume(made["rule_id"])

    assert (resumed["version"], resumed["enabled"], resumed["definition"]) == (3, True, made["definition"])

    def published() -> None:
        records = [record for record in read_topic(running.admin, RULES) if record.key == made["rule_id"].encode()]
        told = [codec(Rule).decode(record.value) for record in records]
        assert [(rule.version, rule.enabled) for rule in told][-1] == (3, True)

    eventually(published)


def test_versions_tell_who_changed_what_and_when_it_held(client: Client, tenant: Tenant) -> None:
    rule_id = client.rules.create(below(15000, labels={"a": "1"}))["rule_id"]
    client.rules.replace(rule_id, below(14000, labels={"b": "2"}), version=1)
    client.rules.pause(rule_id)
    client.rules.resume(rule_id)
    client.rules.delete(rule_id)

    def in_force() -> None:
        assert next(client.rules.versions(rule_id))["effective_at"] is not None

    eventually(in_force)
    versions = list(client.rules.versions(rule_id))
    assert [(one["version"], one["change"]) for one in versions] == [
        *((5, "deleted"), (4, "resumed"), (3, "paused")),
        *((2, "changed"), (1, "created")),
    ]
    assert {one["created_by"] for one in versions} == {tenant.key.split("_")[2]}
    assert versions[3]["differences"] == [
        {"pointer": "/condition/below", "before": 15000.0, "after": 14000.0},
        {"pointer": "/labels/a", "before": "1", "after": None},
        {"pointer": "/labels/b", "before": None, "after": "2"},
    ]
    assert [one["ended_at"] for one in versions[1:]] == [one["effective_at"] for one in versions[:-1]]
    assert versions[0]["ended_at"] is None


def test_versions_come_in_pages(client: Client, tenant: Tenant) -> None:
    rule_id = client.rules.create(RULE)["rule_id"]
    for _ in range(2):
        client.rules.pause(rule_id)
        client.rules.resume(rule_id)

    pages, before = [], None
    while True:
        query = {"limit": 2} | ({} if before is None else {"before": before})
        page = call(tenant, "GET", f"{PATH}/{rule_id}/versions", params=query).json()
        pages.append([one["version"] for one in page["versions"]])
        before = page["next_before"]
        if before is None:
            break

    assert pages == [[5, 4], [3, 2], [1]]
    problem(call(tenant, "GET", f"{PATH}/{rule_id}/versions", params={"limit": 0}), 400, "invalid-parameters")
    problem(call(tenant, "GET", f"{PATH}/none/versions"), 404, "not-found")


def test_a_deleted_rule_takes_no_change(client: Client) -> None:
    rule_id = client.rules.create(RULE)["rule_id"]
    client.rules.delete(rule_id)

    for change in (
        lambda: client.rules.replace(rule_id, RULE, version=None),
        lambda: client.rules.pause(rule_id),
        lambda: client.rules.resume(rule_id),
    ):
        with pytest.raises(ApiError) as refused:
            change()
        assert refused.value.code == "not-found"


# ---- alerts as they stand ----


def in_hours(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


def test_the_newest_alert_of_each_rule_and_product_is_how_things_stand(
    running: Installation, client: Client, tenant: Tenant
) -> None:
    for rule_id, product, states in (
        ("rule-a", "BTC-USD", ("firing", "resolved", "firing")),
        ("rule-a", "ETH-USD", ("firing", "resolved")),
        ("rule-b", "BTC-USD", ("pending",)),
        ("rule-b", "SOL/X-USD", ("pending", "firing")),
    ):
        for number, state in enumerate(states, 1):
            store_alert(running.database, tenant.slug, rule_id, state, seq=number, product=product)

    def found(**query: Any) -> list[tuple[str, str, str]]:
        return [(one["rule_id"], one["product"], one["state"]) for one in client.alerts.current(page=1, **query)]

    open_now = [
        *(("rule-a", "BTC-USD", "firing"), ("rule-b", "BTC-USD", "pending"), ("rule-b", "SOL/X-USD", "firing")),
    ]
    assert found() == open_now
    assert found(state="any") == [open_now[0], ("rule-a", "ETH-USD", "resolved"), *open_now[1:]]
    assert found(state="firing") == [open_now[0], open_now[2]]
    assert found(rule_id="rule-b") == open_now[1:]
    assert found(product="BTC-USD") == open_now[:2]
    assert found(rule_id="rule-c") == found(rule_id="") == []


def test_an_acknowledgement_is_of_one_firing(running: Installation, client: Client, tenant: Tenant) -> None:
    first = store_alert(running.database, tenant.slug, "rule", "firing", seq=1)

    told = client.alerts.acknowledge(first, "on it")
    again = client.alerts.acknowledge(first, "on it")

    assert (told["muted"], told["acknowledged"]) == ("acknowledged", again["acknowledged"])
    assert told["acknowledged"] is not None
    assert told["acknowledged"]["comment"] == "on it"
    store_alert(running.database, tenant.slug, "rule", "resolved", seq=2)
    second = store_alert(running.database, tenant.slug, "rule", "firing", seq=3)
    (now,) = client.alerts.current()
    assert (now["alert_id"], now["muted"], now["acknowledged"]) == (second, None, None)
    with pytest.raises(ApiError) as refused:
        client.alerts.acknowledge(first)
    assert (refused.value.code, refused.value.document["alert_id"]) == ("alert-moved-on", second)


def test_an_acknowledged_pending_alert_fires_without_a_word(
    running: Installation, client: Client, tenant: Tenant
) -> None:
    client.alerts.acknowledge(store_alert(running.database, tenant.slug, "rule", "pending", seq=1))
    firing = store_alert(running.database, tenant.slug, "rule", "firing", seq=2)

    (now,) = client.alerts.current()

    assert (now["alert_id"], now["muted"]) == (firing, "acknowledged")
    assert client.alerts.unacknowledge(firing)["muted"] is None


def test_a_snooze_outlives_the_alert_and_can_be_ended(running: Installation, client: Client, tenant: Tenant) -> None:
    first = store_alert(running.database, tenant.slug, "rule", "firing", seq=1)

    client.alerts.snooze(first, in_hours(2), "at lunch")

    store_alert(running.database, tenant.slug, "rule", "resolved", seq=2)
    second = store_alert(running.database, tenant.slug, "rule", "firing", seq=3)
    (now,) = client.alerts.current()
    assert str(now["muted"]).startswith("snoozed until ")
    assert client.alerts.unsnooze(second)["muted"] is None
    assert client.alerts.unsnooze(second)["snoozed"] is None


@pytest.mark.parametrize("hours", [-1, 31 * 24, "yesterday", "9999-12-31T23:59:59Z"])
def test_a_snooze_ends_within_a_month(running: Installation, tenant: Tenant, hours: int | str) -> None:
    alert_id = store_alert(running.database, tenant.slug, "rule")
    until = in_hours(hours) if isinstance(hours, int) else hours

    refused = call(tenant, "POST", "/api/v1/alerts/snooze", json={"alert_id": alert_id, "until": until})

    assert problem(refused, 422, "invalid-body")["errors"][0]["pointer"] == "/until"  # type: ignore[index]  # a list


@pytest.mark.parametrize("alert_id", ["x", "a:1:b:c:firing:1", "a:1:b:c:firing:1:2:3", "\u20ac" * 300])
def test_what_is_no_alert_cannot_be_marked(tenant: Tenant, alert_id: str) -> None:
    for how in ("acknowledge", "unacknowledge", "unsnooze"):
        problem(call(tenant, "POST", f"/api/v1/alerts/{how}", json={"alert_id": alert_id}), 404, "not-found")


# ---- silences ----

SILENCES = "/api/v1/silences"


def silence(value: str, **other: object) -> dict[str, object]:
    return {
        "matchers": [{"name": "product", "op": "=~", "value": value}],
        "ends_at": in_hours(1),
        "comment": "maintenance",
    } | other


def test_a_silence_mutes_what_its_preview_showed_until_it_is_ended(
    running: Installation, client: Client, tenant: Tenant
) -> None:
    for product in ("BTC-USD", "ETH-USD", "SOL-USD"):
        store_alert(running.database, tenant.slug, "rule", product=product)
    wanted = silence("BTC-*|ETH-*")

    preview = call(tenant, "POST", f"{SILENCES}/preview", json={"matchers": wanted["matchers"]}).json()["alerts"]
    made = call(tenant, "POST", SILENCES, json=wanted).json()

    def muted() -> dict[str, str | None]:
        return {one["product"]: one["muted"] for one in client.alerts.current()}

    assert [one["product"] for one in preview] == ["BTC-USD", "ETH-USD"]
    assert made["state"] == "active"
    assert muted() == dict.fromkeys(["BTC-USD", "ETH-USD"], f"silence {made['silence_id']}") | {"SOL-USD": None}
    for _ in range(2):
        assert call(tenant, "DELETE", f"{SILENCES}/{made['silence_id']}").status_code == 204
    assert set(muted().values()) == {None}
    ended = call(tenant, "GET", f"{SILENCES}/{made['silence_id']}").json()
    assert (ended["state"], ended["expired_by"]) == ("expired", tenant.key.split("_")[2])


def test_silences_are_listed_by_state_in_pages(tenant: Tenant) -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    always = {"days": days, "from_time": "00:00", "minutes": 1440, "time_zone": "Europe/Berlin"}
    made = {
        name: call(tenant, "POST", SILENCES, json=body).json()["silence_id"]
        for name, body in {
            "now": silence("*"),
            "later": silence("*", starts_at=in_hours(0.5)),
            "window": silence("*", ends_at=None, weekly=always),
        }.items()
    }

    def ids(**query: Any) -> list[str]:
        found = call(tenant, "GET", SILENCES, params=query).json()["silences"]
        return [one["silence_id"] for one in found]

    assert ids() == [made["window"], made["later"], made["now"]]
    assert ids(state="active") == [made["window"], made["now"]]
    assert ids(state="pending") == [made["later"]]
    assert ids(state="expired") == []
    page = call(tenant, "GET", SILENCES, params={"limit": 2}).json()
    assert ids(before=page["next_before"]) == [made["now"]]
    assert call(tenant, "GET", f"{SILENCES}/{made['window']}").json()["weekly"] == always


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"matchers": []}, "/matchers"),
        ({"matchers": [{"name": "venue", "op": "=", "value": "x"}]}, "/matchers/0/name"),
        ({"matchers": [{"name": "product", "op": "~", "value": "x"}]}, "/matchers/0/op"),
        ({"matchers": [{"name": "product", "op": "=~", "value": "BTC-.*"}]}, "/matchers/0"),
        ({"ends_at": None}, ""),
        ({"ends_at": "soon"}, "/ends_at"),
        ({"ends_at": in_hours(-1)}, "/ends_at"),
        ({"starts_at": in_hours(2)}, "/ends_at"),
        ({"weekly": {"days": ["mon", "mon"], "from_time": "1:00", "minutes": 0, "time_zone": "x"}}, "/weekly/days"),
        ({"weekly": {"days": ["mon"], "from_time": "01:00", "minutes": 5, "time_zone": "Mars/X"}}, "/weekly/time_zone"),
        ({"comment": ""}, "/comment"),
    ],
)
def test_a_silence_that_cannot_be_is_refused_with_a_pointer(
    tenant: Tenant, change: dict[str, object], pointer: str
) -> None:
    found = problem(call(tenant, "POST", SILENCES, json=silence("*") | change), 422, "invalid-body")

    assert pointer in [error["pointer"] for error in found["errors"]]  # type: ignore[attr-defined]  # a list
    assert call(tenant, "GET", SILENCES).json()["silences"] == []
