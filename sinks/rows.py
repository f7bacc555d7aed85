"""From a Kafka record to a row, or to the reason why it is none. Pure: the shells bring bytes and the time."""

import struct
from functools import lru_cache
from hashlib import sha256
from typing import Final

import msgspec

from pulsestream.core import topics
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from pulsestream.core.headers import replay_of
from schemas.codec import DATASET_RECORDS, codec
from schemas.errors import DecodeError
from schemas.records import Alert, Bar, DeadLetter, Event, Feed, Header, Record, Stat, Tick, Trade
from schemas.validate import check
from sinks.copy_binary import encode_row
from sinks.tables import BY_DATASET, FEEDS

MAX_FUTURE: Final = 5 * 60 * MICROS_PER_SECOND
"""How far after the present, in microseconds, a record's times may lie."""
_MESSAGE_LIMIT: Final = 500
"""Characters of a dead letter's message: what a driver or decoder says can quote the whole record."""


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """A record as the broker gave it; `appended_at` is the broker's time in microseconds."""

    topic: str
    partition: int
    offset: int
    appended_at: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Row(msgspec.Struct, frozen=True, gc=False):
    """A record that is fit to be stored: `encoded` is its row in binary COPY format; a feed has tenant ""."""

    dataset: str
    tenant: str
    record: Record
    encoded: bytes
    arrived: Arrived


class Removed(msgspec.Struct, frozen=True, gc=False):
    """The end of a feed's record: its row goes."""

    key: str
    arrived: Arrived


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A record that is not stored, with a stable code and a sentence that says why."""

    arrived: Arrived
    code: str
    message: str


Reading = Row | Removed | Refused


def read(arrived: Arrived, now: int) -> Reading:
    """Return the row of a record, or why it has none; `now` in microseconds bounds its times."""
    try:
        return _read_feed(arrived) if arrived.topic == topics.FEEDS else _read_tenant(arrived, now)
    except DecodeError as error:
        return Refused(arrived, error.code, str(error))
    except (ValueError, struct.error) as error:
        return Refused(arrived, "unencodable", f"a field is not what its column holds: {error}")


def time_ahead(record: Record, now: int) -> int | None:
    """Return the time of a record that lies too far after `now` to be true, or None; all in microseconds."""
    match record:
        case Tick() | Trade():
            latest = max(record.exchange_time, record.received_time)
        case Event():
            latest = max(record.time, record.received_time)
        case Bar():
            latest = max(record.start, record.received_time)
        case Stat() | Alert():
            latest = record.at
        case _:
            return None
    return latest if latest > now + MAX_FUTURE else None


def event_body(event: Event) -> bytes:
    """Return the hash of what makes two events the same: a time counts only if the client gave it.

    The edge puts its own receive time where the client gave none, so a client's retry has another one.
    """
    given = event.time if event.time != event.received_time else None
    return sha256(msgspec.json.encode((event.type, event.source, event.product, event.data, given))).digest()


def dead_letter(refused: Refused, first_seen: int) -> DeadLetter:
    """Return what goes to the dead-letter topic for a refused record; `first_seen` in microseconds."""
    arrived = refused.arrived
    letter_id, replays = replay_of(arrived.headers)
    return DeadLetter(
        reason=refused.code,
        message=_printable(refused.message),
        topic=arrived.topic,
        partition=arrived.partition,
        offset=arrived.offset,
        key=arrived.key,
        headers=[Header(name=name, value=value) for name, value in arrived.headers],
        value=arrived.value,
        first_seen=first_seen,
        replay_of=letter_id,
        replays=replays,
        appended_at=arrived.appended_at,
    )


def origin(arrived: Arrived) -> str:
    """Return where a record was read, as topic:partition:offset."""
    return f"{arrived.topic}:{arrived.partition}:{arrived.offset}"


def _read_tenant(arrived: Arrived, now: int) -> Reading:
    source = _source(arrived.topic)
    if source is None or source.dataset not in BY_DATASET:
        return Refused(arrived, "unknown_topic", f"topic {arrived.topic} holds nothing that is stored")
    record: Record = codec(DATASET_RECORDS[source.dataset]).decode(arrived.value)
    fault = check(record, source.dataset)
    if fault is not None:
        return Refused(arrived, fault.code, fault.message)
    ahead = time_ahead(record, now)
    if ahead is not None:
        return Refused(arrived, "time_out_of_range", f"time {format_rfc3339(ahead)} is more than 5 minutes from now")
    table = BY_DATASET[source.dataset]
    values = (source.tenant, *table.values(record), arrived.appended_at)
    return Row(source.dataset, source.tenant, record, encode_row(table.packers, values), arrived)


@lru_cache(maxsize=10_000)
def _source(topic: str) -> topics.TenantTopic | None:
    return topics.parse_tenant_topic(topic)


def _read_feed(arrived: Arrived) -> Reading:
    key = (arrived.key or b"").decode()
    if arrived.value is None:
        return Removed(key, arrived)
    feed = codec(Feed).decode(arrived.value)
    encoded = encode_row(FEEDS.packers, (key, *FEEDS.values(feed), arrived.appended_at))
    return Row("feeds", "", feed, encoded, arrived)


def _printable(message: str) -> str:
    return message[:_MESSAGE_LIMIT].encode(errors="backslashreplace").decode()
