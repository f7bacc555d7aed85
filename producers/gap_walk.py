"""One walk over a gap in trade ids: which page to ask for next, and what the exchange does not have. Pure.

A walk goes upwards, because pages by time are only found from the trade before; what it has filled at a kill is then a
gap that is shorter at its lower end. Where the exchange has nothing at all, it looks further and further ahead, and
comes back for what it skipped when there is something: a stretch of a million ids that never existed costs a dozen
requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from producers.id_ranges import IdRanges
from schemas.records import Trade

_REMEMBERED: Final = 64
"""Trades whose times are known, at most: the ends of the last pages."""


@dataclass(frozen=True, slots=True)
class Question:
    """A page to ask for: it begins with `from_id`; `since` is the time of a trade before, in microseconds."""

    from_id: int
    since: int


@dataclass(frozen=True, slots=True)
class _Region:
    """Ids still to be looked at; `leap`: how far to look ahead if there is nothing; `skipped`: what a leap left out."""

    first: int
    last: int
    leap: int = 0
    skipped: tuple[int, int] | None = None


class GapWalk:
    """Looks at the ids from `first` to `last`; `opened` is the time of the last trade before, `page` a page's size.

    `absent`: the ids that were asked for and that the exchange did not give.
    """

    def __init__(self, first: int, last: int, opened: int, page: int) -> None:
        self.absent = IdRanges()
        self._page = page
        self._regions = [_Region(first, last)]
        self._opened = opened
        self._times: dict[int, int] = {}
        self._asked: _Region | None = None

    def next(self, missing: IdRanges) -> Question | None:
        """Return the next page to ask for, given what is still missing; None at the end of the walk."""
        while self._regions:
            region = self._regions.pop()
            first = missing.next(region.first)
            if first is not None and first <= region.last:
                skipped = region.skipped if first == region.first else None
                self._asked = _Region(first, region.last, region.leap, skipped)
                return Question(first, self.before(first))
        return None

    def answered(self, page: Sequence[Trade]) -> None:
        """Take the page that was asked for, in rising order of ids."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        highest = page[-1].trade_id if page else asked.first - 1
        progress = bool(page) and highest not in self._times
        for trade in (page[0], page[-1]) if page else ():
            self._times[trade.trade_id] = trade.exchange_time
        while len(self._times) > _REMEMBERED:
            del self._times[next(iter(self._times))]
        if highest >= asked.first:
            self._found(asked, page, min(highest, asked.last))
        elif progress:
            self._regions.append(asked)
        else:
            self._nothing(asked, page)

    def before(self, trade_id: int) -> int:
        """Return the time (micros) of the nearest trade before an id that a page has shown."""
        return max([self._opened, *(time for known, time in self._times.items() if known < trade_id)])

    def _found(self, asked: _Region, page: Sequence[Trade], highest: int) -> None:
        self._compare(asked.first, highest, page)
        if highest < asked.last:
            self._regions.append(_Region(highest + 1, asked.last))
        if asked.skipped is not None:
            self._regions.append(_Region(*asked.skipped))

    def _nothing(self, asked: _Region, page: Sequence[Trade]) -> None:
        """Nothing from here on, as far as a page tells: look ahead, at the end of the region last."""
        if asked.skipped is not None:
            self._skipped(*asked.skipped, page)
        self._is_absent(asked.first, min(asked.first + self._page - 1, asked.last))
        rest = asked.first + self._page
        ahead = max(rest, min(asked.first + self._page * 2**asked.leap, asked.last - self._page + 1))
        if ahead <= asked.last:
            skipped = (rest, ahead - 1) if rest < ahead else None
            self._regions.append(_Region(ahead, asked.last, asked.leap + 1, skipped))

    def _skipped(self, first: int, last: int, page: Sequence[Trade]) -> None:
        """Judge what a leap left out by the page that it led to, which may lie in there."""
        if not page or page[-1].trade_id < first:
            self._is_absent(first, last)
            return
        lowest = max(first, page[0].trade_id)
        self._compare(lowest, last, page)
        if first < lowest:
            self._regions.append(_Region(first, lowest - 1))

    def _compare(self, first: int, last: int, page: Sequence[Trade]) -> None:
        """Note what a page lacks of the ids from `first` to `last`."""
        expected = first
        for trade in page:
            self._is_absent(expected, min(trade.trade_id - 1, last))
            expected = max(expected, trade.trade_id + 1)
        self._is_absent(expected, last)

    def _is_absent(self, first: int, last: int) -> None:
        if first <= last:
            self.absent.add(first, last)
