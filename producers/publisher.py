"""Market data to every subscribed tenant's topic, encoded once, with an account of each copy's fate.

One idempotent Kafka producer; every method runs on the event loop's thread, and delivery reports are served by `poll`.
A full buffer holds the caller up to a bound (back pressure); after that a record is counted as failed, and its loss is
written down or, for a trade, handed back to be fetched again. What follows from a copy's fate is decided in
`producers.lanes`; here is the client around it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from producers.accounting import Account, Delivered
from producers.lanes import (
    Failure,
    GapRecorder,
    Lane,
    Lanes,
    Limits,
    MarketRecord,
    Parcel,
    Reach,
    Routes,
    TradeListener,
)
from producers.ledger import Scope
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, wall_clock
from pulsestream.core.headers import cloud_event
from pulsestream.core.kafka import BrokerError, producer_config
from pulsestream.core.log import logger
from pulsestream.core.metrics import SOCKET_TO_ACK
from pulsestream.core.settings import Settings
from schemas.codec import codec
from schemas.records import Bar, Tick, Trade

__all__ = ["GapRecorder", "Limits", "MarketRecord", "Publisher", "Routes", "TradeListener"]

BACKFILL_HEADER: Final = ("ps-backfill", b"1")
"""Marks a record that was fetched later: it changes no statistics and notifies nobody."""
CONTROL_ROOM: Final = 1_000
"""Records of the client's queue that market data leaves free for the ledger."""
QUEUE_KILOBYTES: Final = 256 * 1024
MESSAGE_TIMEOUT_MS: Final = 300_000
"""A record that the broker has not taken by then counts as failed."""
METADATA_REFRESH_MS: Final = 5_000
SILENT_AFTER: Final = 10.0
"""Seconds without an acknowledgement, while records wait, that count as trouble with the broker."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two log lines about a broker that is away: the client tries several times a second."""

_RETRY_PAUSE: Final = 0.01
_TOPIC_CAUSES: Final = {
    KafkaError._UNKNOWN_TOPIC: "topic_missing",  # noqa: SLF001 - confluent-kafka's own name
    KafkaError._UNKNOWN_PARTITION: "topic_missing",  # noqa: SLF001 - likewise
    KafkaError.UNKNOWN_TOPIC_OR_PART: "topic_missing",
    KafkaError.UNKNOWN_TOPIC_ID: "topic_missing",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic_refused",
    KafkaError.TOPIC_EXCEPTION: "topic_refused",
    KafkaError.POLICY_VIOLATION: "topic_refused",
}
_RECORD_CODES: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG})
_CAUSES: Final = {
    KafkaError._PURGE_QUEUE: "stopped",  # noqa: SLF001 - likewise
    KafkaError._PURGE_INFLIGHT: "stopped",  # noqa: SLF001 - likewise
    KafkaError._MSG_TIMED_OUT: "timed_out",  # noqa: SLF001 - likewise
}
_log = logger(__name__)

