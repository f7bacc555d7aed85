"""The ledger of one exchange's feed, shard by shard: state of the connection, and intervals in which something misses.

Pure. Records are feed.v1 on the compacted topic of feeds; what has to be written waits in an outbox until the broker
has acknowledged it. An interval opens at the last moment known to be complete and closes at the first data after
everything is subscribed again. A producer that was killed could not open it: who takes the shard over does, at
`complete_until` of the connection's record. A shard that is handed over keeps its open intervals.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from producers.outbox import Outbox
from pulsestream.core.clock import MICROS_PER_SECOND, Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import FEED_GAPS
from pulsestream.core.sharding import feed_shard
from schemas.records import Feed, Gap

ALIVE_EVERY: Final = 2 * MICROS_PER_SECOND
"""How often a connected feed says so when nothing else changes, in microseconds: readers take silence for its end."""
_GAP: Final = "gap:"
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Scope:
    """What an interval without data concerns: one tenant (all products or one), or, without tenant, everybody.

    `full` tells an overflowing buffer from a lost connection: both concern everybody, and can overlap.
    """

    tenant: str | None = None
    product: str | None = None
    full: bool = False


CONNECTION: Final = Scope()
BUFFER: Final = Scope(full=True)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the parts into which an exchange's products are divided; `of`: how many there are."""

    exchange: str
    number: int
    of: int

    @property
    def connection_key(self) -> str:
        """Key of the record that says whether the exchange delivers the shard's products."""
        return f"conn:{self.exchange}:{self.number}"

    def has(self, product: str) -> bool:
        """Say whether a product belongs to the shard."""
        return feed_shard(self.exchange, product, self.of) == self.number

    def gap_key(self, product: str | None, opened: int) -> str:
        """Return the key of an interval of a product, or of the whole shard."""
        return f"{_GAP}{self.exchange}:{product or f'*{self.number}'}:{opened}"

    def records(self, feeds: Mapping[str, Feed]) -> dict[str, Feed]:
        """Return those of the topic's records that say something about this shard's connection and intervals."""
        return {key: feed for key, feed in feeds.items() if feed.exchange == self.exchange and self._owns(key, feed)}

    def trades(self, feeds: Mapping[str, Feed]) -> dict[str, Feed]:
        """Return those of the topic's records that say what is open in the trade ids of the shard's products."""
        return {
            key: feed
            for key, feed in feeds.items()
            if feed.exchange == self.exchange
            and (key.startswith("trades:") or (feed.gap is not None and _is_open_trade_gap(feed.gap)))
            and feed.product is not None
            and self.has(feed.product)
        }

    def _owns(self, key: str, feed: Feed) -> bool:
        if feed.gap is None:
            return key == self.connection_key
        if feed.product is None:
            return key.startswith(self.gap_key(None, 0).removesuffix("0"))
        return feed.gap.kind == "time" and self.has(feed.product)


