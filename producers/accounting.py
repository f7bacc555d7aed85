"""What became of every record that should reach Kafka. Pure.

At any time: produced = acknowledged + failed + pending. A record counts as produced when it is offered, whatever
happens then, so a loss cannot hide.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """Counts of records, one for each tenant's copy; `failed` by code: Kafka's names, or our own in lower case."""

    produced: int = 0
    acknowledged: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Sum of `failed`, kept because it is asked for with every record."""

    def fail(self, code: str, copies: int = 1) -> None:
        """Count copies that will not arrive."""
        self.failed[code] += copies
        self.lost += copies

    @property
    def pending(self) -> int:
        """Records whose fate is open."""
        return self.produced - self.acknowledged - self.lost


@dataclass(frozen=True, slots=True)
class Delivered:
    """The newest acknowledged tick of a product; microseconds."""

    exchange_time: int
    received_time: int
