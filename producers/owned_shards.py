"""The shards that this process feeds: taken on, handed over and dropped as the group says, products as tenants wish.

A shard is handed over in this order: its feed ends, what it delivered is acknowledged (within a bound), the ledger says
since when data may be missing, and only then does the next producer get it. After a loss of membership the feeds go on
but the ledger rests: once the group has answered, a shard that nobody else has fed meanwhile continues as if nothing
had happened, and every other one is dropped without a word.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from producers.completeness import TradeLedger
from producers.feed import Feed, Listener
from producers.feed_shard import HANDED_OVER, FeedShard, Intake
from producers.ledger import Ledger, Shard, ShardLedger
from producers.ledger_writer import LedgerWriter
from producers.outbox import Outbox
from producers.publisher import Publisher
from producers.retention import outdated
from producers.wishes import Wanted
from pulsestream.core.clock import Clock, wall_clock
from pulsestream.core.kafka import BrokerError
from pulsestream.core.log import logger
from pulsestream.core.metrics import FEED_SHARDS_OWNED
from schemas.records import Feed as FeedRecord

FLUSH_WITHIN: Final = 2.0
"""Seconds in which a shard's last records, and then its ledger, should be acknowledged before it is handed over."""
TIDIED_AT_ONCE: Final = 500
READ_ATTEMPTS: Final = 3
READ_PAUSE: Final = 1.0
_PAUSE: Final = 0.01
_log = logger(__name__)

ReadLedger = Callable[[], Mapping[str, FeedRecord]]
"""Returns the feeds topic's records up to its present end; blocks."""
MakeFeed = Callable[[Shard, Listener], Feed]


@dataclass(frozen=True, slots=True)
class Division:
    """Into how many shards an exchange's products are divided."""

    exchange: str
    shards: int

    def shard(self, number: int) -> Shard:
        """Return one of the shards, from 0 on."""
        return Shard(self.exchange, number, self.shards)


@dataclass(frozen=True, slots=True)
class Books:
    """What is written down, and how: intervals of time, trade ids, the outbox of both, and its writer."""

    ledger: Ledger
    trades: TradeLedger
    outbox: Outbox
    writer: LedgerWriter


