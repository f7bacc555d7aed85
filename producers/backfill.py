"""`pulsestream backfill`: a product's trades and candles of the past, through the topics that live data takes.

Same records, same ids, and the header `ps-backfill`: a second run, or an overlap with live data, changes nothing. The
progress of each part is a record of the feeds topic, written only after the broker has what it speaks of, so a run
that was killed continues where it ended.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import msgspec

from producers.backfill_plan import RATE, TRADES, Choice, Part, Span, check, parts, routes
from producers.backfill_topics import BackfillTopics
from producers.errors import RestAwayError, RestRefusedError
from producers.gap_walk import GapWalk
from producers.history_search import first_id_at
from producers.id_ranges import IdRanges
from producers.rest_client import RestClient
from producers.source import exchange_of, rest_url
from producers.venues.protocol import Exchange, ProtocolError, RestRequest
from pulsestream.core import topics
from pulsestream.core.clock import MICROS_PER_SECOND, Clock, format_rfc3339, wall_clock
from pulsestream.core.errors import OutageError, UsageError
from pulsestream.core.settings import Settings
from schemas.control import ControlTable
from schemas.records import Bar, Feed, Gap, Subscription, Trade

KIND: Final = "backfill"
AWAY_FOR: Final = 900.0
"""Seconds that an exchange's REST API may be away before a backfill ends with an error."""
GARBLED: Final = 5
"""Unreadable pages in a row after which it does."""
_UNKNOWN: Final = frozenset({400, 404})
T = TypeVar("T")


class Progress(Protocol):
    """Who shows how a backfill goes on."""

    def begin(self, part: str, total: int) -> None:
        """Begin a part (`trades`, `candles 1m`) of so many steps."""

    def advance(self, done: int, records: int) -> None:
        """Note the steps done and the records sent of the present part, both counted from its beginning."""

    def say(self, text: str) -> None:
        """Show a line."""


class _StoppedError(Exception):
    """The person has asked for the end."""


async def backfill(
    settings: Settings,
    span: Span,
    choice: Choice,
    progress: Progress,
    *,
    stopping: asyncio.Event,
    clock: Clock = wall_clock,
) -> bool:
    """Send what is asked for; False if `stopping` ended it early, with all that was sent accounted for.

    Raises UsageError for what cannot be, OutageError when exchange or broker are away for too long.
    """
    exchange = exchange_of(settings)
    check(exchange, span, choice, clock())
    subscriptions, feeds = await asyncio.gather(
        asyncio.to_thread(_load, settings, topics.SUBSCRIPTIONS, Subscription),
        asyncio.to_thread(_load, settings, topics.FEEDS, Feed),
    )
    unfinished = parts(exchange.name, span, choice, feeds)
    if not unfinished:
        progress.say("this backfill is finished already: nothing was sent (--restart sends everything once more)")
        return True
    destinations = BackfillTopics(settings, routes(subscriptions, exchange.name, span, choice), feeds)
    await asyncio.to_thread(destinations.check)
    rate = choice.rate or min(RATE, exchange.limits.requests_per_second)
    async with RestClient(exchange.name, rest_url(settings, exchange), rate) as client:
        run = _Backfill(exchange, client, destinations, span=span, progress=progress, stopping=stopping, clock=clock)
        try:
            for part in unfinished:
                await run.part(part)
        except _StoppedError:
            return False
    return True


