"""Sealed text: bytes that clients keep for us and give back, opaque, and refused if anybody changed them.

The MAC's key is derived from the newest pepper and what the text is for, so that one kind never passes for another.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

from api.keys import Peppers

_MAC_BYTES: Final = 16


class SealError(ValueError):
    """The text was not made by this installation, for this purpose and this owner."""


class Seal:
    """Seals payloads for one purpose."""

    def __init__(self, peppers: Peppers, purpose: str) -> None:
        self._key = hmac.digest(peppers[max(peppers)], purpose.encode(), hashlib.sha256)

    def close(self, payload: bytes, owner: str) -> str:
        """Return the text that holds `payload`; only the same `owner` (a tenant) can have it opened."""
        return _text(self._mac(payload, owner) + payload)

    def open(self, text: str, owner: str) -> bytes:
        """Return the payload; raises SealError."""
        raw = _unwrapped(text)
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload, owner)):
            raise SealError("was not given by this service for this tenant")
        return payload

    def _mac(self, payload: bytes, owner: str) -> bytes:
        return hmac.digest(self._key, owner.encode() + b"\0" + payload, hashlib.sha256)[:_MAC_BYTES]


def _unwrapped(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise SealError("is malformed") from error
    if len(raw) <= _MAC_BYTES or _text(raw) != text:  # base64 has other spellings of the same bytes
        raise SealError("is malformed")
    return raw


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
