"""Whether 10,000 tenants slow anything down: an installation that has them beside one that has hardly any, in turn.

Each is a broker, a database, an API, a relay and a stream worker of its own, all with their default settings but for
limits and for one partition a topic. The full one has 10,000 tenants with 3 keys and an audit each: their rows are
copied in, their control records go through the relay. 300 of them subscribe over HTTP, so their topics are made as
anybody's. Then both register tenants, answer keys that they have not seen (cold) and have just seen (warm), and take
rules, which a reader of the compacted topic and the worker wait for.
"""

import http.client
import json
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Self

import httpx
import psycopg
from psycopg.rows import dict_row

from api import keys
from api.outbox import of_tenant
from benchmarks.choice import Figures
from benchmarks.ingest_stand import CLI, Server, Stand, bare_stand, process_on, served_api
from benchmarks.resident import peak_mib
from benchmarks.streams_stand import metrics
from benchmarks.table import show
from pulsestream.core.clock import to_micros
from pulsestream.core.kafka import CompactedReader
from pulsestream.core.topics import RULES
from pulsestream.local import process
from schemas.records import Tenant

ROUNDS: Final = 7
PARTITIONS: Final = 1
KEYS: Final = 3
"""Of each tenant."""
PATIENCE: Final = 300.0
"""Seconds for whatever is waited for."""
TENANT: Final = "/api/v1/auth/register/tenant"
LOOKUP: Final = "/api/v1/live/tickets"
"""A route that needs a key and nothing else of the database."""
TIMES: Final = {"registration": 1, "lookup": 1, "warm_lookup": 5, "rule": 1}
"""How often each key, or whatever else is asked, has its turn in a round."""
SEEN: Final = 12_000
"""Keys that the full installation's API answers before: more than it remembers."""
_LOOK: Final = 0.01
_RULE: Final = {"product": "*", "exchange": "coinbase", "condition": {"type": "price", "above": 110.0}}
_SETTINGS: Final = {
    "partition_budget": 100_000,
    "limits": "free.requests=1000000, free.events=1000000, free.rules=1000000, free.keys=1000000",
    "registrations_per_address": 1_000_000,
    "registrations_per_hour": 1_000_000,
}
_AUDIT: Final = """
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT tenant, NULL AS key FROM tenants WHERE tenant LIKE 'filled-%'
               UNION ALL SELECT tenant, id FROM api_keys WHERE tenant LIKE 'filled-%' LOOP
        PERFORM set_config('pulsestream.tenant', one.tenant, true);
        PERFORM append_audit(CASE WHEN one.key IS NULL THEN 'tenant.create' ELSE 'key.create' END, NULL,
            coalesce('key:' || one.key, 'tenant:' || one.tenant),
            '{"actor": {"id": null, "role": null}, "before": null, "after": {"name": "filled"}}'::jsonb);
    END LOOP;
END $$
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Tenants of the full installation, how many of them have topics, and what a round asks of each."""

    tenants: int
    topics: int
    seen: int
    asked: int


WHOLE: Final = Size(10_000, 300, SEEN, 30)
QUICK: Final = Size(500, 10, 300, 8)
MEASURED: Final = {
    "registration": "a tenant registers",
    "lookup": "a key that was not seen",
    "warm_lookup": "a key that was just seen",
    "rule": "POST of a rule to the compacted topic",
    "rule_in_force": "POST of a rule to the worker",
}
Seconds = Mapping[str, Sequence[float]]
"""By what was measured, one round's."""