class OwnedShards:
    """Feeds the shards that the group gives to this process; a `producers.shards.ShardOwner`."""

    def __init__(
        self,
        division: Division,
        books: Books,
        publisher: Publisher,
        intake: Intake,
        *,
        make_feed: MakeFeed,
        read_ledger: ReadLedger,
        clock: Clock = wall_clock,
    ) -> None:
        self.owned: dict[int, FeedShard] = {}
        self.in_doubt: set[int] = set()
        self.has_begun = False
        """Whether the group has said, at least once, which shards are this process's."""
        self._division = division
        self._books = books
        self._publisher = publisher
        self._intake = intake
        self._make_feed = make_feed
        self._read_ledger = read_ledger
        self._clock = clock
        self._wanted = Wanted({})
        self._one_at_a_time = asyncio.Lock()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_ended = False

    async def failure(self) -> None:
        """Wait for a feed's end by an error that no new connection can cure, and raise it."""
        await self._failed

    # ---- what the group says ----

    async def take(self, shards: Collection[int]) -> None:
        """Feed these shards as well; drop those in doubt that are not among them."""
        async with self._one_at_a_time:
            if self._has_ended:
                return
            await self._drop(self.in_doubt - set(shards))
            records = await self._read() if shards else {}
            foreign = {number for number in self.in_doubt if not self._is_untouched(number, records)}
            await self._drop(foreign)
            self.in_doubt.clear()
            for number in sorted(set(shards) - self.owned.keys()):
                self._begin(number, records)
            self.has_begun = True
            FEED_SHARDS_OWNED.labels(self._division.exchange).set(len(self.owned))

    async def give_up(self, shards: Collection[int], cause: str = HANDED_OVER) -> None:
        """Stop feeding these shards, and return when that is written down, or after a bound."""
        async with self._one_at_a_time:
            ending = [self.owned[number] for number in shards if number in self.owned]
            await asyncio.gather(*(shard.stop(cause) for shard in ending))
            await self._until_acknowledged(ending)
            for shard in ending:
                shard.settle(self._publisher.complete_until())
                self._books.trades.give_up(shard.products)
            keys = self._keys(ending)
            if not await self._books.writer.flush(keys, FLUSH_WITHIN):
                _log.error(
                    "ledger of shards not written in time", exchange=self._division.exchange, shards=list(shards)
                )
            self._forget(ending, keys)

    async def doubt(self) -> None:
        """Let the ledger rest until the group has said which shards are still this process's."""
        async with self._one_at_a_time:
            self.in_doubt |= self.owned.keys()

    async def end(self) -> None:
        """Stop all feeds and write down from when on data is missing; no shard is taken after this."""
        async with self._one_at_a_time:
            self._has_ended = True
            await asyncio.gather(*(shard.stop("stopped") for shard in self.owned.values()))
            for shard in self.owned.values():
                shard.settle(None)

    def tidy(self, records: Mapping[str, FeedRecord]) -> None:
        """Remove what has served from the topic, `TIDIED_AT_ONCE` at most; `records`: the topic as far as it is read.

        Only a shard's producer does that, and only while it is sure of it.
        """
        outbox, certain = self._books.outbox, [self.owned[number] for number in self.owned.keys() - self.in_doubt]
        old = outdated(records, self._division.exchange, self._clock())
        for key in [key for key in old if any(_is_of(shard, key, records[key]) for shard in certain)][:TIDIED_AT_ONCE]:
            outbox.adopt({key: records[key]})
            if outbox.newest(key) == records[key]:  # else it has been opened anew under this name
                outbox.remove(key)
        for shard in certain:
            shard.ledger.keys.intersection_update([*outbox.keys(), *outbox.waiting])

    # ---- what tenants wish ----

    def follow(self, wanted: Wanted) -> None:
        """Change what is fed."""
        gone = self._wanted.tenants.keys() - wanted.tenants.keys()
        self._wanted = wanted
        self._books.trades.unwanted(product for product in gone if self._feeds(product))
        for shard in self.owned.values():
            self._want(shard)

    def _want(self, shard: FeedShard) -> None:
        wanted = self._wanted.of(shard.ledger.shard)
        self._books.ledger.serve(shard.ledger.shard.number, {name for names in wanted.values() for name in names})
        self._books.trades.wanted(wanted)
        if wanted.keys() != shard.products:
            shard.want(wanted.keys())

    def _feeds(self, product: str) -> bool:
        return any(shard.ledger.shard.has(product) for shard in self.owned.values())

    # ---- shards come and go ----

    async def _read(self) -> Mapping[str, FeedRecord]:
        """Return the ledger as it stands; a broker that comes back just now may need a moment."""
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return await asyncio.to_thread(self._read_ledger)
            except BrokerError as error:
                _log.warning("ledger cannot be read, will be tried again", reason=str(error))
                await asyncio.sleep(READ_PAUSE)
        return await asyncio.to_thread(self._read_ledger)

    def _begin(self, number: int, records: Mapping[str, FeedRecord]) -> None:
        shard = self._division.shard(number)
        ledger = ShardLedger(shard, self._clock, self._books.outbox, shard.records(records))
        ledger.start()
        self._books.ledger.add(ledger)
        wanted = self._wanted.of(shard)
        self._end_unwanted_trades(shard, wanted, records)
        self._books.trades.take_over(records, wanted, ledger.cause or HANDED_OVER)
        fed = FeedShard(ledger, self._intake, lambda listener: self._make_feed(shard, listener))
        self.owned[number] = fed
        fed.start(wanted)
        self._want(fed)
        if fed.work is not None:
            fed.work.add_done_callback(self._ended)
        self._publisher.inherit(ledger.open_scopes())

    def _end_unwanted_trades(self, shard: Shard, wanted: Collection[str], records: Mapping[str, FeedRecord]) -> None:
        """Close what is open of products that nobody wants any more: their last producer could not."""
        stale = {key: feed for key, feed in shard.trades(records).items() if feed.product not in wanted}
        self._books.outbox.adopt(stale)
        self._books.trades.unwanted({feed.product for feed in stale.values() if feed.product is not None})

    def _ended(self, work: "asyncio.Task[None]") -> None:
        error = None if work.cancelled() else work.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _drop(self, numbers: Iterable[int]) -> None:
        """Forget shards that another process has, and write nothing."""
        dropped = [self.owned[number] for number in numbers if number in self.owned]
        await asyncio.gather(*(shard.abandon() for shard in dropped))
        for shard in dropped:
            _log.warning("shard dropped", exchange=self._division.exchange, shard=shard.ledger.shard.number)
            self._books.trades.give_up(shard.products)
        self._forget(dropped, self._keys(dropped))

    def _forget(self, shards: Collection[FeedShard], keys: Collection[str]) -> None:
        for shard in shards:
            number = shard.ledger.shard.number
            self._books.ledger.drop(number)
            self.in_doubt.discard(number)
            del self.owned[number]
        self._books.outbox.forget(keys)
        self._books.writer.forget(keys)
        FEED_SHARDS_OWNED.labels(self._division.exchange).set(len(self.owned))

    def _keys(self, shards: Collection[FeedShard]) -> set[str]:
        """Return the keys of everything that the ledger holds of these shards, trades included."""
        keys = {key for shard in shards for key in shard.ledger.keys}
        for key in [*self._books.outbox.keys()]:
            record = self._books.outbox.newest(key)
            product = record.product if record is not None else None
            if product is not None and any(shard.ledger.shard.has(product) for shard in shards):
                keys.add(key)
        removed = (key for key, record in self._books.outbox.unsent() if record is None)
        return keys | {key for key in removed if any(shard.ledger.shard.has(_product_of(key)) for shard in shards)}

    def _is_untouched(self, number: int, records: Mapping[str, FeedRecord]) -> bool:
        """Say whether nobody else has written about a shard since this process did."""
        key = self._division.shard(number).connection_key
        return self._books.writer.is_own(key, records.get(key))

    async def _until_acknowledged(self, shards: Collection[FeedShard]) -> None:
        """Wait until the broker has everything that these shards delivered, or for `FLUSH_WITHIN`."""
        newest = max((shard.last_record for shard in shards), default=0)
        deadline = time.monotonic() + FLUSH_WITHIN
        while self._publisher.account.pending and (self._publisher.complete_until() or 0) < newest:
            if time.monotonic() >= deadline:
                return
            self._publisher.poll()
            await asyncio.sleep(_PAUSE)


def _product_of(key: str) -> str:
    """Return the product that a removed record spoke of; none for a connection's, which its shard's ledger knows."""
    kind, _, rest = key.partition(":")
    return "" if kind == "conn" else rest.partition(":")[2].partition(":")[0]


def _is_of(shard: FeedShard, key: str, record: FeedRecord) -> bool:
    """Say whether a gap's record is a shard's: of one of its products, or of its connection."""
    if record.product is not None:
        return shard.ledger.shard.has(record.product)
    return key in shard.ledger.shard.records({key: record})
