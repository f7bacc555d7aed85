"""Which records were read before: the ids of the last grace period.

A record that is read again at another offset (a producer restarted, two overlap) has the same exchange_time, so ids
older than the grace are not needed: such a record is dropped as late. A number above all kept ones is new without a
look-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pulsestream.core.clock import MICROS_PER_SECOND
from streams.engine.inputs import Ints, Row
from streams.engine.series import GRACE


def _no_numbers() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Ids of the records of one second: numbers, ascending, and digests; `highest` number, -1 where there is none."""

    second: int
    numbers: Ints = field(default_factory=_no_numbers)
    digests: frozenset[bytes] = frozenset()
    highest: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "highest", int(self.numbers[-1]) if len(self.numbers) else -1)

    def holds(self, identity: int | bytes) -> bool:
        """Tell whether an id is among these."""
        if isinstance(identity, bytes):
            return identity in self.digests
        index = int(self.numbers.searchsorted(identity))
        return index < len(self.numbers) and int(self.numbers[index]) == identity

    def plus(self, numbers: Ints, digests: Sequence[bytes] = ()) -> "Seen":
        """Return these ids and others of the same second; the numbers given ascend."""
        if self.highest < 0:
            joined = numbers
        elif len(numbers) and self.highest < numbers[0]:
            joined = np.concatenate((self.numbers, numbers))
        else:
            joined = np.union1d(self.numbers, numbers)
        return Seen(self.second, joined, self.digests.union(digests) if digests else self.digests)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Seen)
            and self.second == other.second
            and self.digests == other.digests
            and np.array_equal(self.numbers, other.numbers)
        )

    __hash__ = None  # type: ignore[assignment] # as of any list


class SeenFold:
    """The known ids while records are read; ends as the next tuple of `Seen`, ascending by second."""

    def __init__(self, seen: tuple[Seen, ...]) -> None:
        self._held = {entry.second: entry for entry in seen}
        self._added: dict[int, set[int | bytes]] = {}
        self.highest = max([entry.highest for entry in seen], default=-1)

    def add(self, row: Row, watermark: int) -> bool:
        """Take a record's id; False if it was read before. The record itself is within the grace."""
        known = row.identity
        if isinstance(known, int) and known > self.highest:
            self.highest = known
        elif self._known(known, watermark - GRACE):
            return False
        self._added.setdefault(row.time // MICROS_PER_SECOND, set()).add(known)
        return True

    def add_run(self, second: int, numbers: Ints) -> None:
        """Take ascending numbers above all known ones, of records of one second."""
        self._held[second] = self._held.get(second, Seen(second)).plus(numbers.copy())
        self.highest = int(numbers[-1])

    def finish(self, watermark: int) -> tuple[Seen, ...]:
        """Return the ids that can still come again."""
        for second, ids in self._added.items():
            digests = [known for known in ids if isinstance(known, bytes)]
            numbers = sorted(ids.difference(digests) if digests else ids)
            held = self._held.get(second, Seen(second))
            self._held[second] = held.plus(np.array(numbers, np.int64), digests)
        kept = sorted(self._held)
        oldest = watermark - GRACE
        while kept and not _reachable(kept[0], oldest):
            del kept[0]
        return tuple([self._held[second] for second in kept])

    def _known(self, known: int | bytes, oldest: int) -> bool:
        return any(_reachable(second, oldest) and entry.holds(known) for second, entry in self._held.items()) or any(
            known in ids and _reachable(second, oldest) for second, ids in self._added.items()
        )


def _reachable(second: int, oldest: int) -> bool:
    """Tell whether a record of this second may still be within the grace: exchange_time >= oldest."""
    return (second + 1) * MICROS_PER_SECOND > oldest
