"""Fills open gaps in trade ids from the exchange's REST API, through the publisher and the trade ledger.

Products take turns, one page each, so that a long gap of one holds up no other. Of a product's gaps the newest and the
oldest take turns: the newest matters most to windows and screens, and the oldest must not starve. All state is the
ledger's: a kill costs the page that was on its way. What REST does not have is asked for again until `patience` has
passed, because fresh trades reach it late, and is then given up.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from producers.completeness import OpenGap, TradeLedger
from producers.errors import RestAwayError, RestRefusedError
from producers.gap_walk import GapWalk, Question
from producers.id_ranges import IdRanges
from producers.rest_client import RestClient
from producers.throttle import Uniform
from producers.venues.protocol import ProtocolError, Rest
from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.log import logger
from schemas.records import Trade

_log = logger(__name__)


class TradePublisher(Protocol):
    """Where filled trades go; `producers.publisher.Publisher` is one."""

    @property
    def is_accepting(self) -> bool:
        """Whether more can be published now."""

    async def publish(self, record: Trade) -> None:
        """Send a trade to everybody who is subscribed to it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a filler works. Times in seconds.

    `first_pause`, `longest_pause`: bounds of the growing pauses before what failed or was not there is tried again.
    `idle`: between two looks for open gaps. `tasks`: pages that are on their way at a time.
    """

    patience: float = 60.0
    first_pause: float = 1.0
    longest_pause: float = 15.0
    idle: float = 0.25
    tasks: int = 2

    def pause(self, attempts: int, uniform: Uniform) -> float:
        """Return the pause after so many attempts in vain."""
        return uniform(0.5, 1.0) * min(self.longest_pause, self.first_pause * 2.0 ** min(attempts, 20))


@dataclass(slots=True)
class _Turns:
    """A product's turns: how many, the number of the last of all, refusals in a row, and until when it rests."""

    taken: int = 0
    last: int = 0
    refusals: int = 0
    resting_until: float = 0.0


@dataclass(slots=True)
class _Effort:
    """What was tried for one gap. Times are seconds of a monotonic clock."""

    walk: GapWalk | None = None
    absent: IdRanges | None = None
    absent_since: float = 0.0
    walks: int = 0
    not_before: float = 0.0


class Filler:
    """Fills the gaps of one ledger for as long as `run` runs."""

    def __init__(
        self,
        rest: Rest,
        client: RestClient,
        ledger: TradeLedger,
        publisher: TradePublisher,
        pace: Pace | None = None,
        *,
        clock: Clock = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Uniform = random.uniform,
    ) -> None:
        self._rest = rest
        self._client = client
        self._ledger = ledger
        self._publisher = publisher
        self._pace = pace or Pace()
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._efforts: dict[str, _Effort] = {}
        self._turns = count(1)
        self._products: defaultdict[str, _Turns] = defaultdict(_Turns)
        self._busy: set[str] = set()
        self._away_until = 0.0
        self._trouble: str | None = None

    async def run(self) -> None:
        """Fill what is open and what opens, until cancelled."""
        await asyncio.gather(*(self._work() for _ in range(self._pace.tasks)))

    def problem(self) -> str | None:
        """Return why nothing can be filled at present, or None."""
        return self._trouble

    async def _work(self) -> None:
        while True:
            gap = self._choose()
            if gap is None:
                await self._sleep(self._pace.idle)
                continue
            self._busy.add(gap.product)
            try:
                await self._turn(gap)
            finally:
                self._busy.discard(gap.product)

    def _choose(self) -> OpenGap | None:
        """Return the gap whose turn it is, or None when there is nothing to do at present."""
        now = self._monotonic()
        gaps = self._ledger.open_gaps()
        keys = {gap.key for gap in gaps}
        self._efforts = {key: effort for key, effort in self._efforts.items() if key in keys}
        if now < self._away_until or not self._publisher.is_accepting:
            return None
        waiting: dict[str, list[OpenGap]] = {}
        for gap in gaps:
            if gap.product not in self._busy and self._is_due(gap, now):
                waiting.setdefault(gap.product, []).append(gap)
        if not waiting:
            return None
        product = min(waiting, key=lambda name: self._products[name].last)
        turns = self._products[product]
        turns.last = next(self._turns)
        turns.taken += 1
        return waiting[product][-(turns.taken % 2)]

    def _is_due(self, gap: OpenGap, now: float) -> bool:
        effort = self._efforts.get(gap.key)
        return self._products[gap.product].resting_until <= now and (effort is None or effort.not_before <= now)

    async def _turn(self, gap: OpenGap) -> None:
        """Ask for one page of a gap and publish what it brings; or end a walk over it."""
        effort = self._efforts.setdefault(gap.key, _Effort())
        if effort.walk is None:
            effort.walk = GapWalk(gap.from_id, gap.to_id, gap.opened, self._rest.page)
        question = effort.walk.next(self._missing(gap))
        if question is None:
            self._end_walk(gap, effort, effort.walk)
            return
        page = await self._ask(gap.product, question)
        if page is None:
            effort.walk = None
            return
        effort.walk.answered(page)
        for trade in page:
            if self._ledger.fill(trade):
                await self._publisher.publish(trade)

    async def _ask(self, product: str, question: Question) -> list[Trade] | None:
        """Return a page of trades; None when there is none to be had now: the product then rests."""
        now = self._monotonic()
        try:
            body = await self._client.get(self._rest.trades(product, question.from_id, question.since))
            page = self._rest.parse_trades(product, body, self._clock())
        except RestAwayError as error:
            self._away_until = now + error.retry_in
            self._trouble = str(error)
        except (RestRefusedError, ProtocolError) as error:
            turns = self._products[product]
            turns.resting_until = now + self._pace.pause(turns.refusals, self._uniform)
            turns.refusals += 1
            self._trouble = f"trades of {product}: {error}"
            _log.error("gap cannot be filled for now", product=product, from_id=question.from_id, reason=str(error))
        else:
            self._products[product].refusals = 0
            self._trouble = None
            return page
        return None

    def _end_walk(self, gap: OpenGap, effort: _Effort, walk: GapWalk) -> None:
        """Give up what has been absent for long enough; walk again after a pause for the rest."""
        now = self._monotonic()
        absent = _common(walk.absent, self._missing(gap))
        effort.walk = None
        effort.not_before = now + self._pace.pause(effort.walks, self._uniform)
        effort.walks += 1
        if not absent.count:
            effort.absent = None
        elif effort.absent is None:
            effort.absent, effort.absent_since = absent, now
        elif now - effort.absent_since >= self._pace.patience:
            for first, last in _common(effort.absent, absent):
                self._ledger.unrecoverable(gap.product, first, last)
            effort.absent, effort.absent_since = absent, now

    def _missing(self, gap: OpenGap) -> IdRanges:
        return IdRanges(self._ledger.missing(gap.product, gap.from_id, gap.to_id))


def _common(ranges: IdRanges, others: IdRanges) -> IdRanges:
    return IdRanges(span for first, last in ranges for span in others.within(first, last))
