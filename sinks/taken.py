"""Records as the consumer took them: those of one partition together, without an object of ours for each. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sinks.rows import Arrived

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]
Outer: TypeAlias = tuple[bytes | None, Headers]
"""A record's key and headers."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Records of one partition, in the order of their offsets; at least one.

    `appended_at` is the broker's time in microseconds; `outer` reads key and headers of the record at a place, which
    only few records are asked for.
    """

    topic: str
    partition: int
    offsets: Sequence[int]
    appended_at: Sequence[int]
    values: Sequence[bytes | None]
    outer: Callable[[int], Outer]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def next_offset(self) -> int:
        """The offset after the last record."""
        return self.offsets[-1] + 1

    def arrived(self, place: int) -> Arrived:
        """Return one record whole."""
        key, headers = self.outer(place)
        return Arrived(
            self.topic,
            self.partition,
            self.offsets[place],
            self.appended_at[place],
            key,
            self.values[place],
            tuple(headers),
        )

    def each(self) -> Iterator[Arrived]:
        """Return all records whole."""
        return map(self.arrived, range(len(self)))
