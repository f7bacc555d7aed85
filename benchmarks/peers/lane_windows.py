"""The windows on our lane: Faust's group, batches read by columns, state in transactional checkpoints.

What a user of Faust would write who wants more than the worker's statistics: an owner that says where to read from,
folds batches and writes checkpoints. A checkpoint waits until the broker has the windows that were closed before it.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from faust.types import TP
from pydantic import SecretStr

from benchmarks.peers.job import Job
from benchmarks.peers.lane_panes import Fold, Ints, Ticks
from pulsestream.core.kafka import Admin, producer_config
from pulsestream.core.settings import Settings
from schemas import registry
from schemas.columns import Octets, column_decoder
from streams.app import build
from streams.blocks import frame
from streams.checkpoint import StatePartition
from streams.ending import end_process
from streams.entries import Position, position_entry, sort
from streams.errors import DeliveryError
from streams.transport import Batch, BatchConsumer, Bounds

_AT_ONCE: Final = 20_000
"""Records that are folded in one go: 10 ms of work, and no clock of this program waits meanwhile."""
_FETCH_BYTES: Final = 8 * 1024 * 1024
"""Of a partition in one fetch: the next one is asked for when the last is folded."""
_FLUSH: Final = 60.0


@dataclass(slots=True)
class Part:
    """One partition: what is folded, what a checkpoint has to acknowledge, and where it is written."""

    store: StatePartition
    fold: Fold
    position: Position
    acks: list[Callable[[], object]] = field(default_factory=list)


class Lane:
    """Owns the partitions that the group gives this process."""

    def __init__(self, job: Job, settings: Settings, pool: ThreadPoolExecutor) -> None:
        self._job = job
        self._settings = settings
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._columns = Columns()
        self._producer = Producer(producer_config(settings, job.name))
        self._parts: dict[int, Part] = {}
        self._writing = asyncio.Lock()
        self.consumer: BatchConsumer | None = None

    # ---- what the transport calls ----

    async def revoked(self) -> None:
        """Write a last checkpoint and give everything up."""
        await self.checkpoint()
        parts, self._parts = self._parts, {}
        for part in parts.values():
            await self._loop.run_in_executor(self._pool, part.store.close)

    async def restore(self, assigned: Mapping[TP, Bounds]) -> Mapping[TP, int]:
        """Take partitions over: fence, read the state, say where to read."""
        topics = await self._loop.run_in_executor(self._pool, Admin(self._settings).describe, [self._job.source])
        for tp, bounds in assigned.items():
            store = StatePartition(self._settings, tp.partition)
            restored = sort(await self._loop.run_in_executor(self._pool, store.take_over))
            fold = Fold(self._job.size, self._job.step)
            fold.restore(restored.engine)
            start = Position(topics[tp.topic].topic_id, bounds.start)
            self._parts[tp.partition] = Part(store, fold, restored.positions.get(tp.topic, start))
        return {tp: self._parts[tp.partition].position.next_offset for tp in assigned}

    def coming(self) -> None:
        """Nothing gives way: all is folded as it comes."""

    def arrived(self) -> None:
        """Nothing is asked for: there are no rules."""

    def lost(self, tp: TP, first: int, next_offset: int) -> None:
        """End the process: a benchmark's records do not expire."""
        self.failed(DeliveryError(f"{tp.topic} has lost {first} to {next_offset}"))

    def failed(self, error: Exception) -> None:
        """End the process."""
        end_process(error)

    # ---- what the agent and the worker call ----

    async def take(self, batches: Iterable[Batch]) -> None:
        """Fold the batches of a fetch and send the windows that they close."""
        for batch in batches:
            part = self._parts.get(batch.partition)
            if part is None or self.consumer is None or not self.consumer.is_current(batch):
                continue
            for product, record in part.fold.take(self._columns.ticks(batch)):
                self._send(product.encode(), record)
            part.position = Position(part.position.topic_id, batch.next_offset)
            part.acks.append(batch.ack)

    async def checkpoint(self) -> None:
        """Write what changed once the broker has what was sent."""
        async with self._writing:
            for part in self._parts.values():
                if part.acks:
                    entries = part.fold.cut() | dict([position_entry(self._job.source, part.position)])
                    acks, part.acks = part.acks, []
                    await self._loop.run_in_executor(self._pool, self._write, part.store, entries)
                    for ack in acks:
                        ack()

    def _write(self, store: StatePartition, entries: Mapping[str, bytes]) -> None:
        if self._producer.flush(_FLUSH):
            raise DeliveryError("the broker did not take the windows")
        store.commit(entries)

    def _send(self, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._job.sink, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.01)
            else:
                return

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failed(DeliveryError(error.str()))


