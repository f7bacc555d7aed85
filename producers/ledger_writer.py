"""Writes the ledger's records to the feeds topic, for as long as this process may speak for its shards.

Records go out in the order in which the outbox holds them and stay in it until the broker has acknowledged them.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, Protocol

from confluent_kafka import KafkaError

from producers.outbox import Outbox
from pulsestream.core.log import logger
from pulsestream.core.topics import FEEDS
from schemas.codec import codec
from schemas.records import Feed

_REMEMBERED: Final = 32
_STATE: Final = "conn:"
_PAUSE: Final = 0.01
_log = logger(__name__)


class ControlSender(Protocol):
    """Sends records to control topics; `producers.publisher.Publisher` is one."""

    def send(self, topic: str, key: str, value: bytes | None, done: Callable[[KafkaError | None], None]) -> bool:
        """Send a record (None deletes); `done` gets its fate. False when there is no room: try again later."""

    def poll(self) -> None:
        """Serve delivery reports."""


class LedgerWriter:
    """Empties an outbox into the feeds topic. `may_write`: says whether another process might have taken over."""

    def __init__(
        self,
        outbox: Outbox,
        sender: ControlSender,
        may_write: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._may_write = may_write
        self._monotonic = monotonic
        self._encode = codec(Feed).encode
        self._writing: set[tuple[str, int]] = set()
        self._said: defaultdict[str, deque[Feed | None]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def write(self) -> None:
        """Hand everything that waits to the client."""
        if not self._may_write():
            return
        for key, record in self._outbox.unsent():
            version = 0 if record is None else record.version
            if (key, version) in self._writing:
                continue
            value = None if record is None else self._encode(record)
            self._writing.add((key, version))  # before it is sent: a client that refuses it says so at once
            if not self._sender.send(FEEDS, key, value, partial(self._written, key, record)):
                self._writing.discard((key, version))
                return
            if key.startswith(_STATE):
                self._said[key].append(record)

    async def flush(self, keys: Collection[str], seconds: float) -> bool:
        """Write until the broker has acknowledged what waits under these keys; False after so many seconds."""
        deadline = self._monotonic() + seconds
        while not self._outbox.waiting.keys().isdisjoint(keys):
            if self._monotonic() >= deadline:
                return False
            self.write()
            self._sender.poll()
            await asyncio.sleep(_PAUSE)
        return True

    def is_own(self, key: str, record: Feed | None) -> bool:
        """Say whether a connection's state that stands on the topic was put there by this process, not long ago."""
        said = self._said.get(key)
        return record is None if said is None else record in said

    def forget(self, keys: Collection[str]) -> None:
        """Forget what was written under these keys."""
        for key in keys:
            self._said.pop(key, None)

    def _written(self, key: str, record: Feed | None, error: KafkaError | None) -> None:
        self._writing.discard((key, 0 if record is None else record.version))
        if error is None:
            self._outbox.written(key, record)
        else:
            _log.error("ledger not written, will be tried again", key=key, reason=error.str())
