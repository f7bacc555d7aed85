"""A compacted control topic as a table: the newest version of each record, by key, kept current.

Used by producers (subscriptions), streams (rules, feeds) and the api (products). `load` reads the topic whole;
`refresh` takes what came since and returns the changes. A record with a lower version than the one held is ignored.
"""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pulsestream.core.kafka import CompactedReader, ControlRecord
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings
from schemas.codec import RecordCodec, codec
from schemas.errors import DecodeError
from schemas.records import Feed, ProductList, Rule, Subscription, Tenant

C = TypeVar("C", Feed, ProductList, Rule, Subscription, Tenant)
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Change(Generic[C]):
    """A new version of a control record; `record` None means deleted. `appended_at` is the broker's time, micros."""

    key: str
    record: C | None
    appended_at: int


class ControlTable(Generic[C]):
    """The newest records of one control topic, by key. Not safe to share between threads."""

    def __init__(self, settings: Settings, topic: str, record_type: type[C], client_id: str) -> None:
        self.records: dict[str, C] = {}
        self._codec: RecordCodec[C] = codec(record_type)
        self._reader: _Reader = CompactedReader(settings, topic, client_id)

    def load(self) -> list[Change[C]]:
        """Read the topic to its present end; raises BrokerError."""
        return self._apply(self._reader.read_to_end())

    def refresh(self, timeout: float = 0.0) -> list[Change[C]]:
        """Take what has arrived, waiting up to `timeout` seconds for the first; raises BrokerError."""
        return self._apply(self._reader.poll(timeout))

    def position(self) -> int:
        """Return the offset of the topic up to which the table is current."""
        return self._reader.position()

    def close(self) -> None:
        """Leave the broker."""
        self._reader.close()

    def _apply(self, arrived: list[ControlRecord]) -> list[Change[C]]:
        changes = [self._decode(record) for record in arrived]
        return [change for change in changes if change is not None and self._take(change)]

    def _decode(self, arrived: ControlRecord) -> Change[C] | None:
        if arrived.value is None:
            return Change(arrived.key, None, arrived.appended_at)
        try:
            return Change(arrived.key, self._codec.decode(arrived.value), arrived.appended_at)
        except DecodeError as error:
            _log.error("control record skipped", key=arrived.key, offset=arrived.offset, reason=str(error))
            return None

    def _take(self, change: Change[C]) -> bool:
        if change.record is None:
            return self.records.pop(change.key, None) is not None
        held = self.records.get(change.key)
        if held is not None and held.version > change.record.version:
            return False
        self.records[change.key] = change.record
        return True


class _Reader(Protocol):
    def read_to_end(self) -> list[ControlRecord]: ...
    def poll(self, timeout: float) -> list[ControlRecord]: ...
    def position(self) -> int: ...
    def close(self) -> None: ...
