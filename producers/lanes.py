"""What is on its way to which tenant's topic, and what follows from each copy's fate. Pure: no Kafka client in it.

A lane is one tenant's topic of one dataset. A parcel is one record on its way to all lanes that want it. A lane whose
topic is missing, refused or stuck is held, alone, and probed. Losses become intervals in the ledger, with one
exception: a trade of which no copy arrived, for a cause that concerns all, is handed back, to be fetched again.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain
from typing import Final, Protocol, TypeAlias

from producers.accounting import Account, Delivered
from producers.ledger import BUFFER, Scope
from pulsestream.core.clock import Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import PUBLISH_FAILED, PUBLISH_PARKED, PUBLISH_PENDING, PUBLISHED
from pulsestream.core.topics import tenant_topic
from schemas.records import Bar, Tick, Trade

STUCK_AFTER: Final = 5
"""Seconds without any acknowledgement, with a quarter of the buffer waiting, after which a topic counts as stuck."""
_BUFFER_FULL: Final = "buffer_full"
_log = logger(__name__)

MarketRecord: TypeAlias = Tick | Trade | Bar
Routes: TypeAlias = Mapping[str, Mapping[str, Collection[str]]]
"""Who gets what: dataset -> product -> tenants."""


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


class TradeListener(Protocol):
    """Who is told the fate of every trade, exactly once each; called on the event loop, must not block or publish."""

    def acknowledged(self, product: str, trade_id: int) -> None:
        """Note that a tenant's copy is stored, or that nobody wants the trade, or that no retry could bring it.

        Other tenants' copies may still fail: that is then an interval of theirs.
        """

    def lost(self, product: str, trade_id: int, cause: str) -> None:
        """Note that no copy is stored, for a cause that concerns all (as in feed.v1): fetch the trade again."""


class Reach(Enum):
    """What a failed copy says something about."""

    RECORD = auto()
    """This record on this topic: trying again would fail again."""
    TOPIC = auto()
    """The topic: it is missing or refuses records."""
    ALL = auto()
    """The broker or this process: every topic."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a copy did not arrive; `code` is counted, `cause` stands in the ledger."""

    code: str
    cause: str
    reach: Reach


class Lane:
    """One tenant's topic of one dataset. `held`: why it gets nothing at present."""

    __slots__ = (
        "acked",
        "acked_before",
        "dataset",
        "failing",
        "held",
        "idle",
        "inherited",
        "probe",
        "probe_at",
        "tenant",
        "topic",
    )

    def __init__(self, tenant: str, dataset: str) -> None:
        self.tenant = tenant
        self.dataset = dataset
        self.topic = tenant_topic(tenant, dataset)
        self.acked = 0
        self.acked_before = 0
        self.idle = 0
        self.held: str | None = None
        self.probe: Parcel | None = None
        self.probe_at = 0.0
        self.inherited = False
        self.failing: dict[str, int] = {}


class Parcel:
    """One record on its way.

    waiting: the topics whose copy has no fate yet.
    cause: why a copy failed that would have failed on any topic; None if none did.
    missed: topics, with the cause, whose copy failed so, of a trade that may yet have to be fetched again.
    """

    __slots__ = ("acked", "cause", "missed", "product", "received_time", "record", "trade_id", "waiting")

    def __init__(self, record: MarketRecord, trade_id: int | None, waiting: set[str]) -> None:
        self.record = record
        self.product = record.product
        self.received_time = record.received_time
        self.trade_id = trade_id
        self.waiting = waiting
        self.acked = False
        self.cause: str | None = None
        self.missed: list[tuple[str, str]] = []


class _Route:
    """The lanes of one product, and the set of their topics, made once and copied for each record."""

    __slots__ = ("lanes", "topics")

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.lanes = tuple(lanes)
        self.topics = frozenset(lane.topic for lane in self.lanes)


