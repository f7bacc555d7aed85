"""Records of a source that are taken in but not folded yet, by key. Pure.

To fold a key costs about as much for one record as for ten. What comes out does not depend on how records are batched,
so those that can change no alert wait a moment for the ones that follow.
"""

from collections.abc import KeysView, Sequence
from dataclasses import dataclass, field

from streams.basis import Records
from streams.engine.cut import KeyBatch
from streams.engine.inputs import Row
from streams.intake import Source
from streams.tables import Name


@dataclass(slots=True)
class Held:
    """What is held of a source: it counts as folded, so that a checkpoint has to wait until nothing is held."""

    source: Source
    count: int = 0
    _parts: dict[Name, list[KeyBatch | list[Row]]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._parts)

    def add(self, name: Name, records: KeyBatch | list[Row]) -> None:
        """Hold records of a key, in offset order after those that are held of it."""
        parts = self._parts.setdefault(name, [])
        if parts and isinstance(records, list) and isinstance(parts[-1], list):
            parts[-1] = parts[-1] + records
        else:
            parts.append(records)
        self.count += len(records)

    def take(self, name: Name) -> Sequence[Records]:
        """Return the records of a key, in offset order, and hold them no more."""
        parts = self._parts.pop(name, [])
        self.count -= sum(len(part) for part in parts)
        return parts

    def names(self) -> KeysView[Name]:
        """Return the keys, the one that waits longest first."""
        return self._parts.keys()
