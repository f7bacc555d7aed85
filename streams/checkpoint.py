"""One state partition on the broker: taken over by fencing its former owner, read whole, written in transactions.

A checkpoint is one transaction: all of its entries become visible or none. `take_over` fences whoever held the
partition before, so that a worker that was replaced without knowing (a zombie) fails at its next commit and none of
its entries ever shows. Every call blocks; one thread at a time may use a `StatePartition`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pulsestream.core.kafka import client_config, producer_config, reason
from pulsestream.core.settings import Settings
from pulsestream.core.topics import state_topic
from streams.errors import FencedError, StateError

BROKER_TIMEOUT: Final = 15.0
"""Seconds that one request to the broker may take, with its retries."""
RESTORE_TIMEOUT: Final = 60.0
"""Seconds without a record after which reading the state is given up."""
TRANSACTION_TIMEOUT_MS: Final = 10_000
"""After which the broker aborts the transaction of a worker that died in the middle."""

_FENCED: Final = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - confluent-kafka's own name
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)
_T = TypeVar("_T")
_READ_AT_ONCE: Final = 2000
_READ_WAIT: Final = 0.02


class StatePartition:
    """Partition `partition` of the state topic of the application `settings.stream_app`."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self._settings = settings
        self._topic = state_topic(settings.stream_app)
        self._partition = partition
        name = f"{settings.stream_app}-{partition}"
        self._producer = Producer(
            producer_config(settings, name)
            | {
                "transactional.id": name,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": 0,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def take_over(self) -> dict[str, bytes]:
        """Fence the former owner and return the partition's entries by name.

        Raises StateError when the broker refuses or does not answer in time.
        """
        self._call("take over", self._producer.init_transactions)
        entries: dict[str, bytes] = {}
        for name, value in self._read():
            if value is None:
                entries.pop(name, None)
            else:
                entries[name] = value
        return entries

    def commit(self, entries: Mapping[str, bytes | None]) -> None:
        """Write these entries, all or none; None removes one.

        Raises FencedError when another worker has taken over, StateError for any other failure. After either nothing
        more can be written.
        """
        if not entries:
            return
        try:
            self._producer.begin_transaction()
            for name, value in entries.items():
                self._producer.produce(self._topic, value, name.encode(), self._partition)
        except (KafkaException, BufferError) as error:
            raise self._failure("write", error) from error
        self._call("commit", self._producer.commit_transaction)

    def close(self) -> None:
        """Drop what was not committed; the next owner's `take_over` ends an open transaction. Nothing may follow."""
        self._producer.purge()
        del self._producer  # its own close() would abort the transaction, and raise when fenced

    def _read(self) -> Iterator[tuple[str, bytes | None]]:
        consumer = Consumer(_reader_config(self._settings))
        try:
            # Asking first makes the leader known: an assignment without one waits half a second for it.
            _, end = self._call("read", lambda wait: _bounds(consumer, self._topic, self._partition, wait))
            if end:
                consumer.assign([TopicPartition(self._topic, self._partition, OFFSET_BEGINNING)])
                yield from self._read_to_end(consumer)
        finally:
            consumer.close()

    def _read_to_end(self, consumer: Consumer) -> Iterator[tuple[str, bytes | None]]:
        last = time.monotonic()
        while time.monotonic() - last < RESTORE_TIMEOUT:
            for message in consumer.consume(_READ_AT_ONCE, _READ_WAIT):
                failure = message.error()
                if failure is None:
                    last = time.monotonic()
                    yield _entry(message)
                elif failure.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - confluent-kafka's own name
                    return
                elif not failure.retriable() and failure.code() not in _PASSING:
                    raise StateError(f"cannot read {self._where}: {failure.str()}")
        raise StateError(f"{self._where} sent nothing for {RESTORE_TIMEOUT:.0f} s: is the broker up?")

    @property
    def _where(self) -> str:
        return f"{self._topic}[{self._partition}]"

    def _call(self, verb: str, call: Callable[[float], _T]) -> _T:
        deadline = time.monotonic() + BROKER_TIMEOUT
        while True:
            try:
                return call(max(deadline - time.monotonic(), 0.1))
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise self._failure(verb, error) from error

    def _failure(self, verb: str, error: KafkaException | BufferError) -> StateError:
        if isinstance(error, KafkaException) and error.args[0].code() in _FENCED:
            return FencedError(f"another worker has taken {self._where} over: {reason(error)}")
        said = reason(error) if isinstance(error, KafkaException) else str(error)
        return StateError(f"cannot {verb} {self._where}: {said}")


_PASSING: Final = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})  # noqa: SLF001 - confluent-kafka's own names


def _reader_config(settings: Settings) -> dict[str, str | int | float | bool]:
    return client_config(settings, f"{settings.stream_app}-state") | {
        "group.id": f"{settings.stream_app}-state",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 10,  # the end of the partition is only told by a fetch that finds nothing more
    }


def _bounds(consumer: Consumer, topic: str, partition: int, timeout: float) -> tuple[int, int]:
    return consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)


def _entry(message: Message) -> tuple[str, bytes | None]:
    return (message.key() or b"").decode(), message.value()
