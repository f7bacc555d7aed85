"""Dead letters: refused records on their tenant's dead-letter topic, acknowledged before the sink goes on.

Its key is where the record was read, so that the same record refused again after a crash can be recognised. One that
no topic takes (missing, refused, too large) is logged and counted, and never holds anybody up; a broker that is away
does.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pulsestream.core.clock import Clock
from pulsestream.core.headers import cloud_event
from pulsestream.core.kafka import BrokerError, producer_config, reason
from pulsestream.core.layout import DEAD_LETTER_ROOM, MAX_MESSAGE_BYTES
from pulsestream.core.log import logger
from pulsestream.core.metrics import SINK_DEAD_LETTERS, SINK_DEAD_LETTERS_LOST
from pulsestream.core.settings import Settings
from pulsestream.core.topics import parse_tenant_topic
from schemas.codec import codec
from schemas.records import DeadLetter
from sinks.rows import Refused, dead_letter, origin

DELIVERY_TIMEOUT: Final = 10.0
"""Seconds that the broker has to acknowledge; below the time after which the database ends an idle transaction."""
MISSING_TOPIC_REST: Final = 30.0
"""Seconds for which a topic that was missing is not tried again: each try holds the batch up."""
_TOPIC_WAIT_MS: Final = 3000

_AWAY: Final = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001 - confluent-kafka's own names
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError._PURGE_QUEUE,  # noqa: SLF001
        KafkaError._PURGE_INFLIGHT,  # noqa: SLF001
    }
)
_MISSING: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001
)

_log = logger(__name__)


class DeadLetters:
    """Sends dead letters. Not safe to share between threads."""

    def __init__(self, settings: Settings, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        config = producer_config(settings, "ps-sink-dead-letters") | {
            "message.max.bytes": MAX_MESSAGE_BYTES + DEAD_LETTER_ROOM,
            "message.timeout.ms": int(DELIVERY_TIMEOUT * 1000) - 1000,
            "topic.metadata.propagation.max.ms": _TOPIC_WAIT_MS,
        }
        self._producer = Producer(config)
        self._clock = clock
        self._monotonic = monotonic
        self._resting: dict[str, float] = {}

    def send(self, refused: Sequence[Refused]) -> None:
        """Return once every record is on its dead-letter topic or counted as lost; raises BrokerError."""
        unanswered: list[str] = []
        for item in refused:
            self._send_one(item, unanswered)
        waiting = self._producer.flush(DELIVERY_TIMEOUT)
        if waiting:
            self._producer.purge()
            unanswered.append("the broker does not answer")
        if unanswered:
            raise BrokerError(f"{len(refused)} dead letters were not all acknowledged: {unanswered[0]}")

    def _send_one(self, item: Refused, unanswered: list[str]) -> None:
        source = parse_tenant_topic(item.arrived.topic)
        if source is None:
            _lose(item, "its topic belongs to no tenant")
            return
        topic = source.sibling("dlq")
        if self._monotonic() < self._resting.get(topic, 0.0):
            _lose(item, f"topic {topic} is missing")
            return
        letter = dead_letter(item, self._clock())
        try:
            self._produce(topic, letter, partial(self._delivered, item, unanswered))
        except KafkaException as error:
            _lose(item, reason(error))

    def _produce(self, topic: str, letter: DeadLetter, delivered: Callable[[KafkaError | None, Message], None]) -> None:
        identity = f"{letter.topic}:{letter.partition}:{letter.offset}"
        source = f"/pulsestream/sink/{letter.topic}"
        headers = cloud_event(identity, "pulsestream.dead-letter.v1", source, letter.first_seen)
        value = codec(DeadLetter).encode(letter)
        while True:
            try:
                self._producer.produce(topic, value, identity.encode(), headers=[*headers], on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(self, item: Refused, unanswered: list[str], error: KafkaError | None, message: Message) -> None:
        if error is None:
            SINK_DEAD_LETTERS.labels(item.code).inc()
        elif error.code() in _AWAY:
            unanswered.append(error.str())
        else:
            if error.code() in _MISSING:
                self._resting[message.topic() or ""] = self._monotonic() + MISSING_TOPIC_REST
            _lose(item, error.str())


def _lose(item: Refused, cause: str) -> None:
    SINK_DEAD_LETTERS_LOST.labels(item.code).inc()
    _log.error(
        "dead letter lost", origin=origin(item.arrived), reason=item.code, message=item.message[:200], cause=cause
    )