@dataclass(slots=True)
class Installation:
    """What runs, and a tenant with a subscription that makes rules."""

    stand: Stand
    api: Server
    worker: Callable[[], Mapping[str, float]]
    reader: CompactedReader
    maker: str
    connection: http.client.HTTPConnection
    held: list[str] = field(default_factory=list)
    """Keys of tenants that were not registered here: the full one's."""
    new: list[str] = field(default_factory=list)
    """Keys of the tenants of this round."""
    asked: list[str] = field(default_factory=list)
    """Keys that this round asks with."""

    @classmethod
    @contextmanager
    def running(cls, size: Size | None) -> Iterator[Self]:
        """Start everything, with tenants where a size is given, and end it."""
        with ExitStack() as stack:
            stand = stack.enter_context(bare_stand(PARTITIONS, **_SETTINGS))
            api = stack.enter_context(served_api(stand))
            stack.enter_context(process_on(-1, [*CLI, "relay"], stand.folder, stand.settings("relay")))
            connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
            stack.callback(connection.close)
            held = [] if size is None else _fill(stand, api, size)
            maker = str(_asked(connection, "POST", TENANT, None, {"tenant": "maker"})["api_key"])
            _subscribe(connection, maker)
            _await_nothing(stand, "SELECT count(*) FROM tenant_topics WHERE status <> 'active'")
            worker = stack.enter_context(_worker(stand))
            with psycopg.connect(stand.database.url(), autocommit=True) as database:
                database.execute("VACUUM ANALYZE")  # so that both know their tables
            reader = CompactedReader(stand.broker.settings(), RULES, "bench-rules")
            stack.callback(reader.close)
            reader.read_to_end()
            yield cls(stand, api, worker, reader, maker, connection, held)

    def begin(self, size: Size) -> None:
        """Begin a round: keys that nobody has asked with of late, and a connection that the server has not closed."""
        self.connection.close()
        self.new = []
        self.asked = random.sample(self.held, size.asked) if self.held else self.new

    def step(self, what: str, place: int) -> Mapping[str, float]:
        """Measure one thing once; returns seconds by name."""
        if what == "registration":
            key, seconds = self._register()
            self.new.append(key)
            return {what: seconds}
        if what == "rule":
            on_topic, in_force = self._rule()
            return {what: on_topic, "rule_in_force": in_force}
        return {what: self._look_up(self.asked[place])}

    def _register(self) -> tuple[str, float]:
        body = {"tenant": f"new-{secrets.token_hex(6)}", "name": "New"}
        began = time.perf_counter()
        answer = _asked(self.connection, "POST", TENANT, None, body)
        return str(answer["api_key"]), time.perf_counter() - began

    def _look_up(self, key: str) -> float:
        began = time.perf_counter()
        _asked(self.connection, "POST", LOOKUP, key, None)
        return time.perf_counter() - began

    def _rule(self) -> tuple[float, float]:
        known = self.worker()["pulsestream_stream_rules"]
        began = time.perf_counter()
        rule = _asked(self.connection, "POST", "/api/v1/rules", self.maker, {"name": secrets.token_hex(8), **_RULE})
        while not any(record.key == rule["rule_id"] for record in self.reader.poll(_LOOK)):
            if time.perf_counter() - began > PATIENCE:
                raise TimeoutError("a rule did not come to its topic")
        on_topic = time.perf_counter() - began
        while self.worker()["pulsestream_stream_rules"] <= known:
            if time.perf_counter() - began > PATIENCE:
                raise TimeoutError("a rule did not come to the worker")
            time.sleep(_LOOK)
        return on_topic, time.perf_counter() - began


def run(parts: Collection[str], rounds: int | None, *, quick: bool, scale: float) -> Figures:  # noqa: ARG001 - of others
    """Measure if it is among the parts, print a table, and return the figures."""
    if "tenants" not in parts:
        return {}
    size = QUICK if quick else WHOLE
    with Installation.running(None) as empty, Installation.running(size) as full:
        sides = {"empty": empty, "full": full}
        measured = [_round(sides, size) for _ in range(1 + (2 if quick else rounds or ROUNDS))]
        memory = {name: peak_mib(each.api.pid) for name, each in sides.items()}
    both = {name: [one[name] for one in measured] for name in sides}
    counted = {name: each[1:] for name, each in both.items()}  # the first round warms up
    _show(counted, size)
    return figures(counted) | {f"tenants_{name}_api_mib": mib for name, mib in memory.items()}


def _round(sides: Mapping[str, Installation], size: Size) -> dict[str, dict[str, list[float]]]:
    """Ask both for each thing in turn, one by one: whatever else the machine does slows the two alike."""
    found: dict[str, dict[str, list[float]]] = {name: {what: [] for what in MEASURED} for name in sides}
    for each in sides.values():
        each.begin(size)
    for what, times in TIMES.items():
        for number in range(size.asked * times):
            order = list(sides.items())[:: 1 if number % 2 == 0 else -1]
            for name, each in order:
                for measured, seconds in each.step(what, number % size.asked).items():
                    found[name][measured].append(seconds)
    return found


