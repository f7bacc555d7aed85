"""The sink's consumer: which partitions are its own, where each goes on, and batches of what arrives.

Group membership says who reads, the database says from where: every assigned partition is placed by its topic's id at
the database's offset, and a record of a partition without a place is dropped, because it will be read again. A
topic made anew under its old name has another id and begins at 0. Before partitions are given up, what was taken of
them is stored or dropped, so that their next owner finds where to go on.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import methodcaller
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pulsestream.core.errors import OutageError
from pulsestream.core.headers import UNREADABLE
from pulsestream.core.kafka import ADMIN_TIMEOUT, Admin, BrokerError, Config, client_config, reason
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from pulsestream.core.topics import FEEDS
from sinks.errors import ForsakenError, GroupRefusedError
from sinks.plan import Move, Partition, Place, Position
from sinks.taken import Headers, Outer, Taken

PATTERN: Final = r"^ps\.[^.]+\.(ticks|own-ticks|trades|events|stats|bars|alerts|dlq)\.v1$"
LINGER: Final = 0.005
"""Seconds that a batch is gathered for after its first record: what a lone record waits at most."""
SHORT: Final = 0.001
"""Seconds between two looks at whether a batch that waits for the database is still to grow."""
LOOK: Final = 2000
"""Records that are asked for at once, at most."""
GROWTH: Final = 100
"""How many times as many records are asked for at once as are there already, whose size is known."""
RETRY_PLACING: Final = 0.5
RETURN: Final = 30.0
"""Seconds in which a client that the group has dropped is to be a member again by itself."""
CHECK_IDS: Final = 5.0
"""Seconds between two looks at the topics' ids."""

_Error = KafkaError
_OUT_OF_RANGE: Final = frozenset({_Error._AUTO_OFFSET_RESET, _Error.OFFSET_OUT_OF_RANGE})  # noqa: SLF001 - confluent-kafka's own names
_ENDS: Final = frozenset({_Error.GROUP_AUTHORIZATION_FAILED, _Error.SASL_AUTHENTICATION_FAILED})

Locate = Callable[[Collection[Place]], Mapping[Place, int]]
"""Returns the database's next offset of each place; raises OutageError."""
Finish = Callable[[], object]
"""Returns once nothing that was taken is on its way to the database."""
Enough = Callable[[], bool]
"""Says whether a batch need not grow further: the database has nothing to do."""

_read_headers: Final[Callable[[Message], Headers | None]] = methodcaller("headers")
"""The client returns a result beside an error that it forgot to raise; a plain call is optimized not to notice."""

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a batch may be: records, and bytes of their values, beyond which goes what was asked for at once."""

    records: int
    octets: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read, as whom: a consumer group, a client's id, and topics (those that begin with ^ are patterns)."""

    group: str
    client_id: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A position that the broker no longer has, with the offsets that it has: [low, high)."""

    position: Position
    low: int
    high: int


def consumer_config(settings: Settings) -> Config:
    """Return the configuration of the sink's consumer."""
    return client_config(settings, "ps-sink") | {
        "group.id": settings.sink_group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 1500,
        "topic.metadata.refresh.interval.ms": int(settings.sink_topic_refresh * 1000),
        "fetch.queue.backoff.ms": 5,
        "fetch.max.bytes": 8 * 1024 * 1024,
        "queued.max.messages.kbytes": settings.sink_queue_kib,
        "isolation.level": "read_committed",
    }


