"""Every process killed at random moments, and the broker, under load: every id sent is accounted for.

Clients of HTTP and of Kafka, and a market, send; a ledger holds what each was told. In the long run 100 processes are
killed over 1,000,000 events.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pulsestream.core.kafka import Admin
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.topics import RULES, SUBSCRIPTIONS
from schemas.codec import codec
from schemas.records import Event, Rule, Stat, Subscription, Tick
from tests.support.accounts import positions
from tests.support.api import RULE
from tests.support.clients import Clients
from tests.support.e2e import (
    Installation,
    Tenant,
    each_record,
    eventually,
    installed,
    logs_shown,
    read_topic,
    records_of,
    rows,
    sourced_ticks,
    stop_broker,
)
from tests.support.evidence import Watched, assert_rows_are, stored_stats
from tests.support.ledger import Held, Ledger, assert_kept
from tests.support.oracle import assert_one_content_each, assert_stats_equal, newest
from tests.support.rounds import Rounds
from tests.support.sinking import Load, Scene, end_offsets, held, tick

KILLED = ("api", "relay", "producer", "sink", "stream")
PRODUCTS = ("BTC-USD", "ETH-USD")
EXCHANGE = "x-desk"
SINKED = ("events", "own-ticks", "ticks", "trades", "dlq")
LATEST = 60.0
"""Seconds within which every request is answered, whatever the broker does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much happens: kills, stops (SIGSTOP) and broker outages, their average pace in seconds, and events at least.

    `sizes`: events in a request of each client.
    """

    kills: int
    stops: int
    outages: int
    pace: float
    events: int
    sizes: tuple[int, ...]


SHORT = Plan(kills=6, stops=0, outages=1, pace=1.0, events=1_000, sizes=(1, 20, 20))
LONG = Plan(kills=100, stops=10, outages=4, pace=4.0, events=1_200_000, sizes=(1, 20, 200, 200))


@pytest.fixture
def path(
    tmp_path_factory: pytest.TempPathFactory, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("ledger"), database_server, migrated_template) as running:
        running.start("relay", "api", "stream", "sink")
        yield running


@pytest.mark.timeout(1800)
def test_whatever_is_killed_every_id_is_a_row_or_a_dead_letter_or_was_not_accepted(
    path: Installation, tmp_path: Path, rounds: Rounds
) -> None:
    plan = (SHORT, LONG)[rounds(0, 1)]
    desk, market, changing = path.register("desk"), path.register("market"), path.register("change")
    scene = Scene(desk.slug, path.admin, path.admin, path.database.url())
    Admin(path.admin).create([tenant_topic_spec(path.admin, desk.slug, name) for name in ("dlq", "own-ticks")])
    ledger = Ledger()

    with logs_shown(path):
        open_market(path, market, tmp_path, plan)
        changes = Changes(path, changing)
        with (
            changes,
            Load(scene, own_ticks, rate=200, ledger=ledger) as load,
            Clients(path.api_port, desk.key, ledger, plan.sizes, enough=plan.events) as clients,
        ):
            kill(path, plan)
            for outage in range(plan.outages):
                for how in ("killed", "stopped"):
                    take_the_broker_away(path, clients, how, seed=outage)
                    start_again(path)
            wait_for_events(clients, ledger, plan.events)
            eventually(lambda: all_run(path), timeout=240)
            told = dict(clients.answers)
        assert path.stop("producer", "exchange") == {"producer": 0, "exchange": 0}

        print(told, ledger.counts(), f"{clients.broken} broken off, {clients.slowest:.1f} s")  # noqa: T201 - for docs/guarantees.md
        wait_drained(path, desk, market)
        assert_kept(ledger, held(scene, ledger))
        assert_order_on_topic(path, desk, ledger)
        assert_market_is_whole(path, market)
        assert_positions_at_the_end(path, desk, market)
        changes.assert_converged()
    assert {"accepted", "rejected"} <= ledger.counts().keys()
    assert clients.broken > 0
    assert told[503] > 0
    assert clients.slowest < LATEST
    assert load.numbers > 0


# ---- load ----


def own_ticks(number: int) -> list[tuple[str, str, bytes | None]]:
    """A tick each, and now and then noise."""
    product = f"P{number % 7}"
    made: list[tuple[str, str, bytes | None]] = [
        ("own-ticks", product, codec(Tick).encode(tick(number, product, EXCHANGE)))
    ]
    if number % 100 == 0:
        made.append(("own-ticks", "noise", b"noise %d" % number))
    return made


def open_market(path: Installation, market: Tenant, folder: Path, plan: Plan) -> None:
    frames = folder / "market.frames"
    seconds = 60 + (plan.kills + plan.stops + 30 * plan.outages) * plan.pace * 2
    path.record_market(frames, seed=23, seconds=seconds, rate=2.5, products=PRODUCTS)
    market.subscribe("simulator", PRODUCTS)
    path.wait_for_topics(market)
    path.serve_exchange(frames, speed=1)
    path.start("producer", exchange="simulator")


def wait_for_events(clients: Clients, ledger: Ledger, wanted: int) -> None:
    while len(ledger.entries) < wanted:
        clients.assert_well()
        time.sleep(0.2)


# ---- faults ----


def kill(path: Installation, plan: Plan) -> None:
    """Kill or stop one process after the other at random moments; each starts again at once, as under a supervisor."""
    dice = random.Random(7)
    victims = [KILLED[number % len(KILLED)] for number in range(plan.kills)]
    dice.shuffle(victims)
    stops = [(dice.randrange(plan.kills), dice.choice(KILLED)) for _ in range(plan.stops)]
    for number, victim in enumerate(victims):
        time.sleep(dice.uniform(0, 2 * plan.pace))  # the moment itself is the condition
        path[victim].kill()
        path[victim].start()
        for after, stopped in stops:
            if after == number:
                start_again(path)
                stand_still(path, stopped, dice.uniform(1, 12))
        start_again(path)


def stand_still(path: Installation, name: str, seconds: float) -> None:
    """SIGSTOP for some seconds: the group gives up a process that stands still for more than six."""
    process = path[name].running
    assert process is not None
    assert process.poll() is None, f"{name} has ended"
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def take_the_broker_away(path: Installation, clients: Clients, how: str, seed: int) -> None:
    """Kill or stop the broker until every client was refused, and go on when they are served again."""
    refused = clients.answers[503]
    with stop_broker(path, how):
        eventually(lambda: _assert_more(clients.answers[503], refused + 2), timeout=120)
        time.sleep(random.Random(seed).uniform(0, 2))
    served = clients.answers[202]
    eventually(lambda: _assert_more(clients.answers[202], served + 5), timeout=120)


def start_again(path: Installation) -> None:
    """Start those that have ended, because they could not go on without the broker or were fenced: as a supervisor."""
    for name in KILLED:
        service = path[name]
        if service.running is not None and service.running.poll() is not None:
            service.start()


def all_run(path: Installation) -> None:
    """See each process ready."""
    start_again(path)
    for name in KILLED:
        path[name].wait_ready()


def _assert_more(now: int, wanted: int) -> None:
    assert now >= wanted


# ---- what must be true afterwards ----


def wait_drained(path: Installation, *tenants: Tenant) -> None:
    """Wait until the sink has dealt with all that these tenants' topics hold."""
    for tenant in tenants:
        scene = Scene(tenant.slug, path.admin, path.admin, path.database.url())

        def drained(scene: Scene = scene) -> None:
            ends = {name: end_offsets(scene.admin, scene.topic(name)) for name in SINKED}
            behind = {name: (scene.stored(name), end) for name, end in ends.items() if scene.stored(name) < end}
            assert behind == {}, f"(stored, end) of {scene.tenant}: {behind}"

        eventually(drained, timeout=240, every=1)


