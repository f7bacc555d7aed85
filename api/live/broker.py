"""The live view's way to the broker: one consumer for all clients of the process, and questions asked in threads.

Partitions are assigned by hand, one tenant's after the other; there is no consumer group. The consumer is polled in the
event loop, as the producer of ingestion is; whatever may block is done in threads.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from pulsestream.core.kafka import QUIET, Admin, BrokerError, Config, client_config, reason
from pulsestream.core.settings import Settings

WITHIN: Final = 3.0
"""Seconds that a question may take."""
MOST: Final = 200
"""Records of a poll."""
PART: Final = 200
"""Records that are read at once for one client."""
PART_WITHIN: Final = 10.0
"""Seconds that reading them may take."""
_THREADS: Final = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is now: its id, and the first offset of each partition that is left."""

    topic_id: str
    begins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one topic, the next offset of each partition behind them, and how many before them are gone."""

    records: Sequence[Message]
    behind: Mapping[int, int]
    gone: int


class LiveBroker:
    """Made once a process, connected when the first client comes. Close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, "live")
        self._admin: Admin | None = None
        self._consumer: Consumer | None = None
        self._idle: SimpleQueue[Consumer] = SimpleQueue()

    def poll(self) -> list[Message]:
        """Return the records that have arrived; waits for none."""
        return [] if self._consumer is None else self._consumer.consume(MOST, 0)

    def follow(self, topic: str, offsets: Sequence[int]) -> None:
        """Read a topic's partitions from these offsets on."""
        if self._consumer is None:
            self._consumer = Consumer(_config(self._settings, "ps-api-live") | _FOLLOWING)
        self._consumer.incremental_assign([TopicPartition(topic, *place) for place in enumerate(offsets)])

    def leave(self, topic: str, partitions: int) -> None:
        """Read a topic no more."""
        if self._consumer is not None:
            self._consumer.incremental_unassign([TopicPartition(topic, number) for number in range(partitions)])

    async def look(self, topics: Collection[str]) -> Mapping[str, Found]:
        """Return those of these topics that can be read; raises BrokerError when the broker does not answer."""
        return await self._in_thread(lambda: self._look(topics))

    async def read(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> Part:
        """Return the next records of partitions, each from an offset to before another; at most PART of them.

        Raises BrokerError when the broker does not answer.
        """
        return await self._in_thread(lambda: self._read(topic, spans))

    async def close(self) -> None:
        """Leave the broker."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._close)

    async def _in_thread(self, ask: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _look(self, topics: Collection[str]) -> Mapping[str, Found]:
        if self._admin is None:
            self._admin = Admin(self._settings, "ps-api-live-admin")
        try:
            known = self._admin.describe(topics, WITHIN)
            begins = self._admin.begins({topic.name: topic.partitions for topic in known.values()}, WITHIN)
        except KafkaException as error:
            raise BrokerError(f"cannot look up topics: {reason(error)}") from error
        return {
            name: Found(known[name].topic_id, tuple(offsets[number] for number in range(len(offsets))))
            for name, offsets in begins.items()
        }

    def _read(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> Part:
        with self._lent() as consumer:
            try:
                begins = {
                    number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=WITHIN)[0]
                    for number in spans
                }
                starts = {number: min(max(start, begins[number]), end) for number, (start, end) in spans.items()}
                gone = sum(starts[number] - start for number, (start, _) in spans.items())
                ends = {number: end for number, (_, end) in spans.items() if starts[number] < end}
                consumer.assign([TopicPartition(topic, number, starts[number]) for number in ends])
                records = list(_records(consumer, topic, ends))
                read = {number: _position(consumer, topic, number) for number in ends}
            except KafkaException as error:
                raise BrokerError(f"cannot read topic {topic}: {reason(error)}") from error
            finally:
                consumer.unassign()
        behind = {number: min(max(start, read.get(number, 0)), spans[number][1]) for number, start in starts.items()}
        return Part(records, behind, gone)

    @contextmanager
    def _lent(self) -> Iterator[Consumer]:
        try:
            consumer = self._idle.get_nowait()
        except Empty:
            consumer = Consumer(_config(self._settings, "ps-api-live-part") | _PART)
        try:
            yield consumer
        finally:
            self._idle.put(consumer)

    def _close(self) -> None:
        consumers = [] if self._consumer is None else [self._consumer]
        self._consumer = None
        while not self._idle.empty():
            consumers.append(self._idle.get())
        for consumer in consumers:
            consumer.close()


def _records(consumer: Consumer, topic: str, ends: Mapping[int, int]) -> Iterator[Message]:
    """Yield records until every partition is read to its end, or there are PART of them; raises BrokerError."""
    deadline = time.monotonic() + PART_WITHIN
    count = 0
    while count < PART and any(_position(consumer, topic, number) < end for number, end in ends.items()):
        if time.monotonic() > deadline:
            raise BrokerError(f"topic {topic} gave {count} records in {PART_WITHIN:.0f} s")
        for record in consumer.consume(PART - count, 0.05):
            failure = record.error()
            if failure is not None:
                if failure.retriable():
                    continue
                raise BrokerError(f"cannot read topic {topic}: {failure.str()}")
            if (record.offset() or 0) < ends[record.partition() or 0]:
                count += 1
                yield record


def _position(consumer: Consumer, topic: str, number: int) -> int:
    return int(consumer.position([TopicPartition(topic, number)])[0].offset)  # below 0: nothing has been read


def _config(settings: Settings, client_id: str) -> Config:
    return (
        client_config(settings, client_id)
        | QUIET
        | {
            "group.id": f"{client_id}-unused",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 5,
            "reconnect.backoff.ms": 500,
        }
    )


_FOLLOWING: Final[Config] = {"fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 16 * 1024}
_PART: Final[Config] = {"fetch.wait.max.ms": 20, "queued.min.messages": PART, "fetch.message.max.bytes": 256 * 1024}
