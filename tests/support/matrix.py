"""Three simulated exchanges that go wrong by plan, their producers and one sink, as processes; and what came of it.

Each exchange has a shard of its own for every fault that ends connections, and one for those of single frames, so that
the cause of each gap is known. A fault is named after the product that it concerns.
"""

import json
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from confluent_kafka import Producer

from producers.venues.protocol import load
from pulsestream.core import topics
from pulsestream.core.clock import MICROS_PER_SECOND, wall_clock
from pulsestream.core.kafka import Admin, client_config
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import environment
from pulsestream.core.sharding import feed_shard
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Subscription, Tick
from tests.support.databases import NamedDatabase, execute
from tests.support.e2e import DatabaseUrl, Service, rows

SHARDS: Final = 8
STALE_AFTER: Final = 2.0
GAP_PATIENCE: Final = 3.0
LARGEST_GAP: Final = 100_000
CONNECTS_PER_MINUTE: Final = 120
"""Kraken's own limit of 15 would stretch seven attempts over a minute."""
PATHS: Final = {"coinbase": "", "binance": "/stream", "kraken": "/v2"}
QUOTES: Final = {"coinbase": "USD", "binance": "USDT", "kraken": "USD"}
VENUES: Final = tuple(PATHS)
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault of the matrix: its entry in the plan without match and when, what it concerns, when, and its shard."""

    kind: str
    fields: Mapping[str, object] = field(default_factory=dict)
    channel: str | None = "trades"
    when: Mapping[str, object] = field(default_factory=dict)
    shard: int = 0
    everything: bool = False
    """Whether the fault concerns no product: handshakes and requests."""
    name: str = ""

    @property
    def label(self) -> str:
        """The name that makes its product's."""
        return (self.name or self.kind).replace("_", "").upper()


def product_in(venue: str, exchange: str, label: str, shard: int) -> str:
    """Return a product whose name begins with `label` and that belongs to a shard."""
    for number in range(1000):
        product = f"{label}{number}-{QUOTES[venue]}"
        if feed_shard(exchange, product, SHARDS) == shard:
            return product
    raise AssertionError(f"no product of shard {shard} found for {label}")


def plan_of(faults: Sequence[Planned], products: Mapping[str, str], seed: int) -> str:
    """Return the plan as the simulator reads it."""
    entries = []
    for fault in faults:
        match = {} if fault.everything else {"product": products[fault.label]}
        if fault.channel is not None and not fault.everything:
            match["channel"] = fault.channel
        entries.append({"kind": fault.kind, **fault.fields, "match": match, "when": dict(fault.when)})
    return yaml.safe_dump({"seed": seed, "faults": entries})


@dataclass(slots=True)
class Arena:
    """One exchange: the simulator, its producer, and the files that say what happened."""

    venue: str
    exchange: str
    folder: Path
    products: Mapping[str, str]
    simulator: Service
    producer: Service

    def lines(self, name: str, kind: str | None = None) -> list[Line]:
        """Return the lines of `truth` or `faults` that are whole."""
        path = self.folder / name
        text = path.read_text() if path.exists() else ""
        found = [json.loads(line) for line in text.split("\n")[:-1]]
        return [line for line in found if kind is None or line["kind"] == kind]

    def has_begun(self) -> bool:
        """Whether the market has made a trade."""
        path = self.folder / "truth"
        return path.exists() and b'"kind":"trade"' in path.read_bytes()

    def trades(self, until: int) -> dict[str, dict[int, Line]]:
        """Return the market's trades up to a time, by product and id."""
        made: dict[str, dict[int, Line]] = defaultdict(dict)
        for line in self.lines("truth", "trade"):
            if line["time"] <= until:
                made[line["product"]][line["trade_id"]] = line
        return made

    def ticks(self, until: int) -> dict[str, dict[str, int]]:
        """Return event ids and times of the ticks up to a time, by product, as made and as the client reads them."""
        session = load(self.venue, self.exchange).session()
        session.subscribe(list(self.products.values()))  # Binance's frames name symbols, which are theirs only then
        made: dict[str, dict[str, int]] = defaultdict(dict)
        for line in self.lines("truth", "tick"):
            if line["time"] is None or line["time"] > until or line["product"] not in self.products.values():
                continue
            for outcome in session.receive(line["text"], line["time"] + 1000):
                if isinstance(outcome, Tick):
                    made[outcome.product][outcome.event_id] = outcome.exchange_time
        return made

    def injected(self, *kinds: str, channel: str | None = None) -> dict[str, set[int]]:
        """Return the trades that faults of these kinds concern, by product; `channel` is the exchange's own name."""
        found: dict[str, set[int]] = defaultdict(set)
        for line in self.lines("faults"):
            if line["kind"] in kinds and (channel is None or line["channel"] == channel):
                found[line["product"]] |= set(line["trade_ids"])
        return found

    def attempts(self) -> list[int]:
        """Return the times of all attempts to connect, micros."""
        return [line["at"] for line in self.lines("truth", "session") if line["event"] in ("opened", "refused")]


