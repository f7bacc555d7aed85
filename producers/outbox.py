"""What has to be written to the feeds topic: the newest record of each key, until the broker has acknowledged it. Pure.

Each record gets the next version of its key, so a reader can tell the newer of two.
"""

from collections.abc import Iterable, Mapping

import msgspec

from schemas.records import Feed


class Outbox:
    """The newest feed records by key, and those of them that still wait for the broker."""

    def __init__(self) -> None:
        self.waiting: dict[str, Feed | None] = {}
        self._newest: dict[str, Feed] = {}

    def adopt(self, records: Mapping[str, Feed]) -> None:
        """Take over records that another process has written: their keys count on from their versions."""
        for key, record in records.items():
            held = self._newest.get(key)
            if held is None or held.version < record.version:
                self._newest[key] = record

    def newest(self, key: str) -> Feed | None:
        """Return the newest record of a key, written or not."""
        return self._newest.get(key)

    def keys(self) -> Iterable[str]:
        """Return every key that has a record."""
        return list(self._newest)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop records, also those that wait: somebody else writes them from now on."""
        for key in keys:
            self._newest.pop(key, None)
            self.waiting.pop(key, None)

    def write(self, key: str, record: Feed) -> Feed:
        """Put a record's next version behind everything that waits, and return it.

        The newest record goes last: a gap is always written before what follows from it.
        """
        held = self._newest.get(key)
        numbered = msgspec.structs.replace(record, version=held.version + 1 if held is not None else 1)
        self.waiting.pop(key, None)
        self._newest[key] = self.waiting[key] = numbered
        return numbered

    def remove(self, key: str) -> None:
        """Delete a key's record from the topic."""
        if self._newest.pop(key, None) is not None:
            self.waiting.pop(key, None)
            self.waiting[key] = None

    def unsent(self) -> list[tuple[str, Feed | None]]:
        """Return what waits to be written, oldest first; None deletes."""
        return list(self.waiting.items())

    def written(self, key: str, record: Feed | None) -> None:
        """Forget a record that the broker has acknowledged, unless a newer one of its key waits."""
        if key in self.waiting and self.waiting[key] is record:
            del self.waiting[key]
