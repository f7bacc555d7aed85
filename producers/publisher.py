"""Ticks to every subscribed tenant's topic, encoded once, with an account of each record's fate.

One idempotent Kafka producer; every method runs on the event loop's thread, and delivery reports are served by `poll`.
A full buffer holds the caller up to a bound (back pressure); after that a tick is counted as failed and an interval
is opened in the ledger. A tenant whose topic is missing, refused or stuck is held, alone; a probe tick every few
seconds finds out when its topic takes records again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from producers.accounting import Account, Delivered
from producers.ledger import BUFFER, Scope
from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.headers import cloud_event
from pulsestream.core.kafka import BrokerError, producer_config
from pulsestream.core.log import logger
from pulsestream.core.metrics import PUBLISH_FAILED, PUBLISH_PARKED, PUBLISH_PENDING, PUBLISHED
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.records import Tick

TICK_TYPE: Final = "pulsestream.tick.v1"
CONTROL_ROOM: Final = 1_000
"""Records of the client's queue that ticks leave free for the ledger."""
QUEUE_KILOBYTES: Final = 256 * 1024
MESSAGE_TIMEOUT_MS: Final = 300_000
"""A record that the broker has not taken by then counts as failed."""
METADATA_REFRESH_MS: Final = 5_000
SILENT_AFTER: Final = 10.0
"""Seconds without an acknowledgement, while records wait, that count as trouble with the broker."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two log lines about a broker that is away: the client tries several times a second."""
STUCK_AFTER: Final = 5
"""Seconds without any acknowledgement, with a quarter of the buffer waiting, after which a topic counts as stuck."""

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
_CAUSES: Final = {
    KafkaError._PURGE_QUEUE: "stopped",  # noqa: SLF001 - likewise
    KafkaError._PURGE_INFLIGHT: "stopped",  # noqa: SLF001 - likewise
    KafkaError._MSG_TIMED_OUT: "timed_out",  # noqa: SLF001 - likewise
}
_log = logger(__name__)

Done = Callable[[KafkaError | None], None]
_Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a publisher: records it holds, and seconds it waits.

    `block`: how long a full buffer holds up the caller. `topic_patience`: how long a topic may be unknown before its
    tenant is parked. `probe_every`: how often a parked tenant's topic is tried.
    """

    records: int = 50_000
    block: float = 10.0
    topic_patience: float = 30.0
    probe_every: float = 5.0


class GapRecorder(Protocol):
    """Where losses are written down; `producers.ledger.Ledger` is one."""

    def open(self, scope: Scope, opened: int, cause: str) -> None:
        """Open an interval in which records are missing, unless one is open for the scope."""

    def close(self, scope: Scope, closed: int) -> None:
        """Close what is open for the scope."""


class _Lane:
    """One tenant's ticks topic, and what is on its way there, oldest first."""

    __slots__ = (
        "acked",
        "acked_before",
        "failing",
        "held",
        "idle",
        "inherited",
        "pending",
        "probe",
        "probe_at",
        "tenant",
        "topic",
    )

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.topic = tenant_topic(tenant, "ticks")
        self.pending: deque[_Copy] = deque()
        self.acked = 0
        self.acked_before = 0
        self.idle = 0
        self.held: str | None = None
        self.probe: _Copy | None = None
        self.probe_at = 0.0
        self.inherited = False
        self.failing: dict[str, int] = {}

    def oldest(self, otherwise: int) -> int:
        return self.pending[0].tick.received_time if self.pending else otherwise


class _Copy:
    """One tick on its way to one tenant; called by the client with its delivery report."""

    __slots__ = ("_report", "done", "lane", "tick")

    def __init__(self, lane: _Lane, tick: Tick, report: "Callable[[_Copy, KafkaError | None], None]") -> None:
        self.lane = lane
        self.tick = tick
        self.done = False
        self._report = report

    def __call__(self, error: KafkaError | None, _: Message) -> None:
        self._report(self, error)


