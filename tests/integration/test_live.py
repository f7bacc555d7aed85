"""The live view over a real broker and database, by the API's own process: what clients see, and what ends them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psutil
import psycopg
import pytest
from confluent_kafka import TopicPartition

from api.live import hub, messages, websocket
from api.live.messages import Close
from api.live.token import ResumeSeal
from pulsestream.core.kafka import Admin
from pulsestream.core.topics import tenant_topic
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Tick
from tests.support.api import installation
from tests.support.e2e import Installation, Tenant, eventually, installed, logs_shown, stop_broker
from tests.support.live import Comer, LiveClient, Market, rows, tenant_with_topics
from tests.support.rounds import Rounds

TEXT = (Path(__file__).parents[2] / "docs" / "live.md").read_text("utf-8")
PRODUCTS = ("BTC-USD", "ETH-USD")
AWAY, LIVE = {"type": "status", "broker": "away"}, {"type": "status", "broker": "live"}


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("live")
    with installation(folder, broker, database_server, migrated_template, "relay", "api", "sink") as started:
        yield started


@pytest.fixture
def place(running: Installation) -> Iterator[tuple[Tenant, Market]]:
    with logs_shown(running):
        yield tenant_with_topics(running, "live", PRODUCTS)


def stored(tenant: Tenant, dataset: str, count: int) -> None:
    """Wait until the sink has stored so many rows."""

    def all_there() -> None:
        assert len(tenant.walk(dataset=dataset, limit=1000)) == count

    eventually(all_there)


def test_a_client_sees_what_is_there_and_then_what_comes(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    before = market.ticks("BTC-USD", 10)
    stat = market.stat("BTC-USD")
    alerts = market.alerts("BTC-USD", 5)
    stored(tenant, "alerts", 5)
    stored(tenant, "ticks", 10)
    stored(tenant, "stats", 1)

    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
        assert [tick["event_id"] for tick in rows(client.messages, "ticks")] == [before[-1].event_id]
        assert [row["event_id"] for row in rows(client.messages, "stats")] == [stat.event_id]
        assert client.alerts() == [alert.alert_id for alert in alerts]

        after = market.ticks("ETH-USD", 3)
        more = market.alerts("ETH-USD", 3)
        newer = market.stat("BTC-USD")
        client.read_until(lambda: len(client.alerts()) == 8 and len(rows(client.messages, "ticks")) >= 4)
        client.read_until(lambda: rows(client.messages, "stats")[-1]["event_id"] == newer.event_id)

    assert client.alerts() == [alert.alert_id for alert in (*alerts, *more)]
    assert rows(client.messages, "ticks")[-1]["event_id"] == after[-1].event_id
    found = tenant.search(dataset="alerts", limit=1)["rows"][0]
    live = next(row for row in rows(client.messages, "alerts") if row["alert_id"] == found["alert_id"])
    assert {name: live[name] for name in ("at", "reason", "labels", "seq")} == {
        name: found[name] for name in ("at", "reason", "labels", "seq")
    }


def test_whoever_comes_while_alerts_flow_sees_each_once(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    with market.alerting(PRODUCTS, 0.02) as written:
        clients = []
        for _ in range(5):
            clients.append(LiveClient(running.api_port, key=tenant.key, datasets=["alerts"]))
            clients[-1].read_live()
            seen = len(clients[-1].alerts())
            clients[-1].read_until(lambda client=clients[-1], seen=seen: len(client.alerts()) > seen)  # type: ignore[misc]

    for client in clients:
        with client:
            client.read_until(lambda client=client: written[-1] in client.alerts())  # type: ignore[misc]
            arrived = client.alerts()
            assert len(set(arrived)) == len(arrived)
            assert set(arrived) == set(written[-len(arrived) :]) or set(arrived) == set(written)


def test_filters_leave_the_rest_out(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    asked = {"datasets": ["ticks", "alerts"], "products": ["ETH-USD"]}
    with LiveClient(running.api_port, key=tenant.key, **asked) as client:
        client.read_live()
        market.ticks("BTC-USD", 5)
        market.stat("ETH-USD")
        market.alerts("BTC-USD", 5)
        market.alerts("ETH-USD", 1)
        market.ticks("ETH-USD", 1)

        client.read_until(lambda: bool(rows(client.messages, "ticks")) and bool(client.alerts()))

    assert {row["product"] for row in [*rows(client.messages, "ticks"), *rows(client.messages, "alerts")]} == {
        "ETH-USD"
    }
    assert rows(client.messages, "stats") == []


def test_a_token_from_long_ago_brings_every_alert_since(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    first = market.alerts("BTC-USD", 1)
    with LiveClient(running.api_port, key=tenant.key, datasets=["alerts"]) as client:
        client.read_until(lambda: client.alerts() == [first[0].alert_id])
        client.read_live()
        token = client.read_token()
    missed = market.alerts("BTC-USD", 1_500)  # more than a process keeps
    market.again(missed[:700])
    stored(tenant, "alerts", 1_501)

    with LiveClient(running.api_port, key=tenant.key, datasets=["alerts"], resume=token) as client:
        client.read_until(lambda: len(client.alerts()) >= 1_500)
        client.read_live()
        last = market.alerts("BTC-USD", 1)
        client.read_until(lambda: last[0].alert_id in client.alerts())

    assert client.alerts() == [alert.alert_id for alert in (*missed, *last)]


def test_alerts_that_have_left_the_topic_are_told_as_a_gap(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    with LiveClient(running.api_port, key=tenant.key, datasets=["alerts"]) as client:
        client.read_live()
        token = client.read_token()
    market.alerts("BTC-USD", 300)
    stored(tenant, "alerts", 300)
    topic = tenant_topic(tenant.slug, "alerts")
    admin = Admin(running.admin).client
    ends = Admin(running.admin).ends({topic: len(Admin(running.admin).describe([topic])) and 3})[topic]
    left = [TopicPartition(topic, number, end - 20) for number, end in ends.items() if end]
    for future in admin.delete_records(left).values():
        future.result()

    with LiveClient(running.api_port, key=tenant.key, datasets=["alerts"], resume=token) as client:
        client.read_until(lambda: len(client.alerts()) == 20)
        client.read_until(lambda: any(message["type"] == "gap" for message in client.messages))

    assert [message["records"] for message in client.messages if message["type"] == "gap"] == [280]


def test_alerts_that_a_worker_sends_again_are_shown_once(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    stored_ones = market.alerts("BTC-USD", 10)
    stored(tenant, "alerts", 10)
    with LiveClient(running.api_port, key=tenant.key, datasets=["alerts"]) as client:
        client.read_live()
        market.again(stored_ones[4:])
        fresh = market.alerts("BTC-USD", 3)
        market.again(fresh[1:])
        last = market.alerts("BTC-USD", 1)
        client.read_until(lambda: last[0].alert_id in client.alerts())

    assert client.alerts() == [alert.alert_id for alert in (*stored_ones, *fresh, *last)]


def test_a_repeat_of_what_this_process_has_not_read_is_told_by_the_database(
    running: Installation, place: tuple[Tenant, Market]
) -> None:
    tenant, market = place
    old = market.alerts("BTC-USD", 10)
    market.alerts("BTC-USD", 2 * hub.WARM, "another")
    stored(tenant, "alerts", 10 + 2 * hub.WARM)
    with LiveClient(running.api_port, key=tenant.key, datasets=["alerts"]) as client:
        client.read_live()
        client.messages.clear()
        market.again(old[4:])
        fresh = market.alerts("BTC-USD", 2)
        client.read_until(lambda: fresh[-1].alert_id in client.alerts())

    assert client.alerts() == [alert.alert_id for alert in fresh]


def test_bytes_that_are_no_record_stop_nobody(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
        tick = market.ticks("BTC-USD", 1)[0]
        unsound = codec(Tick).encode(msgspec.structs.replace(tick, price=-1.0))
        for value in (b"", b"\0\0\0", b"\0" * 1000, b"\xff" * 100_000, unsound):
            for dataset in ("ticks", "stats", "alerts"):
                market.raw(dataset, value)
        alert = market.alerts("BTC-USD", 1)[0]
        last = market.ticks("BTC-USD", 1)[0]

        client.read_until(lambda: alert.alert_id in client.alerts())
        client.read_until(lambda: _shows(client, last))

    assert all(row["price"] > 0 for row in rows(client.messages, "ticks"))


def test_topics_that_are_made_later_are_picked_up(running: Installation) -> None:
    tenant = running.register("late")
    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
        tenant.subscribe("coinbase", PRODUCTS)
        running.wait_for_topics(tenant)
        market = Market(running.admin, tenant.slug)
        tick = market.ticks("BTC-USD", 1)[0]
        alert = market.alerts("BTC-USD", 1)[0]

        client.read_until(lambda: alert.alert_id in client.alerts() and bool(rows(client.messages, "ticks")))

    assert rows(client.messages, "ticks")[-1]["event_id"] == tick.event_id


# ---- who is refused, and who is ended ----


@pytest.mark.parametrize(
    ("first", "code", "words"),
    [
        ("hello", 4400, "not a subscribe message"),
        (b"\x00\xff", 4400, "not a subscribe message"),
        ('{"type": "subscribe", "key": "k", "tenant": "acme"}', 4400, "tenant"),
        ('{"type": "subscribe"}', 4401, "API key"),
        ('{"type": "subscribe", "key": "ps_live_x"}', 4401, "not an API key"),
        ("x" * 20_000, 1009, ""),
    ],
)
def test_a_first_message_that_is_none_is_refused_and_says_why(
    running: Installation, first: str | bytes, code: int, words: str
) -> None:
    with LiveClient(running.api_port, first) as client:
        assert client.read_closed()[0] == code
        assert words in client.reason


def test_a_second_message_is_refused(running: Installation, place: tuple[Tenant, Market]) -> None:
    with LiveClient(running.api_port, key=place[0].key) as client:
        client.read_live()
        client.say("more")

        assert client.read_closed()[0] == 4400


def test_another_tenants_and_forged_tokens_are_refused(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, _ = place
    other = running.register("other")
    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
        token = client.read_token()
    forged = ResumeSeal({1: b"another pepper of the tests"}).seal(tenant.slug, "id", [0, 0, 0])

    for key, resume in ((other.key, token), (tenant.key, forged), (tenant.key, token[:-4]), (tenant.key, "")):
        with LiveClient(running.api_port, key=key, resume=resume) as client:
            assert client.read_closed()[0] == 4409
            assert "resume token" in client.reason
    with LiveClient(running.api_port, key=tenant.key, resume=token) as client:
        client.read_live()


def test_a_revoked_key_ends_its_connections(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, _ = place
    with LiveClient(running.api_port, key=tenant.key) as client:
        client.read_live()
        with psycopg.connect(running.database.url()) as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE tenant = %s", (tenant.slug,))

        code, reason = client.read_closed()

    assert code == 4401
    assert "revoked" in reason


def test_one_that_stops_reading_costs_bounded_memory_and_delays_nobody(
    running: Installation, place: tuple[Tenant, Market]
) -> None:
    tenant, market = place
    api = running["api"].running
    assert api is not None
    process = psutil.Process(api.pid)
    with LiveClient(running.api_port, key=tenant.key) as client, _deaf(running.api_port, tenant.key):
        client.read_live()
        market.ticks("BTC-USD", 2_000)
        before = process.memory_info().rss
        for _ in range(10):
            last = market.ticks("BTC-USD", 2_000)[-1]
            alert = market.alerts("BTC-USD", 200)[-1]
            client.read_until(lambda last=last: rows(client.messages[-3:], "ticks")[-1:] != [] and _shows(client, last))  # type: ignore[misc]
            client.read_until(lambda alert=alert: alert.alert_id in client.alerts())  # type: ignore[misc]
            client.messages = [message for message in client.messages if message["type"] == "alerts"]

        grown = process.memory_info().rss - before

    assert len(client.alerts()) == 2_000
    assert grown < 32 * 1024 * 1024


def _shows(client: LiveClient, tick: Tick) -> bool:
    return any(row["event_id"] == tick.event_id for row in rows(client.messages, "ticks"))


def _deaf(port: int, key: str) -> socket.socket:
    """Return a connection whose client reads nothing after its first message, with a small buffer of its own."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", port))
    head = "GET /api/v1/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    deaf.sendall(f"{head}Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    text = json.dumps({"type": "subscribe", "key": key}).encode()
    masked = (
        bytes((0x81, 0x80 | 126)) + len(text).to_bytes(2, "big") + bytes(4) + text
    )  # a mask of zeros changes nothing
    deaf.sendall(masked)
    return deaf


