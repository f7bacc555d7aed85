"""One product's trade ids: which were seen, which wait for the broker, which are missing. Pure.

An id is missing from the moment a later one is seen until the broker has acknowledged it. Missing ids form holes: a
hole is a suspect for `SUSPECT_FOR` (reordering, a second connection), then a gap with a record in the ledger. Memory
is bounded: at most `MAX_HOLES` holes of `MAX_RANGES` ranges; beyond, the nearest are joined, and the ids between count
as missing once more. They are then published twice, which their ids make harmless.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Final

from producers.id_ranges import IdRanges
from pulsestream.core.clock import MICROS_PER_SECOND
from schemas.records import Trade

SUSPECT_FOR: Final = 2 * MICROS_PER_SECOND
"""Microseconds after which an id that was jumped over counts as missing."""
MAX_HOLES: Final = 128
MAX_RANGES: Final = 64
MAX_JUMP: Final = 100_000
MAX_RATE: Final = 10_000
"""A jump over more ids than `MAX_JUMP`, and `MAX_RATE` for each second since the last trade, is taken for a new
numbering, once a second trade confirms it: no product trades that often."""
RENUMBERED_AFTER: Final = 10 * MICROS_PER_SECOND
"""A low id whose trade is this much younger than the newest one cannot be a repetition."""
_NEIGHBOURS: Final = 10_000
"""Ids this close together belong to one numbering."""
_MARKS: Final = 512


@dataclass(slots=True, eq=False)
class Hole:
    """Missing ids from `first` to `last`; a suspect while `key` is None. `opened`: time of the last trade before.

    `announced`: the broker holds a record that covers it, or one up to `covered_to`. `absorbed`: the hole that has its
    ids now. `given_up`: ids that cannot be had any more.
    """

    first: int
    last: int
    opened: int
    cause: str
    due: int
    missing: IdRanges
    key: str | None = None
    announced: bool = False
    absorbed: "Hole | None" = None
    written_at: int = 0
    written_to: int = 0
    covered_to: int = 0
    given_up: int = 0
    given_up_span: tuple[int, int] | None = None

    @property
    def closes(self) -> bool:
        """Whether its record may say that it is closed."""
        heir = self
        while heir.absorbed is not None:
            heir = heir.absorbed
        return not heir.missing.count or (heir is not self and heir.covered_to >= self.last)

    def give_up(self, first: int, last: int, count: int) -> None:
        """Count ids between `first` and `last` that cannot be had."""
        before = self.given_up_span or (first, last)
        self.given_up_span = (min(before[0], first), max(before[1], last))
        self.given_up += count


class Book:
    """What is known of one product's ids. `next` is the id that would be in order; -1 after an interruption."""

    __slots__ = (
        "absent", "candidate", "cause", "changed", "closed", "done", "duplicates", "filling", "first", "holes", "late",
        "marks", "next", "pending", "position_time", "product", "renumbered", "resumed", "start", "suspects", "time",
        "written",
    )  # fmt: skip

    def __init__(self, product: str, last: int, time: int) -> None:
        self.product = product
        self.next = last + 1
        self.resumed = last
        self.start = last + 1
        self.first = last + 1
        self.time = self.position_time = time
        self.written: int | None = None
        self.cause = ""
        self.pending: deque[int] = deque()
        self.done: set[int] = set()
        self.late: set[int] = set()
        self.filling: set[int] = set()
        self.absent = IdRanges()
        self.holes: list[Hole] = []
        self.suspects: deque[Hole] = deque()
        self.changed: dict[Hole, None] = {}
        self.closed: deque[tuple[int, str]] = deque()
        self.marks: deque[tuple[int, int]] = deque([(last, time)], _MARKS)
        self.candidate: int | None = None
        self.renumbered: int | None = None
        self.duplicates = 0

    @property
    def last(self) -> int:
        """The highest id that is known to exist."""
        return self.resumed if self.next < 0 else self.next - 1

    def interrupted(self, cause: str) -> None:
        """Let the next jump have this cause; the first interruption since the last trade counts."""
        if self.next >= 0:
            self.resumed = self.next - 1
            self.next = -1
            self.cause = cause

    def take(self, trade: Trade) -> bool:
        """Take a trade that is not simply the next one; False for one that is known."""
        if trade.trade_id <= self.last:
            return self._late(trade)
        if not self._is_plausible(trade.trade_id, trade.exchange_time):
            return self._strange(trade)
        self.expect(trade.trade_id - 1, trade.received_time, "sequence")
        self._advance(trade)
        return True

    def expect(self, last: int, now: int, cause: str) -> None:
        """Note that every id up to `last` exists; those not seen yet become suspects."""
        if last > self.last:
            span = (self.last + 1, last)
            hole = Hole(*span, self.time, self.cause or cause, now + SUSPECT_FOR, IdRanges([span]))
            self.holes.append(hole)
            self.suspects.append(hole)
            self._bound()
        if last >= self.last:
            self.next = last + 1
            self.cause = ""

    def expect_tail(self, last: int, now: int) -> None:
        """Note the newest id that the exchange names; one that is far off is left to the trades to show."""
        if self._is_plausible(last, now):
            self.expect(last, now, "heartbeat")

    def acknowledge(self, trade_id: int) -> int:
        """Note that the broker has a trade; returns how many ids of open gaps that filled (0 or 1)."""
        if trade_id in self.filling:
            self.filling.discard(trade_id)
            return self._filled(trade_id)
        if trade_id in self.late:
            self.late.discard(trade_id)
        elif self._is_pending(trade_id):
            self.done.add(trade_id)
            self.skip_done()
        return 0

    def lose(self, trade_id: int, cause: str) -> None:
        """Note that a published trade did not reach the broker: its id is missing again."""
        if trade_id in self.filling:
            self.filling.discard(trade_id)
            return
        if trade_id in self.late:
            self.late.discard(trade_id)
        elif self._is_pending(trade_id):
            self.done.add(trade_id)
            self.skip_done()
        else:
            return
        self._reopen(trade_id, cause)

    def fill(self, trade: Trade) -> bool:
        """Take a trade for an open gap; False when nothing misses it, or when it is on its way."""
        trade_id = trade.trade_id
        hole = self.hole(trade_id)
        wanted = hole is not None and hole.key is not None and trade_id in hole.missing and trade_id not in self.filling
        if wanted:
            self.filling.add(trade_id)
        return wanted

    def give_up(self, first: int, last: int) -> int:
        """Note that the missing ids from `first` to `last` cannot be had; returns how many. Those on their way stay."""
        count = 0
        for hole in [hole for hole in self.holes if hole.key is not None and hole.first <= last and hole.last >= first]:
            gone = IdRanges(hole.missing.within(first, last))
            for trade_id in self.filling:
                gone.remove(trade_id, trade_id)
            for start, end in gone:
                hole.give_up(start, end, hole.missing.remove(start, end))
                self.absent.add(start, end)
            hole.missing.coalesce(MAX_RANGES)
            count += gone.count
            self.changed[hole] = None
        self.absent.coalesce(MAX_RANGES)
        return count

    def hole(self, trade_id: int) -> Hole | None:
        """Return the hole whose span holds an id."""
        at = bisect_right(self.holes, trade_id, key=_first) - 1
        return self.holes[at] if at >= 0 and trade_id <= self.holes[at].last else None

    def name(self, hole: Hole, prefix: str) -> str:
        """Return a key for a hole: after its first id, or the next one after which no other hole is named."""
        taken = {other.key for other in self.holes}
        number = hole.first
        while f"{prefix}{number}" in taken:
            number += 1
        return f"{prefix}{number}"

    def position(self) -> int:
        """Return the id up to which every trade is acknowledged, or in a gap that the broker knows."""
        bounds = [hole.first for hole in self.holes if not hole.announced]
        bounds += [self.pending[0]] if self.pending else []
        bounds += [min(self.late)] if self.late else []
        return min(min(bounds, default=self.last + 1) - 1, self.last)

    def time_before(self, trade_id: int) -> int:
        """Return the time of a trade before this id: the latest that is known."""
        return max((time for seen, time in self.marks if seen < trade_id), default=self.position_time)

    def mark(self) -> None:
        """Remember the time of the newest trade, for `time_before`, and forget what the position has passed."""
        if self.marks[-1][0] != self.last:
            self.marks.append((self.last, self.time))
        while len(self.marks) > 1 and self.written is not None and self.marks[1][0] <= self.written:
            self.marks.popleft()
        if self.written is not None and self.marks[0][0] <= self.written:
            self.position_time = self.marks[0][1]

    def drop(self, hole: Hole) -> None:
        """Forget a hole that is closed."""
        if hole in self.holes:
            self.holes.remove(hole)

    def skip_done(self) -> None:
        """Forget the head of what waits, as far as its fate is known."""
        pending, done = self.pending, self.done
        while pending and pending[0] in done:
            done.discard(pending.popleft())
        if not pending:
            done.clear()

    def inherit(self, holes: list[Hole], absent: IdRanges, cause: str, now: int) -> None:
        """Take over gaps that another process left open; ids that no gap and no position covers are missing too.

        `absent`: ids that it gave up; one that comes all the same is published.
        """
        self.absent = absent
        self.absent.coalesce(MAX_RANGES)
        top = max([self.last, *(hole.last for hole in holes)])
        unknown = IdRanges([(self.next, top)] if top > self.last else ())
        for hole in sorted(holes, key=_first):
            self.start = min(self.start, hole.first)
            unknown.remove(hole.first, hole.last)
            before = self.holes[-1] if self.holes else None
            if before is not None and hole.first <= before.last:
                self._absorb(before, hole)
            else:
                self.holes.append(hole)
        self.next = top + 1
        for first, last in unknown:
            self._insert(Hole(first, last, self.time, cause, now, IdRanges([(first, last)])))
        self._bound()
        self.interrupted(cause)

    def _advance(self, trade: Trade) -> None:
        self.next = trade.trade_id + 1
        self.time = max(self.time, trade.exchange_time)
        self.pending.append(trade.trade_id)
        self.cause = ""
        self.candidate = None

    def _is_plausible(self, trade_id: int, at: int) -> bool:
        """Say whether as many trades as lie before this id can have happened by a time."""
        seconds = max(0, at - self.time) // MICROS_PER_SECOND
        return trade_id - self.last <= MAX_JUMP + MAX_RATE * seconds

    def _late(self, trade: Trade) -> bool:
        trade_id = trade.trade_id
        hole = self.hole(trade_id)
        if hole is not None and trade_id in hole.missing:
            self.time = max(self.time, trade.exchange_time)
            return self._found(hole, trade_id)
        if self.absent.remove(trade_id, trade_id):
            self.late.add(trade_id)
            return True
        if trade.exchange_time > self.time:
            return self._strange(trade)
        if trade_id < self.first:
            return True
        self.duplicates += 1
        return False

    def _found(self, hole: Hole, trade_id: int) -> bool:
        if hole.key is not None or hole.due == 0:
            if trade_id in self.filling:
                self.duplicates += 1
                return False
            self.filling.add(trade_id)
            return True
        hole.missing.remove(trade_id, trade_id)
        self.late.add(trade_id)
        if not hole.missing.count:
            self.drop(hole)
        else:
            hole.missing.coalesce(MAX_RANGES)
        return True

    def _strange(self, trade: Trade) -> bool:
        """Take a trade that fits no numbering known; the second one in a row that fits the first begins a new one."""
        before, self.candidate = self.candidate, trade.trade_id
        late = trade.trade_id <= self.last
        if late and trade.exchange_time - self.time < RENUMBERED_AFTER:
            return True
        if before is not None and 0 < trade.trade_id - before < _NEIGHBOURS:
            self.renumbered = before
        return True

    def _is_pending(self, trade_id: int) -> bool:
        pending = self.pending
        return bool(pending) and pending[0] <= trade_id <= pending[-1] and trade_id not in self.done

    def _filled(self, trade_id: int) -> int:
        hole = self.hole(trade_id)
        if hole is None or not hole.missing.remove(trade_id, trade_id):
            return 0
        hole.missing.coalesce(MAX_RANGES)
        self.changed[hole] = None
        return 1

    def _reopen(self, trade_id: int, cause: str) -> None:
        at = bisect_right(self.holes, trade_id, key=_first) - 1
        hole = self.holes[at] if at >= 0 else None
        if hole is None or trade_id > hole.last + (hole.cause == cause):
            span = IdRanges([(trade_id, trade_id)])
            self._insert(Hole(trade_id, trade_id, self.time_before(trade_id), cause, 0, span))
        else:
            hole.last = max(hole.last, trade_id)
            hole.missing.add(trade_id, trade_id)
            hole.missing.coalesce(MAX_RANGES)
            self._announce_again(hole)
        self._bound()

    def _insert(self, hole: Hole) -> None:
        self.holes.insert(bisect_right(self.holes, hole.first, key=_first), hole)
        hole.due = 0
        self.changed[hole] = None

    def _announce_again(self, hole: Hole) -> None:
        hole.announced = False
        if hole.key is not None or hole.due == 0:
            hole.written_at = 0
            self.changed[hole] = None

    def _bound(self) -> None:
        while len(self.holes) > MAX_HOLES:
            distances = [after.first - before.last for before, after in zip(self.holes, self.holes[1:], strict=False)]
            at = distances.index(min(distances))
            self._absorb(self.holes[at], self.holes.pop(at + 1))

    def _absorb(self, hole: Hole, other: Hole) -> None:
        """Put all of `other` into the hole before it, under the name of either."""
        hole.last = max(hole.last, other.last)
        for first, last in other.missing:
            hole.missing.add(first, last)
        hole.missing.coalesce(MAX_RANGES)
        if other.given_up_span is not None:
            hole.give_up(*other.given_up_span, other.given_up)
        if other.key is not None or other.due == 0:
            hole.due = 0
        other.missing.clear()
        other.absorbed = hole
        self.changed.pop(other, None)
        if hole.key is None:
            hole.key, other.key = other.key, None
        self._announce_again(hole)
        if other.key is not None:
            self.changed[other] = None  # behind the hole that has its ids now


def _first(hole: Hole) -> int:
    return hole.first
