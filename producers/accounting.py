"""What became of every record that should reach Kafka. Pure.

At any time: produced = acknowledged + failed + pending. A record counts as produced when it is offered, whatever
happens then, so a loss cannot hide.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """Counts of records; `failed` by code: Kafka's own error names, or the producer's own reasons in lower case."""

    produced: int = 0
    acknowledged: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def pending(self) -> int:
        """Records whose fate is open."""
        return self.produced - self.acknowledged - self.failed.total()


@dataclass(frozen=True, slots=True)
class Delivered:
    """The newest acknowledged tick of a product; microseconds."""

    exchange_time: int
    received_time: int
