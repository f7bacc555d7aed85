"""What the clients of one tenant share: the newest rows, the log of alerts, and who sees them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from api.live.alert_log import AlertLog
from api.live.client import Client
from api.live.latest import Batch, Latest
from api.live.repeats import Seen, Verdict
from api.live.rows import Row, alert_key, row_text, stat_row, tick_row
from api.live.snapshot import Placed
from pulsestream.core.topics import tenant_topic
from schemas.records import Alert, Stat, Tick

TOPICS: Final = {"ticks": ("ticks", "own-ticks"), "stats": ("stats",), "alerts": ("alerts",)}
"""The topics of each dataset that clients ask for."""


@dataclass(slots=True, eq=False)
class TenantView:
    """One tenant's, as long as it has a client.

    `begun`: the datasets that are read, from `starts` on, by topic id.
    """

    tenant: str
    clients: set[Client] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    latest: dict[str, Latest] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    log: AlertLog | None = None
    seen: Seen = field(default_factory=Seen)
    starts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _fresh: dict[str, list[Row]] = field(default_factory=dict)

    def datasets(self) -> set[str]:
        """Return what any client wants."""
        return {dataset for client in self.clients for dataset in client.interest.datasets}

    def topics(self) -> dict[str, str]:
        """Return the topics that have to be read, each with the dataset of its name."""
        return {tenant_topic(self.tenant, each): each for dataset in self.begun for each in TOPICS[dataset]}

    def begin(self, datasets: Iterable[str], starts: Mapping[str, tuple[int, ...]]) -> None:
        """Read these datasets, too; whatever is not followed yet begins at `starts`."""
        self.starts |= starts
        self.begun.update(datasets)
        for dataset in self.begun & {"ticks", "stats"}:
            self.latest.setdefault(dataset, Latest(dataset))

    def restore(self, dataset: str, rows: Iterable[Row]) -> None:
        """Take rows of the database; who is here already gets what is newer."""
        latest = self.latest.get(dataset)
        if latest is not None:
            self._offer(Batch(dataset, [row for row in rows if latest.fold(row)]))

    def drop(self, datasets: set[str]) -> None:
        """Forget what nobody wants any more."""
        self.begun -= datasets
        for dataset in datasets:
            self.latest.pop(dataset, None)
            self._fresh.pop(dataset, None)
        if "alerts" in datasets:
            self.log, self.seen = None, Seen()

    def fold(self, record: Tick | Stat) -> None:
        """Take a record; a late one changes nothing."""
        dataset, row = ("ticks", tick_row(record)) if isinstance(record, Tick) else ("stats", stat_row(record))
        latest = self.latest.get(dataset)
        if latest is not None and latest.fold(row):
            self._fresh.setdefault(dataset, []).append(row)

    def append(self, placed: Sequence[Placed], repeats: set[int]) -> int:
        """Take alerts in offset order; `repeats` are the places of those that are stored. Returns how many are new."""
        if self.log is None:
            return 0
        new = 0
        for place, each in enumerate(placed):
            if is_repeat(self.seen, each.alert, is_stored=place in repeats):
                self.log.skip(each.partition, each.offset + 1)
                continue
            self.log.append(each.partition, each.offset, alert_key(each.alert), row_text(each.alert))
            new += 1
        if new:
            self.wake_all()
        return new

    def flush(self) -> None:
        """Offer what came since the last time to every client."""
        fresh, self._fresh = self._fresh, {}
        for dataset, rows in fresh.items():
            self._offer(Batch(dataset, rows))

    def _offer(self, batch: Batch) -> None:
        for client in self.clients:
            if client.session is not None and client.session.offer(batch):
                client.wake.set()

    def wake_all(self) -> None:
        """Let every client look for what it has to be told."""
        for client in self.clients:
            client.wake.set()


def is_repeat(seen: Seen, alert: Alert, *, is_stored: bool) -> bool:
    """Return whether an alert was there before, and remember it if not; `is_stored`: what the database says."""
    verdict = seen.judge(alert)
    if verdict is Verdict.REPEAT or (verdict is Verdict.UNKNOWN and is_stored):
        return True
    seen.note(alert)
    return False
