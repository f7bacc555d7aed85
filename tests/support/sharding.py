"""A shard with its state topic and input topics as lists in memory: crashes and delays at will, without a broker."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Alert, AsOf, Stat, Tick, Trade
from streams.basis import BasisChange, Product
from streams.changes import Cut
from streams.emission import Output
from streams.engine.rules import ActiveRule
from streams.entries import Position, sort
from streams.intake import Source, take_in
from streams.pipeline import Shard
from streams.rulebook import RuleChange
from tests.support.batching import Written, block_from
from tests.support.oracle import Sourced

EXCHANGE: Final = "coinbase"
PARTITION: Final = 0
TENANTS: Final = ("acme", "zeta")
"""Whose topics are read in sources that no record came of yet."""
_MILLIS: Final = 1_000


@dataclass
class World:
    """Topics, checkpoints and what was sent. `now` is the feed's running time and the append time, microseconds."""

    now: int = 1_700_000_000_000_000
    logs: dict[str, list[Written]] = field(default_factory=dict)
    committed: dict[str, bytes] = field(default_factory=dict)
    sent: list[Output] = field(default_factory=list)
    unacknowledged: list[Output] = field(default_factory=list)
    rules: list[RuleChange] = field(default_factory=list)
    bases: list[BasisChange] = field(default_factory=list)
    subscribed: dict[Product, int] = field(default_factory=dict)
    #: How far topics were read, which records that are held are not folded to yet.
    read: dict[str, int] = field(default_factory=dict)
    shard: Shard = field(init=False)

    def __post_init__(self) -> None:
        self.recover()

    # ---- what happens ----

    def append(self, tenant: str, ticks: Iterable[Tick]) -> None:
        """Producers append ticks."""
        for tick in ticks:
            self.subscribe(tenant, tick.exchange, tick.product)
            self.append_raw(tenant, codec(Tick).encode(tick))

    def append_trades(self, tenant: str, trades: Iterable[Trade]) -> None:
        """Producers append trades, which the tenant gets."""
        for trade in trades:
            self.subscribe(tenant, trade.exchange, trade.product, trades=True)
            self.append_raw(tenant, codec(Trade).encode(trade), dataset="trades")

    def append_raw(
        self, tenant: str, value: bytes | None, *headers: tuple[str, bytes | None], dataset: str = "ticks"
    ) -> None:
        """Append one record."""
        log = self.logs.setdefault(tenant_topic(tenant, dataset), [])
        log.append(Written(len(log), self.now // _MILLIS, None, value, [*headers]))

    def subscribe(self, tenant: str, exchange: str, product: str, *, trades: bool = False) -> None:
        """A tenant subscribes to a product's ticks, and trades if wanted; the first time counts, or a change."""
        last = [change for change in self.bases if change.product == (tenant, exchange, product)][-1:]
        if not last or (trades and not last[0].trades):
            self.change_basis(tenant, exchange, product, trades=trades)

    def change_basis(self, tenant: str, exchange: str, product: str, *, trades: bool) -> None:
        """A tenant subscribes to a product anew, with trades or without."""
        change = BasisChange((tenant, exchange, product), self.now // _MILLIS * _MILLIS, trades)
        self.bases.append(change)
        self.shard.learn_bases([change])
        self.subscribed.setdefault(change.product, change.at)
        self.shard.expect({change.product: self.subscribed[change.product]})

    def unsubscribe(self, tenant: str, exchange: str, product: str) -> None:
        """A tenant does not want a product any more."""
        del self.subscribed[tenant, exchange, product]
        self.shard.expect({(tenant, exchange, product): None})

    def fold(self, tenant: str, count: int = 1_000_000, dataset: str = "ticks", *, at_once: bool = True) -> Any:
        """Fold the next records of a tenant and send what comes out; acknowledged at once.

        Not `at_once`: what can change no alert is held, until the clock acts or a checkpoint.
        """
        topic = tenant_topic(tenant, dataset)
        start = max(self.position(topic), self.read.get(topic, 0))
        batch = self.logs.get(topic, [])[start : start + count]
        if tenant in self.shard.parked or not batch:
            return None
        source = self.source(tenant, dataset)
        intake = take_in(source, [block_from(batch)])
        folding = self.shard.fold(source, intake) if at_once else self.shard.take(source, intake)
        self.read[topic] = intake.next_offset
        self.sent += folding.outputs
        return folding

    def release(self) -> None:
        """Fold what is held, and send what comes out."""
        self.sent += [output for _, folding in self.shard.release() for output in folding.outputs]

    def park(self, tenant: str, waiting: Cut | None = None) -> None:
        """An output topic of a tenant refuses records: its topics are read again from the last checkpoint."""
        self.shard.park(tenant, waiting)
        self.unacknowledged = [output for output in self.unacknowledged if output.tenant != tenant]
        self.read = {topic: offset for topic, offset in self.read.items() if topic.split(".")[1] != tenant}

    @staticmethod
    def source(tenant: str, dataset: str) -> Source:
        """Return the one partition of a tenant's topic."""
        topic = tenant_topic(tenant, dataset)
        return Source(tenant, dataset, topic, PARTITION, f"id-of-{topic}")

    def tick(self, micros: int, *, connected: bool = True) -> None:
        """Let time pass; the clock acts on what is read to its end."""
        self.now += micros
        self.release()
        self.shard.end_rules(self.read_whole)
        self.shard.change_bases(self.at_end)
        self.shard.miss(self.now, lambda _: connected, self.at_end)
        self.sent += self.shard.tick(lambda _: connected, self.at_end)

    def checkpoint(self) -> None:
        """Write a checkpoint and send what had to wait for it; not acknowledged yet."""
        self.release()
        cut = self.shard.cut()
        for name, value in cut.entries().items():
            if value is None:
                self.committed.pop(name, None)
            else:
                self.committed[name] = value
        self.shard.written(cut)
        self.send_pending()

    def send_pending(self) -> None:
        """Send pending alerts that are in a checkpoint."""
        outputs = self.shard.pending()
        self.sent += outputs
        self.unacknowledged += outputs

    def acknowledge(self) -> None:
        """The broker has the pending alerts that were sent."""
        for output in self.unacknowledged:
            assert output.alert is not None
            self.shard.acknowledged(output.alert)
        self.unacknowledged = []

    def crash(self) -> None:
        """Lose everything in memory, and recover."""
        self.recover()

    def recover(self) -> None:
        """Take the partition over from its last checkpoint."""
        self.unacknowledged = []
        self.read = {}
        self.shard = Shard(sort(self.committed), lambda exchange, _: exchange, lambda _: self.now)
        self.shard.read_from(
            self.source(tenant, dataset) for tenant in TENANTS for dataset in ("ticks", "own-ticks", "trades")
        )
        self.shard.learn(self.rules)
        self.shard.learn_bases(self.bases)
        self.shard.expect(self.subscribed)
        self.send_pending()

    def put_rule(self, rule: ActiveRule | None, rule_id: str, version: int) -> None:
        """A rule version takes effect, or (None) the rule is deleted."""
        change = RuleChange(rule_id, version, self.now, rule)
        self.rules.append(change)
        self.shard.learn([change])

    def finish(self, *tenants: str) -> None:
        """Read everything to the end and checkpoint it."""
        for tenant in tenants:
            self.shard.unpark(tenant)
            self.fold(tenant)
        self.tick(0, connected=False)
        self.checkpoint()
        self.acknowledge()
        self.checkpoint()

    # ---- what there is ----

    def position(self, topic: str) -> int:
        """Return the next offset to fold."""
        return self.shard.positions.get(topic, Position("", 0)).next_offset

    def at_end(self, topic: str) -> bool:
        """Return whether a topic is folded to its end."""
        return self.position(topic) == len(self.logs.get(topic, []))

    def read_whole(self, tenant: str) -> bool:
        """Return whether all of a tenant's topics are folded to their ends."""
        return all(self.at_end(tenant_topic(tenant, dataset)) for dataset in ("ticks", "trades"))

    def alerts(self, tenant: str) -> list[Alert]:
        """Return a tenant's alerts as sent, repeats included."""
        return [codec(Alert).decode(o.value) for o in self.sent if (o.tenant, o.dataset) == (tenant, "alerts")]

    def stats(self, tenant: str) -> list[Stat]:
        """Return a tenant's statistics as sent, repeats included."""
        return [codec(Stat).decode(o.value) for o in self.sent if (o.tenant, o.dataset) == (tenant, "stats")]

    def sourced(self, tenant: str) -> list[Sourced]:
        """Return a tenant's ticks as the engine takes them."""
        topic = tenant_topic(tenant, "ticks")
        return [
            Sourced(
                codec(Tick).decode(raw.value),
                AsOf(topic_id=f"id-of-{topic}", partition=PARTITION, offset=raw.offset),
                raw.time * _MILLIS,
            )
            for raw in self.logs.get(topic, [])
        ]
