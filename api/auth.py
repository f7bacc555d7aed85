"""Who is calling, and what they may do: the key in X-API-Key decides both, nothing else does.

A route names its permission as an annotated type in its signature (`CanReadData`, `CanWriteRules`, …).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader

from api import errors, keys
from api.asgi import request_id
from api.cache import AnswerCache, RecentKeys
from api.database import Database, fetch_one
from pulsestream.core.clock import Clock, to_datetime
from pulsestream.core.log import logger

KEY_HEADER: Final = "X-API-Key"
FRESH: Final = 3.0
"""Seconds for which a key is taken without asking the database: how long a revoked one may live on."""
STALE: Final = 60.0
"""Seconds for which a known key is taken while the database is away."""
_VERIFIED: Final = 10_000
"""Keys that are remembered at once after their hash was compared."""
_UNKNOWN: Final = 1_000
"""Ids that are remembered at once because no key has them: apart from the others, which they must not push out."""
_log = logger(__name__)


class Permission(StrEnum):
    """What a route may require."""

    TENANT_READ = "tenant:read"
    TENANT_DELETE = "tenant:delete"
    DATA_READ = "data:read"
    EVENTS_WRITE = "events:write"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    RULES_READ = "rules:read"
    RULES_WRITE = "rules:write"
    CHANNELS_READ = "channels:read"
    CHANNELS_WRITE = "channels:write"
    ALERTS_WRITE = "alerts:write"
    SILENCES_READ = "silences:read"
    SILENCES_WRITE = "silences:write"
    DEAD_LETTERS_WRITE = "dead-letters:write"
    AUDIT_READ = "audit:read"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    KAFKA_CREDENTIALS_READ = "kafka-credentials:read"
    KAFKA_CREDENTIALS_WRITE = "kafka-credentials:write"


_EVERYTHING: Final = frozenset(Permission)
ROLES: Final[Mapping[str, frozenset[Permission]]] = {
    "owner": _EVERYTHING,
    "admin": _EVERYTHING - {Permission.TENANT_DELETE},
    "viewer": frozenset(
        {
            Permission.TENANT_READ,
            Permission.DATA_READ,
            Permission.SUBSCRIPTIONS_READ,
            Permission.RULES_READ,
            Permission.SILENCES_READ,
        }
    ),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid key, and the request in hand where a route has it ("": it does not)."""

    tenant: str
    role: str
    key_id: str
    tier: str
    request_id: str = ""

    def require(self, permission: Permission) -> None:
        """Raise Problem 403 unless the key's role has this permission."""
        if permission not in ROLES[self.role]:
            able = ", ".join(role for role, permissions in ROLES.items() if permission in permissions)
            raise errors.forbidden(
                f"This key has role {self.role}; {permission} needs one of: {able}.",
                errors.Denial(self.tenant, self.key_id, self.role, permission, "role"),
            )


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the database holds of a key, and of its tenant."""

    tenant: str
    role: str
    hmac: bytes
    pepper_version: int
    expires_at: datetime | None
    revoked_at: datetime | None
    tenant_status: str
    tier: str

    def denial(self, key_id: str, reason: str) -> errors.Denial:
        """Return what is kept of a refusal of this key, whatever it was used for."""
        return errors.Denial(self.tenant, key_id, self.role, None, reason)


KeyLookup = Callable[[str], Awaitable[StoredKey | None]]


class _UnknownKeyError(Exception):
    """No key has this id."""


class Authenticator:
    """Turns the text of a key into its Caller. `note` is told the id of a key in use, at least every FRESH seconds."""

    def __init__(
        self,
        lookup: KeyLookup,
        peppers: keys.Peppers,
        clock: Clock,
        monotonic: Callable[[], float],
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._peppers = peppers
        self._clock = clock
        self._lookup = lookup
        self._note = note
        self._known: AnswerCache[StoredKey] = AnswerCache(self._ask, monotonic, fresh=FRESH, stale=STALE)
        self._unknown = RecentKeys(monotonic, fresh=FRESH, size=_UNKNOWN)
        self._verified: dict[bytes, tuple[StoredKey, Caller]] = {}

    def recent(self, text: bytes) -> Caller | None:
        """Return who holds this key if `caller` has found so since the database was asked for it last, else None.

        Asks nobody, and notes nothing: `caller` has noted a use within the last FRESH seconds. A dictionary compares
        keys only where their seeded hashes agree, so its time says nothing of any.
        """
        verified = self._verified.get(text)
        if verified is None:
            return None
        stored, caller = verified
        if not self._known.holds(caller.key_id, stored) or (stored.expires_at is not None and self._expired(stored)):
            return None
        return caller

    def remembers(self, text: str) -> bool:
        """Return whether this very key has been found valid before, however long ago."""
        return text.encode() in self._verified

    async def caller(self, text: str | None) -> Caller:
        """Return who holds this key; raises Problem 401, 403 (suspended tenant) or 503."""
        if not text:
            raise errors.unauthorized(f"Send your API key in the header {KEY_HEADER}.")
        key = keys.parse(text)
        if key is None:
            raise errors.unauthorized(
                "That is not an API key, or it was mistyped (its checksum does not fit). Keys look like "
                "ps_live_<id>_<secret>_<checksum>; copy it whole."
            )
        stored = await self._stored(key.id)
        if stored is None:
            raise _unknown_key()
        fault = self._fault(key, stored)
        if fault is not None:
            raise _unknown_key(stored.denial(key.id, fault))
        caller = _caller(stored, key.id)
        self._remember(text, stored, caller)
        self._note(key.id)
        return caller

    async def still(self, key_id: str) -> Caller:
        """Return who holds a key that `caller` has found valid before; raises Problem 401, 403 or 503."""
        stored = await self._stored(key_id)
        if stored is None:
            raise _unknown_key()
        end = self._end(stored)
        if end is not None:
            raise _unknown_key(stored.denial(key_id, end))
        return _caller(stored, key_id)

    def forget(self, key_id: str) -> None:
        """Ask the database about a key at its next use: it was changed by this process."""
        self._known.forget(key_id)

    async def _stored(self, key_id: str) -> StoredKey | None:
        if key_id in self._unknown:
            return None
        try:
            return await self._known.get(key_id)
        except _UnknownKeyError:
            self._known.forget(key_id)
            self._unknown.add(key_id)
            return None

    async def _ask(self, key_id: str) -> StoredKey:
        stored = await self._lookup(key_id)
        if stored is None:
            raise _UnknownKeyError
        return stored

    def _remember(self, text: str, stored: StoredKey, caller: Caller) -> None:
        if len(self._verified) >= _VERIFIED:
            self._verified.clear()
        self._verified[text.encode()] = stored, caller

    def _fault(self, key: keys.ApiKey, stored: StoredKey) -> str | None:
        """Return why a key is not taken, None where it is."""
        if stored.pepper_version not in self._peppers:
            _log.error("key hashed with an unknown pepper", key_id=key.id, pepper_version=stored.pepper_version)
        if not keys.matches(key, stored.hmac, stored.pepper_version, self._peppers):
            return "wrong secret"
        return self._end(stored)

    def _end(self, stored: StoredKey) -> str | None:
        """Return why a key works no longer, None where it does."""
        if stored.revoked_at is not None:
            return "key revoked"
        return "key expired" if self._expired(stored) else None

    def _expired(self, stored: StoredKey) -> bool:
        return stored.expires_at is not None and stored.expires_at <= to_datetime(self._clock())


def _caller(stored: StoredKey, key_id: str) -> Caller:
    if stored.tenant_status != "active":
        denial = stored.denial(key_id, f"tenant {stored.tenant_status}")
        raise errors.tenant_inactive(stored.tenant, stored.tenant_status, denial)
    return Caller(stored.tenant, stored.role, key_id, stored.tier)


def _unknown_key(denial: errors.Denial | None = None) -> errors.Problem:
    return errors.unauthorized("This key is unknown, expired or revoked. Use another key of the tenant.", denial)


def database_lookup(database: Database) -> KeyLookup:
    """Return the lookup by the database's function `find_api_key`."""

    async def find(key_id: str) -> StoredKey | None:
        async with database.connection() as connection:
            row = await fetch_one(connection, "find_api_key", {"key_id": key_id})
        return None if row is None else StoredKey(**row)

    return find