class Publisher:
    """Sends ticks, and control records on behalf of the ledger; keeps account of both."""

    def __init__(
        self,
        settings: Settings,
        gaps: GapRecorder,
        limits: Limits,
        *,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.account = Account()
        self.control_account = Account()
        self.delivered: dict[str, Delivered] = {}
        self._exchange = settings.exchange
        self._source = f"/{settings.exchange}"
        self._published = PUBLISHED.labels(settings.exchange)
        self._gaps = gaps
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._encode = codec(Tick).encode
        self._lanes: dict[str, _Lane] = {}
        self._routes: dict[str, tuple[_Lane, ...]] = {}
        self._overflowing = False
        self._complain_at = monotonic()
        self._acknowledged_before = 0
        self._answered_at = monotonic()
        self._fatal: KafkaError | None = None
        self._publishing: int | None = None
        self._newest_acknowledged: int | None = None
        self._producer = Producer(
            _config(settings, limits) | {"error_cb": self._on_error}, logger=logging.getLogger("librdkafka")
        )

    def route(self, tenants_of: Mapping[str, Collection[str]]) -> None:
        """Change who gets what: product -> tenants."""
        for tenant in {tenant for subscribed in tenants_of.values() for tenant in subscribed}:
            if tenant not in self._lanes:
                self._lanes[tenant] = _Lane(tenant)
        self._routes = {
            product: tuple(self._lanes[tenant] for tenant in sorted(subscribed))
            for product, subscribed in tenants_of.items()
        }
        self._forget_unrouted()

    def inherit(self, scopes: Iterable[Scope]) -> None:
        """Take over intervals that an earlier process left open: the next delivery closes them."""
        for scope in scopes:
            if scope.tenant is not None:
                self._inherit(scope, self._lanes.get(scope.tenant))
        self._forget_unrouted()

    def _inherit(self, scope: Scope, lane: _Lane | None) -> None:
        if lane is None:
            self._gaps.close(scope, self._clock())
        elif scope.product is None:
            lane.inherited = True
        else:
            lane.failing[scope.product] = 0

    async def publish(self, tick: Tick) -> None:
        """Send a tick to every tenant subscribed to its product; waits while the buffer is full, up to the bound."""
        lanes = self._routes.get(tick.product)
        if not lanes:
            return
        value = self._encode(tick)
        headers: _Headers = [*cloud_event(tick.event_id, TICK_TYPE, self._source, tick.exchange_time)]
        self._publishing = tick.received_time
        unsent = deque(lanes)
        try:
            while unsent:
                if self._is_full() and not await self._room():
                    break
                self._send(unsent.popleft(), tick, value, headers)
        finally:
            if unsent:
                self._overflow(tick, len(unsent))
            self._publishing = None
        self.poll()

    def send(self, topic: str, key: str, value: bytes, done: Done) -> bool:
        """Send a control record; `done` gets its fate. False when the client has no room: try again later."""
        account = self.control_account

        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                account.acknowledged += 1
            else:
                account.failed[error.name()] += 1
            done(error)

        try:
            self._producer.produce(topic, value, key.encode(), on_delivery=report)
        except BufferError:
            return False
        except KafkaException as error:
            account.produced += 1
            account.failed[error.args[0].name()] += 1
            done(error.args[0])
            return True
        account.produced += 1
        return True

    def poll(self) -> None:
        """Serve delivery reports; raises BrokerError when the client can never send again."""
        self._producer.poll(0)
        if self._fatal is not None:
            raise BrokerError(f"the Kafka producer has failed for good: {self._fatal.str()}")

    def tend(self) -> None:
        """Once a second: hold tenants whose topic is stuck while the broker answers others, and release them."""
        acknowledged = self.account.acknowledged + self.control_account.acknowledged
        answered, self._acknowledged_before = acknowledged != self._acknowledged_before, acknowledged
        if answered or not self._in_flight():
            self._answered_at = self._monotonic()
        for lane in list(self._lanes.values()):
            if answered:
                self._tend_lane(lane)
            lane.acked_before = lane.acked
        PUBLISH_PENDING.labels(self._exchange).set(self.account.pending)
        PUBLISH_PARKED.labels(self._exchange).set(len(self.parked()))

    def parked(self) -> dict[str, str]:
        """Return the tenants that get nothing at present, with the cause."""
        return {lane.tenant: lane.held for lane in self._lanes.values() if lane.held is not None}

    def problem(self) -> str | None:
        """Return why nothing is acknowledged although records wait, or None."""
        silent = self._monotonic() - self._answered_at
        if silent < SILENT_AFTER:
            return None
        return f"the broker has acknowledged nothing for {silent:.0f} s while {self._in_flight()} records wait"

    def complete_until(self) -> int | None:
        """Return the received_time up to which every tick is acknowledged or written down as lost; None before any."""
        if self._newest_acknowledged is None:
            return None
        waiting = [lane.pending[0].tick.received_time for lane in self._lanes.values() if lane.pending]
        if self._publishing is not None:
            waiting.append(self._publishing)
        return min([self._newest_acknowledged, *(time - 1 for time in waiting)])

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is acknowledged or failed; what remains after `seconds` is dropped and counted."""
        await self._until_settled(seconds if self._fatal is None else 0.0)
        settled = not self._in_flight()
        if not settled:
            self._producer.purge()
            await self._until_settled(seconds=1.0)
        return settled

    async def _until_settled(self, seconds: float) -> None:
        deadline = self._monotonic() + seconds
        while self._in_flight() and self._monotonic() < deadline:
            self._producer.poll(0)
            await asyncio.sleep(_RETRY_PAUSE)

    def _in_flight(self) -> int:
        return self.account.pending + self.control_account.pending

    def _is_full(self) -> bool:
        pending = self.account.pending
        if self._overflowing and pending <= self._limits.records // 2:
            self._overflowing = False
            self._gaps.close(BUFFER, self._publishing or self._clock())
        return pending >= self._limits.records

    async def _room(self) -> bool:
        """Wait until the buffer has room; False when the bound has passed, and at once while ticks are being lost."""
        deadline = self._monotonic() + (0.0 if self._overflowing else self._limits.block)
        while True:
            self.poll()
            if not self._is_full():
                return True
            if self._monotonic() >= deadline:
                return False
            await asyncio.sleep(_RETRY_PAUSE)

    def _overflow(self, tick: Tick, copies: int) -> None:
        self._overflowing = True
        self.account.produced += copies
        self._gaps.open(BUFFER, tick.received_time - 1, "buffer_full")
        self._count_failed("buffer_full", copies)

    def _send(self, lane: _Lane, tick: Tick, value: bytes, headers: _Headers) -> None:
        copy = _Copy(lane, tick, self._report)
        self.account.produced += 1
        if lane.held is not None and not self._may_probe(lane, copy):
            copy.done = True
            self._count_failed(lane.held)
            return
        lane.pending.append(copy)
        try:
            self._producer.produce(lane.topic, value, tick.product.encode(), headers=headers, on_delivery=copy)
        except BufferError:
            self._report(copy, KafkaError(KafkaError._QUEUE_FULL))  # noqa: SLF001 - confluent-kafka's own name
        except KafkaException as error:
            self._report(copy, error.args[0])

    def _may_probe(self, lane: _Lane, copy: _Copy) -> bool:
        if lane.held == "buffer_full" or lane.probe is not None or self._monotonic() < lane.probe_at:
            return False
        lane.probe = copy
        return True

    def _report(self, copy: _Copy, error: KafkaError | None) -> None:
        """Take the fate of one record."""
        if error is None:
            self._acknowledged(copy)
        else:
            self._failed(copy, error)
        copy.done = True
        pending = copy.lane.pending
        while pending and pending[0].done:
            pending.popleft()

    def _acknowledged(self, copy: _Copy) -> None:
        lane, tick = copy.lane, copy.tick
        self.account.acknowledged += 1
        self._published.inc()
        lane.acked += 1
        held = self.delivered.get(tick.product)
        if held is None or held.received_time <= tick.received_time:
            self.delivered[tick.product] = Delivered(tick.exchange_time, tick.received_time)
        self._newest_acknowledged = max(tick.received_time, self._newest_acknowledged or 0)
        if lane.failing and lane.failing.get(tick.product, tick.received_time) < tick.received_time:
            del lane.failing[tick.product]
            self._gaps.close(Scope(lane.tenant, tick.product), tick.received_time)
        if copy is lane.probe:
            self._release(lane)
        elif lane.inherited and lane.held is None:
            lane.inherited = False
            self._gaps.close(Scope(lane.tenant), tick.received_time)

    def _failed(self, copy: _Copy, error: KafkaError) -> None:
        lane, tick = copy.lane, copy.tick
        if error.fatal():
            self._fatal = error
        self._count_failed(error.name())
        opened = min(lane.oldest(tick.received_time), tick.received_time) - 1
        cause = _TOPIC_CAUSES.get(error.code())
        if cause is not None:
            self._park(lane, opened, cause)
        elif lane.held is None:
            lane.failing[tick.product] = max(tick.received_time, lane.failing.get(tick.product, 0))
            self._gaps.open(
                Scope(lane.tenant, tick.product), opened, _CAUSES.get(error.code(), error.name().strip("_").lower())
            )
        if copy is lane.probe:
            lane.probe = None
            lane.probe_at = self._monotonic() + self._limits.probe_every

    def _park(self, lane: _Lane, opened: int, cause: str) -> None:
        if lane.held != cause:
            _log.error("tenant parked", tenant=lane.tenant, topic=lane.topic, cause=cause)
        if lane.held is None or lane.held == "buffer_full":
            lane.probe_at = self._monotonic() + self._limits.probe_every
        lane.held = cause
        self._gaps.open(Scope(lane.tenant), opened, cause)

    def _release(self, lane: _Lane) -> None:
        _log.info("tenant's topic takes records again", tenant=lane.tenant, topic=lane.topic)
        lane.held = None
        lane.probe = None
        lane.idle = 0
        self._gaps.close(Scope(lane.tenant), self._clock())

    def _tend_lane(self, lane: _Lane) -> None:
        """Hold a lane that fills up although the broker answers others, and let it go when it has emptied."""
        share = max(1, self._limits.records // 4)
        moves = lane.acked != lane.acked_before
        lane.idle = 0 if moves or len(lane.pending) < share else lane.idle + 1
        if lane.held is None and lane.idle >= STUCK_AFTER:
            _log.error("tenant's topic is stuck", tenant=lane.tenant, topic=lane.topic, pending=len(lane.pending))
            lane.held = "buffer_full"
            self._gaps.open(Scope(lane.tenant), lane.pending[0].tick.received_time - 1, "buffer_full")
        elif lane.held == "buffer_full" and len(lane.pending) <= share // 2:
            self._release(lane)

    def _forget_unrouted(self) -> None:
        """End the intervals of what nobody is subscribed to any more, and drop lanes that are empty then."""
        routed = {(lane.tenant, product) for product, lanes in self._routes.items() for lane in lanes}
        tenants = {tenant for tenant, _ in routed}
        for lane in list(self._lanes.values()):
            for product in [product for product in lane.failing if (lane.tenant, product) not in routed]:
                del lane.failing[product]
                self._gaps.close(Scope(lane.tenant, product), self._clock())
            if lane.tenant not in tenants and lane.held is not None:
                self._release(lane)
            if lane.tenant not in tenants and not lane.pending:
                del self._lanes[lane.tenant]

    def _count_failed(self, code: str, copies: int = 1) -> None:
        self.account.failed[code] += copies
        PUBLISH_FAILED.labels(self._exchange, code).inc(copies)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        now = self._monotonic()
        if now >= self._complain_at:
            _log.warning("broker trouble", reason=error.str(), code=error.name())
            self._complain_at = now + COMPLAIN_EVERY


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