def test_a_tier_has_so_many_connections_at_once(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    with installation(tmp_path, broker, database_server, migrated_template, "api", limits="free.live=2") as limited:
        tenant, other = limited.register("tier"), limited.register("tier")
        with ExitStack() as open_ones:
            for _ in range(2):
                open_ones.enter_context(LiveClient(limited.api_port, key=tenant.key)).read_live()
            with LiveClient(limited.api_port, key=tenant.key) as third:
                assert third.read_closed()[0] == 4429
                assert "tier free has 2" in third.reason
            open_ones.enter_context(LiveClient(limited.api_port, key=other.key)).read_live()
        eventually(lambda: _joins(limited, tenant))


def _joins(installation: Installation, tenant: Tenant) -> None:
    with LiveClient(installation.api_port, key=tenant.key) as client:
        client.read(10)
        assert client.code is None
        assert client.messages[0]["type"] == "snapshot"


# ---- through faults ----


def test_the_api_killed_while_alerts_flow_costs_no_alert_and_repeats_none(
    running: Installation, place: tuple[Tenant, Market], rounds: Rounds
) -> None:
    tenant, market = place
    clients = [Comer(running.api_port, tenant.key), Comer(running.api_port, tenant.key, products=["ETH-USD"])]
    with clients[0], clients[1], market.alerting(PRODUCTS, 0.01) as written:
        for _ in range(rounds(1, 6)):
            joined = [client.joins for client in clients]
            arrived = [len(client.alerts) for client in clients]
            _until(lambda arrived=arrived: all(len(c.alerts) > n + 5 for c, n in zip(clients, arrived, strict=True)))  # type: ignore[misc]
            running["api"].kill()
            running["api"].start()
            _until(lambda joined=joined: all(c.joins > n for c, n in zip(clients, joined, strict=True)))  # type: ignore[misc]
        running["api"].wait_ready()
        _until(lambda: len(clients[1].alerts) > 10 and len(clients[0].alerts) > 10)
        time.sleep(0.1)
        done = len(written)
        _until(lambda: set(written[:done]) <= {*clients[0].alerts})
        _until(lambda: {each for each in written[:done] if "ETH" in each} <= {*clients[1].alerts})

    everything = clients[0].alerts
    assert len(set(everything)) == len(everything)
    for client, names in zip(clients, (PRODUCTS, ("ETH-USD",)), strict=True):
        for name in names:
            seqs = [int(each.rpartition(":")[2]) for each in client.alerts if name in each]
            assert seqs == list(range(1, len(seqs) + 1))


def _until(done: object) -> None:
    def check() -> None:
        assert callable(done)
        assert done()

    eventually(check, every=0.05)


def test_clients_stay_and_are_told_while_the_broker_says_nothing(
    running: Installation, place: tuple[Tenant, Market]
) -> None:
    _tell_of_the_broker(running, *place, "stopped")


def test_clients_stay_and_are_told_while_the_broker_is_dead(
    tmp_path: Path, database_server: str, migrated_template: str, rounds: Rounds
) -> None:
    if not rounds(0, 1):
        pytest.skip("a broker of its own: only with --thorough")
    with installed(tmp_path, database_server, migrated_template) as alone, logs_shown(alone):
        alone.start("relay", "api", "sink")
        _tell_of_the_broker(alone, *tenant_with_topics(alone, "away", PRODUCTS), "killed")


def _tell_of_the_broker(installation: Installation, tenant: Tenant, market: Market, how: str) -> None:
    first = market.alerts("BTC-USD", 1)
    with LiveClient(installation.api_port, key=tenant.key) as client:
        client.read_live()
        client.read_until(lambda: len(client.alerts()) == 1)
        with stop_broker(installation, how):
            client.read_until(lambda: AWAY in client.messages)
            with LiveClient(installation.api_port, key=tenant.key) as late:
                late.read_until(lambda: AWAY in late.messages)
                late.read_live()
        told = client.messages.index(AWAY)
        client.read_until(lambda: LIVE in client.messages[told:])
        second = market.alerts("BTC-USD", 1)
        tick = market.ticks("BTC-USD", 1)[0]
        client.read_until(lambda: len(client.alerts()) == 2 and _shows(client, tick))

    assert client.alerts() == [first[0].alert_id, second[0].alert_id]


# ---- docs/live.md ----


def test_the_program_of_the_document_shows_what_comes(running: Installation, place: tuple[Tenant, Market]) -> None:
    tenant, market = place
    program = TEXT.partition("```python\n")[2].partition("```")[0]
    env = {"KEY": tenant.key, "PULSESTREAM_LIVE_URL": f"ws://127.0.0.1:{running.api_port}/api/v1/live"}
    tick = market.ticks("BTC-USD", 1)[0]
    stored(tenant, "ticks", 1)

    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | env, stdout=subprocess.PIPE) as shown:
        assert shown.stdout is not None
        try:
            first = shown.stdout.readline().decode()
            market.alerts("BTC-USD", 1)
            second = shown.stdout.readline().decode()
        finally:
            shown.kill()

    assert first == f"snapshot BTC-USD {tick.price}\n"
    assert second == "alerts BTC-USD price below 15000\n"


def test_the_document_names_every_code_and_message() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d{4})", TEXT, re.MULTILINE)} | {1012}
    types = set(re.findall(r"`([a-z]+)`", TEXT.partition("| `type` |")[2].partition("A product that")[0]))

    assert codes >= {int(code) for code in Close}
    assert types >= set(re.findall(r"^([a-z]+) {2,}", messages.__doc__ or "", re.MULTILINE))
    for bound in (f"{hub.MAX_CLIENTS:,}", f"{websocket.FIRST_WITHIN:.0f} s", f"{hub.STUCK:.0f} s", f"{hub.TELL:.0f} s"):
        assert bound in TEXT
