"""Sends statistics and alerts at once, through one idempotent producer, and tells when a batch's are acknowledged.

A `Receipt` stands for the outputs of one batch. A refusal that only this topic can explain is blamed on its tenant;
any other failure is the broker's, and ends the process: what was sent after it could be out of order.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pulsestream.core.kafka import producer_config
from pulsestream.core.metrics import STREAM_EMITTED
from pulsestream.core.settings import Settings
from pulsestream.core.topics import parse_tenant_topic
from streams.emission import Output
from streams.errors import DeliveryError

POLL_WAIT: Final = 0.1
"""Seconds that the polling thread waits for delivery reports."""
DELIVERY_TIMEOUT_MS: Final = 60_000
TOPIC_WAIT_MS: Final = 3_000
"""How long a topic that the broker does not know is waited for: every tenant of a shard waits as long for one."""
FULL_WAIT: Final = 0.01
"""Seconds between attempts while the producer's buffer is full."""

_TENANT_FAULTS: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - confluent-kafka's own name
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - likewise
        KafkaError._DESTROY,  # noqa: SLF001 - what waits for a partition that goes with its topic
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_CONFIG,
    }
)

Refused = Callable[[str, KafkaError], None]
"""Called on the event loop with the tenant whose output topic refused a record."""
Failed = Callable[[Exception], None]
"""Called on the event loop when the broker did not take an output."""


class Receipt:
    """Counts the outputs of one batch of one tenant until each is acknowledged. `sealed` once all were sent."""

    def __init__(self, tenant: str, loop: asyncio.AbstractEventLoop) -> None:
        self.tenant = tenant
        self.done = asyncio.Event()
        self.abandoned = False
        self._loop = loop
        self._lock = threading.Lock()
        self._open = 1  # the seal itself

    def expect(self, outputs: int = 1) -> None:
        """Count so many outputs more."""
        with self._lock:
            self._open += outputs

    def seal(self) -> None:
        """Say that no more outputs follow; on the event loop."""
        if self._settled():
            self.done.set()

    def give_up(self) -> None:
        """Stop waiting: the tenant is parked, and its part of the checkpoint taken back."""
        self.abandoned = not self.done.is_set()
        self.done.set()

    def settle(self) -> None:
        """Count an acknowledgement; from the polling thread."""
        if self._settled():
            self._loop.call_soon_threadsafe(self.done.set)

    def _settled(self) -> bool:
        with self._lock:
            self._open -= 1
            return self._open == 0


class Outputs:
    """The producer of all statistics and alerts. Use it on the event loop only, from `start` to `close`."""

    def __init__(self, settings: Settings, refused: Refused, failed: Failed) -> None:
        self._refused = refused
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(
            producer_config(settings, f"{settings.stream_app}-outputs")
            | {
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
                "topic.metadata.propagation.max.ms": TOPIC_WAIT_MS,
                "topic.metadata.refresh.interval.ms": TOPIC_WAIT_MS * 10,
                "queue.buffering.max.messages": 1_000_000,
                "linger.ms": 1,
            }
        )
        self._acknowledged: Counter[str] = Counter()
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="outputs", daemon=True)

    def start(self) -> None:
        """Begin to report deliveries."""
        self._poller.start()

    async def send(self, outputs: Sequence[Output], receipt: Receipt, wanted: Callable[[], bool]) -> None:
        """Hand records to the producer, in order, and count them on the receipt; waits while the buffer is full.

        Stops as soon as `wanted` says no: the partition was given up, or the tenant parked.
        """
        receipt.expect(len(outputs))
        report = partial(self._report, receipt)
        for output in outputs:
            while not self._produce(output, report):
                await asyncio.sleep(FULL_WAIT)
                if not wanted():
                    return

    def offer(self, output: Output, receipt: Receipt) -> bool:
        """Hand a record to the producer and count it on the receipt; False when the buffer is full."""
        receipt.expect(1)
        taken = self._produce(output, partial(self._report, receipt))
        if not taken:
            receipt.settle()
        return taken

    def _produce(self, output: Output, report: Callable[[KafkaError | None, Message | None], None]) -> bool:
        try:
            self._producer.produce(
                output.topic,
                output.value,
                output.key,
                on_delivery=report,
                headers=output.headers,  # type: ignore[arg-type] # it is only read
            )
        except BufferError:
            return False
        except KafkaException as error:
            report(error.args[0], None)
        return True

    def close(self, timeout: float) -> None:
        """Send what is buffered, for at most `timeout` seconds, and stop. Blocks."""
        self._producer.flush(timeout)
        self._closing.set()
        if self._poller.is_alive():
            self._poller.join()

    def _report(self, receipt: Receipt, error: KafkaError | None, message: Message | None) -> None:
        """Take a delivery report; from the polling thread, but for a record that was refused at once."""
        topic = message.topic() if message else None
        if error is None:
            self._acknowledged[topic or ""] += 1
            receipt.settle()
        elif error.code() in _TENANT_FAULTS:
            self._loop.call_soon_threadsafe(self._refused, receipt.tenant, error)
        elif error.code() != KafkaError._PURGE_QUEUE:  # noqa: SLF001 - confluent-kafka's own name
            where = topic or f"a topic of {receipt.tenant}"
            self._loop.call_soon_threadsafe(self._failed, DeliveryError(f"{where} took no record: {error.str()}"))

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(POLL_WAIT)
            self._count()

    def _count(self) -> None:
        """Show what was acknowledged: once a poll, since a metric costs more than a report."""
        acknowledged, self._acknowledged = self._acknowledged, Counter()
        for topic, count in acknowledged.items():
            name = parse_tenant_topic(topic)
            if name is not None:
                STREAM_EMITTED.labels(name.dataset).inc(count)
