"""kill -9 of the API, the broker and the relay under load: 202 holds, and the same id again has one effect."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pulsestream.core.topics import RULES, SUBSCRIPTIONS, tenant_topic
from schemas.codec import codec
from schemas.records import Event, Rule, Subscription
from tests.support.api import EVENT, RULE, installation
from tests.support.e2e import Installation, Tenant, eventually, installed, read_topic, rows
from tests.support.rounds import Rounds

SINGLE, BATCH = "/api/v1/ingestion/events", "/api/v1/ingestion/events/batch"
SENDERS = 4


@dataclass
class Ledger:
    """What clients were told: answers by status, and the ids that were accepted."""

    accepted: set[str] = field(default_factory=set)
    answers: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: httpx.Response | None, ids: list[str], seconds: float) -> bool:
        with self.lock:
            self.slowest = max(self.slowest, seconds)
            if answer is None:
                self.broken += 1
                return False
            self.answers[answer.status_code] += 1
            if answer.status_code == 202:
                self.accepted.update(ids)
            else:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code == 202


@dataclass
class Client:
    """Sends numbered events and insists, with the same ids, until each is accepted."""

    installation: Installation
    tenant: Tenant
    ledger: Ledger
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, sender: int) -> list[str]:
        sent: list[str] = []
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.installation.api_port}", timeout=20, trust_env=False
        ) as http:
            while not self.stop.is_set():
                count = 20 if sender == 0 else 1
                ids = [f"{sender}-{len(sent) + number}" for number in range(count)]
                self._insist(http, ids)
                sent += ids
        return sent

    def _insist(self, http: httpx.Client, ids: list[str]) -> None:
        events = [EVENT | {"id": identifier, "data": {"n": identifier}} for identifier in ids]
        path, body = (SINGLE, events[0]) if len(events) == 1 else (BATCH, {"events": events})
        deadline = time.monotonic() + 90
        while True:
            began = time.monotonic()
            try:
                answer = http.post(path, json=body, headers={"X-API-Key": self.tenant.key})
            except httpx.TransportError:
                answer = None
            if self.ledger.note(answer, ids, time.monotonic() - began):
                return
            assert time.monotonic() < deadline, f"{ids} were never accepted: {answer and answer.text}"
            time.sleep(0.2)


@contextmanager
def load(installation: Installation, tenant: Tenant) -> Iterator[tuple[Ledger, list[Future[list[str]]]]]:
    """Clients that send while the block runs; afterwards each has had everything accepted."""
    ledger = Ledger()
    client = Client(installation, tenant, ledger)
    with ThreadPoolExecutor(SENDERS) as pool:
        senders = [pool.submit(client.run, sender) for sender in range(SENDERS)]
        try:
            yield ledger, senders
        finally:
            client.stop.set()


def assert_progress(ledger: Ledger, senders: list[Future[list[str]]], more: int) -> None:
    """Wait until that many more events are accepted."""
    wanted = len(ledger.accepted) + more

    def accepted() -> None:
        for sender in senders:
            if sender.done():
                sender.result()
        assert len(ledger.accepted) >= wanted, ledger

    eventually(accepted, timeout=90)


def assert_each_once(installation: Installation, tenant: Tenant, ids: set[str]) -> None:
    """Every id is on the topic, nothing else is, and the sink stores one row for each and no dead letter."""
    arrived = read_topic(installation.admin, tenant_topic(tenant.slug, "events"))
    events = [codec(Event).decode(record.value) for record in arrived]
    assert {event.event_id for event in events} == {f"/desk/1:{identifier}" for identifier in ids}

    def stored() -> None:
        found = rows(installation.database, "SELECT event_id FROM events WHERE tenant = %(tenant)s", tenant=tenant.slug)
        assert Counter(row["event_id"] for row in found) == Counter(f"/desk/1:{identifier}" for identifier in ids)

    eventually(stored, timeout=60)
    assert read_topic(installation.admin, tenant_topic(tenant.slug, "dlq")) == []


@pytest.fixture
def path(
    tmp_path_factory: pytest.TempPathFactory, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("api-kills"), database_server, migrated_template) as running:
        running.start("relay", "api", "sink")
        yield running


def test_the_api_killed_under_load_loses_nothing_it_accepted(path: Installation, rounds: Rounds) -> None:
    tenant = path.register("load")
    dice = random.Random(7)

    with load(path, tenant) as (ledger, senders):
        for _ in range(rounds(2, 12)):
            assert_progress(ledger, senders, dice.randrange(40, 120))
            path["api"].kill()
            path["api"].start()
            path["api"].wait_ready()
        assert_progress(ledger, senders, 50)

    sent = {identifier for sender in senders for identifier in sender.result()}
    assert ledger.broken > 0
    assert ledger.accepted == sent
    assert_each_once(path, tenant, sent)


def test_while_the_broker_is_away_the_answer_is_503_in_time_and_the_same_ids_have_one_effect(
    path: Installation,
) -> None:
    tenant = path.register("outage")

    with load(path, tenant) as (ledger, senders):
        assert_progress(ledger, senders, 60)
        for how in ("stopped", "killed"):
            before = ledger.answers[503]
            _take_away(path, how)
            eventually(lambda count=before: _assert_more(ledger.answers[503], count + SENDERS), timeout=60)  # type: ignore[misc] # bound now
            _bring_back(path, how)
            assert_progress(ledger, senders, 60)

    sent = {identifier for sender in senders for identifier in sender.result()}
    assert ledger.slowest < 15
    assert ledger.accepted == sent
    assert_each_once(path, tenant, sent)


def _assert_more(now: int, wanted: int) -> None:
    assert now >= wanted


def _take_away(path: Installation, how: str) -> None:
    if how == "killed":
        path.kafka.kill()
    else:
        _signal_broker(path, signal.SIGSTOP)


def _bring_back(path: Installation, how: str) -> None:
    if how == "killed":
        path.kafka.start()
    else:
        _signal_broker(path, signal.SIGCONT)


def _signal_broker(path: Installation, number: signal.Signals) -> None:
    process = path.kafka._process
    assert process is not None
    process.send_signal(number)


# ---- the relay ----


def test_the_relay_killed_at_any_moment_converges_to_what_the_database_says(
    tmp_path: Path, broker: Any, database_server: str, migrated_template: str, rounds: Rounds
) -> None:
    dice = random.Random(11)
    with installation(tmp_path, broker, database_server, migrated_template, "relay", "api") as running:
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            changes = pool.submit(_change_until, running, stop)
            try:
                for _ in range(rounds(4, 20)):
                    _await_work(running)
                    time.sleep(dice.uniform(0, 0.2))  # the random moment is the point of it
                    running["relay"].kill()
                    running["relay"].start()
                running["relay"].wait_ready()
            finally:
                stop.set()
            tenants = changes.result()

        eventually(lambda: _assert_drained(running), timeout=60)
        _assert_rules_are_there_once(running)
        _assert_subscriptions_are_there(running)
        assert len(tenants) > 1


def _await_work(running: Installation) -> None:
    """Wait until the relay publishes again."""
    before = _published(running)

    def more() -> None:
        assert _published(running) > before

    eventually(more, every=0.02)


def _published(running: Installation) -> int:
    found = rows(running.database, "SELECT count(*) AS count FROM outbox WHERE published_at IS NOT NULL")
    return int(found[0]["count"])


def _change_until(running: Installation, stop: threading.Event) -> list[Tenant]:
    tenants = [running.register("change")]
    for number in range(10_000):
        if stop.is_set():
            break
        tenant = tenants[-1]
        tenant.subscribe("coinbase", [f"P{product}-USD" for product in range(number % 3)])
        rule_id = tenant.create_rule(RULE | {"name": f"rule {number}"})["rule_id"]
        if number % 2:
            tenant.call("DELETE", f"/api/v1/rules/{rule_id}", expect=204)
        if number % 5 == 4:
            tenants.append(running.register("change"))
    return tenants


def _assert_drained(running: Installation) -> None:
    waiting = rows(running.database, "SELECT id FROM outbox WHERE published_at IS NULL")
    assert waiting == []
    unfinished = rows(running.database, "SELECT tenant, dataset FROM tenant_topics WHERE status <> 'active'")
    assert unfinished == []


def _assert_rules_are_there_once(running: Installation) -> None:
    stored = rows(
        running.database,
        "SELECT rule_id, version, extract(epoch FROM effective_at) * 1000000 AS effective_at FROM rules",
    )
    ours = {row["rule_id"] for row in stored}
    on_topic = []
    for record in read_topic(running.admin, RULES):
        rule = codec(Rule).decode(record.value)
        if rule.rule_id in ours:
            on_topic.append((rule.rule_id, rule.version, record.appended_at))
    assert sorted(on_topic) == sorted((row["rule_id"], row["version"], int(row["effective_at"])) for row in stored)


def _assert_subscriptions_are_there(running: Installation) -> None:
    stored = rows(running.database, "SELECT tenant, exchange, product, version FROM subscriptions")
    mine = {row["tenant"] for row in rows(running.database, "SELECT tenant FROM tenants")}
    last: dict[str, bytes | None] = {}
    for record in read_topic(running.admin, SUBSCRIPTIONS):
        key = (record.key or b"").decode()
        if key.partition(":")[0] in mine:
            last[key] = record.value
    live = {key: codec(Subscription).decode(value).version for key, value in last.items() if value is not None}
    assert live == {f"{row['tenant']}:{row['exchange']}:{row['product']}": row["version"] for row in stored}
