"""Tenants whose output topics refuse records: who they are, why, and when to look again. Pure.

A parked tenant's keys stand still at their last checkpoint. Nothing is lost: its records are read again from there.
"""

from dataclasses import dataclass
from typing import Final

FIRST_RETRY: Final = 5.0
LAST_RETRY: Final = 60.0
FORGIVEN: Final = 120.0
"""Seconds after which a tenant that was parked before counts as sound again."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class _Parked:
    reason: str
    retry_at: float


class Parking:
    """The parked tenants. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._parked: dict[str, _Parked] = {}
        self._delays: dict[str, tuple[float, float]] = {}

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._parked

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, tenant: str, reason: str, now: float) -> None:
        """Park a tenant; one that is parked again and again is looked at ever more seldom."""
        last, delay = self._delays.get(tenant, (-FORGIVEN, 0.0))
        delay = min(delay * 2, LAST_RETRY) if delay and now - last < FORGIVEN else FIRST_RETRY
        self._delays[tenant] = (now, delay)
        self._parked[tenant] = _Parked(reason, now + delay)

    def due(self, now: float) -> list[str]:
        """Return the tenants whose topics are to be looked at again."""
        return [tenant for tenant, parked in self._parked.items() if parked.retry_at <= now]

    def later(self, tenant: str, now: float) -> None:
        """Look at a tenant again some time after `now`."""
        delay = self._delays[tenant][1]
        self._parked[tenant] = _Parked(self._parked[tenant].reason, now + delay)

    def release(self, tenant: str) -> None:
        """Take a tenant out."""
        self._parked.pop(tenant, None)

    def keep_only(self, tenants: set[str]) -> None:
        """Forget tenants that this worker does not read any more."""
        for tenant in self._parked.keys() - tenants:
            del self._parked[tenant]

    def problem(self) -> str | None:
        """Return a sentence about the parked tenants, or None."""
        if not self._parked:
            return None
        shown = [f"{tenant} ({parked.reason})" for tenant, parked in sorted(self._parked.items())[:_SHOWN]]
        more = len(self._parked) - len(shown)
        return f"tenants parked: {', '.join(shown)}" + (f" and {more} more" if more else "")