key_header: Final = APIKeyHeader(
    name=KEY_HEADER, scheme_name="ApiKey", description="`ps_live_<id>_<secret>_<checksum>`", auto_error=False
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A route's dependency on a caller with a permission, which whoever looks at the route can read."""

    permission: Permission

    async def __call__(self, request: Request, key: Annotated[str | None, Security(key_header)]) -> Caller:
        """Return the caller; raises Problem 401, 403, 429 or 503."""
        known: Caller = await request.app.state.services.entrance.caller(key, request.scope)
        caller = replace(known, request_id=request_id(request.scope))
        caller.require(self.permission)
        return caller


def _permission(permission: Permission) -> Any:
    return Depends(Requirement(permission))


CanReadTenant = Annotated[Caller, _permission(Permission.TENANT_READ)]
CanDeleteTenant = Annotated[Caller, _permission(Permission.TENANT_DELETE)]
CanReadData = Annotated[Caller, _permission(Permission.DATA_READ)]
CanReadSubscriptions = Annotated[Caller, _permission(Permission.SUBSCRIPTIONS_READ)]
CanWriteSubscriptions = Annotated[Caller, _permission(Permission.SUBSCRIPTIONS_WRITE)]
CanReadRules = Annotated[Caller, _permission(Permission.RULES_READ)]
CanWriteRules = Annotated[Caller, _permission(Permission.RULES_WRITE)]
CanReadChannels = Annotated[Caller, _permission(Permission.CHANNELS_READ)]
CanWriteChannels = Annotated[Caller, _permission(Permission.CHANNELS_WRITE)]
CanWriteAlerts = Annotated[Caller, _permission(Permission.ALERTS_WRITE)]
CanReadSilences = Annotated[Caller, _permission(Permission.SILENCES_READ)]
CanWriteSilences = Annotated[Caller, _permission(Permission.SILENCES_WRITE)]
CanWriteDeadLetters = Annotated[Caller, _permission(Permission.DEAD_LETTERS_WRITE)]
CanReadAudit = Annotated[Caller, _permission(Permission.AUDIT_READ)]
CanReadKeys = Annotated[Caller, _permission(Permission.KEYS_READ)]
CanWriteKeys = Annotated[Caller, _permission(Permission.KEYS_WRITE)]
CanReadKafkaCredentials = Annotated[Caller, _permission(Permission.KAFKA_CREDENTIALS_READ)]
CanWriteKafkaCredentials = Annotated[Caller, _permission(Permission.KAFKA_CREDENTIALS_WRITE)]
