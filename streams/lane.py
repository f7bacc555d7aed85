"""One owned state partition at work: folds batches, sends what comes out, writes checkpoints, lets the clock act.

The lane drives a `Shard` (pure) with a `StatePartition` and the `Outputs`. Order is all it guards: outputs are
acknowledged before the checkpoint that contains them, clock decisions are in a checkpoint before they are sent, and
what a pause of this process puts in doubt is settled by a checkpoint before the next record is folded.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, Protocol

from pulsestream.core.clock import wall_clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import STREAM_CHECKPOINT_SECONDS, STREAM_RECORDS, STREAM_SKIPPED
from streams.basis import BasisChange, Product
from streams.changes import Cut
from streams.checkpoint import StatePartition
from streams.emission import Output
from streams.entries import OWNER, Position
from streams.intake import Intake, Source
from streams.outputs import Outputs, Receipt
from streams.pipeline import Folding, Shard
from streams.rulebook import RuleChange

UNCONFIRMED_LIMIT: Final = 4.0
"""Seconds that a checkpoint may wait before no more is folded: less than the group's session, so that a worker cut
off from the broker stops before its successor starts."""

RELEASE_FOR: Final = 0.002
"""Seconds for which records that could wait are folded in one go: so long an alert may wait for them."""
FEW: Final = 5
"""Keys held that are not worth a go of their own."""

_PROOF: Final = {OWNER: b"\x01"}

_log = logger(__name__)


class Tools(Protocol):
    """What a lane needs of the worker."""

    outputs: Outputs
    pool: Executor
    interval: float

    def pauses(self) -> int:
        """Return how often this process has stood still."""

    async def give_way(self) -> None:
        """Let batches that have arrived be folded first."""

    def at_end(self, topic: str, partition: int, position: Position | None, since: float) -> bool:
        """Return whether a source partition is folded to its end, by a fetch of just now and after `since` (seconds).

        `position` None: nothing of it was folded yet.
        """

    def topics_of(self, tenant: str) -> Collection[str]:
        """Return the source topics of a tenant that are read."""

    def fail(self, error: Exception) -> None:
        """End the process."""


Ack = Callable[[], object]
"""Tells the transport that a batch is done."""


@dataclass(slots=True)
class _Work:
    """What a checkpoint has to wait for, and whom to tell."""

    receipts: list[Receipt] = field(default_factory=list)
    acks: list[tuple[str, Ack]] = field(default_factory=list)


class Lane:
    """A shard with its state partition. On the event loop; `close` ends it for good."""

    def __init__(self, partition: int, shard: Shard, store: StatePartition, tools: Tools) -> None:
        self.partition = partition
        self.shard = shard
        self._closed = False
        self._ending = asyncio.Event()
        self._store = store
        self._tools = tools
        self._open = _Work()
        self._pending: list[Receipt] = []
        #: The checkpoint that waits for its outputs, what it waits for, and since when (monotonic seconds).
        self._waiting: tuple[Cut, _Work, float] | None = None
        self._writing = asyncio.Lock()
        self._folding = asyncio.Lock()
        self._sending = asyncio.Lock()
        #: How many pauses have put the ownership in doubt; certain: a checkpoint has settled the last one.
        self._doubts = 0
        self._certain = asyncio.Event()
        self._certain.set()
        self._pauses = tools.pauses()
        self._learned_at = 0.0
        self._kept: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Send what was pending at the last checkpoint and begin to write checkpoints."""
        self._send_pending()
        self._keep(self._checkpoints())

    async def take(self, source: Source, intake: Intake, ack: Ack, wanted: Callable[[], bool]) -> None:
        """Take a batch in and send what comes out; `ack` is called when a checkpoint contains it.

        What can change no alert is folded soon after, with what follows it.

        Drops the batch when, by the time its turn has come, it is not `wanted` any more.
        """
        async with self._folding:
            await self._safe_to_fold()
            if not wanted() or self.is_closed() or source.tenant in self.shard.parked:
                return
            folding = self.shard.take(source, intake)
            self._open.acks.append((source.tenant, ack))
            await self._send_all([(source, folding)])
        while self.shard.holds_too_much and not self.is_closed():
            await self._release_some()
            await asyncio.sleep(0)

    async def tick(self, connected: Callable[[str], bool]) -> None:
        """Let the event clocks and the ends of rules act; not while a batch is folded or anything is in doubt."""
        if self._folding.locked() or not self._certain.is_set():
            return
        await self._release_waiting()
        async with self._folding:
            await self._safe_to_fold()
            if self.is_closed():
                return
            await self._send_all(self.shard.release())
            self.shard.end_rules(self._read_whole)
            self.shard.change_bases(self._at_end)
            self.shard.miss(wall_clock(), connected, self._at_end)
            outputs = self.shard.tick(connected, self._at_end)
            self.shard.rest(wall_clock())
            by_tenant: dict[str, list[Output]] = {}
            for output in outputs:
                by_tenant.setdefault(output.tenant, []).append(output)
            for tenant, theirs in by_tenant.items():
                await self._send(theirs, self._receipt(tenant))

    async def _release_waiting(self) -> None:
        """Fold most of what is held, a little at a time: batches that arrive come in between."""
        for _ in range(self.shard.held):
            if self.shard.held <= FEW or self.is_closed():
                return
            await self._tools.give_way()
            await self._release_some()

    async def _release_some(self) -> None:
        """Fold, for a moment, what has been held longest."""
        async with self._folding:
            await self._safe_to_fold()
            end = time.monotonic() + RELEASE_FOR
            while self.shard.held and not self.is_closed():
                await self._send_all(self.shard.release(1))
                if time.monotonic() > end:
                    return

    def learn(self, changes: Collection[RuleChange]) -> None:
        """Take rule changes in, before any record appended after them is folded."""
        self._learned_at = time.time()
        self.shard.learn(changes)

    def expect(self, subscribed: Mapping[Product, int | None]) -> None:
        """Take in since when products are subscribed: records are expected of them."""
        self.shard.expect(subscribed)

    def learn_bases(self, changes: Collection[BasisChange]) -> None:
        """Take changes of subscriptions in, before any record appended after them is folded."""
        self._learned_at = time.time()
        self.shard.learn_bases(changes)

    async def checkpoint(self) -> None:
        """Write everything folded so far once its outputs are acknowledged. Any failure ends the process.

        Cancelling the caller does not cancel the write: its thread could not be stopped.
        """
        await asyncio.shield(self._keep(self._checkpoint_in_turn()))

    def park(self, tenant: str) -> None:
        """Take a tenant's unfinished part back to its last checkpoint, and fold no more of it."""
        if self.is_closed() or tenant in self.shard.parked:
            return
        unwritten = self._waiting[0] if self._waiting else None
        self.shard.park(tenant, unwritten)
        works = [self._open, self._waiting[1]] if self._waiting else [self._open]
        for work in works:
            work.acks = [(owner, ack) for owner, ack in work.acks if owner != tenant]
        for receipt in [receipt for work in works for receipt in work.receipts] + self._pending:
            if receipt.tenant == tenant:
                receipt.give_up()

    def unpark(self, tenant: str) -> None:
        """Fold a tenant's records again, and send what it had pending."""
        self.shard.unpark(tenant)
        self._send_pending()

    def erase(self, tenant: str) -> None:
        """Let the next checkpoint remove what is known of a tenant that is no more; it stays parked."""
        self.park(tenant)
        self.shard.erase(tenant)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - it has to leave work behind, not cancel it
        """Stop folding, write a last checkpoint within `timeout` seconds or drop it, and forget the state."""
        self._ending.set()
        last = self._keep(self.checkpoint())
        await asyncio.wait({last}, timeout=timeout)
        if not last.done():
            _log.warning("last checkpoint dropped: it took too long", partition=self.partition, seconds=timeout)
        self._closed = True
        self._certain.set()
        receipts = [*self._open.receipts, *self._pending, *(self._waiting[1].receipts if self._waiting else ())]
        for receipt in receipts:
            receipt.give_up()
        self._keep(self._close_store())

    async def _close_store(self) -> None:
        async with self._writing:
            await self._loop.run_in_executor(self._tools.pool, self._store.close)

    def is_closed(self) -> bool:
        """Return whether the partition was given up."""
        return self._closed

    # ---- before folding ----

    async def _safe_to_fold(self) -> None:
        """Wait until no pause leaves the ownership in doubt and no checkpoint is too long on its way."""
        while not self.is_closed():
            if self._paused():
                await self.checkpoint()
            elif not self._certain.is_set():
                await self._certain.wait()
            elif self._waiting and time.monotonic() - self._waiting[2] > UNCONFIRMED_LIMIT:
                await self.checkpoint()
            else:
                return

    def _paused(self) -> bool:
        return self._tools.pauses() != self._pauses

    async def _prove(self) -> None:
        """Where this process stood still, write to the state partition: that fails when another has taken it over."""
        if self._paused():
            self._pauses = self._tools.pauses()
            question = "this process stood still: asking whether the partition is still ours"
            _log.warning(question, partition=self.partition)
            self._doubts += 1
            self._certain.clear()
        if not self._certain.is_set():
            await self._loop.run_in_executor(self._tools.pool, self._store.commit, _PROOF)

    def _at_end(self, topic: str) -> bool:
        position = self.shard.positions.get(topic)
        return self._tools.at_end(topic, self.partition, position, self._learned_at)

    def _read_whole(self, tenant: str) -> bool:
        return all(self._at_end(topic) for topic in self._tools.topics_of(tenant))

    # ---- sending ----

    def _receipt(self, tenant: str) -> Receipt:
        receipt = Receipt(tenant, self._loop)
        self._open.receipts.append(receipt)
        return receipt

    def _receipts(self, foldings: Iterable[tuple[Source, Folding]]) -> list[tuple[list[Output], Receipt]]:
        """Count what was folded, and return its outputs, each with the receipt that the next checkpoint waits for."""
        for source, folding in foldings:
            _count(source, folding)
        return [(folding.outputs, self._receipt(source.tenant)) for source, folding in foldings if folding.outputs]

    async def _send_all(self, foldings: Iterable[tuple[Source, Folding]]) -> None:
        for outputs, receipt in self._receipts([*foldings]):
            await self._send(outputs, receipt)

    async def _send(self, outputs: Sequence[Output], receipt: Receipt) -> None:
        """Send outputs after those that were folded before them, should the producer's buffer have been full."""
        async with self._sending:
            await self._tools.outputs.send(outputs, receipt, lambda: not self.is_closed() and not receipt.abandoned)
        receipt.seal()

    def _send_pending(self) -> None:
        """Send what may be sent, without giving way: an alert that is folded meanwhile would overtake it."""
        full = False
        sent: dict[str, tuple[Receipt, list[int]]] = {}
        for output in self.shard.pending():
            receipt, numbers = sent.setdefault(output.tenant, (Receipt(output.tenant, self._loop), []))
            full = full or not self._tools.outputs.offer(output, receipt)
            if full:
                self.shard.put_off(output)
            elif output.alert is not None:
                numbers.append(output.alert)
        for receipt, numbers in sent.values():
            receipt.seal()
            self._pending.append(receipt)
            self._keep(self._settle(receipt, numbers))

    async def _settle(self, receipt: Receipt, numbers: list[int]) -> None:
        await receipt.done.wait()
        self._pending.remove(receipt)
        if not receipt.abandoned:
            for number in numbers:
                self.shard.acknowledged(number)

    # ---- checkpoints ----

    async def _checkpoints(self) -> None:
        while not self._ending.is_set():
            await asyncio.sleep(self._tools.interval)
            if self._ending.is_set():
                return
            self._send_pending()
            if self.shard.dirty:
                await self._release_waiting()
                await self.checkpoint()

    async def _checkpoint_in_turn(self) -> None:
        async with self._writing:
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Prove the ownership if it is in doubt, fold what is held, and write what there is then."""
        await self._prove()
        if self.is_closed():
            return
        sending = self._receipts(self.shard.release())
        doubts, cut, work, self._open = self._doubts, self.shard.cut(), self._open, _Work()
        self._waiting = (cut, work, time.monotonic())
        for outputs, receipt in sending:
            await self._send(outputs, receipt)
        for receipt in work.receipts:
            await receipt.done.wait()
        self._waiting = None
        if self.is_closed():
            return
        with STREAM_CHECKPOINT_SECONDS.time():
            await self._loop.run_in_executor(self._tools.pool, self._write, cut)
        if not self.is_closed():
            self._written(cut, work, doubts)

    def _write(self, cut: Cut) -> None:
        entries = cut.entries()
        if entries:
            self._store.commit(entries)

    def _written(self, cut: Cut, work: _Work, doubts: int) -> None:
        self.shard.written(cut)
        for _, ack in work.acks:
            ack()
        self._send_pending()
        if doubts == self._doubts:
            self._certain.set()

    def _keep(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run beside, held until done (the event loop itself keeps no task alive); a failure ends the process."""
        task = self._loop.create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept_done)
        return task

    def _kept_done(self, task: asyncio.Task[None]) -> None:
        self._kept.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and not self.is_closed():  # state and outputs are in doubt: start again
            self._tools.fail(error)


def _count(source: Source, folding: Folding) -> None:
    STREAM_RECORDS.labels(source.dataset).inc(folding.folded)
    for reason, count in folding.skipped.items():
        STREAM_SKIPPED.labels(reason).inc(count)
