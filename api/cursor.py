"""Search cursors: where a walk stands, as opaque text that only this installation can make.

A cursor holds the position after the last row shown (its place in the order, dataset, id) and a fingerprint of the
search it belongs to, sealed with a MAC that covers the tenant: a changed, foreign or misplaced cursor is refused.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

import msgspec

from api.keys import Peppers

_MAC_BYTES: Final = 16
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
        self._key = hmac.digest(peppers[max(peppers)], b"search cursor", hashlib.sha256)

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
        return base64.urlsafe_b64encode(self._mac(payload, tenant) + payload).rstrip(b"=").decode()

    def open(self, cursor: str, tenant: str, search: object) -> Position:
        """Return the position in a cursor; raises CursorError."""
        raw = _unwrapped(cursor)
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload, tenant)):
            raise CursorError("the cursor was not given by this service for this tenant")
        sealed = msgspec.msgpack.decode(payload, type=_Sealed)
        if sealed.fingerprint != _fingerprint(search):
            raise CursorError("the cursor belongs to a search with other filters or another order")
        return Position(sealed.time, sealed.dataset, sealed.event_id, sealed.ingested)

    def _mac(self, payload: bytes, tenant: str) -> bytes:
        return hmac.digest(self._key, tenant.encode() + b"\0" + payload, hashlib.sha256)[:_MAC_BYTES]


def _unwrapped(cursor: str) -> bytes:
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise CursorError("the cursor is malformed") from error
    if len(raw) <= _MAC_BYTES:
        raise CursorError("the cursor is malformed")
    return raw


def _fingerprint(search: object) -> bytes:
    return hashlib.sha256(msgspec.json.encode(search, order="deterministic")).digest()[:_FINGERPRINT_BYTES]