def assert_order_on_topic(path: Installation, tenant: Tenant, ledger: Ledger) -> None:
    """The order of a key is that in which its clients were told "accepted", on the topic too."""
    first: dict[str, tuple[object, int]] = {}
    for record in each_record(path.admin, f"ps.{tenant.slug}.events.v1"):
        name = codec(Event).decode(record.value).event_id
        first.setdefault(name, (record.as_of.partition, record.as_of.offset))
    others = Ledger({name: ledger.entries[name] for name in ledger.entries if name.startswith("/desk/")})
    assert_kept(others, Held(dict.fromkeys(first, 1), places=first))


def assert_market_is_whole(path: Installation, market: Tenant) -> None:
    """What reached the topics of ticks and statistics is stored, each id once and as its newest record says."""
    ticks = [record.record for record in sourced_ticks(path.admin, market.slug)]
    assert ticks
    assert_rows_are(path, Watched(market, PRODUCTS), ticks)

    def newest_are_stored() -> None:
        published = records_of(path.admin, market.slug, "stats", Stat)
        assert published
        assert_one_content_each(published)
        assert_stats_equal(stored_stats(path.database, market.slug), newest(published))

    eventually(newest_are_stored, timeout=120)


def assert_positions_at_the_end(path: Installation, desk: Tenant, market: Tenant) -> None:
    """The worker has folded all that was appended to its sources."""

    def at_the_end() -> None:
        folded = Counter[str]()
        for (topic, _), position in positions(path.admin, path.admin.stream_app).items():
            folded[topic] += position
        names = [f"ps.{desk.slug}.own-ticks.v1", *(f"ps.{market.slug}.{name}.v1" for name in ("ticks", "trades"))]
        apart = {name: (folded[name], end) for name in names if folded[name] != (end := end_offsets(path.admin, name))}
        assert apart == {}, f"(folded up to, end): {apart}"

    eventually(at_the_end, timeout=120)


