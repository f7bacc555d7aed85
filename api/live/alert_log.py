"""The newest alerts of a tenant, and where one client stands in them. Pure.

The log is shared by all clients of a tenant and bounded; a client costs its positions only. One that stands before the
log's beginning, because it came back late or reads slowly, is told which offsets it lacks, reads those from the topic
at its own pace, and then goes on in the log: no alert is left out, and none held for it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from api.live.messages import Interest, alerts_message, position_message
from api.live.rows import Key

MAX_ENTRIES: Final = 1_000
MAX_BYTES: Final = 2 * 1024 * 1024
"""Characters of the log's entries."""
MAX_ROWS: Final = 50
"""Alerts of a message."""
MAX_CHARACTERS: Final = 256 * 1024
"""Of a message's alerts, the last one not counted."""

Offsets = tuple[int, ...]
"""The next offset of each partition."""
Sealed = Callable[[str, Sequence[int]], str]
"""Makes the token of a topic's id and next offsets."""


@dataclass(slots=True)
class Entry:
    """An alert in its partition; `behind` are the positions once it and all before it in the log are seen."""

    partition: int
    offset: int
    key: Key
    text: str
    behind: Offsets
    token: str | None = None


class AlertLog:
    """The newest alerts of one life of a topic, in the order they came in."""

    def __init__(
        self, topic_id: str, begin: Sequence[int], most: int = MAX_ENTRIES, most_bytes: int = MAX_BYTES
    ) -> None:
        self.topic_id = topic_id
        self.begin = list(begin)
        self.head: Offsets = tuple(begin)
        self.first = 0
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._most = most
        self._most_bytes = most_bytes

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self.first + len(self._entries)

    def skip(self, partition: int, next_offset: int) -> None:
        """Go past a record that no client is to see."""
        self.head = (*self.head[:partition], next_offset, *self.head[partition + 1 :])

    def append(self, partition: int, offset: int, key: Key, text: str) -> None:
        """Take an alert; the oldest ones leave where there are too many."""
        self.skip(partition, offset + 1)
        self._entries.append(Entry(partition, offset, key, text, self.head))
        self._size += len(text)
        while len(self._entries) > self._most or self._size > self._most_bytes:
            self._drop_oldest()

    def entry(self, number: int) -> Entry:
        """Return an entry by its number, which must be from `first` to before `end`."""
        return self._entries[number - self.first]

    def __len__(self) -> int:
        """Return how many alerts are held."""
        return len(self._entries)

    def _drop_oldest(self) -> None:
        oldest = self._entries.popleft()
        self._size -= len(oldest.text)
        self.begin[oldest.partition] = oldest.offset + 1
        self.first += 1


@dataclass(frozen=True, slots=True)
class Read:
    """An alert that was read from the topic for one client."""

    partition: int
    offset: int
    key: Key
    text: str


class AlertLane:
    """Where one client stands; `wanted` are its positions by topic id (another life of the topic: its beginning)."""

    def __init__(self, interest: Interest, sealed: Sealed, wanted: Mapping[str, Sequence[int]]) -> None:
        self._interest = interest
        self._sealed = sealed
        self._wanted = wanted
        self._log: AlertLog | None = None
        self._own: Offsets = ()
        self._told: Offsets = ()
        self._number: int | None = None
        self._read: deque[Read] = deque()
        self._behind_read: Mapping[int, int] = {}

    def attach(self, log: AlertLog) -> None:
        """Begin to follow a log, or go on in another one of the same topic."""
        is_same = self._log is not None and self._log.topic_id == log.topic_id
        given = self._own if is_same else self._wanted.get(log.topic_id, ())
        count = len(log.begin)
        self._log = log
        self._own = (*given[:count], *[0] * (count - len(given)))
        self._told = ()
        self._number = None
        self._read.clear()

    def lacking(self) -> dict[int, tuple[int, int]]:
        """Return which offsets (from, to) of which partitions have to be read from the topic; none while some wait."""
        log = self._log
        if log is None or self._read:
            return {}
        if self._number is not None and self._number >= log.first:
            return {}
        self._number = None
        lacks = {
            partition: (own, begin)
            for partition, (own, begin) in enumerate(zip(self._own, log.begin, strict=True))
            if own < begin
        }
        if not lacks:
            self._number = log.first
        return lacks

    def give(self, read: Sequence[Read], behind: Mapping[int, int]) -> None:
        """Take what was read from the topic, and the next offset of each partition behind it."""
        self._read.extend(each for each in read if self._interest.wants(each.key))
        if not self._read:
            self._move(behind)
        self._behind_read = dict(behind)

    def take(self) -> str | None:
        """Return the next message, which counts as sent; None where there is nothing, or something is lacking."""
        if self._log is None:
            return None
        if self._read:
            return self._take_read(self._log)
        if self.lacking() or self._number is None:
            return None
        return self._take_logged(self._log, self._number)

    def position(self) -> str | None:
        """Return a message of where the client stands, if it has not been told."""
        if self._log is None or self._read or self._own == self._told:
            return None
        return position_message(self._token(self._log))

    def token(self) -> str | None:
        """Return the token of where the client stands; None where there is no topic yet."""
        return None if self._log is None else self._token(self._log)

    def _take_read(self, log: AlertLog) -> str:
        texts: list[str] = []
        size = 0
        while self._read and len(texts) < MAX_ROWS and size < MAX_CHARACTERS:
            each = self._read.popleft()
            texts.append(each.text)
            size += len(each.text)
            self._move({each.partition: each.offset + 1})
        if not self._read:
            self._move(self._behind_read)
        return alerts_message(texts, self._token(log))

    def _take_logged(self, log: AlertLog, number: int) -> str | None:
        texts: list[str] = []
        size = 0
        last: Entry | None = None
        while number < log.end and len(texts) < MAX_ROWS and size < MAX_CHARACTERS:
            last = log.entry(number)
            number += 1
            is_new = last.offset >= self._own[last.partition]
            if is_new and self._interest.wants(last.key):
                texts.append(last.text)
                size += len(last.text)
            self._own = last.behind if self._is_within(last.behind) else _greatest(self._own, last.behind)
        self._number = number
        if number == log.end and (last is None or self._own is not last.behind):
            self._own = _greatest(self._own, log.head)
        return alerts_message(texts, self._token_at(log, last)) if texts and last else None

    def _is_within(self, behind: Offsets) -> bool:
        return all(own <= other for own, other in zip(self._own, behind, strict=True))

    def _token_at(self, log: AlertLog, last: Entry) -> str:
        if self._own is not last.behind:
            return self._token(log)
        if last.token is None:
            last.token = self._token(log)
        self._told = self._own
        return last.token

    def _token(self, log: AlertLog) -> str:
        self._told = self._own
        return self._sealed(log.topic_id, self._own)

    def _move(self, behind: Mapping[int, int]) -> None:
        self._own = tuple(max(own, behind.get(partition, 0)) for partition, own in enumerate(self._own))


def _greatest(one: Offsets, other: Offsets) -> Offsets:
    return tuple(map(max, one, other))
