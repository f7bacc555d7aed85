"""API keys: `ps_live_<id>_<secret>_<crc32>`, each part in base62.

The id finds the row; the 256-bit secret is stored as HMAC-SHA-256 under a server-side pepper, and compared in
constant time. The checksum lets anyone reject a mistyped key without asking the database. A password hash would be
wrong here: it protects guessable secrets, and would cost more than the rest of the request.
"""

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

from pulsestream.core.errors import SettingsError
from pulsestream.core.settings import Settings

PREFIX: Final = "ps_live"
INVITATION: Final = "ps_invite"
"""What the text of an invitation begins with: it has the same parts."""
PATTERN: Final = r"\bps_live_[0-9A-Za-z]{13}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\b"
"""What secret scanners look for; `parse` tells whether what they find is a key."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS: Final = frozenset(_ALPHABET)
_ID_BYTES: Final = 9
_ID_LENGTH: Final = 13
_SECRET_BYTES: Final = 32
_SECRET_LENGTH: Final = 43
_CRC_LENGTH: Final = 6
_MIN_PEPPER: Final = 16

Peppers = Mapping[int, bytes]
"""The server-side secrets, by version."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, taken apart. Its text is shown once and stored nowhere."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The key as its holder keeps it."""
        return joined(PREFIX, self.id, self.secret)


def generate() -> ApiKey:
    """Return a new random key."""
    return ApiKey(_random(_ID_BYTES, _ID_LENGTH), _random(_SECRET_BYTES, _SECRET_LENGTH))


def parse(text: str) -> ApiKey | None:
    """Take a key apart; None when it cannot be one: another shape, or a checksum that tells of a typo."""
    found = parts(text, PREFIX)
    return None if found is None else ApiKey(*found)


def parts(text: str, prefix: str) -> tuple[str, str] | None:
    """Return id and secret of a text `{prefix}_<id>_<secret>_<crc32>`, None where it is none; a prefix has one `_`."""
    found = text.split("_")
    if len(found) != 5 or "_".join(found[:2]) != prefix:  # noqa: PLR2004 - two of the prefix, id, secret, crc
        return None
    _, _, key_id, secret, checksum = found
    if [len(key_id), len(secret), len(checksum)] != [_ID_LENGTH, _SECRET_LENGTH, _CRC_LENGTH]:
        return None
    if not _DIGITS.issuperset(key_id + secret) or checksum != _checksum(text[: -_CRC_LENGTH - 1]):
        return None
    return key_id, secret


def joined(prefix: str, key_id: str, secret: str) -> str:
    """Return the text of which `parts` are these."""
    body = f"{prefix}_{key_id}_{secret}"
    return f"{body}_{_checksum(body)}"


def digest(key: ApiKey, pepper: bytes) -> bytes:
    """Return what is stored of a key: HMAC-SHA-256 over its id and secret."""
    return hmac.digest(pepper, f"{key.id}_{key.secret}".encode(), hashlib.sha256)


def matches(key: ApiKey, stored: bytes, pepper_version: int, peppers: Peppers) -> bool:
    """Return whether `key` is the one stored; in constant time, and False when that pepper is gone."""
    pepper = peppers.get(pepper_version)
    return pepper is not None and hmac.compare_digest(digest(key, pepper), stored)


def peppers(settings: Settings) -> Peppers:
    """Return the peppers by version: new keys are hashed with the newest. Raises SettingsError where none is set."""
    version, previous = settings.key_pepper_version, settings.key_pepper_previous
    found = {version: _pepper("PULSESTREAM_KEY_PEPPER", settings.key_pepper)}
    if not previous.get_secret_value():
        return found
    if version == 1:
        raise SettingsError(
            "PULSESTREAM_KEY_PEPPER_PREVIOUS is set, and PULSESTREAM_KEY_PEPPER_VERSION is 1, which has none before: "
            "a new pepper is version 2"
        )
    return {version - 1: _pepper("PULSESTREAM_KEY_PEPPER_PREVIOUS", previous), **found}


def _pepper(variable: str, secret: SecretStr) -> bytes:
    pepper = secret.get_secret_value().encode()
    if len(pepper) < _MIN_PEPPER:
        raise SettingsError(
            f"{variable} has {len(pepper)} bytes, at least {_MIN_PEPPER} are needed: API keys are hashed with it. "
            "Generate one (openssl rand -hex 32), keep it secret, and change it as docs/security.md says"
        )
    return pepper


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CRC_LENGTH)


def _random(size: int, length: int) -> str:
    return _base62(int.from_bytes(secrets.token_bytes(size), "big"), length)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