class Source:
    """One membership in the group, from construction to `close`. Everything happens inside its own calls."""

    def __init__(
        self,
        settings: Settings,
        locate: Locate,
        finish: Finish,
        monotonic: Callable[[], float] = time.monotonic,
        reading: Reading | None = None,
    ) -> None:
        """Join the group of `reading`; None: the sink's own."""
        config = consumer_config(settings)
        topics: tuple[str, ...] = (PATTERN, FEEDS)
        if reading is not None:
            config |= {"group.id": reading.group, "client.id": reading.client_id}
            topics = reading.topics
        self.positions: dict[Partition, Position] = {}
        self._gathered: dict[Partition, _Gathered] = {}
        self.joined = False
        self._assigned: set[Partition] = set()
        self._out_of_range: set[Partition] = set()
        self._locate = locate
        self._finish = finish
        self._monotonic = monotonic
        self._place_at = self._check_at = 0.0
        #: When this client was seen to be a member of the group last; None: it never was.
        self._member_at: float | None = None
        self._admin = Admin(settings, "ps-sink-admin")
        self.problem: str | None = None
        self._refusal: str | None = None
        self._consumer = Consumer(config | {"error_cb": self._on_client_error})
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    @property
    def unplaced(self) -> set[Partition]:
        """The partitions that are this sink's but cannot be read yet."""
        return self._assigned - self.positions.keys()

    def take(self, limits: Limits, timeout: float, enough: Enough) -> list[Taken]:
        """Return records, by partition in order, waiting up to `timeout` seconds for the first; raises BrokerError.

        A batch grows for LINGER seconds and then until there is `enough`, or until it is as large as `limits` allow.
        Offsets only rise within a partition and start at its position.
        """
        self._gathered.clear()
        count, octets = self._gather(1, timeout)
        until = self._monotonic() + LINGER
        while 0 < count < limits.records and octets < limits.octets:
            left = until - self._monotonic()
            if left <= 0 and enough():
                break
            room = (limits.octets - octets) * count // max(octets, 1) + 1
            look = min(GROWTH * count, LOOK, limits.records - count, room)
            more, larger = self._gather(look, max(left, SHORT))
            count, octets = count + more, octets + larger
        return [gathered.taken(*where) for where, gathered in self._gathered.items() if len(gathered)]

    def hold(self) -> None:
        """Take nothing more for now; `rest` keeps the membership meanwhile."""
        self._pause(self._assigned)

    def let_go(self) -> None:
        """Go on taking what is placed."""
        self._consumer.resume([TopicPartition(*where) for where in self.positions])

    def rest(self, timeout: float) -> bool:
        """Stay a member without taking anything, for up to `timeout` seconds; returns whether a record was dropped."""
        return bool(self._consume(1, timeout))

    def holds(self, moves: Iterable[Move]) -> bool:
        """Return whether these moves begin where this sink stands, in partitions that are its own."""
        return all(
            self.positions.get((move.place.topic, move.place.partition)) == Position(move.place, move.expected)
            for move in moves
        )

    def advance(self, moves: Iterable[Move]) -> None:
        """Go on from these moves, which are on their way to the database."""
        for move in moves:
            where = (move.place.topic, move.place.partition)
            if where in self.positions:
                self.positions[where] = Position(move.place, move.next_offset)

    def tell(self, moves: Iterable[Move]) -> None:
        """Tell the group of moves that the database holds now, for tools that show lag."""
        held = [(move.place.topic, move.place.partition, move.next_offset) for move in moves]
        offsets = [TopicPartition(*move) for move in held if move[:2] in self.positions]
        if offsets:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                _log.warning("group offsets not committed", reason=reason(error))

    def misplace(self) -> None:
        """Stop reading and forget every position: `settle` asks the database again."""
        self.positions.clear()
        self._gathered.clear()
        self._place_at = 0.0
        self._pause(self._assigned)

    def overtaken(self) -> list[Overtaken]:
        """Return the positions that the broker no longer has; they wait unplaced for `settle`. Raises BrokerError."""
        if not self._out_of_range:
            return []
        self._finish()
        suspects = {where: self.positions.pop(where) for where in self._out_of_range if where in self.positions}
        self._out_of_range.clear()
        known = self._admin.describe({topic for topic, _ in suspects})
        same = [
            position
            for where, position in suspects.items()
            if where[0] in known and known[where[0]].topic_id == position.place.topic_id
        ]
        seen = [Overtaken(position, *self._watermarks(position.place)) for position in same]
        return [found for found in seen if not found.low <= found.position.next_offset <= found.high]

    def settle(self) -> None:
        """Place what has no position yet, and look at the topics' ids and at the membership now and then.

        Raises BrokerError, ForsakenError, and what asking for positions raises.
        """
        now = self._monotonic()
        self._check_membership(now)
        if now >= self._check_at:
            self._check_at = now + CHECK_IDS
            self._check_ids()
        if len(self.positions) < len(self._assigned) and now >= self._place_at:
            self._place_at = now + RETRY_PLACING
            partitions = self._located(self.unplaced)
            self._consumer.incremental_unassign(partitions)
            self._consumer.incremental_assign(partitions)
            self._consumer.resume(partitions)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.joined = True
        new = {(partition.topic, partition.partition) for partition in partitions}
        self._assigned |= new
        try:
            placed = self._located(new)
        except OutageError as error:
            placed = []
            _log.warning("assigned partitions wait for their positions", partitions=len(new), reason=str(error))
        waiting = [TopicPartition(*where, 0) for where in new - self.positions.keys()]
        self._consumer.incremental_assign(placed + waiting)
        self._consumer.pause(waiting)
        self._consumer.resume(placed)  # a pause outlives the assignment that it was made in

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {(partition.topic, partition.partition) for partition in partitions}
        held = gone & self._assigned
        if held:
            self._finish()
        self._assigned -= gone
        self._out_of_range -= gone
        for where in gone:
            self.positions.pop(where, None)
            self._gathered.pop(where, None)
        self._consumer.incremental_unassign([TopicPartition(*where) for where in held])

    def _located(self, wanted: Collection[Partition]) -> list[TopicPartition]:
        """Take the database's positions for these partitions; one whose topic is gone is left out."""
        known = self._admin.describe({topic for topic, _ in wanted})
        places = [Place(topic, known[topic].topic_id, number) for topic, number in wanted if topic in known]
        located = self._locate(places) if places else {}
        for place in places:
            self.positions[place.topic, place.partition] = Position(place, located[place])
        return [TopicPartition(place.topic, place.partition, located[place]) for place in places]

    def _check_membership(self, now: float) -> None:
        """Raise ForsakenError where the client does not come back: once in a while librdkafka (2.16) never does.

        It has lost its session then, says so in its log, and asks the group for nothing any more.
        """
        if self._consumer.memberid():
            self._member_at = now
        elif self._member_at is not None and now - self._member_at > RETURN:
            self._admin.describe({FEEDS})  # where the broker is away there is no group to be a member of
            raise ForsakenError(f"not a member of the group for {RETURN:.0f} s: joining it anew")

    def _check_ids(self) -> None:
        known = self._admin.describe({topic for topic, _ in self.positions})
        if known:
            self.problem = None
        stale = [
            where
            for where, position in self.positions.items()
            if where[0] not in known or known[where[0]].topic_id != position.place.topic_id
        ]
        for where in stale:
            _log.warning("topic was deleted", topic=where[0], partition=where[1], made_again=where[0] in known)
            del self.positions[where]
        self._pause(stale)

    def _watermarks(self, place: Place) -> tuple[int, int]:
        partition = TopicPartition(place.topic, place.partition)
        try:
            low, high = self._consumer.get_watermark_offsets(partition, timeout=ADMIN_TIMEOUT)
        except KafkaException as error:
            raise BrokerError(f"cannot read the offsets of {place.topic}: {reason(error)}") from error
        return int(low), int(high)

    def _pause(self, wanted: Collection[Partition]) -> None:
        self._consumer.pause([TopicPartition(*where) for where in wanted])

    def _gather(self, limit: int, timeout: float) -> tuple[int, int]:
        """Keep the records of placed partitions at or after their positions, each offset once.

        Returns how many came, of which all count, and the bytes of their values.
        """
        messages = self._consume(limit, timeout)
        octets = 0
        for message in messages:
            where = (message.topic() or "", message.partition() or 0)
            gathered = self._gathered.get(where)
            if gathered is None:
                position = self.positions.get(where)
                if position is None:
                    continue
                gathered = self._gathered[where] = _Gathered(position.next_offset)
            octets += gathered.add(message)
        return len(messages), octets

    def _consume(self, limit: int, timeout: float) -> list[Message]:
        """Return the records among what the client has to say; raises GroupRefusedError."""
        messages = self._consumer.consume(limit, timeout)
        if self._refusal is not None:
            raise GroupRefusedError(self._refusal)
        if messages and all(message.error() is None for message in messages):
            self.problem = None
            return messages
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            else:
                self._notice(error, message)
        if records:
            self.problem = None
        return records

    def _on_client_error(self, error: KafkaError) -> None:
        """Note what is wrong with the connection: for `/readyz`, and to end a sink that was never let in."""
        if error.code() == _Error._AUTHENTICATION and not self.joined:  # noqa: SLF001
            self._refusal = f"Kafka refuses this sink's user: {error.str()}"
        if error.str() != self.problem:
            _log.warning("broker", code=error.name(), reason=error.str())
        self.problem = error.str()

    def _notice(self, error: KafkaError, message: Message) -> None:
        if error.fatal() or error.code() in _ENDS:
            raise GroupRefusedError(f"the sink cannot read: {error.str()} ({error.name()})")
        topic, partition = message.topic(), message.partition()
        if error.code() in _OUT_OF_RANGE and topic is not None and partition is not None:
            self._out_of_range.add((topic, partition))
        _log.warning("consumer", code=error.name(), reason=error.str(), topic=topic, partition=partition)


class _Gathered:
    """What came of one partition from an offset on."""

    def __init__(self, start: int) -> None:
        self._end = start
        self._offsets: list[int] = []
        self._appended_at: list[int] = []
        self._values: list[bytes | None] = []
        self._messages: list[Message] = []

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, message: Message) -> int:
        """Keep a record unless it was there before; returns the bytes of its value."""
        offset = message.offset() or 0
        if offset < self._end:
            return 0
        value = message.value()
        self._end = offset + 1
        self._offsets.append(offset)
        self._appended_at.append(message.timestamp()[1] * 1000)
        self._values.append(value)
        self._messages.append(message)
        return 0 if value is None else len(value)

    def taken(self, topic: str, partition: int) -> Taken:
        """Return it; at least one record must have been kept."""
        return Taken(topic, partition, self._offsets, self._appended_at, self._values, self._outer)

    def _outer(self, place: int) -> Outer:
        message = self._messages[place]
        return message.key(), _headers(message)


def _headers(message: Message) -> Headers:
    """Return a record's headers; the mark alone where a name is no UTF-8, which the client cannot give."""
    try:
        return tuple(_read_headers(message) or ())
    except (SystemError, UnicodeDecodeError):
        return ((UNREADABLE, None),)
