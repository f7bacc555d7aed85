"""`pulsestream stream --rebuild`: state is emptied as it is taken over, and computed again from the topics.

What was learned stays: rule versions and the bases of prices, which their compacted topics may have forgotten. What was
computed goes, positions included, in one transaction: so the topics are read from their beginnings, and outputs leave
again under the same ids. It happens once a partition and process; a crash goes on from the last checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pulsestream.core.errors import UsageError
from pulsestream.core.kafka import Admin
from streams.entries import is_learned

WORKERS_KNOWN_FOR: Final = 6
"""Seconds for which the group still counts a worker that was killed."""


def refuse_beside_workers(admin: Admin, app: str) -> None:
    """Raise UsageError while a worker of the application is alive: it would go on from the state that is emptied."""
    members = admin.group_members(app)
    if members:
        raise UsageError(
            f"{members} workers of {app} are alive: stop all of them before --rebuild (one that was killed counts for "
            f"{WORKERS_KNOWN_FOR} s), and start the others again when it has taken the partitions over"
        )


def emptied(entries: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes | None]]:
    """Return the entries that stay, and what to write so that only they do."""
    kept = {name: value for name, value in entries.items() if is_learned(name)}
    return kept, {name: None for name in entries if name not in kept}


@dataclass(slots=True)
class Progress:
    """How far the topics have been folded again; times are monotonic seconds."""

    begun_at: float
    total: int
    _last: tuple[float, int] | None = None

    def told(self, now: float, remaining: int) -> dict[str, float]:
        """Return figures for the log: records a second since the last time, remaining, and the estimated seconds."""
        done = self.total - remaining
        since, before = self._last or (self.begun_at, 0)
        self._last = now, done
        rate = (done - before) / max(now - since, 1e-6)
        left = remaining / rate if rate > 0 else float("inf")
        return {"per_second": round(rate), "remaining": remaining, "seconds_left": round(left) if rate > 0 else -1}