class Lanes:
    """All lanes of a publisher, what is on its way on them, and the account of it."""

    def __init__(
        self,
        exchange: str,
        gaps: GapRecorder,
        limits: Limits,
        trades: TradeListener | None,
        *,
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        self.account = Account()
        self.delivered: dict[str, Delivered] = {}
        self.overflowing = False
        self._exchange = exchange
        self._gaps = gaps
        self._limits = limits
        self._trades = trades
        self._clock = clock
        self._monotonic = monotonic
        self._lanes: dict[str, Lane] = {}
        self._of: defaultdict[str, list[Lane]] = defaultdict(list)
        self._routes: dict[tuple[str, str], _Route] = {}
        self._parcels: set[Parcel] = set()
        self._oldest: dict[str, int] | None = None
        self._overflowed_until = 0
        self._newest_acknowledged: int | None = None
        self._published = PUBLISHED.labels(exchange)
        self._published_before = 0

    # ---- who gets what ----

    def route(self, wanted: Routes) -> None:
        """Change who gets what."""
        self._routes = {
            (dataset, product): _Route(self._lane(tenant, dataset) for tenant in sorted(set(tenants)))
            for dataset, products in wanted.items()
            for product, tenants in products.items()
        }
        self._forget_unrouted()

    def inherit(self, scopes: Iterable[Scope]) -> None:
        """Take over intervals that an earlier process left open: the next delivery closes them."""
        for scope in scopes:
            if scope.tenant is not None:
                self._inherit(scope, scope.tenant)

    def wanted_by(self, dataset: str, product: str) -> tuple[Lane, ...]:
        """Return the lanes that a record goes to."""
        route = self._routes.get((dataset, product))
        return route.lanes if route is not None else ()

    def _lane(self, tenant: str, dataset: str) -> Lane:
        topic = tenant_topic(tenant, dataset)
        lane = self._lanes.get(topic)
        if lane is None:
            lane = self._lanes[topic] = Lane(tenant, dataset)
            self._of[tenant].append(lane)
        return lane

    def _inherit(self, scope: Scope, tenant: str) -> None:
        carriers = [
            lane
            for (_, product), route in self._routes.items()
            for lane in route.lanes
            if lane.tenant == tenant and scope.product in {None, product}
        ]
        if not carriers:
            self._gaps.close(scope, self._clock())
        elif scope.product is None:
            carriers[0].inherited = True
        else:
            carriers[0].failing[scope.product] = 0

    def _forget_unrouted(self) -> None:
        """End the intervals of what nobody is subscribed to any more, and drop its lanes."""
        routed = {(lane.topic, product) for (_, product), route in self._routes.items() for lane in route.lanes}
        topics = {topic for topic, _ in routed}
        for lane in list(self._lanes.values()):
            for product in [product for product in lane.failing if (lane.topic, product) not in routed]:
                self._recovered(lane, product, self._clock())
            if lane.topic not in topics:
                self._drop(lane)

    def _drop(self, lane: Lane) -> None:
        if lane.held is not None:
            self._release(lane)
        del self._lanes[lane.topic]
        self._of[lane.tenant].remove(lane)
        if not self._of[lane.tenant]:
            del self._of[lane.tenant]

    # ---- a record's way ----

    def offer(self, dataset: str, record: MarketRecord) -> Parcel:
        """Take a record on: until each of its copies has a fate, nothing after it counts as complete."""
        route = self._routes[dataset, record.product]
        parcel = Parcel(record, record.trade_id if type(record) is Trade else None, set(route.topics))
        self._parcels.add(parcel)
        self._oldest = None
        return parcel

    def unwanted(self, record: MarketRecord) -> None:
        """Note a record that nobody is subscribed to: nobody misses it."""
        if self._trades is not None and type(record) is Trade:
            self._trades.acknowledged(record.product, record.trade_id)

    def admits(self, lane: Lane, parcel: Parcel) -> bool:
        """Say whether a copy may be sent to a held lane, as its probe; a refused copy has failed."""
        if lane.held == _BUFFER_FULL or lane.probe is not None or self._monotonic() < lane.probe_at:
            self._count_failed(lane.held or "", 1)
            self._settle(parcel, lane.topic)
            return False
        lane.probe = parcel
        return True

    def room(self) -> int:
        """Return how many copies may be sent now; notices when an overflow has ended."""
        pending = self.account.pending
        if self.overflowing and pending <= self._limits.records // 2:
            self.overflowing = False
            self._gaps.close(BUFFER, self._overflowed_until + 1)
        return max(0, self._limits.records - pending)

    def overflow(self, parcel: Parcel, unsent: Collection[Lane], oldest: int, *, partly: bool) -> None:
        """Give up the copies of a parcel that found no room.

        oldest: received_time of the first record that waits for room.
        partly: other copies were sent, so that a trade is missing to some tenants only and is not fetched again.
        """
        self.overflowing = True
        self.account.produced += len(unsent)
        self._count_failed(_BUFFER_FULL, len(unsent))
        if partly or not self._refillable(parcel):
            self._overflowed_until = max(self._overflowed_until, parcel.received_time)
            self._gaps.open(BUFFER, min(parcel.received_time, oldest) - 1, _BUFFER_FULL)
        parcel.cause = _BUFFER_FULL
        for lane in unsent:
            self._settle(parcel, lane.topic)

    def acknowledged(self, parcel: Parcel, topic: str) -> bool:
        """Note a stored copy; returns whether it was the last one whose fate was open."""
        self.account.acknowledged += 1
        if not parcel.acked:
            self._first_acknowledged(parcel)
        lane = self._lanes.get(topic)
        if lane is not None:
            lane.acked += 1
            if lane.failing or lane.inherited or lane.probe is parcel:
                self._well_again(lane, parcel)
        return self._settle(parcel, topic)

    def failed(self, parcel: Parcel, topic: str, failure: Failure) -> None:
        """Note a copy that will never be stored."""
        self._count_failed(failure.code, 1)
        lane = self._lanes.get(topic)
        if lane is not None:
            if failure.reach is Reach.TOPIC:
                self._park(lane, parcel.received_time, failure.cause)
            elif failure.reach is Reach.ALL and self._refillable(parcel):
                parcel.missed.append((topic, failure.cause))
            elif lane.held is None:
                self._miss(lane, parcel, failure.cause)
            if lane.probe is parcel:
                lane.probe = None
                lane.probe_at = self._monotonic() + self._limits.probe_every
        if failure.reach is Reach.ALL:
            parcel.cause = failure.cause
        self._settle(parcel, topic)

    def served(self) -> None:
        """Note that all delivery reports at hand have been taken."""
        self._oldest = None

    def _refillable(self, parcel: Parcel) -> bool:
        return parcel.trade_id is not None and self._trades is not None

    def _settle(self, parcel: Parcel, topic: str) -> bool:
        parcel.waiting.discard(topic)
        if parcel.waiting:
            return False
        self._parcels.discard(parcel)
        if parcel.trade_id is not None and (not parcel.acked or parcel.missed):
            self._settle_trade(parcel, parcel.trade_id)
        return True

    def _settle_trade(self, parcel: Parcel, trade_id: int) -> None:
        """Decide what a trade's failures were: everybody's, which a retry cures, or some tenants' alone."""
        if self._trades is None:
            return
        if not parcel.acked and parcel.cause is not None:
            self._trades.lost(parcel.product, trade_id, parcel.cause)
            return
        if not parcel.acked:
            self._trades.acknowledged(parcel.product, trade_id)
        for topic, cause in parcel.missed:
            lane = self._lanes.get(topic)
            if lane is not None and lane.held is None:
                self._miss(lane, parcel, cause)

    def _first_acknowledged(self, parcel: Parcel) -> None:
        parcel.acked = True
        record = parcel.record
        self._newest_acknowledged = max(parcel.received_time, self._newest_acknowledged or 0)
        if type(record) is Tick:
            held = self.delivered.get(record.product)
            if held is None or held.received_time <= record.received_time:
                self.delivered[record.product] = Delivered(record.exchange_time, record.received_time)
        elif parcel.trade_id is not None and self._trades is not None:
            self._trades.acknowledged(parcel.product, parcel.trade_id)

    # ---- lanes in trouble ----

    def _miss(self, lane: Lane, parcel: Parcel, cause: str) -> None:
        """Write down that a tenant misses a record of a product."""
        known = lane.failing.get(parcel.product)
        lane.failing[parcel.product] = max(parcel.received_time, known or 0)
        if not known:
            opened = self._opening(lane.tenant, parcel.received_time)
            self._gaps.open(Scope(lane.tenant, parcel.product), opened, cause)

    def _park(self, lane: Lane, received_time: int, cause: str) -> None:
        if lane.held != cause:
            _log.error("tenant parked", tenant=lane.tenant, topic=lane.topic, cause=cause)
        if lane.held is None or lane.held == _BUFFER_FULL:
            lane.probe_at = self._monotonic() + self._limits.probe_every
            self._gaps.open(Scope(lane.tenant), self._opening(lane.tenant, received_time), cause)
        lane.held = cause

    def _well_again(self, lane: Lane, parcel: Parcel) -> None:
        missed = lane.failing.get(parcel.product)
        if missed is not None and missed < parcel.received_time:
            self._recovered(lane, parcel.product, parcel.received_time)
        if lane.probe is parcel:
            self._release(lane)
        elif lane.inherited and lane.held is None:
            lane.inherited = False
            self._close_unless_held(lane.tenant, parcel.received_time)

    def _recovered(self, lane: Lane, product: str, at: int) -> None:
        """End a tenant's interval of a product, unless another of its datasets still misses it."""
        del lane.failing[product]
        if not any(product in other.failing for other in self._of[lane.tenant]):
            self._gaps.close(Scope(lane.tenant, product), at)

    def _release(self, lane: Lane) -> None:
        _log.info("tenant's topic takes records again", tenant=lane.tenant, topic=lane.topic)
        lane.held = None
        lane.probe = None
        lane.idle = 0
        self._close_unless_held(lane.tenant, self._clock())

    def _close_unless_held(self, tenant: str, at: int) -> None:
        if all(lane.held is None for lane in self._of[tenant]):
            self._gaps.close(Scope(tenant), at)

    def _opening(self, tenant: str, received_time: int) -> int:
        """Return a moment before everything that is on its way to a tenant: nothing up to it is missing."""
        if self._oldest is None:
            self._oldest = self._oldest_by_topic()
        waiting = [self._oldest[lane.topic] for lane in self._of[tenant] if lane.topic in self._oldest]
        return min([received_time, *waiting]) - 1

    def _oldest_by_topic(self) -> dict[str, int]:
        """Return the first received_time on its way to each topic, or missed there and not written down yet."""
        oldest: dict[str, int] = {}
        for parcel in self._parcels:
            for topic in chain(parcel.waiting, (topic for topic, _ in parcel.missed)):
                if parcel.received_time < oldest.get(topic, parcel.received_time + 1):
                    oldest[topic] = parcel.received_time
        return oldest

    # ---- once a second, and what others ask ----

    def tend(self, *, answered: bool) -> None:
        """Hold lanes that fill up although the broker has answered others, release them when they have emptied."""
        if answered:
            waiting = self._waiting_by_topic()
            for lane in list(self._lanes.values()):
                self._tend_lane(lane, waiting[lane.topic])
        for lane in self._lanes.values():
            lane.acked_before = lane.acked
        self.measure()

    def measure(self) -> None:
        """Bring the metrics up to date."""
        acknowledged = self.account.acknowledged
        self._published.inc(acknowledged - self._published_before)
        self._published_before = acknowledged
        PUBLISH_PENDING.labels(self._exchange).set(self.account.pending)
        PUBLISH_PARKED.labels(self._exchange).set(len({lane.tenant for lane in self._held()}))

    def _waiting_by_topic(self) -> Mapping[str, int]:
        waiting: defaultdict[str, int] = defaultdict(int)
        if self.account.pending >= self._share() // 2:
            for parcel in self._parcels:
                for topic in parcel.waiting:
                    waiting[topic] += 1
        return waiting

    def _share(self) -> int:
        return max(1, self._limits.records // 4)

    def _tend_lane(self, lane: Lane, waiting: int) -> None:
        moves = lane.acked != lane.acked_before
        lane.idle = 0 if moves or waiting < self._share() else lane.idle + 1
        if lane.held is None and lane.idle >= STUCK_AFTER:
            _log.error("tenant's topic is stuck", tenant=lane.tenant, topic=lane.topic, pending=waiting)
            lane.held = _BUFFER_FULL
            self._gaps.open(Scope(lane.tenant), self._opening(lane.tenant, self._clock()), _BUFFER_FULL)
        elif lane.held == _BUFFER_FULL and waiting <= self._share() // 2:
            self._release(lane)

    def _held(self) -> Iterable[Lane]:
        return (lane for lane in self._lanes.values() if lane.held is not None)

    def parked(self) -> dict[str, str]:
        """Return the topics that get nothing at present, as `tenant dataset`, with the cause."""
        return {f"{lane.tenant} {lane.dataset}": lane.held or "" for lane in self._held()}

    def complete_until(self) -> int | None:
        """Return the received_time up to which every record is acknowledged or written down; None before any."""
        if self._newest_acknowledged is None:
            return None
        waiting = min((parcel.received_time for parcel in self._parcels), default=None)
        newest = self._newest_acknowledged
        return newest if waiting is None else min(newest, waiting - 1)

    def _count_failed(self, code: str, copies: int) -> None:
        self.account.fail(code, copies)
        PUBLISH_FAILED.labels(self._exchange, code).inc(copies)
