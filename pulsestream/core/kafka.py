"""Kafka clients as this system uses them: one configuration, topic administration, the reader of compacted topics.

Offsets follow one convention everywhere: `next_offset` is the offset of the first record not yet processed.
"""

import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec  # type: ignore[attr-defined] # documented there, not in __all__
from confluent_kafka.cimpl import NewPartitions, NewTopic

from pulsestream.core.errors import OutageError, SettingsError
from pulsestream.core.settings import Settings

PARTITIONER: Final = "murmur2_random"
"""The Java clients' default partitioner, so that every client puts a key on the same partition."""

ADMIN_TIMEOUT: Final = 15.0
"""Seconds that an administrative request may take."""

Config = dict[str, str | int | float | bool]

QUIET: Final[Config] = {"log_level": 2}
"""Keeps librdkafka from writing to stderr beside somebody who reports errors, or an absent broker, in one place."""


class BrokerError(OutageError):
    """Kafka is away, refuses a request, or answered with an error."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should exist."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it exists. `topic_id` changes when a topic is deleted and made again under the same name."""

    name: str
    topic_id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """One record of a compacted topic; `value` None means deleted. `appended_at` is the broker's, in microseconds."""

    key: str
    value: bytes | None
    offset: int
    appended_at: int


def client_config(settings: Settings, client_id: str) -> Config:
    """Return the librdkafka configuration that every client of a process starts from; SettingsError without broker."""
    _require_broker(settings)
    config: Config = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security,
        "client.id": client_id,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2000,
    }
    if settings.kafka_security.startswith("SASL"):
        config |= {
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    if settings.kafka_ca_file is not None:
        config["ssl.ca.location"] = str(settings.kafka_ca_file)
    return config


def _require_broker(settings: Settings) -> None:
    if not settings.kafka_bootstrap:
        raise SettingsError(
            "no broker is named: set PULSESTREAM_KAFKA_BOOTSTRAP=host:port, or start everything with `pulsestream up`"
        )
    needs_user = settings.kafka_security.startswith("SASL")
    if needs_user and not (settings.kafka_username and settings.kafka_password.get_secret_value()):
        raise SettingsError(
            f"the broker's security is {settings.kafka_security}: set PULSESTREAM_KAFKA_USERNAME and"
            " PULSESTREAM_KAFKA_PASSWORD, or PULSESTREAM_KAFKA_SECURITY=PLAINTEXT"
        )


def tls(settings: Settings) -> ssl.SSLContext | None:
    """Return what an asyncio client of the broker needs for TLS; None without."""
    if settings.kafka_security != "SASL_SSL":
        return None
    return ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)


def producer_config(settings: Settings, client_id: str) -> Config:
    """Return the configuration of an idempotent producer whose record is acknowledged by all in-sync replicas."""
    return client_config(settings, client_id) | {
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": PARTITIONER,
        "linger.ms": 2,
        "compression.type": "lz4",
    }


