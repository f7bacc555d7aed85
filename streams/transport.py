"""Batch transport for Faust: one message per fetch of the tick and trade topics, whose value is a list of `Batch`.

Topics are found by pattern, so that a new tenant's topic joins while the worker runs. Where reading starts is not the
group's committed offset but what the `Owner` says (the checkpoint's positions); the committed offsets follow the
acknowledged batches for lag tools only. Overrides name the method of faust-streaming 0.15.3 (file:line) that they
replace and why; `tests/unit/test_transport_internals.py` fails when one of them changes.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Protocol

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.transport import conductor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from pulsestream.core.log import logger
from streams.assignor import CoPartitionAssignor
from streams.blocks import Block
from streams.errors import PositionError
from streams.fetching import Fetched, hand_on_blocks

FETCH_WAIT_MS: Final = 5
"""How long the broker may hold a fetch while nothing arrives: one that waits for idle partitions delays busy ones."""
COMMIT_TIMEOUT: Final = 1.0
"""Seconds that the group's offsets may take to commit before a rebalance."""
QUEUED_BATCHES: Final = 2
"""Batches between the consumer and the agent: enough to fold without a pause, few to forget at a rebalance."""

_NO_EPOCH: Final = -1
"""Of a fetch whose partition was revoked meanwhile: never current."""

_log = logger(__name__)


@dataclass(slots=True, eq=False)
class Batch:
    """The records of one fetch of one partition, in offset order, undecoded; never empty.

    `epoch` counts the seeks of the partition: a batch of an earlier epoch was read before the last one.
    `fetched_at` is when the broker's answer arrived, monotonic seconds.
    """

    tp: TP
    epoch: int
    fetched_at: float
    blocks: list[Block]
    acked: bool = False

    @property
    def partition(self) -> int:
        """The number of the partition."""
        return int(self.tp.partition)

    @property
    def next_offset(self) -> int:
        """The offset after the last record."""
        return self.blocks[-1].next_offset

    def ack(self) -> None:
        """Count it as done, so that the group's offset may pass it."""
        self.acked = True


@dataclass(frozen=True, slots=True)
class Bounds:
    """The offsets that a partition holds: `start` is the first, `end` the one after the last committed record."""

    start: int
    end: int


class Sought(Enum):
    """Whether a partition has delivered since its last seek."""

    ONCE = auto()
    """It has not."""
    TWICE = auto()
    """It has, what was not asked for, and was sought again for the same offset."""
    DELIVERED = auto()
    """It has."""


@dataclass(slots=True)
class _Reading:
    """A partition since its last seek."""

    epoch: int
    """How many seeks of any partition there had been; _NO_EPOCH once it was revoked."""
    next_offset: int
    """That the next batch begins with, or lies beyond where offsets were left out."""
    sought: Sought = Sought.ONCE
    lane: deque[Batch] = field(default_factory=deque)
    """Batches delivered and not yet committed, oldest first."""


class Owner(Protocol):
    """Who folds the partitions. Every call comes on Faust's event loop."""

    async def revoked(self) -> None:
        """Give every partition up. Returns within 2 seconds, with the last checkpoint written or dropped."""

    async def restore(self, assigned: Mapping[TP, Bounds]) -> Mapping[TP, int] | None:
        """Take these partitions over; return the offset from which to read each of them.

        None when they were revoked meanwhile: another assignment follows.
        """

    def coming(self) -> None:
        """Take note, in the consumer's thread, that the broker has answered a fetch."""

    def arrived(self) -> None:
        """Take note that a fetch has brought records; their batches follow."""

    async def take(self, batches: Iterable[Batch]) -> None:
        """Fold the batches of a fetch (the agent calls, in the order of fetches); whatever it raises ends the process.

        Those that are no longer `BatchConsumer.is_current` are to be dropped.
        """

    def lost(self, tp: TP, first: int, next_offset: int) -> None:
        """Take note of records, from `first` to before `next_offset`, that were deleted before they were read."""

    def failed(self, error: Exception) -> None:
        """End the process: the partitions cannot be read as promised."""