Done = Callable[[KafkaError | None], None]
_Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of record is published. `time`: the field with its event time."""

    dataset: str
    type: str
    time: str
    encode: Callable[[Any], bytes]  # Any: each codec takes its own kind of record


def _kinds() -> dict[type[MarketRecord], _Kind]:
    return {
        Tick: _Kind("ticks", "pulsestream.tick.v1", "exchange_time", codec(Tick).encode),
        Trade: _Kind("trades", "pulsestream.trade.v1", "exchange_time", codec(Trade).encode),
        Bar: _Kind("bars", "pulsestream.bar.v1", "start", codec(Bar).encode),
    }


class Publisher:
    """Sends market data, and control records on behalf of the ledger; keeps account of both."""

    def __init__(
        self,
        settings: Settings,
        gaps: GapRecorder,
        limits: Limits,
        *,
        trades: TradeListener | None = None,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.control_account = Account()
        self._lanes = Lanes(settings.exchange, gaps, limits, trades, clock=clock, monotonic=monotonic)
        self._kinds = _kinds()
        self._source = f"/{settings.exchange}"
        self._latency = SOCKET_TO_ACK.labels(settings.exchange)
        self._block = limits.block
        self._clock = clock
        self._monotonic = monotonic
        self._waiting: set[Parcel] = set()
        self._complain_at = monotonic()
        self._acknowledged_before = 0
        self._acknowledged_then = 0
        self._answered_at = monotonic()
        self._fatal: KafkaError | None = None
        self._producer = Producer(
            _config(settings, limits) | {"error_cb": self._on_error}, logger=logging.getLogger("librdkafka")
        )

    @property
    def account(self) -> Account:
        """The account of market data, by copy."""
        return self._lanes.account

    @property
    def delivered(self) -> dict[str, Delivered]:
        """The newest tick of each product that some tenant has."""
        return self._lanes.delivered

    @property
    def is_accepting(self) -> bool:
        """Whether more than a trickle can be published: nothing overflows, and the broker answers."""
        return not self._lanes.overflowing and self.problem() is None

    def route(self, wanted: Routes) -> None:
        """Change who gets what: dataset (ticks, trades, bars) -> product -> tenants."""
        self._lanes.route(wanted)

    def inherit(self, scopes: Iterable[Scope]) -> None:
        """Take over intervals that an earlier process left open: the next delivery closes them."""
        self._lanes.inherit(scopes)

    async def publish(self, record: MarketRecord, *, backfill: bool = False) -> None:
        """Send a record to every tenant subscribed to it; waits while the buffer is full, up to the bound.

        Several tasks may publish at a time. Never raises for a copy that fails: the account and the listener tell.
        """
        kind = self._kinds[type(record)]
        lanes = self._lanes.wanted_by(kind.dataset, record.product)
        if not lanes:
            self._lanes.unwanted(record)
            return
        parcel = self._lanes.offer(kind.dataset, record)
        value = kind.encode(record)
        headers = self._headers(kind, record, backfill=backfill)
        sent = 0
        try:
            while sent < len(lanes):
                room = self._lanes.room() or await self._room(parcel)
                if not room:
                    break
                part = lanes[sent : sent + room]
                sent += len(part)
                self._send(parcel, part, value, headers)
        finally:
            if sent < len(lanes):
                oldest = min((other.received_time for other in self._waiting), default=parcel.received_time)
                self._lanes.overflow(parcel, lanes[sent:], oldest, partly=sent > 0)
        self.poll()

    def send(self, topic: str, key: str, value: bytes | None, done: Done) -> bool:
        """Send a control record (None deletes its key); `done` gets its fate.

        False when the client has no room: try again later.
        """
        account = self.control_account

        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                account.acknowledged += 1
            else:
                account.fail(error.name())
            done(error)

        try:
            self._producer.produce(topic, value, key.encode(), on_delivery=report)
        except BufferError:
            return False
        except KafkaException as error:
            account.produced += 1
            account.fail(error.args[0].name())
            done(error.args[0])
            return True
        account.produced += 1
        return True

    def poll(self) -> None:
        """Serve delivery reports; raises BrokerError when the client can never send again."""
        self._producer.poll(0)
        self._lanes.served()
        if self._fatal is not None:
            raise BrokerError(f"the Kafka producer has failed for good: {self._fatal.str()}")

    def tend(self) -> None:
        """Once a second: hold tenants whose topic is stuck while the broker answers others, and release them."""
        acknowledged = self._acknowledged()
        answered, self._acknowledged_before = acknowledged != self._acknowledged_before, acknowledged
        self._silent_seconds()
        self._lanes.tend(answered=answered)

    def parked(self) -> dict[str, str]:
        """Return who gets nothing at present, as `tenant dataset`, with the cause."""
        return self._lanes.parked()

    def problem(self) -> str | None:
        """Return why nothing is acknowledged although records wait, or None."""
        silent = self._silent_seconds()
        if silent < SILENT_AFTER:
            return None
        return f"the broker has acknowledged nothing for {silent:.0f} s while {self._in_flight()} records wait"

    def complete_until(self) -> int | None:
        """Return the received_time up to which everything is acknowledged or written down as lost; None before any."""
        return self._lanes.complete_until()

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is acknowledged or failed; what remains after `seconds` is dropped and counted."""
        await self._until_settled(seconds if self._fatal is None else 0.0)
        settled = not self._in_flight()
        if not settled:
            self._producer.purge()
            await self._until_settled(seconds=1.0)
        self._lanes.measure()
        return settled

    async def _until_settled(self, seconds: float) -> None:
        deadline = self._monotonic() + seconds
        while self._in_flight() and self._monotonic() < deadline:
            self._producer.poll(0)
            self._lanes.served()
            await asyncio.sleep(_RETRY_PAUSE)

    def _silent_seconds(self) -> float:
        """Return for how long records have waited while none was acknowledged, as far as anybody asked."""
        now, acknowledged = self._monotonic(), self._acknowledged()
        if acknowledged != self._acknowledged_then or not self._in_flight():
            self._acknowledged_then, self._answered_at = acknowledged, now
        return now - self._answered_at

    def _acknowledged(self) -> int:
        return self.account.acknowledged + self.control_account.acknowledged

    def _in_flight(self) -> int:
        return self.account.pending + self.control_account.pending

    def _headers(self, kind: _Kind, record: MarketRecord, *, backfill: bool) -> _Headers:
        headers: _Headers = [*cloud_event(record.event_id, kind.type, self._source, getattr(record, kind.time))]
        if backfill:
            headers.append(BACKFILL_HEADER)
        return headers

    async def _room(self, parcel: Parcel) -> int:
        """Wait for room; returns 0 when the bound has passed, and at once while records are being lost."""
        deadline = self._monotonic() + (0.0 if self._lanes.overflowing else self._block)
        self._waiting.add(parcel)
        try:
            while True:
                self.poll()
                room = self._lanes.room()
                if room or self._monotonic() >= deadline:
                    return room
                await asyncio.sleep(_RETRY_PAUSE)
        finally:
            self._waiting.discard(parcel)

    def _send(self, parcel: Parcel, lanes: Sequence[Lane], value: bytes, headers: _Headers) -> None:
        """Hand copies to the client; one report function serves them all, each copy tells by its topic whose it is."""
        self.account.produced += len(lanes)
        key = parcel.product.encode()
        report = partial(self._report, parcel, (self._clock() - parcel.received_time) / MICROS_PER_SECOND)
        produce = self._producer.produce
        for lane in lanes:
            if lane.held is not None and not self._lanes.admits(lane, parcel):
                continue
            try:
                produce(lane.topic, value, key, headers=headers, on_delivery=report)
            except BufferError:
                self._lanes.failed(parcel, lane.topic, _failure(KafkaError(KafkaError._QUEUE_FULL)))  # noqa: SLF001
            except KafkaException as error:
                self._failed(parcel, lane.topic, error.args[0])

    def _report(self, parcel: Parcel, handed: float, error: KafkaError | None, message: Message) -> None:
        """Take the fate of one copy. `handed`: seconds from the record's receipt until the client had it."""
        topic = message.topic() or ""
        if error is not None:
            self._failed(parcel, topic, error)
        elif self._lanes.acknowledged(parcel, topic):
            self._latency.observe(max(0.0, handed + (message.latency() or 0.0)))

    def _failed(self, parcel: Parcel, topic: str, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        self._lanes.failed(parcel, topic, _failure(error))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        now = self._monotonic()
        if now >= self._complain_at:
            _log.warning("broker trouble", reason=error.str(), code=error.name())
            self._complain_at = now + COMPLAIN_EVERY


def _failure(error: KafkaError) -> Failure:
    code, name = error.code(), error.name()
    if code in _TOPIC_CAUSES:
        return Failure(name, _TOPIC_CAUSES[code], Reach.TOPIC)
    reach = Reach.RECORD if code in _RECORD_CODES else Reach.ALL
    return Failure(name, _CAUSES.get(code, name.strip("_").lower()), reach)


def _config(settings: Settings, limits: Limits) -> dict[str, object]:
    return {
        **producer_config(settings, "ps-producer"),
        "queue.buffering.max.messages": limits.records + CONTROL_ROOM,
        "queue.buffering.max.kbytes": QUEUE_KILOBYTES,
        "log_level": 2,  # everything less comes to the error callback, or again in delivery reports
        "message.timeout.ms": MESSAGE_TIMEOUT_MS,
        "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
        "topic.metadata.propagation.max.ms": int(limits.topic_patience * 1000),
    }
