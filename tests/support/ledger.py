"""The ledger of a fault test: every id that was sent, what its sender was told, and what must be true afterwards. Pure.

An id is accepted (202, or the broker's acknowledgement), rejected (told that it will never be stored), or unknown: no
answer came, or one that says "unknown", so that it may be stored or not, and once at most.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

Verdict = Literal["accepted", "rejected", "unknown"]
Place = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass(slots=True)
class Entry:
    """What is known of one id: the key that it was sent under, its place in the order of that key, and the verdict.

    The key is None when no order is claimed, because the id was sent under several keys.
    """

    key: str | None
    rank: int
    verdict: Verdict = "unknown"


@dataclass
class Ledger:
    """Ids by what became of them. Senders in several threads may write, each id by one of them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    placed: dict[Place, str] = field(default_factory=dict)
    """Where the broker said that it put an id's record; only some senders are told."""

    def send(self, name: str, key: str) -> None:
        """Note that an id is about to be sent under this key, after all that were sent before."""
        known = self.entries.get(name)
        if known is None:
            self.entries[name] = Entry(key, len(self.entries))
        elif known.key != key:
            known.key = None

    def accept(self, name: str, place: Place | None = None) -> None:
        """Note that an id is promised to be stored."""
        self._settle(name, "accepted")
        if place is not None:
            self.placed[place] = name

    def reject(self, name: str) -> None:
        """Note that an id is promised never to be stored."""
        self._settle(name, "rejected")

    def blur(self, names: Collection[str]) -> None:
        """Claim no order among these ids: they were sent together, and once more after no answer came."""
        first = min(self.entries[name].rank for name in names)
        for name in names:
            self.entries[name].rank = first

    def of(self, verdict: Verdict) -> Iterator[str]:
        """Return the ids with this verdict."""
        return (name for name, entry in self.entries.items() if entry.verdict == verdict)

    def counts(self) -> Counter[Verdict]:
        """Return how many ids have each verdict."""
        return Counter(entry.verdict for entry in self.entries.values())

    def _settle(self, name: str, verdict: Verdict) -> None:
        entry = self.entries[name]
        assert entry.verdict in {"unknown", verdict}, f"{name} was {entry.verdict} and is {verdict} now"
        entry.verdict = verdict


@dataclass(frozen=True, slots=True)
class Held:
    """What was found afterwards: rows by id, ids of dead letters, ids within a gap that was told of.

    `places`: a lane and a position in it for each row, such as a partition and an offset; positions are compared within
    a lane.
    """

    rows: Mapping[str, int]
    letters: Collection[str] = frozenset()
    told: Collection[str] = frozenset()
    places: Mapping[str, tuple[object, int]] = field(default_factory=dict)


def violations(ledger: Ledger, held: Held) -> dict[str, list[str]]:
    """Return the ids that break each invariant, under the invariant's name; nothing when all of them hold."""
    letters = set(held.letters)
    elsewhere = letters | set(held.told)
    found = {
        "accepted, and neither a row nor a dead letter nor told of": [
            name for name in ledger.of("accepted") if name not in held.rows and name not in elsewhere
        ],
        "rejected, and there": [name for name in ledger.of("rejected") if name in held.rows or name in letters],
        "there more than once": [name for name, rows in held.rows.items() if rows + (name in letters) > 1],
        "there, and never sent": [name for name in {*held.rows, *letters} if name not in ledger.entries],
        "out of its key's order": list(_out_of_order(ledger, held.places)),
    }
    return {name: ids for name, ids in found.items() if ids}


def assert_kept(ledger: Ledger, held: Held) -> None:
    """Assert every invariant."""
    broken = {name: (len(ids), sorted(ids)[:5]) for name, ids in violations(ledger, held).items()}
    assert not broken, f"{broken} of {dict(ledger.counts())}"


def _out_of_order(ledger: Ledger, places: Mapping[str, tuple[object, int]]) -> Iterator[str]:
    """Yield accepted ids that stand before one of their key which was accepted before they were sent."""
    ordered = (
        (entry.key, str(places[name][0]), entry.rank, places[name][1], name)
        for name, entry in ledger.entries.items()
        if entry.verdict == "accepted" and entry.key is not None and name in places
    )
    for _, lane in groupby(sorted(ordered), key=lambda each: each[:2]):
        reached = -1
        for _, together in groupby(lane, key=lambda each: each[2]):
            ids = list(together)
            yield from (name for *_, position, name in ids if position < reached)
            reached = max(reached, *(position for *_, position, _ in ids), -1)


def within(ledger: Ledger, gaps: Iterable[tuple[str, int, int, int]]) -> set[str]:
    """Return the ids whose records lie in gaps (topic, partition, from offset, to before offset)."""
    spans = [*gaps]
    return {
        name
        for (topic, partition, offset), name in ledger.placed.items()
        if any((topic, partition) == span[:2] and span[2] <= offset < span[3] for span in spans)
    }