class Admin:
    """Topic administration; each call is idempotent and raises BrokerError."""

    def __init__(self, settings: Settings, client_id: str = "ps-admin") -> None:
        # Its failures are raised: the client's own lines on stderr would say them again.
        config = client_config(settings, client_id) | {"log_level": 0, "error_cb": self._note}
        self.client = AdminClient(config)  # type: ignore[arg-type] # its type forgets callbacks
        self._refused = ""
        self._replication = settings.replication_factor

    def topics(self) -> dict[str, int]:
        """Return every topic that this user may see, with its number of partitions."""
        try:
            metadata = self.client.list_topics(timeout=ADMIN_TIMEOUT)
        except KafkaException as error:
            raise BrokerError(f"cannot list the topics: {self._why(error)}") from error
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}

    def describe(self, names: Collection[str], timeout: float = ADMIN_TIMEOUT) -> dict[str, TopicInfo]:
        """Return what the broker knows of these topics; a topic that does not exist is left out."""
        if not names:
            return {}
        described = self.client.describe_topics(TopicCollection(list(names)), request_timeout=timeout)
        found = {}
        for name, future in described.items():
            try:
                topic = future.result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise BrokerError(f"cannot describe topic {name}: {self._why(error)}") from error
            found[name] = TopicInfo(name, str(topic.topic_id), len(topic.partitions))
        return found

    def ends(self, partitions: Mapping[str, int], timeout: float = ADMIN_TIMEOUT) -> dict[str, dict[int, int]]:
        """Return the offset after the last committed record of each partition, given how many each topic has."""
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the library's own
        found: dict[str, dict[int, int]] = {topic: {} for topic in partitions}
        for place, future in self._offsets(partitions, latest, timeout).items():
            try:
                found[place.topic][place.partition] = future.result().offset
            except KafkaException as error:
                raise BrokerError(f"cannot read the end of {place.topic}: {self._why(error)}") from error
        return found

    def since(self, partitions: Mapping[str, int], at: int) -> dict[str, dict[int, int]]:
        """Return the offset of the first record of each partition that was appended at `at` (microseconds) or later.

        The end of a partition without one.
        """
        spec: OffsetSpec = OffsetSpec.for_timestamp(at // 1000)
        found = self.ends(partitions)
        for place, future in self._offsets(partitions, spec, ADMIN_TIMEOUT).items():
            try:
                offset = future.result().offset
            except KafkaException as error:
                raise BrokerError(f"cannot read the offsets of {place.topic}: {self._why(error)}") from error
            if offset >= 0:
                found[place.topic][place.partition] = offset
        return found

    def begins(self, partitions: Mapping[str, int], timeout: float = ADMIN_TIMEOUT) -> dict[str, dict[int, int]]:
        """Return the offset of the first record that is left of each partition, given how many each topic has.

        A topic is left out that is no more, or of which a partition has no leader at the moment.
        """
        earliest: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call] # likewise
        found: dict[str, dict[int, int]] = {topic: {} for topic in partitions}
        for place, future in self._offsets(partitions, earliest, timeout).items():
            try:
                offset = future.result().offset
            except KafkaException as error:
                if error.args[0].code() not in _ELECTING | {KafkaError.UNKNOWN_TOPIC_OR_PART}:
                    raise BrokerError(f"cannot read the beginning of {place.topic}: {self._why(error)}") from error
                found.pop(place.topic, None)
            else:
                if place.topic in found:
                    found[place.topic][place.partition] = offset
        return found

    def _offsets(
        self, partitions: Mapping[str, int], spec: OffsetSpec, timeout: float
    ) -> dict[TopicPartition, Future[ListOffsetsResultInfo]]:
        places = [TopicPartition(topic, number) for topic, count in partitions.items() for number in range(count)]
        if not places:
            return {}
        return self.client.list_offsets(
            dict.fromkeys(places, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=timeout,
        )

    def create(self, specs: Collection[TopicSpec]) -> list[str]:
        """Create the topics that do not exist yet and return their names; an existing one is left as it is."""
        wanted = [NewTopic(spec.name, spec.partitions, self._replication, config=dict(spec.config)) for spec in specs]
        if not wanted:
            return []
        created = []
        for name, future in self.client.create_topics(wanted, request_timeout=ADMIN_TIMEOUT).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue
                raise BrokerError(f"cannot create topic {name}: {self._why(error)}") from error
            created.append(name)
        return created

    def grow(self, name: str, partitions: int) -> bool:
        """Give a topic more partitions if it has fewer; returns whether it had."""
        known = self.describe([name]).get(name)
        if known is None or known.partitions >= partitions:
            return False
        wanted = [NewPartitions(name, partitions)]
        for future in self.client.create_partitions(wanted, request_timeout=ADMIN_TIMEOUT).values():
            try:
                future.result()
            except KafkaException as error:
                raise BrokerError(f"cannot give topic {name} {partitions} partitions: {self._why(error)}") from error
        return True

    def group_members(self, group: str) -> int:
        """Return how many members a consumer group has; 0 for one that nobody knows."""
        future = self.client.describe_consumer_groups([group], request_timeout=ADMIN_TIMEOUT)[group]
        try:
            return len(future.result().members)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise BrokerError(f"cannot describe group {group}: {self._why(error)}") from error

    def delete(self, names: Collection[str]) -> None:
        """Delete these topics; one that does not exist is passed over."""
        if not names:
            return
        for name, future in self.client.delete_topics(list(names), request_timeout=ADMIN_TIMEOUT).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise BrokerError(f"cannot delete topic {name}: {self._why(error)}") from error

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTHENTICATION:  # noqa: SLF001 - the client's own errors begin so
            self._refused = error.str()

    def _why(self, error: KafkaException) -> str:
        """Return the words for a failure; of a login that is refused the client itself says only that time ran out."""
        self.client.poll(0)  # calls `_note`
        refused, self._refused = self._refused, ""  # it is said again for as long as it is true
        if not refused:
            return reason(error)
        return f"{refused}: check PULSESTREAM_KAFKA_USERNAME and PULSESTREAM_KAFKA_PASSWORD"


class CompactedReader:
    """Reads a one-partition compacted topic from its beginning, without a consumer group, and follows it.

    `read_to_end` returns everything up to the end offset seen at the start; `poll` returns what came since.
    A record can show more than once over restarts: readers keep the one with the highest version.
    """

    def __init__(self, settings: Settings, topic: str, client_id: str) -> None:
        self.topic = topic
        self.next_offset = 0
        self._consumer = Consumer(
            client_config(settings, client_id)
            | QUIET
            | {
                "reconnect.backoff.ms": 500,  # the client's own comes to twenty attempts a second
                "group.id": f"{client_id}-unused",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "fetch.wait.max.ms": 50,
                "isolation.level": "read_committed",
                "enable.partition.eof": False,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])

    def read_to_end(self, timeout: float = 30.0) -> list[ControlRecord]:
        """Return the records up to the end seen now; raises BrokerError when that takes longer than `timeout` s."""
        end = self._end_offset()
        records: list[ControlRecord] = []
        waited = 0.0
        while self.position() < end:
            batch = self.poll(0.2)
            records += batch
            waited = 0.0 if batch else waited + 0.2
            if waited > timeout:
                raise BrokerError(f"topic {self.topic} stopped at offset {self.position()} of {end}: is the broker up?")
        return records

    def poll(self, timeout: float = 0.0) -> list[ControlRecord]:
        """Return the records that arrived, waiting up to `timeout` seconds for the first."""
        messages = self._consumer.consume(1, timeout)  # asked for more, it would wait for all of them
        messages += self._consumer.consume(499, 0) if messages else []
        return list(self._records(messages))

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _records(self, messages: list[Message]) -> Iterator[ControlRecord]:
        for message in messages:
            failure = message.error()
            if failure is not None:
                if failure.retriable() or failure.code() in _PASSING:
                    continue
                raise BrokerError(f"cannot read topic {self.topic}: {failure.str()}")
            offset = message.offset() or 0
            self.next_offset = offset + 1
            key = (message.key() or b"").decode("utf-8", "replace")
            yield ControlRecord(key, message.value(), offset, message.timestamp()[1] * 1000)

    def _end_offset(self) -> int:
        deadline = time.monotonic() + ADMIN_TIMEOUT
        while True:
            try:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=ADMIN_TIMEOUT)
            except KafkaException as error:
                if error.args[0].code() not in _ELECTING or time.monotonic() > deadline:
                    raise BrokerError(f"cannot read the end of topic {self.topic}: {reason(error)}") from error
                time.sleep(_ELECTION_PAUSE)
            else:
                return int(end)

    def position(self) -> int:
        """Return the offset up to which the topic has been read, records left out by compaction included."""
        position = self._consumer.position([TopicPartition(self.topic, 0)])[0].offset
        return max(self.next_offset, position)


_ELECTING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - confluent-kafka's own name: the partition has no leader yet
    }
)
_ELECTION_PAUSE: Final = 0.1
"""Seconds until a broker is asked again that does not lead a partition yet, or no more."""
_PASSING: Final = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})  # noqa: SLF001 - confluent-kafka's own names


def reason(error: KafkaException) -> str:
    """Return the broker's or client's own words for an exception."""
    cause = error.args[0]
    return f"{cause.str()} ({cause.name()})" if isinstance(cause, KafkaError) else str(error)
