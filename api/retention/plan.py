"""What is kept and for how long, and how long chunks should be. Pure.

A row is kept for its tenant's period, counted from its event or from when the broker took it, whichever is later: what
a backfill brings of the past stays for as long. Rows of a tenant that is not known are nobody's to remove.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pulsestream.core.settings import Settings

Cutoffs = Mapping[str, datetime | None]
"""By tenant: what is older goes; None: nothing does."""
SPANS: Final = tuple(timedelta(hours=hours) for hours in (1, 3, 6, 12, 24, 72, 168))
"""What chunks may be long, shortest first."""
CHUNKS_A_PERIOD: Final = 10
"""Into how many chunks the shortest period is divided at least, so that whole chunks go and not only rows."""
ROOM: Final = 1.5
"""How much greater a rate may become before a chunk that was made longer would be too long."""
SURE: Final = timedelta(minutes=10)
"""How long a chunk has to grow before its rate is believed."""
_DAY_MORE: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of tenants' rows: its event time, and what its key ends with."""

    name: str
    time: str
    key: str


TABLES: Final = (
    Table("ticks", "exchange_time", "event_id"),
    Table("trades", "exchange_time", "event_id"),
    Table("events", "time", "event_id"),
    Table("stats", "at", "event_id"),
    Table("bars", "start", "event_id"),
    Table("alerts", "at", "alert_id"),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a hypertable: rows from `first` to before `last`."""

    name: str
    first: datetime
    last: datetime
    octets: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant has in a chunk: rows, and when the broker took the newest of them."""

    tenant: str
    rows: int
    newest: datetime


@dataclass(frozen=True, slots=True)
class Growth:
    """How a hypertable's newest chunk has grown: bytes of its indexes in so much time; and the length of new ones."""

    table: str
    span: timedelta
    octets: int
    elapsed: timedelta


def periods(settings: Settings) -> dict[str, timedelta | None]:
    """Return how long each tier keeps rows; None: for ever."""
    days = {
        "free": settings.retention_days_free,
        "pro": settings.retention_days_pro,
        "enterprise": settings.retention_days_enterprise,
    }
    return {tier: timedelta(days=count) if count else None for tier, count in days.items()}


def ids_kept(settings: Settings) -> timedelta:
    """Return how long ids of events are kept apart: for as long as one of them can still come from a topic.

    That is the topics' retention, or as long as a dead letter may be sent again; and a day more, since the broker
    removes whole segments.
    """
    return max(timedelta(hours=settings.retention_hours), timedelta(days=settings.dead_letter_days)) + _DAY_MORE


def cutoffs(tiers: Mapping[str, str], kept: Mapping[str, timedelta | None], now: datetime) -> Cutoffs:
    """Return each tenant's cutoff, given its tier."""
    return {tenant: now - period if (period := kept[tier]) else None for tenant, tier in tiers.items()}


def needing(chunk: Chunk, known: Cutoffs) -> list[str]:
    """Return the tenants that would still need rows of a chunk, if they had some."""
    return [tenant for tenant, cutoff in known.items() if cutoff is None or cutoff < chunk.last]


def is_over(chunk: Chunk, shares: Collection[Share], known: Cutoffs) -> bool:
    """Say whether nobody needs anything in a chunk."""
    return all(_needs_nothing(chunk, share, known.get(share.tenant)) for share in shares)


def _needs_nothing(chunk: Chunk, share: Share, cutoff: datetime | None) -> bool:
    return cutoff is not None and chunk.last <= cutoff and share.newest < cutoff


def fitting_span(growths: Collection[Growth], memory: int, kept: Mapping[str, timedelta | None]) -> timedelta | None:
    """Return how long chunks should be: the longest of SPANS with which the newest chunks' indexes fit into memory.

    All hypertables together, since rows go to the newest chunk of each; `memory` in bytes. And at most a tenth of the
    shortest period. None while no rate is known. The rule is that of TimescaleDB's documentation ("Hypertables", best
    practices for chunk intervals), of which shared_buffers, a quarter of the memory as a rule, is the measure here.
    """
    sure = [growth for growth in growths if growth.elapsed >= SURE and growth.octets]
    if not sure:
        return None
    rate = sum(growth.octets / growth.elapsed.total_seconds() for growth in sure)
    fitting = _longest(timedelta(seconds=min(memory / rate, SPANS[-1].total_seconds())), kept)
    roomy = _longest(timedelta(seconds=min(memory / rate / ROOM, SPANS[-1].total_seconds())), kept)
    present = max(growth.span for growth in growths)
    return fitting if fitting <= present else max(roomy, present)


def _longest(bound: timedelta, kept: Mapping[str, timedelta | None]) -> timedelta:
    bounds = [bound, *(period / CHUNKS_A_PERIOD for period in kept.values() if period)]
    return max((span for span in SPANS if span <= min(bounds)), default=SPANS[0])
