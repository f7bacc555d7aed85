"""`Idempotency-Key` of ingestion, after draft-ietf-httpapi-idempotency-key-header-07: a request again has one effect.

A key belongs to one tenant and, for WINDOW from its first use, to one request: the route and the body as unfolded. The
ids of events that bring none are derived from key, first use and place, so whoever processes the request again, on
whichever API, and after whatever crash, sends the same ids; and an id has one effect. No answer is kept, and no two
requests exclude each other: the same request is done again, and answered by what Kafka says then.
"""

import re
from datetime import datetime
from hashlib import sha256
from typing import Final

from api import errors
from api.database import Database, fetch_one
from api.errors import FieldError
from api.ids import uuid_text
from api.ingestion.events import IdMaker
from pulsestream.core.clock import to_micros

HEADER: Final = "Idempotency-Key"
WINDOW_HOURS: Final = 24
"""After that a key is a new one; the relay deletes what is older."""
MAX_KEY: Final = 255

_STRING: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
"""A string of RFC 8941, section 3.3.3."""
_BARE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x7e]+")
"""What many clients send: the same without quotes."""


def parse_key(value: bytes) -> str:
    """Return the key in a header's value; raises Problem 400."""
    text = value.decode("latin-1").strip()
    quoted = _STRING.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not 0 < len(key) <= MAX_KEY or not (quoted or _BARE.fullmatch(text)):
        raise errors.invalid_parameters(
            [FieldError(HEADER, f"is not 1 to {MAX_KEY} printable ASCII characters in quotes, such as a UUID")]
        )
    return key


def derived_ids(tenant: str, key: str, used_at: int) -> IdMaker:
    """Return what makes the ids of a request's events: UUIDs of version 8 (RFC 9562, section 5.8)."""
    seed = sha256("\0".join((tenant, key, str(used_at))).encode())

    def made_id(number: int) -> str:
        digest = seed.copy()
        digest.update(b"\0%d" % number)
        value = int.from_bytes(digest.digest()[:16], "big")
        return uuid_text(value & ~(0xF << 76) & ~(0b11 << 62) | 0x8 << 76 | 0b10 << 62)

    return made_id


class IdempotencyKeys:
    """The keys in use, in the database: so they hold for every API process and through its death."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, tenant: str, key: str, route: str, body: bytes) -> IdMaker:
        """Return what makes this request's ids; raises Problem 422 when the key is another request's, and 503."""
        fingerprint = sha256(route.encode() + b"\0" + body).digest()
        claimed = {"tenant": tenant, "key": key, "fingerprint": fingerprint, "hours": WINDOW_HOURS}
        async with self._database.tenant(tenant) as connection:
            row = await fetch_one(connection, "claim_idempotency_key", claimed)
        if row is None:
            raise RuntimeError("claiming an idempotency key returned no row")
        used_at: datetime = row["used_at"]
        if bytes(row["fingerprint"]) != fingerprint:
            raise errors.idempotency_key_reused(key, used_at.isoformat(), WINDOW_HOURS)
        return derived_ids(tenant, key, to_micros(used_at))
