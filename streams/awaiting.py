"""Which keys a record is expected of, because a rule is about missing ones, and when it is missed. Pure.

A key's time here is its last record's event time, and from that record's append time on the wall clock: so it runs on
while the feed is away and while nobody owns the partition, and a replay of old data behaves like a live feed. Of a
product without any record yet one is expected from its subscription on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from streams.basis import Product
from streams.deadlines import Queue
from streams.engine.fold import KeyState
from streams.engine.rows import APPENDED_AT
from streams.eventclock import EventClocks
from streams.ruleset import Concern


@dataclass(slots=True)
class Awaiting:
    """The subscribed products of a shard, and the keys that wait for a record."""

    _since: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)
    _clocks: EventClocks = field(default_factory=EventClocks)

    def subscribe(self, product: Product, since: int | None) -> None:
        """Know since when (micros) a tenant is subscribed to a product; None: no more."""
        tenant, *name = product
        if since is None:
            self._since.get(tenant, {}).pop((name[0], name[1]), None)
        else:
            self._since.setdefault(tenant, {})[name[0], name[1]] = since

    def since(self, product: Product) -> int | None:
        """Return since when a tenant is subscribed to a product; None: it is not."""
        tenant, exchange, name = product
        return self._since.get(tenant, {}).get((exchange, name))

    def about(self, concerns: Iterable[Concern], every: str) -> list[Product]:
        """Return the subscribed products that are concerned; `every` names all of a tenant's."""
        wanted: dict[str, set[str]] = {}
        for tenant, product in concerns:
            wanted.setdefault(tenant, set()).add(product)
        return [
            (tenant, exchange, name)
            for tenant, products in wanted.items()
            for exchange, name in self._since.get(tenant, {})
            if name in products or every in products
        ]

    def wait(self, queue: Queue, key: str, state: KeyState, since: int, deadline: int | None) -> None:
        """Queue a key for when its next record is missed; None: it is not."""
        self._clocks.heard(key, *_last_record(state, since))
        self._clocks.wait_for(queue, key, deadline)

    def end(self, tenant: str) -> None:
        """Know that a tenant is subscribed to nothing any more."""
        self._since.pop(tenant, None)

    def forget(self, key: str) -> None:
        """Expect nothing of a key."""
        self._clocks.forget(key)

    def missed(self, now: int, may_act: Callable[[Queue], bool], limit: int) -> list[tuple[Queue, str, int]]:
        """Return the keys whose record is missed at wall time `now`, each with the time that it is for it."""
        found = []
        for queue in self._clocks.queues:
            if self._clocks.is_due(queue, now) and may_act(queue):
                found += [(queue, key, clock) for key, clock in self._clocks.take_due(queue, now, limit)]
        return found


def _last_record(state: KeyState, since: int) -> tuple[int, int]:
    """Return the event time of a key's last record and when it was appended; of one without any, its subscription's."""
    if not state.watermark:
        return since, since
    if state.series.tail:
        return state.watermark, max(pane.appended_at for pane in state.series.tail)
    for span in (state.series.seconds, state.series.minutes):
        if len(span):
            return state.watermark, int(span.ints[APPENDED_AT, -1])
    return state.watermark, state.watermark
