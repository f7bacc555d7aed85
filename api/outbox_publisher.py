"""Carries the outbox to the control topics, in order, and marks each row once the broker has its record.

After a crash between the broker's acknowledgement and the mark, a row is published again, which readers ignore by its
version. Rules are the exception: their append time is when they take effect, so what is on the topic already is looked
up first and not appended a second time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from api.relay_database import Connection, execute, fetch_all, fetch_one
from pulsestream.core.clock import to_datetime
from pulsestream.core.kafka import BrokerError, CompactedReader, producer_config
from pulsestream.core.log import logger
from pulsestream.core.metrics import OUTBOX_PENDING
from pulsestream.core.settings import Settings
from pulsestream.core.topics import RULES
from schemas.codec import codec
from schemas.records import Rule

BATCH: Final = 500
CONFIRM_WITHIN: Final = 10.0
"""Seconds after which a record without a delivery report is sent again."""
_MARGIN: Final = 5.0
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A control record that waits to be published."""

    id: int
    topic: str
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A row whose record is on its topic; `appended_at` is the broker's time in microseconds, None if not known."""

    row: OutboxRow
    appended_at: int | None


@dataclass(slots=True)
class _Report:
    error: KafkaError | None = None
    appended_at: int | None = None


class OutboxPublisher:
    """Publishes what waits. Used by one thread, on the connection that holds the relay's lock."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._failure: str | None = None
        self._fatal: KafkaError | None = None
        self._producer = Producer(
            producer_config(settings, "ps-relay")
            | {"message.timeout.ms": int(CONFIRM_WITHIN * 1000), "linger.ms": 0, "error_cb": self._on_error}
        )

    def problem(self) -> str | None:
        """Return why the outbox stands still, or None; for readiness."""
        return self._failure

    def settle(self) -> int:
        """Mark rules that a predecessor published without marking them; returns how many. Raises BrokerError."""
        waiting = [row for row in self._waiting(BATCH * 100) if row.topic == RULES]
        if not waiting:
            return 0
        settled = list(already_published(waiting, self._rules_on_topic()))
        self._mark(settled)
        return len(settled)

    def publish(self) -> int:
        """Publish what waits, up to BATCH records, and return how many are confirmed; fewer when the broker fails."""
        waiting = self._waiting(BATCH)
        OUTBOX_PENDING.set(len(waiting) if len(waiting) < BATCH else self._count())
        if not waiting:
            self._failure = None
            return 0
        confirmed = self._send(waiting)
        self._mark(confirmed)
        OUTBOX_PENDING.dec(len(confirmed))
        return len(confirmed)

    def prune(self) -> int:
        """Delete rows that were published more than a day ago."""
        return execute(self._connection, "prune_outbox")

    def _send(self, rows: Sequence[OutboxRow]) -> list[Confirmed]:
        reports = [self._produce(row) for row in rows]
        if self._producer.flush(CONFIRM_WITHIN + _MARGIN):
            self._producer.purge()  # nothing of this attempt may arrive after the next one
            self._producer.flush(_MARGIN)
        if self._fatal is not None:
            raise BrokerError(f"the relay's producer cannot go on: {self._fatal.str()} ({self._fatal.name()})")
        confirmed: list[Confirmed] = []
        for row, report in zip(rows, reports, strict=True):
            if report.error is not None or report.appended_at is None:
                self._note_failure(row, report.error)
                return confirmed
            confirmed.append(Confirmed(row, report.appended_at))
        self._failure = None
        return confirmed

    def _produce(self, row: OutboxRow) -> _Report:
        report = _Report()

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            report.error = error
            report.appended_at = None if error else message.timestamp()[1] * 1000

        self._producer.produce(row.topic, row.value, row.key.encode(), on_delivery=on_delivery)
        return report

    def _note_failure(self, row: OutboxRow, error: KafkaError | None) -> None:
        reason = "no delivery report" if error is None else f"{error.str()} ({error.name()})"
        self._failure = f"outbox row {row.id} cannot be published to {row.topic}: {reason}"
        _log.warning("outbox not published", row=row.id, topic=row.topic, reason=reason)

    def _mark(self, confirmed: Sequence[Confirmed]) -> None:
        with self._connection.transaction():
            execute(self._connection, "mark_published", ids=[done.row.id for done in confirmed])
            for done in confirmed:
                if done.row.topic == RULES and done.row.value is not None and done.appended_at is not None:
                    self._mark_effective(codec(Rule).decode(done.row.value), to_datetime(done.appended_at))

    def _mark_effective(self, rule: Rule, effective_at: datetime) -> None:
        execute(
            self._connection,
            "mark_effective",
            tenant=rule.tenant,
            rule_id=rule.rule_id,
            version=rule.version,
            effective_at=effective_at,
        )

    def _rules_on_topic(self) -> list[tuple[Rule, int]]:
        reader = CompactedReader(self._settings, RULES, "ps-relay-settle")
        try:
            records = reader.read_to_end()
        finally:
            reader.close()
        return [(codec(Rule).decode(record.value), record.appended_at) for record in records if record.value]

    def _waiting(self, limit: int) -> list[OutboxRow]:
        return [OutboxRow(**row) for row in fetch_all(self._connection, "waiting_outbox", limit=limit)]

    def _count(self) -> int:
        return int(fetch_one(self._connection, "count_outbox")["waiting"])

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error


def already_published(waiting: Iterable[OutboxRow], on_topic: Iterable[tuple[Rule, int]]) -> list[Confirmed]:
    """Return the waiting rules that are on the topic, or were, before a newer version of theirs took their place.

    `on_topic` holds the topic's rules with their append times, oldest first. A version that the topic has passed must
    not be appended again: as the key's last record it would outlive the newer one in compaction.
    """
    first: dict[tuple[str, int], int] = {}
    newest: dict[str, int] = {}
    for rule, appended_at in on_topic:
        first.setdefault((rule.rule_id, rule.version), appended_at)
        newest[rule.rule_id] = max(rule.version, newest.get(rule.rule_id, 0))
    found = []
    for row in waiting:
        rule = codec(Rule).decode(row.value)
        if rule.version <= newest.get(rule.rule_id, 0):
            found.append(Confirmed(row, first.get((rule.rule_id, rule.version))))
    return found