class Matrix:
    """Three exchanges and one sink on a broker and a database."""

    def __init__(self, folder: Path, broker: EmbeddedKafka, database: DatabaseUrl, tenant: str) -> None:
        self._folder = folder
        self._broker = broker
        self.database = database
        self.tenant = tenant
        self.arenas: list[Arena] = []
        self.sink: Service | None = None

    @property
    def services(self) -> list[Service]:
        """Every process."""
        return [s for arena in self.arenas for s in (arena.producer, arena.simulator)] + (
            [self.sink] if self.sink else []
        )

    def start(self, faults: Sequence[Planned], *, rate: float, seed: int, run: str) -> None:
        """Start everything; the markets begin when the producers subscribe."""
        settings = self._broker.settings()
        Admin(settings).create([tenant_topic_spec(settings, self.tenant, name) for name in ("dlq", "ticks", "trades")])
        self.sink = self._service("sink", ["sink"], self._folder, database_url=self.database.url("ps_sink"))
        self.sink.start()
        for venue in VENUES:
            self.arenas.append(self._arena(venue, f"{venue}-{run}", faults, rate, seed))
        self._subscribe()
        for arena in self.arenas:
            arena.simulator.start()
        for arena in self.arenas:
            _wait_for_port(arena.simulator)
            arena.producer.start()
        self.sink.wait_ready()

    def stop(self) -> dict[str, int]:
        """Stop every process and return the exit codes by name."""
        return {f"{service.name} {service.log.parent.name}": service.stop() for service in self.services}

    def assert_alive(self) -> None:
        """Fail if any process has ended."""
        for service in self.services:
            service.assert_alive()

    def logs(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"==== {s.name} {s.log.parent.name}\n{process.last_lines(s.log, 25)}" for s in self.services)

    def stored_trades(self, arena: Arena) -> dict[str, dict[int, list[Line]]]:
        """Return the rows of an exchange's trades by product and id."""
        query = (
            "SELECT product, trade_id, price, size, side, (extract(epoch FROM exchange_time) * 1000000)::bigint AS time"
            " FROM trades WHERE tenant = %(tenant)s AND exchange = %(exchange)s"
        )
        found: dict[str, dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
        for row in rows(self.database, query, tenant=self.tenant, exchange=arena.exchange):
            found[row["product"]][row["trade_id"]].append(row)
        return found

    def stored_ids(self, arena: Arena) -> dict[str, set[int]]:
        """Return the ids of an exchange's stored trades by product."""
        query = "SELECT product, trade_id FROM trades WHERE tenant = %(tenant)s AND exchange = %(exchange)s"
        found: dict[str, set[int]] = defaultdict(set)
        for row in rows(self.database, query, tenant=self.tenant, exchange=arena.exchange):
            found[row["product"]].add(row["trade_id"])
        return found

    def stored_ticks(self, arena: Arena) -> dict[str, list[str]]:
        """Return the event ids of an exchange's tick rows by product."""
        query = "SELECT product, event_id FROM ticks WHERE tenant = %(tenant)s AND exchange = %(exchange)s"
        found: dict[str, list[str]] = defaultdict(list)
        for row in rows(self.database, query, tenant=self.tenant, exchange=arena.exchange):
            found[row["product"]].append(row["event_id"])
        return found

    def newest_ticks(self, arena: Arena) -> dict[str, int]:
        """Return the newest event time (micros) of an exchange's tick rows by product."""
        query = (
            "SELECT product, (extract(epoch FROM max(exchange_time)) * 1000000)::bigint AS newest FROM ticks"
            " WHERE tenant = %(tenant)s AND exchange = %(exchange)s GROUP BY product"
        )
        found = rows(self.database, query, tenant=self.tenant, exchange=arena.exchange)
        return {row["product"]: row["newest"] for row in found}

    def gaps(self, arena: Arena, kind: str) -> list[Line]:
        """Return the ledger's gaps of an exchange, times in micros, null while open."""
        query = (
            "SELECT key, product, gap_from_id, gap_to_id, gap_cause, gap_missing,"
            " (extract(epoch FROM gap_opened) * 1000000)::bigint AS opened,"
            " (extract(epoch FROM gap_closed) * 1000000)::bigint AS closed"
            " FROM feeds WHERE exchange = %(exchange)s AND gap_kind = %(kind)s"
        )
        return rows(self.database, query, exchange=arena.exchange, kind=kind)

    def _arena(self, venue: str, exchange: str, faults: Sequence[Planned], rate: float, seed: int) -> Arena:
        folder = self._folder / venue
        folder.mkdir()
        labelled = {fault.label: fault.shard for fault in faults if not fault.everything}
        products = {label: product_in(venue, exchange, label, shard) for label, shard in labelled.items()}
        (folder / "plan.yaml").write_text(plan_of(faults, products, seed))
        port = process.free_port()
        command = ["exchange", "--venue", venue, "--synthetic", str(seed), "--rate", str(rate), "--port", str(port)]
        command += ["--products", ",".join(products.values()), "--faults", str(folder / "plan.yaml")]
        command += ["--fault-log", str(folder / "faults"), "--truth", str(folder / "truth")]
        simulator = Service("simulator", _command(command), environment({}), folder / "simulator.log", port)
        producer = self._service(
            "producer",
            ["producer"],
            folder,
            exchange=exchange,
            venue=venue,
            exchange_url=f"ws://127.0.0.1:{port}{PATHS[venue]}",
            feed_shards=SHARDS,
            stale_after=STALE_AFTER,
            gap_patience=GAP_PATIENCE,
            connects_per_minute=CONNECTS_PER_MINUTE,
        )
        return Arena(venue, exchange, folder, products, simulator, producer)

    def _service(self, name: str, command: Sequence[str], folder: Path, **settings: object) -> Service:
        port = process.free_port()
        own = {
            "kafka_bootstrap": self._broker.bootstrap,
            "kafka_username": f"ps-{name}",
            "kafka_password": self._broker.password(f"ps-{name}"),
            "ops_port": port,
        }
        return Service(name, _command(command), environment(own | settings), folder / f"{name}.log", port)

    def _subscribe(self) -> None:
        producer = Producer(client_config(self._broker.settings(), "test-relay"))
        for arena in self.arenas:
            for product in arena.products.values():
                record = Subscription(
                    tenant=self.tenant,
                    exchange=arena.exchange,
                    product=product,
                    datasets=["ticks", "trades"],
                    since=wall_clock(),
                    version=1,
                )
                key = f"{self.tenant}:{arena.exchange}:{product}"
                producer.produce(topics.SUBSCRIPTIONS, codec(Subscription).encode(record), key)
        assert producer.flush(30) == 0


@contextmanager
def database_copy(server_url: str, template: str) -> Iterator[DatabaseUrl]:
    """Give a copy of the migrated database `template`, for as long as the block lasts."""
    name = f"ps_matrix_{secrets.token_hex(6)}"
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield NamedDatabase(server_url, name)
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def covered(gaps: Collection[Line], product: str) -> set[int]:
    """Return the ids that a product's gaps span."""
    own = [gap for gap in gaps if gap["product"] == product]
    wide = [gap for gap in own if gap["gap_to_id"] - gap["gap_from_id"] > LARGEST_GAP]
    assert wide == [], "a gap of more trades than the market made"
    return {number for gap in own for number in range(gap["gap_from_id"], gap["gap_to_id"] + 1)}


def within(time_: int, intervals: Iterator[tuple[int, int]] | Collection[tuple[int, int]], slack: float) -> bool:
    """Whether a time lies in an interval, or as close to it as `slack` seconds."""
    margin = round(slack * MICROS_PER_SECOND)
    return any(start - margin <= time_ <= end + margin for start, end in intervals)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pulsestream.cli", *arguments]


def _wait_for_port(service: Service) -> None:
    deadline = time.monotonic() + 30
    while process.port_is_free(service.ops_port):
        service.assert_alive()
        assert time.monotonic() < deadline, f"{service.name} does not listen"
        time.sleep(0.05)
