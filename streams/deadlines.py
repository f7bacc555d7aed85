"""What a shard's keys have to do between their records, and when: their event clocks, kept up to date lazily. Pure.

A key that was folded is only noted; its next deadline is worked out when the clock asks, or a checkpoint: many folds
may come between. Restored keys whose entries say when they are due are queued as they are, without being read.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from pulsestream.core.topics import tenant_topic
from streams import kinds
from streams.engine import snapshot
from streams.engine.rules import ActiveRule
from streams.engine.snapshot import Glance
from streams.eventclock import EventClocks
from streams.intake import parts_of
from streams.kinds import State
from streams.states import States

SETTLED_AT_ONCE: Final = 500
"""Keys whose next deadline is worked out anew in one tick, after a change of rules or a take-over."""
ADVANCED_AT_ONCE: Final = 2_000
"""Keys of one source topic whose clocks act in one tick: more would keep batches waiting."""

Queue = tuple[str, str]
"""A source topic, and the connection that its products come over."""
ConnectionOf = Callable[[str, str], str]
"""Returns the name of the connection that a product (of an exchange) comes over."""
Running = Callable[[str], int]
"""Returns the running time of a connection in microseconds; it stands still while that is away."""
RulesFor = Callable[[str, State], tuple[ActiveRule, ...]]
"""Returns the rules that are evaluated on a key's state."""


class Deadlines:
    """The clocks of one shard's keys."""

    def __init__(self, states: States, rules_for: RulesFor, connection_of: ConnectionOf, running: Running) -> None:
        self._states = states
        self._rules_for = rules_for
        self._connection_of = connection_of
        self._running = running
        self._clocks = EventClocks()
        #: Keys that were folded since their deadlines were worked out; the clock asks, and a checkpoint.
        self._stale: dict[str, None] = {}
        #: Keys whose next deadline has to be worked out anew, a few at a time.
        self._unsettled: dict[str, None] = {}

    def restored(self, key: str, seen: Glance | None) -> None:
        """Set the clock of a restored key by what its entries say; None: they do not."""
        if seen is None or seen.due == snapshot.DUE_UNKNOWN:
            self._unsettled[key] = None
        elif seen.due != snapshot.NOTHING_DUE:
            self.heard(key, max(seen.watermark, seen.clock_mark))
            self._clocks.wait_for(self.queue(key), key, seen.due)

    def heard(self, key: str, event_time: int) -> None:
        """Set a key's clock: it is `event_time` (micros) there now."""
        _, _, exchange, product = parts_of(key)
        self._clocks.heard(key, event_time, self._running(self._connection_of(exchange, product)))

    def folded(self, key: str) -> None:
        """Note that a key's state is another one."""
        self._stale[key] = None

    def unsettle(self, keys: Iterable[str]) -> None:
        """Note keys to which a change of rules may have brought a deadline."""
        self._unsettled |= dict.fromkeys(keys)

    def wait(self, key: str) -> None:
        """Queue a key for its next deadline."""
        state = self._states[key]
        if not self._clocks.runs(key):
            self.heard(key, max(state.watermark, state.clock_mark))
        self._stale.pop(key, None)
        self._unsettled.pop(key, None)
        self._clocks.wait_for(self.queue(key), key, kinds.next_deadline(state, self._rules_for(key, state)))

    def stale(self, keys: Iterable[str] | None = None) -> list[str]:
        """Return those of these keys that were folded since they last waited; None: all such keys."""
        return [key for key in (self._stale if keys is None else keys) if key in self._stale and key in self._states]

    def unsettled(self) -> list[str]:
        """Return a few of the keys that are unsettled."""
        return [key for key in islice(self._unsettled, SETTLED_AT_ONCE) if key in self._states]

    def take_due(self, may_act: Callable[[Queue], bool]) -> Iterator[tuple[str, int]]:
        """Yield keys that are due with the event time that it is for them, of those queues that may act."""
        for queue in self._clocks.queues:
            running = self._running(queue[1])
            if self._clocks.is_due(queue, running) and may_act(queue):
                yield from self._clocks.take_due(queue, running, ADVANCED_AT_ONCE)

    def due(self, key: str) -> int:
        """Return what a key's entries are to say of its next deadline."""
        if key in self._unsettled:
            return snapshot.DUE_UNKNOWN
        return self._clocks.deadline(key) or snapshot.NOTHING_DUE

    def forget(self, key: str) -> None:
        """Drop a key's clock."""
        self._clocks.forget(key)
        self._stale.pop(key, None)
        self._unsettled.pop(key, None)

    def queue(self, key: str) -> Queue:
        """Return where a key waits."""
        tenant, dataset, exchange, product = parts_of(key)
        return tenant_topic(tenant, dataset), self._connection_of(exchange, product)
