"""Dead letters: refused records on their tenant's dead-letter topic, acknowledged before the sink goes on.

Its key is where the record was read, so that the same record refused again after a crash can be recognised. One that
is too large for its topic goes without its value, and says so. One that no topic takes (missing, refused) is logged
and counted, and never holds anybody up; a broker that is away does. A dead letter that is refused itself is never made
another one of.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pulsestream.core.clock import Clock
from pulsestream.core.headers import cloud_event
from pulsestream.core.kafka import BrokerError, producer_config
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
_SMALL: Final = DEAD_LETTER_ROOM // 2
"""Bytes of a key and headers that stay in a letter whose value is left out."""

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

_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class _Addressed:
    """A refused record as its letter, and the topic that it goes to."""

    item: Refused
    topic: str
    letter: DeadLetter


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
        now = self._clock()
        letters = [_Addressed(item, topic, dead_letter(item, now)) for item in refused if (topic := self._topic(item))]
        too_large = self._deliver(letters)
        if too_large:
            self._deliver([replace(each, letter=without_value(each.letter)) for each in too_large])

    def _topic(self, item: Refused) -> str | None:
        """Return the topic that an item's letter goes to; None, and it counts as lost, where there is none."""
        source = parse_tenant_topic(item.arrived.topic)
        if source is None:
            _lose(item, "its topic belongs to no tenant")
        elif source.dataset == "dlq":
            _lose(item, "it is a dead letter itself")
        elif self._monotonic() < self._resting.get(source.sibling("dlq"), 0.0):
            _lose(item, f"topic {source.sibling('dlq')} is missing")
        else:
            return source.sibling("dlq")
        return None

    def _deliver(self, letters: Sequence[_Addressed]) -> list[_Addressed]:
        """Send letters, wait for every answer, and return those that are too large with their values."""
        reports: list[tuple[_Addressed, KafkaError | None]] = []
        for each in letters:
            self._produce(each, reports)
        if self._producer.flush(DELIVERY_TIMEOUT):
            self._producer.purge()
            raise BrokerError(f"{len(letters)} dead letters were not all acknowledged: the broker does not answer")
        return [each for each, error in reports if error is not None and self._is_too_large(each, error, len(letters))]

    def _produce(self, each: _Addressed, reports: list[tuple[_Addressed, KafkaError | None]]) -> None:
        letter = each.letter
        identity = f"{letter.topic}:{letter.partition}:{letter.offset}"
        source = f"/pulsestream/sink/{letter.topic}"
        headers = cloud_event(identity, "pulsestream.dead-letter.v1", source, letter.first_seen)
        value = codec(DeadLetter).encode(letter)

        def delivered(error: KafkaError | None, _: Message) -> None:
            reports.append((each, error))
            if error is None:
                SINK_DEAD_LETTERS.labels(each.item.code).inc()

        while True:
            try:
                self._producer.produce(each.topic, value, identity.encode(), headers=[*headers], on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                reports.append((each, error.args[0]))
                return
            else:
                self._producer.poll(0)
                return

    def _is_too_large(self, each: _Addressed, error: KafkaError, letters: int) -> bool:
        """Return whether a letter failed for its value's size; one that failed for good otherwise counts as lost."""
        if error.code() in _AWAY:
            raise BrokerError(f"{letters} dead letters were not all acknowledged: {error.str()}")
        if error.code() in _TOO_LARGE and not each.letter.omitted:
            return True
        if error.code() in _MISSING:
            self._resting[each.topic] = self._monotonic() + MISSING_TOPIC_REST
        _lose(each.item, error.str())
        return False


def without_value(letter: DeadLetter) -> DeadLetter:
    """Return a letter without its record's value, and without key and headers if these are large too."""
    value, key = letter.value or b"", letter.key or b""
    beside = len(key) + sum(len(header.name) + len(header.value or b"") for header in letter.headers)
    if beside <= _SMALL:
        return msgspec.structs.replace(letter, value=None, omitted=len(value))
    return msgspec.structs.replace(letter, value=None, key=None, headers=[], omitted=len(value) + beside)


def _lose(item: Refused, cause: str) -> None:
    SINK_DEAD_LETTERS_LOST.labels(item.code).inc()
    _log.error(
        "dead letter lost", origin=origin(item.arrived), reason=item.code, message=item.message[:200], cause=cause
    )
