"""How often a known key was refused, counted by kind until the audit has a row of it. Pure.

A kind is a key, what it was refused, and why. The first refusal of a kind is due at once; what follows within a minute
is due together when the minute is over. So the rows, and with them the database, are bounded, and the counts are whole.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from api.errors import Denial

QUIET: Final = 60.0
"""Seconds between two rows of a kind."""
OF_TENANT: Final = 60
"""Rows of a tenant in a minute; what is beyond waits for the next one."""
OF_ALL: Final = 600
KINDS: Final = 10_000
"""Kinds that are counted at once; a refusal of one more is lost."""


@dataclass(frozen=True, slots=True)
class Refused:
    """So many refusals of a kind, the last of them in request `request_id`."""

    denial: Denial
    times: int
    request_id: str


@dataclass(slots=True)
class _Kind:
    times: int = 0
    request_id: str = ""
    told: float | None = None


class Refusals:
    """Refusals that no row tells of yet. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._kinds: dict[Denial, _Kind] = {}
        self._minute = 0
        self._rows: Counter[str | None] = Counter()
        """Of this minute by tenant; None: of all."""

    def add(self, denial: Denial, request_id: str, times: int = 1) -> bool:
        """Count refusals; False where there is no room for another kind."""
        kind = self._kinds.get(denial)
        if kind is None:
            if len(self._kinds) >= KINDS:
                return False
            kind = self._kinds[denial] = _Kind()
        kind.times += times
        kind.request_id = request_id
        return True

    def take(self, now: float, *, everything: bool = False) -> list[Refused]:
        """Return what is due, or with `everything` all there is; it counts as told."""
        if self._minute != now // QUIET:
            self._minute = int(now // QUIET)
            self._rows.clear()
        told = (denial for denial in self._kinds if everything or self._is_due(denial, now))
        taken = [refused for denial in told if (refused := self._taken(denial, now)).times]
        self._forget(now)
        return taken

    def put_back(self, refused: Refused) -> None:
        """Count again what could not be told after all."""
        if self.add(refused.denial, refused.request_id, refused.times):
            self._kinds[refused.denial].told = None

    def _is_due(self, denial: Denial, now: float) -> bool:
        kind = self._kinds[denial]
        if not kind.times or (kind.told is not None and now - kind.told < QUIET):
            return False
        return self._rows[denial.tenant] < OF_TENANT and self._rows[None] < OF_ALL

    def _taken(self, denial: Denial, now: float) -> Refused:
        kind = self._kinds[denial]
        refused = Refused(denial, kind.times, kind.request_id)
        kind.times, kind.told = 0, now
        self._rows.update((denial.tenant, None))
        return refused

    def _forget(self, now: float) -> None:
        for denial, kind in [*self._kinds.items()]:
            if not kind.times and kind.told is not None and now - kind.told >= QUIET:
                del self._kinds[denial]
