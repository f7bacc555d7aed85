"""The newest row of each key, and what one client still has to get of them. Pure.

A client that keeps up gets every batch as it is, in the same bytes as everybody else with its filter. Once it has not
taken a batch before the next one comes, only keys are noted for it, and it gets the newest row of each when it can:
what it costs is bounded by the number of keys, however long it reads nothing.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from api.live.messages import Interest, rows_message, snapshot_message
from api.live.rows import Key, Row

MAX_KEYS: Final = 20_000
"""Keys of a tenant's dataset; the one that came first leaves for one more."""
MAX_ROWS: Final = 200
"""Rows of a message."""


class Latest:
    """The newest row of each key of one dataset of a tenant."""

    def __init__(self, dataset: str, most: int = MAX_KEYS) -> None:
        self.dataset = dataset
        self._most = most
        self._rows: dict[Key, Row] = {}

    def fold(self, row: Row) -> bool:
        """Take a row; returns whether it is the newest of its key."""
        held = self._rows.get(row.key)
        if held is None:
            if len(self._rows) >= self._most:
                del self._rows[next(iter(self._rows))]
        elif row.order < held.order:
            return False
        self._rows[row.key] = row
        return True

    def get(self, key: Key) -> Row | None:
        """Return the newest row of a key."""
        return self._rows.get(key)

    def keys(self, interest: Interest) -> Iterator[Key]:
        """Return the keys of what somebody wants."""
        return (key for key in self._rows if interest.wants(key))


class Batch:
    """Rows of one dataset that came together; what one filter lets through is looked for once, and written once."""

    def __init__(self, dataset: str, rows: Sequence[Row]) -> None:
        self.dataset = dataset
        self._rows = rows
        self._chosen: dict[Interest, list[Row]] = {}
        self._texts: dict[Interest, str] = {}

    def chosen(self, interest: Interest) -> list[Row]:
        """Return the rows that somebody wants."""
        found = self._chosen.get(interest)
        if found is None:
            found = self._chosen[interest] = [row for row in self._rows if interest.wants(row.key)]
        return found

    def text(self, interest: Interest) -> str:
        """Return the message of them."""
        found = self._texts.get(interest)
        if found is None:
            found = rows_message(self.dataset, (row.text for row in self.chosen(interest)))
            self._texts[interest] = found
        return found


class Lane:
    """What one client has to get of one dataset, beginning with all that is there."""

    def __init__(self, latest: Latest, interest: Interest) -> None:
        self.dataset = latest.dataset
        self._latest = latest
        self._interest = interest
        self._whole: Batch | None = None
        self._stale: dict[Key, None] = dict.fromkeys(latest.keys(interest))
        self._snapshot_left = len(self._stale)

    @property
    def is_snapshot(self) -> bool:
        """Whether part of the snapshot is still to come."""
        return self._snapshot_left > 0

    def offer(self, batch: Batch) -> bool:
        """Note what came; returns whether the client wants any of it."""
        chosen = batch.chosen(self._interest)
        if not chosen:
            return False
        if self._whole is None and not self._stale and len(chosen) <= MAX_ROWS:
            self._whole = batch
            return True
        if self._whole is not None:
            self._stale.update((row.key, None) for row in self._whole.chosen(self._interest))
            self._whole = None
        self._stale.update((row.key, None) for row in chosen)
        return True

    def take(self) -> str | None:
        """Return the next message, which counts as sent; None where there is nothing."""
        if self._whole is not None:
            text, self._whole = self._whole.text(self._interest), None
            return text
        if not self._stale:
            return None
        keys = list(islice(self._stale, MAX_ROWS))
        for key in keys:
            del self._stale[key]
        rows = [row.text for row in map(self._latest.get, keys) if row is not None]
        if not self.is_snapshot:
            return rows_message(self._latest.dataset, rows)
        self._snapshot_left -= len(keys)
        return snapshot_message(self._latest.dataset, rows)

    def __len__(self) -> int:
        """Return how many keys are noted."""
        return len(self._stale)