class Columns:
    """Reads batches of framed ticks."""

    def __init__(self) -> None:
        released = registry.current("tick")
        decoder = column_decoder(released.json, bytes((0, *released.schema_id.to_bytes(4, "big"))))
        if decoder is None:
            raise AssertionError("the schema of ticks has columns")
        self._decoder = decoder
        self._products: list[str] = []
        #: Products by a word that is theirs alone, ascending; none has the first.
        self._marks = np.zeros(1, np.uint64)
        self._place_of = np.zeros(1, np.int64)

    def ticks(self, batch: Batch) -> Ticks:
        """Return what the windows need."""
        frames = frame(batch.blocks)
        octets = frames.octets
        decoded = self._decoder.decode(octets, frames.start, frames.stop)
        if not (decoded.certain & frames.certain).all():
            raise AssertionError("a tick of the benchmark cannot be read")
        columns = decoded.columns
        return Ticks(
            self._products,
            self._places_of(octets, columns["product"].values, columns["product"].sizes),
            columns["exchange_time"].values,
            columns["price"].values,
            columns["size"].values,
        )

    def _places_of(self, octets: Octets, at: Ints, sizes: Ints | None) -> Ints:
        """Return each product's place in the list of products, which grows by those that are new."""
        if sizes is None:
            raise AssertionError("a product is a text")
        words = octets.texts(at, sizes)
        marks = (
            words[:, 0] if words.shape[1] == 1 else (words * _FACTORS[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
        )
        places = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        unknown = self._marks[places] != marks
        if not unknown.any():
            return self._place_of[places]
        for mark, row in zip(*np.unique(marks[unknown], return_index=True), strict=True):
            start = int(at[unknown][row])
            self._learn(mark, octets.part(start, start + int(sizes[unknown][row])).decode())
        return self._places_of(octets, at, sizes)

    def _learn(self, mark: np.uint64, product: str) -> None:
        place = np.searchsorted(self._marks, mark)
        self._marks = np.insert(self._marks, place, mark)
        self._place_of = np.insert(self._place_of, place, len(self._products))
        self._products.append(product)


_FACTORS: Final = np.random.default_rng(1).integers(1, 2**63, 8, np.uint64) * np.uint64(2) + np.uint64(1)
"""Make one word of a long name: names that share it would need 64 equal bits."""


async def run(job: Job) -> None:
    """Work until a signal comes."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    settings = Settings(
        kafka_bootstrap=job.bootstrap,
        kafka_username=job.username,
        kafka_password=SecretStr(job.password),
        stream_app=job.name,
        partitions=1,
        home=Path(job.folder),
    )
    with ThreadPoolExecutor(2) as pool:
        lane = Lane(job, settings, pool)
        app = build(settings, lane, lambda _: True, end_process)
        lane.consumer = cast(BatchConsumer, app.consumer)
        app.conf.broker_max_poll_records = _AT_ONCE
        app.conf.consumer_max_fetch_size = _FETCH_BYTES
        await app.start()
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), job.commit)
            await lane.checkpoint()
        await app.stop()


if __name__ == "__main__":
    asyncio.run(run(Job.read(sys.argv[1])))
