"""A set of ids as sorted, disjoint ranges: small however many ids it holds. Pure.

What the trade ledger keeps of ids that are missing. Every operation costs the logarithm of the number of ranges, and
a move of the list's end where a range appears or goes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class IdRanges:
    """Ids, as ranges of which both ends belong to it. `count`: how many ids."""

    __slots__ = ("_firsts", "_lasts", "count")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.count = 0
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._firsts)

    def __contains__(self, wanted: int) -> bool:
        at = bisect_right(self._firsts, wanted) - 1
        return at >= 0 and wanted <= self._lasts[at]

    @property
    def first(self) -> int:
        """The lowest id; IndexError when empty."""
        return self._firsts[0]

    @property
    def last(self) -> int:
        """The highest id; IndexError when empty."""
        return self._lasts[-1]

    def add(self, first: int, last: int) -> None:
        """Put the ids from `first` to `last` in; those already there stay."""
        low = bisect_left(self._lasts, first - 1)
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._replace(low, high, [(first, last)])

    def remove(self, first: int, last: int) -> int:
        """Take the ids from `first` to `last` out and return how many were there."""
        before = self.count
        low, high = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        if low < high:
            rest = [(self._firsts[low], first - 1), (last + 1, self._lasts[high - 1])]
            self._replace(low, high, [(start, end) for start, end in rest if start <= end])
        return before - self.count

    def within(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges of the ids from `first` to `last` that are here."""
        low, high = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        return [(max(first, self._firsts[at]), min(last, self._lasts[at])) for at in range(low, high)]

    def next(self, wanted: int) -> int | None:
        """Return the lowest id here that is not below `wanted`, or None."""
        at = bisect_left(self._lasts, wanted)
        return max(wanted, self._firsts[at]) if at < len(self._firsts) else None

    def coalesce(self, most: int) -> None:
        """Join the nearest ranges until at most `most` are left; the ids between them belong to it from then on."""
        while len(self._firsts) > most:
            distances = [start - end for start, end in zip(self._firsts[1:], self._lasts, strict=False)]
            at = distances.index(min(distances))
            self._replace(at, at + 2, [(self._firsts[at], self._lasts[at + 1])])

    def clear(self) -> None:
        """Take every id out."""
        self._replace(0, len(self._firsts), [])

    def _replace(self, low: int, high: int, ranges: list[tuple[int, int]]) -> None:
        self.count -= sum(self._lasts[low:high]) - sum(self._firsts[low:high]) + (high - low)
        self._firsts[low:high] = [first for first, _ in ranges]
        self._lasts[low:high] = [last for _, last in ranges]
        self.count += sum(last - first + 1 for first, last in ranges)
