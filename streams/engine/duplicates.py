"""Which records were read before: the ids of the last grace period.

A record that is read again at another offset (a producer restarted, two overlap) has the same exchange_time, so ids
older than the grace are not needed: such a record is dropped as late. A sequence above all kept ones is new without a
look-up.
"""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Self

from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Tick
from streams.engine.series import GRACE

Identity = int | bytes
"""A tick's sequence; without one, 16 bytes of a digest of its event_id."""
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """Ids of the records of one second, and the highest sequence among them (-1: none has a sequence)."""

    second: int
    highest: int
    ids: frozenset[Identity]

    @classmethod
    def of(cls, second: int, ids: AbstractSet[Identity]) -> Self:
        """Return the ids of a second with their highest sequence."""
        return cls(second, max([known for known in ids if isinstance(known, int)], default=-1), frozenset(ids))


class SeenFold:
    """The known ids while records are read; ends as the next tuple of `Seen`, ascending by second."""

    def __init__(self, seen: tuple[Seen, ...]) -> None:
        self._held = {entry.second: entry for entry in seen}
        self._added: dict[int, set[Identity]] = {}
        self._highest = max([entry.highest for entry in seen], default=-1)

    def add(self, tick: Tick, watermark: int) -> bool:
        """Take a record's id; False if it was read before. The record itself is within the grace."""
        known = identity(tick)
        if isinstance(known, int) and known > self._highest:
            self._highest = known
        elif self._known(known, watermark - GRACE):
            return False
        self._added.setdefault(tick.exchange_time // MICROS_PER_SECOND, set()).add(known)
        return True

    def finish(self, watermark: int) -> tuple[Seen, ...]:
        """Return the ids that can still come again."""
        for second, ids in self._added.items():
            added, held = Seen.of(second, ids), self._held.get(second)
            self._held[second] = Seen(second, max(held.highest, added.highest), held.ids | ids) if held else added
        oldest = watermark - GRACE
        return tuple(self._held[second] for second in sorted(self._held) if _reachable(second, oldest))

    def _known(self, known: Identity, oldest: int) -> bool:
        return any(known in entry.ids and _reachable(second, oldest) for second, entry in self._held.items()) or any(
            known in ids and _reachable(second, oldest) for second, ids in self._added.items()
        )


def identity(tick: Tick) -> Identity:
    """Return what makes a tick the same as another of its key."""
    if tick.sequence is not None:
        return tick.sequence
    return hashlib.blake2b(tick.event_id.encode(), digest_size=_DIGEST_BYTES).digest()


def _reachable(second: int, oldest: int) -> bool:
    """Tell whether a record of this second may still be within the grace: exchange_time >= oldest."""
    return (second + 1) * MICROS_PER_SECOND > oldest
