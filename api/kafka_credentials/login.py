"""A tenant's login at the broker: its user, its password, and what SCRAM-SHA-256 (RFC 5802, RFC 7677) keeps of that.

The broker is given the salted password, so nobody but the tenant ever has the password; the salted password logs in as
well as the password does, and is erased once the broker has it. Pure, apart from drawing random bytes.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final

from pulsestream.core.errors import InvalidNameError
from pulsestream.core.topics import tenant_topic

PREFIX: Final = "t."
"""With which every user of a tenant begins, and no service's."""
ITERATIONS: Final = 4096
"""Kafka's least: stretching helps guessable passwords, and these have 256 random bits."""
_SALT_BYTES: Final = 24
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Salted:
    """What the broker keeps a login by."""

    salt: bytes
    iterations: int
    salted_password: bytes = field(repr=False)


def new_id() -> str:
    """Return an id that no credential of a tenant had before, as far as 48 random bits can say."""
    return secrets.token_hex(_ID_BYTES)


def new_password() -> str:
    """Return a password of 256 random bits, in characters that mean nothing to shells and property files."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def salted(password: str) -> Salted:
    """Return what a broker is given of a password, under a salt of its own (RFC 5802's Hi)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return Salted(salt, ITERATIONS, hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS))


def user_name(tenant: str, credential_id: str) -> str:
    """Return the broker's user of a credential: slugs hold no dot, so no tenant's name begins another's."""
    tenant_topic(tenant, "events")  # raises InvalidNameError for what is no slug
    if not (credential_id.isascii() and credential_id.isalnum()):
        raise InvalidNameError(f"{credential_id!r} is no id of a Kafka credential: letters and digits")
    return f"{PREFIX}{tenant}.{credential_id}"


def group_prefix(tenant: str) -> str:
    """Return what the names of a tenant's consumer groups begin with."""
    return f"{PREFIX}{tenant}."