class Changes:
    """Somebody who makes and deletes rules and subscriptions over HTTP while the block runs, until each is done."""

    def __init__(self, path: Installation, tenant: Tenant) -> None:
        self._path = path
        self._tenant = tenant
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._kept: set[str] = set()

    def __enter__(self) -> None:
        self._running = self._pool.submit(self._work)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._running.result()
        self._pool.shutdown()

    def assert_converged(self) -> None:
        """Wait until the control topics say what the database says, which is what was accepted."""
        found = {rule["name"] for rule in self._tenant.call("GET", "/api/v1/rules")["rules"]}
        assert found == self._kept
        eventually(self._assert_drained, timeout=120)
        self._assert_rules_are_there_once()
        self._assert_subscriptions_are_there()

    def _work(self) -> None:
        number = 0
        while not self._stop.wait(0.05):
            number += 1
            products = [{"exchange": "coinbase", "product": f"P{each}-USD"} for each in range(number % 3)]
            self._insist("PUT", "/api/v1/subscriptions", (), {"subscriptions": products})
            self._insist("POST", "/api/v1/rules", (409,), RULE | {"name": f"rule {number}"})
            self._kept.add(f"rule {number}")
            if len(self._kept) > 5:
                self._delete(min(self._kept))

    def _delete(self, name: str) -> None:
        shown = self._insist("GET", "/api/v1/rules", ()).json()["rules"]
        (rule_id,) = [rule["rule_id"] for rule in shown if rule["name"] == name]
        self._insist("DELETE", f"/api/v1/rules/{rule_id}", (404,))
        self._kept.remove(name)

    def _insist(self, method: str, url: str, again: Sequence[int], body: object = None) -> httpx.Response:
        """Repeat a request until it is done; `again` is what an earlier attempt that was broken off may lead to."""
        attempts = 0
        while True:
            try:
                answer = self._tenant.http.request(
                    method, url, headers={"X-API-Key": self._tenant.key}, **({} if body is None else {"json": body})
                )
            except httpx.TransportError:
                attempts += 1
                time.sleep(0.2)
                continue
            if answer.status_code == 503:
                time.sleep(0.2)
                continue
            assert answer.is_success or (attempts and answer.status_code in again), answer.text
            return answer

    def _assert_drained(self) -> None:
        assert rows(self._path.database, "SELECT id FROM outbox WHERE published_at IS NULL") == []
        assert rows(self._path.database, "SELECT dataset FROM tenant_topics WHERE status <> 'active'") == []

    def _assert_rules_are_there_once(self) -> None:
        stored = rows(
            self._path.database,
            "SELECT rule_id, version, (extract(epoch FROM effective_at) * 1000000)::bigint AS effective_at FROM rules",
        )
        ours = {row["rule_id"] for row in stored}
        on_topic = []
        for record in read_topic(self._path.admin, RULES):
            rule = codec(Rule).decode(record.value)
            if rule.rule_id in ours:
                on_topic.append((rule.rule_id, rule.version, record.appended_at))
        assert sorted(on_topic) == sorted((row["rule_id"], row["version"], row["effective_at"]) for row in stored)

    def _assert_subscriptions_are_there(self) -> None:
        stored = rows(self._path.database, "SELECT tenant, exchange, product, version FROM subscriptions")
        last = {(record.key or b"").decode(): record.value for record in read_topic(self._path.admin, SUBSCRIPTIONS)}
        live = {key: codec(Subscription).decode(value).version for key, value in last.items() if value is not None}
        assert live == {f"{row['tenant']}:{row['exchange']}:{row['product']}": row["version"] for row in stored}
