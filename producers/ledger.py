"""The ledger of one exchange's feed: state of its connection, and intervals in which something is missing. Pure.

Records are feed.v1 on the compacted topic of feeds. What has to be written waits in an outbox, newest record of a key
only, until the broker has acknowledged it. An interval without data opens at the last moment known to be complete and
closes at the first data after everything is subscribed again. A producer that was killed could not open it: the next
one does, at `complete_until` of the connection's record.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pulsestream.core.clock import MICROS_PER_SECOND, Clock
from pulsestream.core.log import logger
from pulsestream.core.metrics import FEED_GAPS
from schemas.records import Feed, Gap

SHARD: Final = 0
ALIVE_EVERY: Final = 2 * MICROS_PER_SECOND
"""How often a connected feed says so when nothing else changes, in microseconds: readers take silence for its end."""
_BUFFER_FULL: Final = "buffer_full"
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


class Ledger:
    """The newest records of one feed and what of them is not yet written. Times in microseconds of the wall clock."""

    def __init__(self, exchange: str, clock: Clock, records: Mapping[str, Feed]) -> None:
        self.outbox: dict[str, Feed] = {}
        self._exchange = exchange
        self._clock = clock
        self._connection_key = f"conn:{exchange}:{SHARD}"
        self._newest = {key: feed for key, feed in records.items() if feed.exchange == exchange}
        self._open: dict[Scope, list[str]] = {}
        self._said_at = 0
        for key, feed in self._newest.items():
            if feed.gap is not None and feed.gap.closed is None:
                self._open.setdefault(_inherited_scope(feed), []).append(key)

    @property
    def connection(self) -> Feed | None:
        """The newest record of the connection's state; None before the first."""
        return self._newest.get(self._connection_key)

    def open_scopes(self) -> list[Scope]:
        """Return what has an open interval."""
        return list(self._open)

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
        if since is not None and cause != "idle":
            self.open(CONNECTION, since, cause)
        state = "stale" if cause == "stale" else "disconnected"
        if self.connection is None or self.connection.state != state:
            self._set_state(state, self._clock())

    def refresh(self, complete_until: int | None) -> None:
        """Move the bound of what a kill can lose and say that the connection lives, unless other records wait."""
        held, now = self.connection, self._clock()
        if held is None or held.state != "connected" or self.outbox:
            return
        bound = max([time for time in (held.complete_until, complete_until) if time is not None], default=None)
        if bound != held.complete_until or now - self._said_at >= ALIVE_EVERY:
            self._write(self._connection_key, msgspec.structs.replace(held, complete_until=bound))

    def open(self, scope: Scope, opened: int, cause: str) -> None:
        """Open an interval unless one is open for the same scope."""
        if scope in self._open:
            return
        key, opened = self._free_key(scope.product, opened)
        text = cause if scope.tenant is None else f"{cause}:{scope.tenant}"
        gap = Gap(kind="time", opened=opened, cause=text)
        self._open[scope] = [key]
        self._write(key, self._feed(scope.product, self._clock(), gap))
        FEED_GAPS.labels(self._exchange, cause).inc()
        _log.warning("gap opened", exchange=self._exchange, key=key, cause=text)

    def close(self, scope: Scope, closed: int) -> None:
        """Close every interval that is open for a scope."""
        for key in self._open.pop(scope, ()):
            held = self._newest[key]
            gap = msgspec.structs.replace(held.gap, closed=max(closed, held.gap.opened)) if held.gap else None
            self._write(key, msgspec.structs.replace(held, gap=gap, at=self._clock()))
            _log.info("gap closed", exchange=self._exchange, key=key)

    def unsent(self) -> Iterable[tuple[str, Feed]]:
        """Return what waits to be written, oldest first."""
        return list(self.outbox.items())

    def written(self, key: str, record: Feed) -> None:
        """Forget a record that the broker has acknowledged, unless a newer one of its key waits."""
        if self.outbox.get(key) is record:
            del self.outbox[key]

    def _set_state(self, state: str, at: int, complete_until: int | None = None) -> None:
        record = Feed(exchange=self._exchange, state=state, at=at, complete_until=complete_until, version=0)
        self._write(self._connection_key, record)

    def _feed(self, product: str | None, at: int, gap: Gap) -> Feed:
        state = self.connection.state if self.connection else "disconnected"
        return Feed(exchange=self._exchange, product=product, state=state, at=at, gap=gap, version=0)

    def _write(self, key: str, record: Feed) -> None:
        version = self._newest[key].version + 1 if key in self._newest else 1
        self.outbox.pop(key, None)  # the newest record goes last: a gap is always written before what follows from it
        self._newest[key] = self.outbox[key] = msgspec.structs.replace(record, version=version)
        if key == self._connection_key:
            self._said_at = self._clock()

    def _free_key(self, product: str | None, opened: int) -> tuple[str, int]:
        """Return a key that names no other interval: at the same microsecond, the later one opens a moment earlier."""
        while (key := f"gap:{self._exchange}:{product or '*'}:{opened}") in self._newest:
            opened -= 1
        return key, opened


def _inherited_scope(feed: Feed) -> Scope:
    """Return the scope of an interval that an earlier process left open; its full buffer is gone with it."""
    tenant = feed.gap.cause.partition(":")[2] if feed.gap else ""
    return Scope(tenant, feed.product) if tenant else CONNECTION