class BatchSchema(faust.Schema[None, None]):
    """Marks a topic as a batch topic: its events carry the list of `Batch` itself."""

    def compile(self, app: Any, **_: Any) -> Any:  # Faust's own types are no stricter
        """Hand the value on as it is (replaces serializers/schemas.py:136).

        The message that is kept for its commit must not hold the records.
        """

        async def decode(message: Message, *, propagate: bool = False) -> Any:  # noqa: ARG001 - Faust's signature
            batches, message.value = message.value, None
            return app.create_event(None, batches, message.headers, message)

        return decode


def batch_topic(app: faust.App, pattern: str) -> Any:
    """Return the channel of all topics that match `pattern` whole, delivered in batches.

    `app.topic(maxsize=)` is dropped on the way (app/base.py:826), and 4,096 batches would queue.
    """
    channel = app.topic(pattern=pattern, schema=BatchSchema())
    channel.maxsize = QUEUED_BATCHES
    return channel


class BatchConductor(conductor.Conductor):
    """Delivers partitions of topics that were found through a pattern."""

    def _update_tp_index(self, assigned: set[TP]) -> None:
        """Fill Topic.topics from the assignment first (conductor.py:402 knows only names, a pattern has none)."""
        for channel in self._topics:
            if channel.pattern:
                channel.topics = sorted({tp.topic for tp in assigned if channel.pattern.fullmatch(tp.topic)})
                self._acking_topics.update(channel.topics)
        super()._update_tp_index(assigned)


