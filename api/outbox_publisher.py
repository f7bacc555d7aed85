"""Carries the outbox to the control topics, in order, and marks each row once the broker has its record.

Where an acknowledgement may have been lost, by a crash or a broker's outage, a row is published again, which readers
ignore by its version. Rules are the exception: their append time is when they take effect, so what is on the topic
already is looked up first and not appended a second time.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

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
_SLICE: Final = 0.25
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

    def __init__(self, settings: Settings, connection: Connection, stop: threading.Event) -> None:
        self._stop = stop
        self._settings = settings
        self._connection = connection
        self._failure: str | None = None
        self._unsure = True
        self._fatal: KafkaError | None = None
        self._producer = Producer(
            producer_config(settings, "ps-relay")
            | {"message.timeout.ms": int(CONFIRM_WITHIN * 1000), "linger.ms": 0, "error_cb": self._on_error},
            logger=logging.getLogger(__name__),
        )

    def problem(self) -> str | None:
        """Return why the outbox stands still, or None; for readiness."""
        return self._failure

    def publish(self) -> int:
        """Publish what waits, up to BATCH records, and return how many are confirmed; fewer when the broker fails.

        Raises BrokerError when the producer cannot go on.
        """
        limit = 2 * BATCH if self._unsure else BATCH  # a row committed late must not hide one that was sent
        waiting = self._waiting(limit)
        OUTBOX_PENDING.set(len(waiting) if len(waiting) < limit else self._count())
        confirmed = self._confirm(waiting)
        if confirmed:
            self._mark(confirmed)
        OUTBOX_PENDING.dec(len(confirmed))
        return len(confirmed)

    def _confirm(self, waiting: Sequence[OutboxRow]) -> list[Confirmed]:
        if not self._unsure:
            return self._send(waiting)
        try:
            settled = self._settled(waiting)
        except BrokerError as error:
            self._note_failure(f"the control topics cannot be read: {error}")
            return []
        self._unsure = False
        if settled:
            _log.info("rules were published already", rows=[done.row.id for done in settled])
            return settled
        return self._send(waiting)

    def _settled(self, waiting: Sequence[OutboxRow]) -> list[Confirmed]:
        """Return the rules that this process, or one before it, published without learning of it."""
        rules = [row for row in waiting if row.topic == RULES and row.value is not None]
        return already_published(rules, self._rules_on_topic()) if rules else []

    def prune(self) -> int:
        """Delete rows that were published more than a day ago."""
        return execute(self._connection, "prune_outbox")

    def _send(self, rows: Sequence[OutboxRow]) -> list[Confirmed]:
        reports = [self._produce(row) for row in rows]
        if self._unconfirmed_after(CONFIRM_WITHIN + _MARGIN):
            self._producer.purge()  # nothing of this attempt may arrive after the next one
            self._producer.flush(_MARGIN)
        if self._fatal is not None:
            raise BrokerError(f"the relay's producer cannot go on: {self._fatal.str()} ({self._fatal.name()})")
        confirmed: list[Confirmed] = []
        for row, report in zip(rows, reports, strict=True):
            if report.error is not None or report.appended_at is None:
                self._note_failure(f"row {row.id} for {row.topic}: {_words(report.error)}")
                return confirmed
            confirmed.append(Confirmed(row, report.appended_at))
        self._failure = None
        return confirmed

    def _unconfirmed_after(self, seconds: float) -> bool:
        """Wait for delivery reports, until the process is to stop; returns whether some are missing."""
        for _ in range(int(seconds / _SLICE)):
            if not self._producer.flush(_SLICE):
                return False
            if self._stop.is_set():
                break
        return True

    def _produce(self, row: OutboxRow) -> _Report:
        report = _Report()

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            report.error = error
            report.appended_at = None if error else message.timestamp()[1] * 1000

        try:
            self._producer.produce(row.topic, row.value, row.key.encode(), on_delivery=on_delivery)
        except KafkaException as error:
            report.error = error.args[0]
        return report

    def _note_failure(self, reason: str) -> None:
        self._unsure = True
        self._failure = f"the outbox cannot be published: {reason}"
        _log.warning("outbox not published", reason=reason)

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


def _words(error: KafkaError | None) -> str:
    return "no delivery report" if error is None else f"{error.str()} ({error.name()})"


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