class _Backfill:
    """One run."""

    def __init__(
        self,
        exchange: Exchange,
        client: RestClient,
        destinations: BackfillTopics,
        *,
        span: Span,
        progress: Progress,
        stopping: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._rest = exchange.rest
        self._client = client
        self._topics = destinations
        self._span = span
        self._progress = progress
        self._stopping = stopping
        self._clock = clock

    async def part(self, part: Part) -> None:
        """Send one part; raises _StoppedError between two pages."""
        if part.name == TRADES:
            await self._trades(part)
        else:
            await self._candles(part, part.name.removeprefix("candles "))

    async def _trades(self, part: Part) -> None:
        first, last, since = await self._bounds(part)
        if part.held is not None:
            self._progress.say(f"continues at trade {first}, {max(0, last - first + 1)} are left")
        remaining = IdRanges([(first, last)] if first <= last else ())
        self._progress.begin(part.name, remaining.count)
        walk, sent = GapWalk(first, last, since, self._rest.page), 0
        while (question := walk.next(remaining)) is not None:
            page = await self._page(self._rest.trades(self._span.product, question.from_id, question.since))
            walk.answered(page)
            new = [trade for trade in page if trade.trade_id in remaining and self._is_within(trade.exchange_time)]
            await self._topics.send(new)
            for trade in page:
                remaining.remove(trade.trade_id, trade.trade_id)
            sent += len(new)
            left = _without(remaining, walk.absent)
            cursor = left.first if left.count else last + 1
            await self._note(part, Gap(
                kind=KIND, from_id=cursor, to_id=last, opened=self._span.start, cause=part.name, missing=left.count
            ), walk.before(cursor))  # fmt: skip
            self._progress.advance(last - first + 1 - left.count, sent)
            self._go_on()
        gap = Gap(kind=KIND, from_id=last + 1, to_id=last, opened=self._span.start, cause=part.name, missing=0)
        await self._finish(part, gap)
        lacking = f"; the exchange does not have {remaining.count} of the ids between" if remaining.count else ""
        self._progress.say(f"{sent} trades sent{lacking}")

    async def _bounds(self, part: Part) -> tuple[int, int, int]:
        """Return the first and last id of the span, and the time of a trade before the first."""
        held = part.held
        if held is not None and held.gap is not None and held.gap.from_id is not None and held.gap.to_id is not None:
            return held.gap.from_id, held.gap.to_id, held.at
        latest = await self._page(self._rest.latest_trades(self._span.product))
        if not latest:
            raise UsageError(f"{self._exchange.name} has no trades of {self._span.product}")
        first = await self._first_id(self._span.start, latest)
        last = await self._first_id(self._span.end, latest) - 1
        self._go_on()
        return first, last, self._span.start

    async def _first_id(self, at: int, latest: list[Trade]) -> int:
        request = self._rest.trades_at(self._span.product, at)
        if request is None:
            product = self._span.product
            return await first_id_at(at, latest, lambda number: self._page(self._rest.trades(product, number, 0)))
        page = [trade for trade in await self._page(request) if trade.exchange_time >= at]
        return page[0].trade_id if page else latest[-1].trade_id + 1

    async def _candles(self, part: Part, period: str) -> None:
        length = self._rest.periods[period] * MICROS_PER_SECOND
        start = -(-self._span.start // length) * length
        if part.held is not None and part.held.gap is not None and part.held.gap.from_id is not None:
            start = part.held.gap.from_id
            self._progress.say(f"continues at {format_rfc3339(start)}")
        begin, end, sent = start, self._span.end // length * length, 0
        self._progress.begin(part.name, max(0, (end - begin) // length))
        while start < end:
            until = min(end, start + self._rest.candles_page * length)
            bars = await self._bars(period, start, until, length)
            await self._topics.send(bars)
            sent += len(bars)
            start = until
            gap = Gap(kind=KIND, from_id=start, to_id=end, opened=self._span.start, cause=part.name)
            await self._note(part, gap, start)
            self._progress.advance((start - begin) // length, sent)
            self._go_on()
        await self._finish(part, Gap(kind=KIND, from_id=end, to_id=end, opened=self._span.start, cause=part.name))
        self._progress.say(f"{sent} candles of {period} sent (a period without trades has none)")

    async def _bars(self, period: str, start: int, end: int, length: int) -> list[Bar]:
        """Return the finished candles that start in [start, end)."""
        product = self._span.product
        request = self._rest.candles(product, period, start, end)
        bars = await self._asked(request, lambda body: self._rest.parse_candles(product, period, body))
        now = self._clock()
        return [
            msgspec.structs.replace(bar, complete=True, received_time=now)
            for bar in bars
            if start <= bar.start < end and bar.start + length <= now
        ]

    async def _page(self, request: RestRequest) -> list[Trade]:
        product = self._span.product
        return await self._asked(request, lambda body: self._rest.parse_trades(product, body, self._clock()))

    async def _asked(self, request: RestRequest, parse: Callable[[bytes], T]) -> T:
        """Return an answer that can be read, waiting for an exchange that is away, up to a bound."""
        away_since: int | None = None
        garbled = 0
        while True:
            try:
                return parse(await self._client.get(request))
            except RestRefusedError as error:
                raise self._refused(error) from error
            except RestAwayError as error:
                away_since = away_since or self._clock()
                if self._clock() - away_since > AWAY_FOR * MICROS_PER_SECOND:
                    raise
                self._progress.say(f"{error}; trying again")
                await self._pause(error.retry_in)
            except ProtocolError as error:
                garbled += 1
                if garbled == GARBLED:
                    raise OutageError(f"{self._exchange.name} answers what cannot be read: {error}") from error
                await self._pause(garbled)

    def _refused(self, error: RestRefusedError) -> Exception:
        if error.status in _UNKNOWN:
            name = self._exchange.name
            return UsageError(f"{name} does not know the product {self._span.product} ({error})")
        return error

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        self._go_on()

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _is_within(self, time: int) -> bool:
        return self._span.start <= time < self._span.end

    async def _finish(self, part: Part, gap: Gap) -> None:
        await self._note(part, msgspec.structs.replace(gap, closed=self._clock()), self._span.end)

    async def _note(self, part: Part, gap: Gap, at: int) -> None:
        """Write the progress. `at`: the time of the last trade before the cursor."""
        record = Feed(
            exchange=self._exchange.name, product=self._span.product, state="connected", at=at, gap=gap, version=0
        )
        await self._topics.note(part.key, record)


def _load(settings: Settings, topic: str, kind: type[T]) -> dict[str, T]:
    table = ControlTable(settings, topic, kind, "ps-producer-backfill")  # type: ignore[type-var] # one of the control records
    try:
        table.load()
        return table.records
    finally:
        table.close()


def _without(ranges: IdRanges, others: IdRanges) -> IdRanges:
    left = IdRanges(ranges)
    for first, last in others:
        left.remove(first, last)
    return left