class ShardLedger:
    """The newest records of one shard. Times in microseconds of the wall clock."""

    def __init__(self, shard: Shard, clock: Clock, outbox: Outbox, records: Mapping[str, Feed]) -> None:
        self.shard = shard
        self.keys: set[str] = set(records)
        self._clock = clock
        self._outbox = outbox
        self._open: dict[Scope, list[str]] = {}
        self._said_at = 0
        outbox.adopt(records)
        for key, feed in records.items():
            if feed.gap is not None and feed.gap.closed is None:
                self._open.setdefault(_inherited_scope(feed), []).append(key)

    @property
    def connection(self) -> Feed | None:
        """The newest record of the connection's state; None before the first, and while no product is wanted."""
        return self._outbox.newest(self.shard.connection_key)

    def open_scopes(self) -> list[Scope]:
        """Return what has an open interval."""
        return list(self._open)

    @property
    def cause(self) -> str | None:
        """Why data has been missing for the whole shard since the last complete connection; None if it is not."""
        first = self._outbox.newest(self._open[CONNECTION][0]) if CONNECTION in self._open else None
        return first.gap.cause if first is not None and first.gap is not None else None

    def start(self) -> None:
        """Open the interval that a killed predecessor could not open."""
        left = self.connection
        if left is None or left.state == "disconnected":
            return
        self.open(CONNECTION, left.at if left.complete_until is None else left.complete_until, "killed")
        self._set_state("disconnected", self._clock())

    def delivering(self, at: int) -> None:
        """Note the first data of a connection."""
        self._set_state("connected", at, complete_until=at - 1)

    def complete(self, at: int) -> None:
        """Close the interval without connection: everything wanted is subscribed, and data arrives."""
        self.close(CONNECTION, at)

    def lost(self, since: int | None, cause: str) -> None:
        """Note the end of a connection; `since` is its last good frame, None if it had none."""
        if since is not None:
            self.open(CONNECTION, since, cause)
        state = "stale" if cause == "stale" else "disconnected"
        if self.connection is None or self.connection.state != state:
            self._set_state(state, self._clock())

    def lacks(self, refused: Mapping[str, int], silent: Collection[str]) -> None:
        """Open intervals of products that the exchange refuses, though it delivered them: each from its time on.

        Those of products that are not `silent` any more, or that nobody wants, close.
        """
        for product, since in refused.items():
            self.open(Scope(product=product), since, "refused")
        for scope in [scope for scope in self._open if scope.tenant is None and scope.product is not None]:
            if scope.product not in silent:
                self.close(scope, self._clock())

    def idle(self) -> None:
        """Note that no product is wanted: nothing can be missing, and there is no connection to speak of."""
        self.close(CONNECTION, self._clock())
        self._outbox.remove(self.shard.connection_key)

    def refresh(self, complete_until: int | None) -> None:
        """Move the bound of what a kill can lose and say that the connection lives, unless intervals wait."""
        held, now, waiting = self.connection, self._clock(), self._outbox.waiting
        if held is None or held.state != "connected" or self.shard.connection_key in waiting:
            return
        if any(record is not None and _is_interval(record) for record in waiting.values()):
            return
        bound = max([time for time in (held.complete_until, complete_until) if time is not None], default=None)
        if (
            held.complete_until is not None
            and complete_until is not None
            and complete_until <= now < held.complete_until
        ):
            bound = complete_until  # the clock was set back: what it said before would hide what a kill costs
        if bound != held.complete_until or now - self._said_at >= ALIVE_EVERY:
            self._write(self.shard.connection_key, msgspec.structs.replace(held, complete_until=bound))

    def open(self, scope: Scope, opened: int, cause: str) -> None:
        """Open an interval unless one is open for the same scope."""
        if scope in self._open:
            return
        key, opened = self._free_key(scope.product, opened)
        text = cause if scope.tenant is None else f"{cause}:{scope.tenant}"
        gap = Gap(kind="time", opened=opened, cause=text)
        self._open[scope] = [key]
        self._write(key, self._feed(scope.product, self._clock(), gap))
        FEED_GAPS.labels(self.shard.exchange, cause).inc()
        _log.warning("gap opened", exchange=self.shard.exchange, key=key, cause=text)

    def close(self, scope: Scope, closed: int) -> None:
        """Close every interval that is open for a scope."""
        for key in self._open.pop(scope, ()):
            held = self._outbox.newest(key)
            if held is None or held.gap is None:
                continue
            gap = msgspec.structs.replace(held.gap, closed=max(closed, held.gap.opened))
            self._write(key, msgspec.structs.replace(held, gap=gap, at=self._clock()))
            _log.info("gap closed", exchange=self.shard.exchange, key=key)

    def _set_state(self, state: str, at: int, complete_until: int | None = None) -> None:
        record = Feed(exchange=self.shard.exchange, state=state, at=at, complete_until=complete_until, version=0)
        self._write(self.shard.connection_key, record)

    def _feed(self, product: str | None, at: int, gap: Gap) -> Feed:
        state = self.connection.state if self.connection else "disconnected"
        return Feed(exchange=self.shard.exchange, product=product, state=state, at=at, gap=gap, version=0)

    def _write(self, key: str, record: Feed) -> None:
        self.keys.add(key)
        self._outbox.write(key, record)
        if key == self.shard.connection_key:
            self._said_at = self._clock()

    def _free_key(self, product: str | None, opened: int) -> tuple[str, int]:
        """Return a key that names no other interval: at the same microsecond, the later one opens a moment earlier."""
        while self._outbox.newest(key := self.shard.gap_key(product, opened)) is not None:
            opened -= 1
        return key, opened


class Ledger:
    """The ledgers of the shards that this process feeds, and what concerns several of them: tenants, the buffer."""

    def __init__(self, clock: Clock, outbox: Outbox) -> None:
        self.shards: dict[int, ShardLedger] = {}
        self._clock = clock
        self._outbox = outbox
        self._tenants: dict[int, frozenset[str]] = {}
        self._open: dict[Scope, str] = {}

    def add(self, ledger: ShardLedger) -> None:
        """Take a shard's ledger in; what is missing for all shards is missing for this one as well."""
        self.shards[ledger.shard.number] = ledger
        self._tenants[ledger.shard.number] = frozenset()
        if BUFFER in self._open:
            ledger.open(BUFFER, self._clock(), self._open[BUFFER])

    def drop(self, number: int) -> None:
        """Forget a shard's ledger: another producer writes it from now on."""
        ledger = self.shards.pop(number)
        del self._tenants[number]
        self._outbox.forget(ledger.keys)

    def serve(self, number: int, tenants: Collection[str]) -> None:
        """Say which tenants get products of a shard."""
        new = set(tenants) - self._tenants[number]
        self._tenants[number] = frozenset(tenants)
        for scope, cause in self._open.items():
            if scope.tenant in new and scope.product is None:
                self.shards[number].open(scope, self._clock(), cause)

    def open(self, scope: Scope, opened: int, cause: str) -> None:
        """Open an interval in the ledger of each shard that a scope concerns."""
        if scope.product is None:
            self._open.setdefault(scope, cause)
        for number, ledger in self.shards.items():
            if self._concerns(scope, number):
                ledger.open(scope, opened, cause)

    def close(self, scope: Scope, closed: int) -> None:
        """Close every interval that is open for a scope."""
        self._open.pop(scope, None)
        for ledger in self.shards.values():
            ledger.close(scope, closed)

    def open_scopes(self) -> Iterable[Scope]:
        """Return what has an open interval in any shard."""
        return {scope for ledger in self.shards.values() for scope in ledger.open_scopes()}

    def _concerns(self, scope: Scope, number: int) -> bool:
        if scope.product is not None:
            return self.shards[number].shard.has(scope.product)
        return scope.tenant is None or scope.tenant in self._tenants[number]


def _is_interval(feed: Feed) -> bool:
    return feed.gap is not None and feed.gap.kind == "time"


def _is_open_trade_gap(gap: Gap) -> bool:
    return gap.kind == "trade_id" and gap.closed is None


def _inherited_scope(feed: Feed) -> Scope:
    """Return the scope of an interval that an earlier process left open; its full buffer is gone with it."""
    tenant = feed.gap.cause.partition(":")[2] if feed.gap else ""
    return Scope(tenant or None, feed.product)
