"""The state of keys as entries of the compacted state topic: a head, blocks of panes, one entry a rule.

Each value is a format version byte and MessagePack; each is under 256 KB. A block that cannot change any more is
written once; a checkpoint rewrites what changed.
"""

from collections.abc import Mapping

from pulsestream.core.errors import PulseStreamError
from streams.engine.fold import KeyState


class SnapshotError(PulseStreamError):
    """State entries that this version cannot read."""


def entries(key: str, old: KeyState | None, new: KeyState) -> dict[str, bytes | None]:
    """Return the entries that changed from `old` (None: nothing was written yet) to `new`; a None value removes one.

    `key` is "{tenant}/{exchange}/{product}"; entry names are "{key}|head", "{key}|block:{n}", …
    """
    raise NotImplementedError


def restore(entries: Mapping[str, bytes]) -> dict[str, KeyState]:
    """Return the states, by key, that entries hold together; raises SnapshotError for an unknown format version."""
    raise NotImplementedError
