"""A tier as one API process enforces it: four buckets, and the header fields that tell of them. Pure.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10, structured after RFC 9651. Each of N processes gives
a tenant an N-th of its rate, so that all of them together never give more than the tier says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from api.ingestion.events import MAX_EVENTS
from api.limits.bucket import SECOND, Shape
from api.limits.tiers import Tier, Tiers

BURST: Final = 10
"""Seconds whose tokens a full bucket holds."""
KEY_TENTHS: Final = 8
"""Tenths of its tenant's rate that one key gets: one that runs away leaves the others the rest."""
POLICY_FIELD: Final = b"ratelimit-policy"
LIMIT_FIELD: Final = b"ratelimit"
_UNIT: Final = ';qu="events"'


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tenant of a tier, and one key of it, may do in one process."""

    tier: str
    requests: Shape
    key_requests: Shape
    events: Shape
    key_events: Shape
    request_policy: tuple[bytes, bytes]
    """The field RateLimit-Policy of answers that no events were for."""
    event_policy: tuple[bytes, bytes]
    """The same where they were."""
    request_limit: bytes
    """The value of RateLimit, in which `%d` stands for what is left of the tenant's and the key's requests."""
    event_limit: bytes
    """The same with, behind them, the tenant's and the key's events."""


def plans(of: Tiers, processes: int) -> Mapping[str, Plan]:
    """Return how each of so many processes enforces the tiers."""
    return {name: _plan(name, tier, processes) for name, tier in of.items()}


def longest(of: Mapping[str, Plan]) -> int:
    """Return the nanoseconds after which any bucket of these plans is full."""
    return max(
        shape.window
        for plan in of.values()
        for shape in (plan.requests, plan.key_requests, plan.events, plan.key_events)
    )


def _plan(name: str, tier: Tier, processes: int) -> Plan:
    requests = Shape.of(tier.requests, BURST, share=processes)
    key_requests = Shape.of(_keys(tier.requests), BURST, share=processes)
    events = Shape.of(tier.events, BURST, share=processes, at_least=MAX_EVENTS)
    key_events = Shape.of(_keys(tier.events), BURST, share=processes, at_least=MAX_EVENTS)
    of_requests = [("requests", requests, ""), ("key-requests", key_requests, "")]
    of_events = [*of_requests, ("events", events, _UNIT), ("key-events", key_events, _UNIT)]
    return Plan(
        name,
        requests,
        key_requests,
        events,
        key_events,
        (POLICY_FIELD, _policy(of_requests)),
        (POLICY_FIELD, _policy(of_events)),
        _limit(of_requests),
        _limit(of_events),
    )


def _keys(rate: int) -> int:
    return max(1, rate * KEY_TENTHS // 10)


def _policy(shapes: list[tuple[str, Shape, str]]) -> bytes:
    items = (f'"{name}";q={shape.burst};w={seconds(shape.window)}{unit}' for name, shape, unit in shapes)
    return ", ".join(items).encode()


def _limit(shapes: list[tuple[str, Shape, str]]) -> bytes:
    """`t` is the time in which one more token comes."""
    return ", ".join(f'"{name}";r=%d;t={seconds(shape.cost)}' for name, shape, _ in shapes).encode()


def seconds(nanoseconds: int) -> int:
    """Return whole seconds, at least 1 and rounded up, as header fields give them."""
    return max(1, -(-nanoseconds // SECOND))
