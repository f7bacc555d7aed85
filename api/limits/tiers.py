"""What each tier gets: rates of requests and events, and how many things a tenant may have. Pure.

`PULSESTREAM_LIMITS` changes single figures (`free.events=1000, pro.keys=100`) or turns all of them `off`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from pulsestream.core.errors import SettingsError

OFF: Final = "off"
MOST: Final = 1_000_000_000
"""The largest figure that can be set."""


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of one tier. How long rows are kept is a setting of its own (`PULSESTREAM_RETENTION_DAYS_…`)."""

    requests: int
    """Requests a second, those of ingestion included."""
    events: int
    """Events ingested a second: a batch of n counts n."""
    products: int
    """Products subscribed to."""
    rules: int
    """Alert rules."""
    keys: int
    """API keys that are neither revoked nor expired."""
    channels: int
    """Channels that alerts go to."""
    live: int
    """Live connections at once."""
    kafka_credentials: int
    """Kafka credentials that have not ended."""
    kafka_produce: int
    """Bytes a second written to Kafka by the tenant's own clients, at each broker."""
    kafka_consume: int
    """Bytes a second read from Kafka by them, at each broker."""
    kafka_percent: int
    """Of one thread of a broker, what their requests may take: 100 is one thread that does nothing else."""


Tiers = Mapping[str, Tier]
_MIB: Final = 1_048_576
TIERS: Final[Tiers] = {
    "free": Tier(
        requests=50,
        events=500,
        products=20,
        rules=100,
        keys=10,
        channels=5,
        live=5,
        kafka_credentials=2,
        kafka_produce=1 * _MIB,
        kafka_consume=4 * _MIB,
        kafka_percent=25,
    ),
    "pro": Tier(
        requests=500,
        events=10_000,
        products=200,
        rules=1_000,
        keys=50,
        channels=50,
        live=50,
        kafka_credentials=10,
        kafka_produce=8 * _MIB,
        kafka_consume=32 * _MIB,
        kafka_percent=100,
    ),
    "enterprise": Tier(
        requests=5_000,
        events=100_000,
        products=1_000,
        rules=10_000,
        keys=500,
        channels=500,
        live=500,
        kafka_credentials=50,
        kafka_produce=64 * _MIB,
        kafka_consume=256 * _MIB,
        kafka_percent=400,
    ),
}
_RATES: Final = frozenset({"requests", "events", "kafka_produce", "kafka_consume", "kafka_percent"})
_FIGURES: Final = tuple(field.name for field in fields(Tier))


def tiers(changes: str) -> Tiers | None:
    """Return every tier with `changes` (`tier.figure=number, …`) made; None where they are off.

    Raises SettingsError that names what is wrong.
    """
    if changes.strip() == OFF:
        return None
    changed = dict(TIERS)
    for change in filter(None, (part.strip() for part in changes.split(","))):
        tier, figure, number = _parsed(change)
        changed[tier] = replace(changed[tier], **{figure: number})
    return changed


def _parsed(change: str) -> tuple[str, str, int]:
    name, _, number = change.partition("=")
    tier, _, figure = name.strip().partition(".")
    if tier not in TIERS or figure not in _FIGURES:
        raise _wrong(change, f"the name is one of {', '.join(TIERS)}, a dot, and one of {', '.join(_FIGURES)}")
    least = 1 if figure in _RATES else 0
    number = number.strip()
    if not (number.isascii() and number.isdigit() and len(number) <= len(str(MOST)) and least <= int(number) <= MOST):
        raise _wrong(change, f"the number is {least} to {MOST}")
    return tier, figure, int(number)


def _wrong(change: str, why: str) -> SettingsError:
    return SettingsError(
        f"PULSESTREAM_LIMITS has {change[:60]!r}: {why}. Write it like free.events=1000, pro.keys=100; or {OFF}"
    )
