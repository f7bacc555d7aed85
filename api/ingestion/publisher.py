"""The producer behind ingestion: records in, delivery reports out as futures of the event loop.

librdkafka calls back in one thread, which hands the reports of a poll to the loop in one go. The queue is bounded: what
does not fit is refused at once. A fatal error of the producer ends the process, as the supervisor expects.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pulsestream.core.headers import Headers
from pulsestream.core.kafka import BrokerError, producer_config, reason
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

CONFIRM_WITHIN: Final = 5.0
"""Seconds after which a record without a delivery report counts as unknown."""
QUEUE_RECORDS: Final = 50_000
QUEUE_KIB: Final = 64 * 1024
_FLUSH: Final = 6.0
_POLL: Final = 0.1
_log = logger(__name__)

Report = KafkaError | None
Fatal = Callable[[BrokerError], None]


class QueueFullError(BrokerError):
    """More records wait for the broker than the queue may hold."""


class Publisher:
    """Sends records; must be made in the running event loop that awaits the reports."""

    def __init__(self, settings: Settings, on_fatal: Fatal) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_fatal = on_fatal
        self._reports: deque[tuple[asyncio.Future[Report], Report]] = deque()
        self._stopping = threading.Event()
        self._producer = Producer(
            producer_config(settings, "ps-api")
            | {
                "message.timeout.ms": int(CONFIRM_WITHIN * 1000),
                "queue.buffering.max.messages": QUEUE_RECORDS,
                "queue.buffering.max.kbytes": QUEUE_KIB,
                "error_cb": self._on_error,
            },
            logger=logging.getLogger(__name__),
        )
        self._thread = threading.Thread(target=self._serve, name="delivery-reports", daemon=True)
        self._thread.start()

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> asyncio.Future[Report]:
        """Queue a record; the future gives None once the broker has it, else the error. Raises QueueFullError."""
        future: asyncio.Future[Report] = self._loop.create_future()
        try:
            self._producer.produce(topic, value, key, headers=[*headers], on_delivery=partial(self._report, future))
        except BufferError as error:
            raise QueueFullError(f"{len(self._producer)} records wait for the broker") from error
        except KafkaException as error:
            future.set_result(error.args[0])
        return future

    def answers(self) -> str | None:
        """Return None when the broker answers, else one sentence. Blocks up to 2 s: call it in a thread."""
        try:
            self._producer.list_topics("ps._platform.tenants.v1", timeout=2.0)
        except KafkaException as error:
            return f"Kafka does not answer: {reason(error)}"
        return None

    async def close(self) -> None:
        """Wait for what is queued, within a bound, and end the thread."""
        await asyncio.to_thread(self._finish)
        self._hand_over()

    def _finish(self) -> None:
        self._producer.flush(_FLUSH)
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(_POLL)
            if self._reports:
                self._loop.call_soon_threadsafe(self._hand_over)

    def _report(self, future: asyncio.Future[Report], error: Report, _: Message) -> None:
        self._reports.append((future, error))

    def _hand_over(self) -> None:
        while self._reports:
            future, error = self._reports.popleft()
            if not future.done():  # a client that went away cancelled it
                future.set_result(error)

    def _on_error(self, error: KafkaError) -> None:
        _log.warning("producer error", code=error.name(), reason=error.str())
        if error.fatal():
            failure = BrokerError(f"the producer cannot go on: {error.str()} ({error.name()})")
            self._loop.call_soon_threadsafe(self._on_fatal, failure)
