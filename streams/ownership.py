"""The state partitions that this worker owns: taken over at an assignment, worked, given up at a revocation.

Every rebalance gives everything up and takes over what comes next, the same partitions too: one path, used often.
A tenant whose output topic refuses records is parked: its batches are read again from its last checkpoint once its
topics are back; the other tenants of its partitions go on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Final, TypeVar

from confluent_kafka import KafkaError
from faust.types import TP

from pulsestream.core.kafka import Admin, TopicInfo
from pulsestream.core.log import logger
from pulsestream.core.metrics import STREAM_KEYS, STREAM_PARKED, STREAM_PARTITIONS, STREAM_RULES, STREAM_SKIPPED
from pulsestream.core.settings import Settings
from pulsestream.core.sharding import key_partition
from pulsestream.core.topics import parse_tenant_topic, tenant_topic
from schemas.control import Change
from schemas.records import Feed, Rule, Subscription, Tenant
from streams.basis import Bases, BasisChange, Product, basis_change, subscribed_since
from streams.checkpoint import StatePartition
from streams.entries import Position, Restored, sort
from streams.errors import StreamError
from streams.eventclock import FeedStates
from streams.intake import Source, source_topic, take_in_many
from streams.lane import Lane
from streams.outputs import Outputs
from streams.parking import Parking
from streams.pipeline import Shard
from streams.rebuild import emptied
from streams.rulebook import RuleBook
from streams.transport import Batch, BatchConsumer, Bounds
from streams.vigil import Vigil

GIVE_WAY: Final = 0.05
"""Seconds for which a fetch that has arrived holds up what can wait: some wait longer, for rules or a checkpoint."""
GIVE_WAY_PAUSE: Final = 0.0005
REVOKE_TIMEOUT: Final = 1.8
"""Seconds for the last checkpoint before partitions go to another worker."""
FRESH: Final = 1.0
"""Seconds that a fetch counts as just now: older ones do not say that a partition is read to its end."""
SETTLE: Final = 2.0
"""Seconds after which a position that does not reach the end, with nothing fetched, stands before transaction marks."""
OUTPUT_DATASETS: Final = ("stats", "bars", "alerts")

_log = logger(__name__)
_T = TypeVar("_T")

KnownUpTo = Callable[[float], Awaitable[None]]
"""Returns once every rule and subscription appended before a moment (monotonic seconds) has been learned."""


def micros() -> int:
    """Return the monotonic time in microseconds."""
    return time.monotonic_ns() // 1000


class Ownership:
    """All lanes of this worker. Everything on the event loop."""

    def __init__(
        self, settings: Settings, pool: Executor, fail: Callable[[Exception], None], *, rebuild: bool = False
    ) -> None:
        self.interval = settings.checkpoint_interval
        self.pool = pool
        self.fail = fail
        self.outputs = Outputs(settings, self.refused, fail)
        self.feeds = FeedStates(settings.feed_shards)
        self.rules = RuleBook()
        self._bases = Bases()
        self._subscribed: dict[Product, int] = {}
        self._tenants: set[str] = set()
        self.parking = Parking()
        self.lanes: dict[int, Lane] = {}
        self.restored = False
        self._settings = settings
        self._admin = Admin(settings, f"{settings.stream_app}-admin")
        self._loop = asyncio.get_running_loop()
        self._consumer: BatchConsumer | None = None
        self._known_up_to: KnownUpTo | None = None
        self._ask: Callable[[], None] = lambda: None
        self._assignments = 0
        self._restoring: asyncio.Task[Mapping[TP, int] | None] | None = None
        self._sources: dict[TP, Source] = {}
        self._starts: dict[TP, int] = {}
        self._vigil = Vigil(micros())
        #: When the last fetch was folded, monotonic seconds.
        self._free_at = 0.0
        #: Since when the broker's answer to a fetch is here and not taken; set in the consumer's thread. 0: none is.
        self._coming_since = 0.0
        #: Whether state is computed again, the partitions whose state was emptied for that, and what the topics held.
        self._rebuild = rebuild
        self._emptied: set[int] = set()
        self._bounds: Mapping[TP, Bounds] = {}
        self._short: dict[TP, tuple[int, float]] = {}

    def connect(self, consumer: BatchConsumer, known_up_to: KnownUpTo, ask: Callable[[], None]) -> None:
        """Name the consumer, and who knows rules and subscriptions; before the first assignment."""
        self._consumer = consumer
        self._known_up_to = known_up_to
        self._ask = ask

    # ---- what the transport calls ----

    async def revoked(self) -> None:
        """Give every partition up, each with a last checkpoint or without."""
        await self.give_up(REVOKE_TIMEOUT)

    async def restore(self, assigned: Mapping[TP, Bounds]) -> Mapping[TP, int] | None:
        """Take partitions over and return where to read each source; None when they were revoked meanwhile.

        Cancelling the caller leaves the work running, since its threads cannot be stopped; the next call waits for it.
        """
        self._restoring = self._loop.create_task(self._restore(assigned, self._assignments, self._restoring))
        return await asyncio.shield(self._restoring)

    def coming(self) -> None:
        """Take note, in the consumer's thread, that the broker has answered: its batches will be here soon."""
        self._coming_since = time.monotonic()

    def arrived(self) -> None:
        """Begin to ask for rules and subscriptions: by the time the batches are here the answer may be."""
        self._ask()

    def lost(self, tp: TP, first: int, next_offset: int) -> None:
        """Count records that were deleted before they were read."""
        STREAM_SKIPPED.labels("retention").inc(next_offset - first)
        _log.error("records lost: retention overtook the streams", topic=tp.topic, **_span(tp, first, next_offset))

    def failed(self, error: Exception) -> None:
        """End the process."""
        self.fail(error)

    # ---- what the worker calls ----

    async def take(self, batches: Iterable[Batch]) -> None:
        """Fold the batches of a fetch; those read before the last seek or of a partition given up are dropped."""
        is_current = self._reader().is_current
        wanted = [
            (source, batch)
            for batch in batches
            if (source := self._sources.get(batch.tp)) is not None and is_current(batch)
        ]
        if not wanted:
            return
        self._coming_since = 0.0
        arrived_at = max(batch.fetched_at for _, batch in wanted)
        self._reader().lay(max(self._free_at - arrived_at, 0.0))
        await self._know_changes(arrived_at)
        intakes = take_in_many([(source, batch.blocks) for source, batch in wanted])
        for (source, batch), intake in zip(wanted, intakes, strict=True):
            lane = self.lanes.get(batch.partition)
            if lane is not None:
                await lane.take(source, intake, batch.ack, partial(is_current, batch))
        self._free_at = time.monotonic()

    async def tick(self) -> None:
        """Let the event clocks act."""
        self.feeds.expire(micros())
        for lane in list(self.lanes.values()):
            await lane.tick(self.feeds.connected)
        STREAM_KEYS.set(sum(len(lane.shard.states) for lane in self.lanes.values()))

    def learn(self, changes: Iterable[Change[Rule]]) -> None:
        """Take rule changes in, and put them in force in every partition."""
        taken = [self.rules.take(change) for change in changes]
        STREAM_RULES.set(self.rules.in_force)
        for lane in self.lanes.values():
            lane.learn(taken)

    def learn_bases(self, changes: Iterable[Change[Subscription]]) -> None:
        """Take changes of subscriptions in: where the prices of a product come from."""
        changes = list(changes)
        taken = [said for change in changes if (said := basis_change(change)) and self._bases.learn(said)]
        subscribed = dict(known for change in changes if (known := subscribed_since(change)))
        for product, since in subscribed.items():
            if since is None:
                self._subscribed.pop(product, None)
            else:
                self._subscribed[product] = since
        for lane in self.lanes.values():
            self._teach(lane, taken, subscribed)

    def _teach(self, lane: Lane, bases: Iterable[BasisChange], subscribed: Mapping[Product, int | None]) -> None:
        """Tell a lane of the products of its partition, on which every producer puts them by the same hash."""
        partitions = self._settings.partitions

        def is_ours(product: Product) -> bool:
            return key_partition(product[2], partitions) == lane.partition

        lane.learn_bases([change for change in bases if is_ours(change.product)])
        lane.expect({product: since for product, since in subscribed.items() if is_ours(product)})

    def learn_tenants(self, changes: Iterable[Change[Tenant]]) -> None:
        """Take changes of tenants in: of one that is no more, nothing stays in the state."""
        for change in changes:
            if change.record is not None:
                self._tenants.add(change.key)
                continue
            self._tenants.discard(change.key)
            self.parking.release(change.key)
            STREAM_PARKED.set(len(self.parking))
            for lane in self.lanes.values():
                lane.erase(change.key)

    def hear(self, feeds: Mapping[str, Feed]) -> None:
        """Take what the feeds topic says of the connections to exchanges."""
        self.feeds.update(feeds, micros())

    async def give_up(self, timeout: float) -> None:  # noqa: ASYNC109 - see Lane.close
        """Close every lane within `timeout` seconds."""
        self._assignments += 1
        self.restored = False
        lanes, self.lanes = self.lanes, {}
        await asyncio.gather(*(lane.close(timeout) for lane in lanes.values()))
        STREAM_PARTITIONS.set(0)

    # ---- what the lanes call ----

    def pauses(self) -> int:
        """Return how often this process has stood still."""
        return self._vigil.pauses(micros())

    async def give_way(self) -> None:
        """Let batches that have arrived be folded first."""
        await asyncio.sleep(0)
        while time.monotonic() - self._coming_since < GIVE_WAY:  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(GIVE_WAY_PAUSE)

    def at_end(self, topic: str, partition: int, position: Position | None, since: float) -> bool:
        """Return whether a source partition is folded to its end, by a fetch of just now and after `since` (seconds).

        `position` None: nothing of it was folded yet.
        """
        tp = TP(topic, partition)
        fetched, now = self._reader().fetched(tp), time.time()
        if tp not in self._sources or fetched is None or fetched[2] < since or now - fetched[2] > FRESH:
            return False
        next_offset = position.next_offset if position else self._starts[tp]
        reached, end, _ = fetched
        if next_offset >= end:
            return True
        stood, first = self._short.get(tp, (-1, now))
        if reached < end or stood != next_offset:
            self._short[tp] = (next_offset, now)
            return False
        return now - first > SETTLE

    def remaining(self) -> int:
        """Return how many records, of those the topics held when they were taken over, are not folded yet."""
        return sum(self._remaining(tp) for tp in self._sources)

    def _remaining(self, tp: TP) -> int:
        lane = self.lanes.get(tp.partition)
        position = lane.shard.positions.get(tp.topic) if lane else None
        if self.at_end(tp.topic, tp.partition, position, 0.0):
            return 0
        return max(self._bounds[tp].end - (position.next_offset if position else self._starts[tp]), 0)

    def topics_of(self, tenant: str) -> Collection[str]:
        """Return the source topics of a tenant that are read."""
        return {source.topic for source in self._sources.values() if source.tenant == tenant}

    # ---- tenants with broken output topics ----

    def refused(self, tenant: str, error: KafkaError) -> None:
        """Park a tenant: one of its output topics does not take records."""
        if tenant not in self.parking:
            _log.error("tenant parked: an output topic refuses records", tenant=tenant, reason=error.str())
            self.parking.park(tenant, error.str(), time.monotonic())
            self._hold(tenant)

    async def try_parked(self) -> None:
        """Go on with parked tenants whose output topics are there again."""
        for tenant in self.parking.due(time.monotonic()):
            wanted = {tenant_topic(tenant, dataset) for dataset in OUTPUT_DATASETS}
            found = await self._in_pool(self._admin.describe, wanted)
            if tenant not in self.parking:  # it was erased, or given up, meanwhile
                continue
            if wanted <= found.keys():
                await self._unpark(tenant)
            else:
                self.parking.later(tenant, time.monotonic())

    def _hold(self, tenant: str) -> None:
        STREAM_PARKED.set(len(self.parking))
        for lane in self.lanes.values():
            lane.park(tenant)
        self._reader().pause_partitions(self._partitions_of(tenant))

    async def _unpark(self, tenant: str) -> None:
        _log.info("tenant goes on", tenant=tenant)
        self.parking.release(tenant)
        STREAM_PARKED.set(len(self.parking))
        positions: dict[TP, int] = {}
        for tp in self._partitions_of(tenant):
            lane = self.lanes[tp.partition]
            lane.unpark(tenant)
            position = lane.shard.positions.get(tp.topic)
            positions[tp] = position.next_offset if position else self._starts[tp]
        await self._reader().rewind(positions)

    def _partitions_of(self, tenant: str) -> list[TP]:
        return [tp for tp, source in self._sources.items() if source.tenant == tenant and tp.partition in self.lanes]

    # ---- taking over ----

    async def _restore(
        self, assigned: Mapping[TP, Bounds], assignment: int, before: asyncio.Task[Mapping[TP, int] | None] | None
    ) -> Mapping[TP, int] | None:
        if before is not None:
            await asyncio.wait({before})
        if assignment != self._assignments:
            return None
        partitions = sorted({tp.partition for tp in assigned})
        try:
            topics, existing, taken = await asyncio.gather(
                self._in_pool(self._admin.describe, {tp.topic for tp in assigned}),
                self._in_pool(self._admin.topics),
                asyncio.gather(*(self._take_over(partition) for partition in partitions)),
            )
        except Exception as error:  # state or broker: nothing can be folded
            self.fail(error)
            raise
        if assignment != self._assignments:
            await asyncio.gather(*(self._in_pool(store.close) for _, store, _ in taken))
            return None
        return self._begin(_sources(assigned, topics), assigned, existing.keys(), taken)

    async def _take_over(self, partition: int) -> tuple[int, StatePartition, Restored]:
        store = StatePartition(self._settings, partition)
        empties = self._rebuild and partition not in self._emptied
        restored = await self._in_pool(_emptied if empties else _restored, store)
        self._emptied.add(partition)
        return partition, store, restored

    def _begin(
        self,
        sources: dict[TP, Source],
        assigned: Mapping[TP, Bounds],
        existing: Collection[str],
        taken: Iterable[tuple[int, StatePartition, Restored]],
    ) -> Mapping[TP, int]:
        self._sources = sources
        self._bounds = assigned
        self.lanes = {}
        for partition, store, restored in taken:
            own = [source for source in sources.values() if source.partition == partition]
            shard = Shard(restored, self.feeds.connection, lambda connection: self.feeds.running(connection, micros()))
            shard.read_from(own)
            _forget_remade(shard, restored, own)
            self.lanes[partition] = Lane(partition, shard, store, self)
        self._starts = {tp: self._start(tp, assigned[tp]) for tp in sources}
        self._park_again(existing)
        with_topics = {name.tenant for topic in existing if (name := parse_tenant_topic(topic))}
        for lane in self.lanes.values():
            lane.learn(self.rules.changes)
            self._teach(lane, self._bases.all, self._subscribed)
            for tenant in lane.shard.tenants() - self._tenants - with_topics:
                _log.info("state of a tenant that is no more is removed", tenant=tenant, partition=lane.partition)
                lane.erase(tenant)
            lane.start()
        STREAM_PARTITIONS.set(len(self.lanes))
        self.restored = True
        _log.info("partitions taken over", partitions=sorted(self.lanes), sources=len(sources))
        return self._starts

    def _start(self, tp: TP, bounds: Bounds) -> int:
        """Return where to read a source: the checkpoint's position, as far as the topic still holds it."""
        position = self.lanes[tp.partition].shard.positions.get(tp.topic)
        wanted = position.next_offset if position else bounds.start
        if wanted < bounds.start:
            self.lost(tp, wanted, bounds.start)
        elif wanted > bounds.end:
            _log.error("the topic has lost records that were folded", topic=tp.topic, **_span(tp, bounds.end, wanted))
        return min(max(wanted, bounds.start), bounds.end)

    def _park_again(self, existing: Collection[str]) -> None:
        """Hold back tenants that are parked, and those whose output topics are missing."""
        tenants = {source.tenant for source in self._sources.values()}
        self.parking.keep_only(tenants)
        for tenant in tenants:
            missing = [topic for dataset in OUTPUT_DATASETS if (topic := tenant_topic(tenant, dataset)) not in existing]
            if missing and tenant not in self.parking:
                _log.error("tenant parked: an output topic is missing", tenant=tenant, topic=missing[0])
                self.parking.park(tenant, f"{missing[0]} does not exist", time.monotonic())
            if tenant in self.parking:
                self._hold(tenant)

    async def _in_pool(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await self._loop.run_in_executor(self.pool, call, *arguments)

    def _reader(self) -> BatchConsumer:
        if self._consumer is None:
            raise StreamError("partitions were assigned before the consumer was made")
        return self._consumer

    async def _know_changes(self, moment: float) -> None:
        if self._known_up_to is None:
            raise StreamError("partitions were assigned before the control topics were read")
        await self._known_up_to(moment)


def _restored(store: StatePartition) -> Restored:
    return sort(store.take_over())


def _emptied(store: StatePartition) -> Restored:
    """Take a partition over and remove what was computed; what was learned stays."""
    kept, removed = emptied(store.take_over())
    store.commit(removed)
    return sort(kept)


def _sources(assigned: Iterable[TP], topics: Mapping[str, TopicInfo]) -> dict[TP, Source]:
    found = {}
    for tp in assigned:
        name, info = parse_tenant_topic(tp.topic), topics.get(tp.topic)
        if name is not None and info is not None:
            found[tp] = Source(name.tenant, name.dataset, tp.topic, tp.partition, info.topic_id)
    return found


def _forget_remade(shard: Shard, restored: Restored, sources: Iterable[Source]) -> None:
    """Drop what a shard knows from topics that were deleted and made again under the same name."""
    for source in sources:
        position = shard.positions.get(source.topic)
        if position is not None and position.topic_id != source.topic_id:
            _log.warning("topic was made anew: its keys begin anew", topic=source.topic)
            keys = {key for key in shard.states if source_topic(key) == source.topic}
            shard.forget(source.topic, [name for name in restored.engine if name.split("|")[0] in keys])


def _span(tp: TP, first: int, next_offset: int) -> dict[str, int]:
    return {"partition": tp.partition, "first": first, "next_offset": next_offset}