@dataclass(frozen=True, slots=True)
class Sifted:
    """A pattern that leaves out what is not to be read; aiokafka only asks it for `match` (group_coordinator.py:52)."""

    pattern: re.Pattern[str]
    reads: Callable[[str], bool]

    def match(self, topic: str) -> bool:
        """Tell whether a topic is subscribed."""
        return self.pattern.match(topic) is not None and self.reads(topic)


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that speaks to the broker; the methods below that begin with `_` run on its own event loop."""

    mundane_level = "debug"  # that it starts and stops is told by the worker
    consumer: "BatchConsumer"
    transport: "BatchTransport"

    async def on_start(self) -> None:
        """Hand on blocks; the fetcher is there once the consumer has started (drivers/aiokafka.py:545)."""
        await super().on_start()
        hand_on_blocks(self._ensure_consumer()._fetcher, self.transport.owner.coming)  # noqa: SLF001 - the consumer makes it itself

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        """Set what drivers/aiokafka.py:597 hard-codes.

        That is a fetch wait of 1.5 s, an assignor that deals topic by topic, and isolation `read_uncommitted` (a
        tenant's aborted transaction would count).
        """
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - not among Faust's settings
        consumer._partition_assignment_strategy = [self.transport.assignor]  # noqa: SLF001 - likewise
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - likewise
        return consumer

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to the patterns as one expression (drivers/aiokafka.py:777 passes names only)."""
        patterns = [f"(?:{c.pattern.pattern})" for c in self.app.topics if c.pattern]
        patterns += [re.escape(topic) for topic in topics]
        whole = re.compile(rf"(?:{'|'.join(patterns)})\Z")
        await self.call_thread(self._subscribe, whole)

    async def _subscribe(self, pattern: re.Pattern[str]) -> None:
        """Subscribe; which of the topics that match are read is asked anew whenever metadata arrives."""
        consumer = self._ensure_consumer()
        consumer.subscribe(pattern=pattern, listener=self._rebalance_listener)
        consumer._subscription._subscribed_pattern = Sifted(pattern, self.transport.reads)  # noqa: SLF001 - see Sifted

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit for lag tools (drivers/aiokafka.py:790 crashes the app when a commit meets a rebalance)."""
        return bool(await self.call_thread(self._commit_for_tools, offsets))

    async def bounds(self, partitions: Iterable[TP]) -> dict[TP, Bounds]:
        """Return what the partitions hold now."""
        found: dict[TP, Bounds] = await self.call_thread(self._bounds, list(partitions))
        return found

    async def seek_all(self, positions: Mapping[TP, int]) -> None:
        """Go on reading at these offsets; a partition that is no longer assigned is left out."""
        await self.call_thread(self._seek_all, dict(positions))

    async def refresh_metadata(self) -> None:
        """Ask the broker for its topics now; a change of those that match starts a rebalance."""
        await self.call_thread(self._refresh_metadata)

    def partition_counts(self) -> dict[str, int]:
        """Return the partitions of each topic that matches, as last heard from the broker."""
        consumer = self._ensure_consumer()
        cluster = consumer._client.cluster  # noqa: SLF001 - there is no other way to it
        return {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in consumer.subscription()}

    def fetched(self, tp: TP) -> tuple[int, int, float] | None:
        """Return position, end (last stable offset) and the time in seconds since 1970 of a partition's last fetch."""
        consumer = self._ensure_consumer()
        subscription = consumer._subscription.subscription  # noqa: SLF001 - highwater() has no time
        assignment = subscription.assignment if subscription else None
        state = assignment.state_value(tp) if assignment else None
        if state is None or state.lso is None or not state.has_valid_position:
            return None
        unchanged_at = consumer._fetcher._client.unchanged_at(tp)  # noqa: SLF001 - see FetchSessions
        return state.position, state.lso, max(state.timestamp / 1000, unchanged_at)

    def lay(self, seconds: float) -> None:
        """Take note of how long a fetch lay here because the one before was being folded; 0 when it did not."""
        self._ensure_consumer()._fetcher._client.gathering.lay(seconds)  # noqa: SLF001 - see FetchSessions

    async def _commit_for_tools(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        held = {TopicPartition(*tp): offset for tp, offset in offsets.items() if tp in assigned}
        if not held:
            return False
        try:
            await consumer.commit(held)
        except KafkaError as error:  # the checkpoint is what counts, and its own errors end the process
            _log.info("offsets not committed to the group", reason=repr(error))
            return False
        return True

    async def _bounds(self, partitions: list[TP]) -> dict[TP, Bounds]:
        consumer = self._ensure_consumer()
        starts, ends = await asyncio.gather(consumer.beginning_offsets(partitions), consumer.end_offsets(partitions))
        return {tp: Bounds(starts[tp], ends[tp]) for tp in partitions}

    async def _seek_all(self, positions: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        for tp in consumer.assignment() & positions.keys():
            consumer.seek(tp, positions[tp])

    async def _refresh_metadata(self) -> None:
        await self._ensure_consumer()._client.force_metadata_update()  # noqa: SLF001 - there is no public way


class BatchConsumer(driver.Consumer):
    """Faust's consumer, which hands whole fetches on and reads from where the owner says."""

    mundane_level = "debug"
    _thread: BatchConsumerThread
    transport: "BatchTransport"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._readings: dict[TP, _Reading] = {}
        self._seeks = 0
        self._restoring = asyncio.Lock()
        self._must_restore = False
        super().__init__(*args, **kwargs)

    # ---- what the worker asks for ----

    def is_current(self, batch: Batch) -> bool:
        """Return whether no seek came between the fetch of this batch and now."""
        reading = self._readings.get(batch.tp)
        return reading is not None and reading.epoch == batch.epoch != _NO_EPOCH

    async def rewind(self, positions: Mapping[TP, int]) -> None:
        """Read these partitions again from an offset, forgetting what was delivered beyond; resumes paused ones."""
        self._expect(positions)
        await self._thread.seek_all(positions)
        self.resume_partitions(positions.keys())

    async def refresh_metadata(self) -> None:
        """Ask the broker for its topics now."""
        await self._thread.refresh_metadata()

    def partition_counts(self) -> dict[str, int]:
        """Return the partitions of each topic that matches the subscription."""
        return self._thread.partition_counts()

    def fetched(self, tp: TP) -> tuple[int, int, float] | None:
        """Return position, end and time of a partition's last fetch; None before the first one."""
        return self._thread.fetched(tp)

    def lay(self, seconds: float) -> None:
        """Take note of how long a fetch lay here because the one before was being folded; 0 when it did not."""
        self._thread.lay(seconds)

    # ---- assignment ----

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow and let the owner finish before the library goes on (consumer.py:643).

        The library alone neither waits for a checkpoint nor stops the flow when a new topic began the rebalance:
        aiokafka's assignment is empty by then (app/base.py:1806).
        """
        self.stop_flow()
        self.app.flow_control.suspend()
        self._give_up()
        await self.transport.owner.revoked()
        await self._commit_within(COMMIT_TIMEOUT)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Forget what was in flight: it was not finished, and is read again (consumer.py:667)."""
        for reading in self._readings.values():
            reading.lane.clear()
        self._must_restore = bool(assigned)
        await super().on_partitions_assigned(assigned, generation_id)
        if not assigned:  # the library resumes without a seek then (tables/recovery.py:262)
            await self.transport.owner.restore({})

    async def perform_seek(self) -> None:
        """Let the owner restore its state and read from its positions (consumer.py:575 takes the committed offsets).

        Called when the flow resumes after an assignment (tables/recovery.py:268), and by a fetch that found the flow
        stopped (consumer.py:775), which has nothing to seek then: the resumption will.
        """
        async with self._restoring:
            if not self._must_restore:
                return
            positions = await self.transport.owner.restore(await self._thread.bounds(self.assignment()))
            if positions is None:
                return
            self._readings.clear()
            self._expect(positions)
            await self._thread.seek_all(positions)
            self._must_restore = False

    async def _commit_within(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.commit(), seconds)
        except TimeoutError:  # the checkpoint is what counts
            _log.info("offsets not committed to the group before the rebalance")

    def _give_up(self) -> None:
        for reading in self._readings.values():
            reading.epoch = _NO_EPOCH

    def _expect(self, positions: Mapping[TP, int]) -> None:
        self._seeks += 1
        for tp, offset in positions.items():
            self._readings[tp] = _Reading(self._seeks, offset)
            self._read_offset[tp] = None

    # ---- delivery ----

    def _new_consumer_thread(self) -> BatchConsumerThread:
        """Return our own thread (drivers/aiokafka.py:237)."""
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def highwater(self, tp: TP) -> int:
        """Return a partition's end for Faust's monitor; 0 where it is assigned no more.

        A new topic empties aiokafka's assignment at once, with a fetch on its way; the library would fail an assertion
        (consumer.py:1462).
        """
        fetched = self._thread.fetched(tp)
        return fetched[1] if fetched else 0

    def on_buffer_full(self, tp: TP) -> None:
        """Keep fetching: a full queue blocks the drain anyway.

        consumer.py:547 stops, and with every partition stopped consumer.py:808 sleeps a whole second.
        """

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Say nothing: readiness tells whether work goes on.

        drivers/aiokafka.py:824 calls a parked tenant's partition hanging, and compares wall with monotonic time.
        """

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, Any]:  # noqa: ASYNC109 - Faust's signature
        """Hand the batches of a fetch on as one, under the name of one of their partitions (consumer.py:1432).

        A message costs Faust more than it costs to fold a few records, and many partitions bring few records each.

        A fetch that spans a rebalance returns records from before or after the seek, nobody knows: forget them and
        seek again (the library's own guard, consumer.py:787, is never cleared).
        """
        generation = self.app.consumer_generation_id
        fetched: Mapping[TP, Any] = await super()._getmany(active_partitions, timeout)
        if not fetched or self._must_restore:
            return {}
        self.transport.owner.arrived()
        if generation != self.app.consumer_generation_id:
            await self._thread.seek_all({tp: reading.next_offset for tp, reading in self._readings.items()})
            return {}
        known = {tp: self._readings[tp] for tp in fetched.keys() & self._readings.keys()}
        await self._tell_losses({tp: (reading, fetched[tp]) for tp, reading in known.items()})
        sound = {tp: reading for tp, reading in known.items() if self._continues(tp, reading, fetched[tp])}
        again = {tp: reading.next_offset for tp, reading in known.items() if tp not in sound}
        if again:
            await self._thread.seek_all(again)
        batches = [
            Batch(tp, reading.epoch, fetched[tp].arrived_at, fetched[tp].blocks)
            for tp, reading in sound.items()
            if active_partitions is None or tp in active_partitions
        ]
        return {batches[0].tp: [batches]} if batches else {}

    async def _tell_losses(self, fetched: Mapping[TP, tuple["_Reading", Fetched]]) -> None:
        """Tell of records that retention took while we read: aiokafka goes on at the first one left, and is silent.

        Offsets are also left out where transactions end, so the broker is asked where a longer gap shows.
        """
        torn = {
            tp: reading.next_offset
            for tp, (reading, blocks) in fetched.items()
            if reading.sought is Sought.DELIVERED and blocks.first_offset > reading.next_offset + 1
        }
        for tp, bounds in (await self._thread.bounds(torn) if torn else {}).items():
            if bounds.start > torn[tp]:
                self.transport.owner.lost(tp, torn[tp], bounds.start)

    def _continues(self, tp: TP, reading: "_Reading", fetched: Fetched) -> bool:
        """Return whether a fetch goes on where the partition's last one ended, or may be taken all the same.

        Offsets are left out for good where transactions end, records were deleted, or retention overtook us. So a
        first fetch after a seek that begins elsewhere is asked for once more, and then taken. One that goes back
        breaks what the state stands on.
        """
        expected, first, sought = reading.next_offset, fetched.first_offset, reading.sought
        reading.sought = Sought.DELIVERED
        if first == expected or (first > expected and sought is not Sought.ONCE):
            return True
        if sought is Sought.TWICE:
            where = f"{tp.topic}[{tp.partition}]"
            self.transport.owner.failed(PositionError(f"{where} went back from offset {expected} to {first}"))
        reading.sought = Sought.TWICE
        return False

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        """Make a message of a list of batches (drivers/aiokafka.py:272).

        One from before a seek changes nothing here, and `is_current` tells the owner to drop it.
        """
        batches: list[Batch] = record
        last = batches[0].blocks[-1]
        message = ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000,
            int(not last.has_own_times),
            [],
            None,
            batches,  # type: ignore[arg-type] # Faust hands a value on as it is; BatchSchema decodes this one
            None,
            0,
            sum(len(block) for batch in batches for block in batch.blocks),
            tp,
            generation_id=self.app.consumer_generation_id,
        )
        for batch in batches:
            if self.is_current(batch):
                self._readings[batch.tp].next_offset = batch.next_offset
                self._readings[batch.tp].lane.append(batch)
        # None switches off the gap and "DROPPED MESSAGE" logic of _drain_messages (consumer.py:1205), which counts
        # offsets one by one, takes the received offset itself for a gap and treats offset 0 as none.
        self._read_offset[tp] = None
        return message

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        """Return the partitions whose batches may be committed (consumer.py:1083 knows those that name a message)."""
        return (tp for tp in self._readings if topics is None or tp in topics or tp.topic in topics)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - Faust's signature
        """Commit for lag tools (consumer.py:1037 draws a table of the offsets, for a log that is not kept).

        With 600 partitions that table alone took an eighth of the worker's time.
        """
        committed = bool(await self._commit(offsets))
        if committed:
            self._committed_offset.update(offsets)
        return committed

    def _new_offset(self, tp: TP) -> int | None:
        """Return last + 1 of the newest batch with no unfinished one before it (consumer.py:1097 counts one by one)."""
        reading, offset = self._readings.get(tp), None
        while reading and reading.lane and reading.lane[0].acked:
            offset = reading.lane.popleft().next_offset
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return offset


class BatchTransport(driver.Transport):
    """Faust's Kafka transport with our consumer and conductor; carries the owner and the assignor to them.

    It reads batch topics only: every topic of the app has to be made with `batch_topic`.
    """

    Consumer = BatchConsumer
    Conductor = BatchConductor

    def __init__(self, app: faust.App, owner: Owner, partitions: int, reads: Callable[[str], bool]) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.owner = owner
        self.reads = reads
        self.assignor = CoPartitionAssignor(partitions)
