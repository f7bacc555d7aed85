"""Event clocks: what time it is for a key between its records, and which keys have something to do by then. Pure.

A key's clock runs on from its last record's time for as long as the connection that its product comes over has been
up since (`FeedStates.running`), so that an outage lets no timer act, and a replay of old data behaves like a live feed.
"""

import heapq
from collections.abc import Mapping
from typing import Final

from pulsestream.core.clock import MICROS_PER_SECOND
from pulsestream.core.sharding import feed_shard
from schemas.records import Feed

SILENCE: Final = 6 * MICROS_PER_SECOND
"""How long a connected feed may say nothing before it counts as disconnected: a living producer speaks every 2 s."""
_CONNECTED: Final = "connected"
_KEY: Final = "conn:"


class FeedStates:
    """Which connections deliver, and for how long each has, by a monotonic clock in microseconds.

    A product comes over one connection of its exchange: that of its feed shard. A producer that was killed cannot say
    that it is gone: its silence does.
    """

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._connected: dict[str, bool] = {}
        #: Of a connection that is or was away: time spent connected up to the last change, and when that was.
        self._spent: dict[str, tuple[int, int]] = {}
        #: The newest record of each connection, and when it was first seen.
        self._heard: dict[str, tuple[Feed, int]] = {}

    def connection(self, exchange: str, product: str) -> str:
        """Return the name of the connection that a product comes over: {exchange}:{shard}."""
        return f"{exchange}:{feed_shard(exchange, product, self._shards)}"

    def update(self, feeds: Mapping[str, Feed], now: int) -> None:
        """Take the feeds table; what it says of connections stands under `conn:{exchange}:{shard}`."""
        records = {key.removeprefix(_KEY): feed for key, feed in feeds.items() if key.startswith(_KEY)}
        self._heard = {name: self._first_seen(name, feed, now) for name, feed in records.items()}
        self.expire(now)

    def expire(self, now: int) -> None:
        """Count connections as away that have said nothing for `SILENCE`."""
        states = {
            name: feed.state == _CONNECTED and now - heard_at <= SILENCE
            for name, (feed, heard_at) in self._heard.items()
        }
        for name in states.keys() | self._connected.keys():
            connected = states.get(name, True)
            if connected is not self.connected(name):
                self._spent[name] = (self.running(name, now), now)
                self._connected[name] = connected

    def _first_seen(self, name: str, feed: Feed, now: int) -> tuple[Feed, int]:
        held = self._heard.get(name)
        return held if held is not None and held[0].version == feed.version else (feed, now)

    def connected(self, connection: str) -> bool:
        """Return whether a connection delivers; one that nobody reports on counts as connected."""
        return self._connected.get(connection, True)

    def running(self, connection: str, now: int) -> int:
        """Return a time in microseconds that stands still while the connection is away."""
        spent, since = self._spent.get(connection, (0, 0))
        return spent + (now - since if self.connected(connection) else 0)


class EventClocks:
    """The clocks of one shard's keys, and a queue of what is due for each (source topic, connection)."""

    def __init__(self) -> None:
        #: How far each key's event time is ahead of its connection's running time.
        self._ahead: dict[str, int] = {}
        self._due: dict[str, int] = {}
        self._queues: dict[tuple[str, str], list[tuple[int, str]]] = {}

    @property
    def queues(self) -> list[tuple[str, str]]:
        """The (source topic, connection) pairs in which something may fall due."""
        return [pair for pair, queue in self._queues.items() if queue]

    def runs(self, key: str) -> bool:
        """Return whether a key's clock was set."""
        return key in self._ahead

    def heard(self, key: str, event_time: int, running: int) -> None:
        """Set a key's clock: it is `event_time` there now, at its connection's running time `running`."""
        self._ahead[key] = event_time - running

    def wait_for(self, pair: tuple[str, str], key: str, deadline: int | None) -> None:
        """Queue a key for when its clock reaches `deadline`; None: for nothing."""
        ahead = self._ahead.get(key)
        if deadline is None or ahead is None:
            self._due.pop(key, None)
            return
        due = deadline - ahead
        if self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._queues.setdefault(pair, []), (due, key))

    def deadline(self, key: str) -> int | None:
        """Return the event time, micros, that a key waits for, or None."""
        due = self._due.get(key)
        return None if due is None else due + self._ahead[key]

    def is_due(self, pair: tuple[str, str], running: int) -> bool:
        """Return whether a key of this pair may be due."""
        queue = self._queues.get(pair)
        return bool(queue) and queue[0][0] <= running  # type: ignore[index] # bool(queue) says it is there

    def take_due(self, pair: tuple[str, str], running: int, limit: int | None = None) -> list[tuple[str, int]]:
        """Return the keys that are due with their event clocks, at most `limit`, and take them off the queue."""
        queue = self._queues.get(pair, [])
        taken: list[tuple[str, int]] = []
        while queue and queue[0][0] <= running and len(taken) != limit:
            due, key = heapq.heappop(queue)
            if self._due.get(key) == due:
                del self._due[key]
                taken.append((key, self._ahead[key] + running))
        return taken

    def forget(self, key: str) -> None:
        """Drop a key's clock."""
        self._ahead.pop(key, None)
        self._due.pop(key, None)
