"""Search cursors: where a walk stands, as opaque text that only this installation can make.

A cursor holds the position after the last row shown (its place in the order, dataset, id) and a fingerprint of the
search it belongs to, sealed with a MAC that covers the tenant: a changed, foreign or misplaced cursor is refused.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from api.keys import Peppers
from api.seal import Seal, SealError

_FINGERPRINT_BYTES: Final = 12
_VERSION: Final = 1


class CursorError(ValueError):
    """The cursor is not one of ours, or belongs to another search."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last row shown: `time` in microseconds, `dataset`, `event_id`. A walk goes on behind it.

    `ingested`: in a walk by ingestion, the transaction that stored the row.
    """

    time: int
    dataset: str
    event_id: str
    ingested: int | None = None


class _Sealed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    fingerprint: bytes
    time: int
    dataset: str
    event_id: str
    ingested: int | None = None


class CursorSeal:
    """Makes and opens cursors with a key derived from the newest pepper."""

    def __init__(self, peppers: Peppers) -> None:
        self._seal = Seal(peppers, "search cursor")

    def seal(self, position: Position, tenant: str, search: object) -> str:
        """Return the cursor of a position in `search` (any JSON-able value that says which rows, in what order)."""
        payload = msgspec.msgpack.encode(
            _Sealed(
                _VERSION,
                _fingerprint(search),
                position.time,
                position.dataset,
                position.event_id,
                position.ingested,
            )
        )
        return self._seal.close(payload, tenant)

    def open(self, cursor: str, tenant: str, search: object) -> Position:
        """Return the position in a cursor; raises CursorError."""
        try:
            payload = self._seal.open(cursor, tenant)
        except SealError as error:
            raise CursorError(f"the cursor {error}") from error
        sealed = msgspec.msgpack.decode(payload, type=_Sealed)
        if sealed.fingerprint != _fingerprint(search):
            raise CursorError("the cursor belongs to a search with other filters or another order")
        return Position(sealed.time, sealed.dataset, sealed.event_id, sealed.ingested)


def _fingerprint(search: object) -> bytes:
    return hashlib.sha256(msgspec.json.encode(search, order="deterministic")).digest()[:_FINGERPRINT_BYTES]
