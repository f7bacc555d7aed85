"""Publishes where the chains end, in the background of the relay, so that an edit of the whole table shows.

The topic is compacted: it keeps the last end of each tenant. What it holds is compared first, and an end that does not
fit is told (log, metric) and never covered by a newer one.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Final

import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from api.audit.heads import Misfit, PublishedHead, encode, misfits, newest, news
from api.relay_database import Connection, connect, fetch_all
from pulsestream.core.errors import PulseStreamError
from pulsestream.core.kafka import BrokerError, CompactedReader, producer_config
from pulsestream.core.log import logger
from pulsestream.core.metrics import AUDIT_MISFITS
from pulsestream.core.settings import Settings
from pulsestream.core.topics import AUDIT_HEADS

FIRST: Final = 60.0
"""Seconds until the first look, at most: a relay that is started again and again publishes, too."""
_CONFIRM_WITHIN: Final = 30.0
_CLIENT: Final = "ps-relay-heads"
_log = logger(__name__)


class HeadSchedule:
    """The thread; it ends when `stop` is set, after what it is at."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        target = partial(copy_context().run, self._run)  # so that its log says which process it is
        self._thread = threading.Thread(target=target, name="audit heads", daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    def _run(self) -> None:
        every = self._settings.audit_heads_interval
        wait = min(FIRST, every)
        while not self._stop.wait(wait):
            try:
                with connect(self._settings, "pulsestream-audit-heads") as connection:
                    publish_heads(self._settings, connection)
                wait = every
            except (PulseStreamError, psycopg.Error):
                _log.exception("ends of the audit are not published, and will be tried again", seconds=wait)


def publish_heads(settings: Settings, connection: Connection) -> Sequence[Misfit]:
    """Compare the chains with the ends that were published, publish what is new, and return what does not fit.

    Raises BrokerError.
    """
    published = published_heads(settings)
    ends = _ends(connection)
    wrong = list(misfits(published, ends, _held(connection, published)))
    AUDIT_MISFITS.set(len(wrong))
    for misfit in wrong:
        _log.error(
            "an audit is not the one whose end was published", tenant=misfit.published.tenant, reason=misfit.reason
        )
    new = news(published, ends, wrong)
    _send(settings, {head.tenant: encode(head) for head in new})
    if new:
        _log.info("ends of the audit published", tenants=len(new))
    return wrong


def accept(settings: Settings, connection: Connection, tenant: str) -> PublishedHead | None:
    """Publish where a tenant's chain ends now, whatever was published before; returns it, None where there is no chain.

    For what is known: a database that was restored from a backup. Raises BrokerError.
    """
    end = _ends(connection).get(tenant)
    _send(settings, {tenant: None if end is None else encode(end)})
    return end


def published_heads(settings: Settings) -> dict[str, PublishedHead]:
    """Return the last published end of each tenant's chain; raises BrokerError."""
    reader = CompactedReader(settings, AUDIT_HEADS, _CLIENT)
    try:
        return newest((record.key, record.value) for record in reader.read_to_end())
    except ValueError as error:
        raise BrokerError(f"topic {AUDIT_HEADS} holds a record that is no end of an audit: {error}") from error
    finally:
        reader.close()


def _ends(connection: Connection) -> dict[str, PublishedHead]:
    return {row["tenant"]: PublishedHead(**row) for row in fetch_all(connection, "list_audit_heads")}


def _held(connection: Connection, published: dict[str, PublishedHead]) -> dict[str, str | None]:
    named = {"tenants": [*published], "seqs": [head.seq for head in published.values()]}
    return {row["tenant"]: row["hash"] for row in fetch_all(connection, "audit_hashes_at", **named)}


def _send(settings: Settings, records: Mapping[str, bytes | None]) -> None:
    if not records:
        return
    failures: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    config = producer_config(settings, _CLIENT) | {"message.timeout.ms": int(_CONFIRM_WITHIN * 1000)}
    producer = Producer(config, logger=logging.getLogger(__name__))
    try:
        for tenant, value in records.items():
            producer.produce(AUDIT_HEADS, value, tenant.encode(), on_delivery=on_delivery)
            producer.poll(0)
    except (KafkaException, BufferError) as error:
        raise BrokerError(f"topic {AUDIT_HEADS} does not take the ends of the audit: {error}") from error
    left = producer.flush(_CONFIRM_WITHIN + 1)
    if failures or left:
        why = failures[0].str() if failures else "no answer"
        raise BrokerError(
            f"topic {AUDIT_HEADS} does not take the ends of the audit: {why}. Is it there? "
            "`pulsestream migrate` makes it"
        )
