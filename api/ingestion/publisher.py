"""The producer behind ingestion: records in, one future of the event loop for the delivery reports of a request.

Reports are polled for in the event loop itself, every PAUSE while any is outstanding: a thread of its own would fight
the loop for the interpreter at each report, which halves what the process can take. The queue is bounded: what does not
fit is refused at once. A fatal error of the producer ends the process, as the supervisor expects.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pulsestream.core.headers import AnyHeaders
from pulsestream.core.kafka import BrokerError, producer_config, reason
from pulsestream.core.layout import MAX_MESSAGE_BYTES
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

CONFIRM_WITHIN: Final = 5.0
"""Seconds after which a record without a delivery report counts as unknown."""
BACKSTOP: Final = CONFIRM_WITHIN + 2.0
"""Seconds after which a request waits no longer, should the producer not have kept its bound."""
QUEUE_RECORDS: Final = 50_000
QUEUE_KIB: Final = 64 * 1024
PAUSE: Final = 0.001
"""Seconds between two polls while reports are outstanding."""
LINGER_MS: Final = 0.5
"""Milliseconds for which a record waits for others: every request waits so long, and many make batches anyway."""
_IDLE: Final = 0.1
"""Seconds between two polls while none is: what the client has to say of the broker."""
_FLUSH: Final = 6.0
_log = logger(__name__)

Report = KafkaError | None
Outgoing = tuple[bytes | None, bytes | None, AnyHeaders]
"""Key, value and headers of a record."""
Fatal = Callable[[BrokerError], None]


class QueueFullError(BrokerError):
    """More records wait for the broker than the queue may hold."""


class Deliveries:
    """The delivery reports of one request: `done` is set when each of its `count` records has one.

    `reports` holds None for a record that the broker has, of which there are `delivered`, else the error; what has none
    yet counts as timed out.
    """

    __slots__ = ("_missing", "deadline", "delivered", "done", "reports")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self.deadline = loop.time() + BACKSTOP
        self.reports: list[Report] = [_LATE] * count
        self.delivered = 0
        self._missing = count

    def settle(self, index: int, report: Report, _: Message | None = None) -> None:
        """Take one record's report, as the producer calls back."""
        self.reports[index] = report
        if report is None:
            self.delivered += 1
        self._missing -= 1
        if not self._missing:
            self.give_up()

    def leave_out(self, count: int) -> None:
        """Expect so many reports less."""
        self._missing -= count
        if not self._missing:
            self.give_up()

    def give_up(self) -> None:
        """Wait no longer."""
        if not self.done.done():  # a client that went away cancelled it
            self.done.set_result(None)


_LATE: Final = KafkaError(KafkaError._TIMED_OUT, "no delivery report")  # noqa: SLF001 - confluent-kafka's own name


class Publisher:
    """Sends records; must be made in the running event loop that awaits the reports."""

    def __init__(self, settings: Settings, on_fatal: Fatal) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_fatal = on_fatal
        self._waiting: deque[Deliveries] = deque()
        self._is_idle = True
        self._producer = Producer(
            producer_config(settings, "ps-api")
            | {
                "message.timeout.ms": int(CONFIRM_WITHIN * 1000),
                "queue.buffering.max.messages": QUEUE_RECORDS,
                "queue.buffering.max.kbytes": QUEUE_KIB,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "linger.ms": LINGER_MS,
                "error_cb": self._on_error,
            },
            logger=logging.getLogger(__name__),
        )
        self._timer = self._loop.call_later(_IDLE, self._poll)

    def deliveries(self, count: int) -> Deliveries:
        """Return what takes the reports of `count` records, within BACKSTOP."""
        made = Deliveries(self._loop, count)
        self._waiting.append(made)
        if self._is_idle:
            self._is_idle = False
            self._timer.cancel()
            self._timer = self._loop.call_later(PAUSE, self._poll)
        return made

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: AnyHeaders) -> asyncio.Future[Report]:
        """Queue a record; the future gives None once the broker has it, else the error. Raises QueueFullError."""
        deliveries = self.deliveries(1)
        reported: asyncio.Future[Report] = self._loop.create_future()

        def report(_: object) -> None:
            if not reported.done():
                reported.set_result(deliveries.reports[0])

        deliveries.done.add_done_callback(report)
        if not self.queue(topic, [(key, value, headers)], deliveries):
            raise QueueFullError(self.fill())
        return reported

    def queue(self, topic: str, records: Sequence[Outgoing], deliveries: Deliveries) -> int:
        """Queue records, whose reports go to `deliveries`; returns how many of them, from the first on, found room."""
        produce, settle = self._producer.produce, deliveries.settle
        for index, (key, value, headers) in enumerate(records):
            try:
                produce(topic, value, key, headers=headers, on_delivery=partial(settle, index))  # type: ignore[arg-type] # bytes are right
            except BufferError:
                deliveries.leave_out(len(records) - index)
                return index
            except KafkaException as error:
                settle(index, error.args[0])
        return len(records)

    def fill(self) -> str:
        """Return how full the queue is, for a message."""
        return f"{len(self._producer)} records wait for the broker"

    def answers(self) -> str | None:
        """Return None when the broker answers, else one sentence. Blocks up to 2 s: call it in a thread."""
        try:
            self._producer.list_topics("ps._platform.tenants.v1", timeout=2.0)
        except KafkaException as error:
            return f"Kafka does not answer: {reason(error)}"
        return None

    async def close(self) -> None:
        """Wait for what is queued, within a bound."""
        deadline = self._loop.time() + _FLUSH
        while len(self._producer) and self._loop.time() < deadline:  # noqa: ASYNC110 - the client has no event to wait for
            await asyncio.sleep(PAUSE)
        self._timer.cancel()

    def _poll(self) -> None:
        self._producer.poll(0)
        waiting, now = self._waiting, self._loop.time()
        while waiting and (waiting[0].done.done() or waiting[0].deadline < now):
            waiting.popleft().give_up()
        self._is_idle = not waiting
        self._timer = self._loop.call_later(_IDLE if self._is_idle else PAUSE, self._poll)

    def _on_error(self, error: KafkaError) -> None:
        _log.warning("producer error", code=error.name(), reason=error.str())
        if error.fatal():
            failure = BrokerError(f"the producer cannot go on: {error.str()} ({error.name()})")
            self._loop.call_soon_threadsafe(self._on_fatal, failure)