def figures(both: Mapping[str, Sequence[Seconds]]) -> Figures:
    """Return for each thing measured the median of the rounds' ratios of medians, full / empty, and both in ms."""
    found: Figures = {}
    for name in MEASURED:
        medians = {which: [median(one[name]) for one in rounds] for which, rounds in both.items()}
        found[f"{name}_ratio"] = median(
            full / empty for full, empty in zip(medians["full"], medians["empty"], strict=True)
        )
        found |= {f"{name}_{which}_ms": 1e3 * median(each) for which, each in medians.items()}
    return found


def _show(both: Mapping[str, Sequence[Seconds]], size: Size) -> None:
    made = figures(both)
    rows = [
        (title, f"{made[f'{name}_empty_ms']:.2f}", f"{made[f'{name}_full_ms']:.2f}", f"{made[f'{name}_ratio']:.2f}")
        for name, title in MEASURED.items()
    ]
    title = f"{size.tenants:,} tenants with {KEYS} keys each, {size.topics} with topics, against hardly any; medians"
    show(title, ("what", "hardly any, ms", "all, ms", "ratio"), rows)


# ---- filling ----


def _fill(stand: Stand, api: Server, size: Size) -> list[str]:
    """Make the tenants, and return all their keys; what is known to the API before is what it saw of them."""
    made = [(f"filled-{number:05}", keys.generate()) for number in range(size.tenants) for _ in range(KEYS)]
    pepper = stand.pepper.encode()
    with psycopg.connect(stand.database.url(), autocommit=True) as connection:
        _copy(connection, "tenants (tenant, name)", ((f"filled-{each:05}", "Filled") for each in range(size.tenants)))
        columns = "api_keys (tenant, id, name, role, hmac, pepper_version)"
        rows = ((tenant, key.id, "filled", "owner", keys.digest(key, pepper), 1) for tenant, key in made)
        _copy(connection, columns, rows)
        connection.execute(_AUDIT)
        cursor = connection.cursor(row_factory=dict_row)
        stored = cursor.execute("SELECT tenant, name, tier, status, shard, created_at, version FROM tenants")
        records = [Tenant(**row | {"created_at": to_micros(row["created_at"])}) for row in stored.fetchall()]
        queued = (tuple(of_tenant(record).values()) for record in records)
        _copy(connection, "outbox (tenant, topic, key, value)", queued)
    _await_nothing(stand, "SELECT count(*) FROM outbox WHERE published_at IS NULL")
    asked = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    for _, key in made[: size.topics * KEYS : KEYS]:
        _subscribe(asked, key.text)
    for _, key in random.sample(made, size.seen):
        _asked(asked, "POST", LOOKUP, key.text, None)
    asked.close()
    return [key.text for _, key in made]


def _copy(connection: psycopg.Connection[Any], into: str, rows: Iterator[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _subscribe(connection: http.client.HTTPConnection, key: str) -> None:
    wanted = [{"exchange": "coinbase", "product": product, "datasets": ["ticks"]} for product in ("BTC-USD", "ETH-USD")]
    _asked(connection, "PUT", "/api/v1/subscriptions", key, {"subscriptions": wanted})


def _await_nothing(stand: Stand, query: str) -> None:
    deadline = time.monotonic() + PATIENCE
    with psycopg.connect(stand.database.url(), autocommit=True) as connection:
        while (found := connection.execute(query).fetchone()) != (0,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{query}: still {found}")
            time.sleep(_LOOK)


@contextmanager
def _worker(stand: Stand) -> Iterator[Callable[[], Mapping[str, float]]]:
    """Run a stream worker; yields what reads its metrics."""
    port = process.free_port()
    settings = stand.settings("stream") | {"ops_port": port, "home": stand.folder / "stream", "database_url": ""}

    def figures_now() -> Mapping[str, float]:
        return metrics(f"http://127.0.0.1:{port}/metrics")

    with process_on(-1, [*CLI, "stream"], stand.folder, settings):
        _await_partition(figures_now)
        yield figures_now


def _await_partition(figures_now: Callable[[], Mapping[str, float]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):  # it does not listen yet
            if figures_now().get("pulsestream_stream_partitions", 0.0) >= 1:
                return
        time.sleep(_LOOK)
    raise TimeoutError("the worker did not take its partition")


def _asked(
    connection: http.client.HTTPConnection, method: str, path: str, key: str | None, body: object
) -> dict[str, Any]:
    headers = {} if key is None else {"X-API-Key": key}
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise AssertionError(f"{method} {path} answered {answer.status}: {text[:300]!r}")
    found: dict[str, Any] = json.loads(text)
    return found
