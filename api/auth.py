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
from api.cache import AnswerCache
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
_log = logger(__name__)


class Permission(StrEnum):
    """What a route may require."""

    TENANT_READ = "tenant:read"
    DATA_READ = "data:read"
    EVENTS_WRITE = "events:write"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    RULES_READ = "rules:read"
    RULES_WRITE = "rules:write"
    DEAD_LETTERS_WRITE = "dead-letters:write"
    AUDIT_READ = "audit:read"


_EVERYTHING: Final = frozenset(Permission)
ROLES: Final[Mapping[str, frozenset[Permission]]] = {
    "owner": _EVERYTHING,
    "admin": _EVERYTHING,
    "viewer": frozenset(
        {Permission.TENANT_READ, Permission.DATA_READ, Permission.SUBSCRIPTIONS_READ, Permission.RULES_READ}
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
            raise errors.forbidden(f"This key has role {self.role}; {permission} needs one of: {able}.")


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


KeyLookup = Callable[[str], Awaitable[StoredKey | None]]


class Authenticator:
    """Turns the text of a key into its Caller."""

    def __init__(self, lookup: KeyLookup, peppers: keys.Peppers, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._peppers = peppers
        self._clock = clock
        self._known: AnswerCache[StoredKey | None] = AnswerCache(lookup, monotonic, fresh=FRESH, stale=STALE)
        self._verified: dict[bytes, tuple[StoredKey, Caller]] = {}

    def recent(self, text: bytes) -> Caller | None:
        """Return who holds this key if `caller` has found so since the database was asked for it last, else None.

        Asks nobody. A dictionary compares keys only where their seeded hashes agree, so its time says nothing of any.
        """
        verified = self._verified.get(text)
        if verified is None:
            return None
        stored, caller = verified
        fresh = self._known.fresh(caller.key_id)
        return caller if fresh is not None and fresh[0] is stored and not self._expired(stored) else None

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
        stored = await self._known.get(key.id)
        if stored is None or not self._valid(key, stored):
            raise _unknown_key()
        caller = _caller(stored, key.id)
        self._remember(text, stored, caller)
        return caller

    async def still(self, key_id: str) -> Caller:
        """Return who holds a key that `caller` has found valid before; raises Problem 401, 403 or 503."""
        stored = await self._known.get(key_id)
        if stored is None or not self._is_in_force(stored):
            raise _unknown_key()
        return _caller(stored, key_id)

    def _remember(self, text: str, stored: StoredKey, caller: Caller) -> None:
        if len(self._verified) >= _VERIFIED:
            self._verified.clear()
        self._verified[text.encode()] = stored, caller

    def _valid(self, key: keys.ApiKey, stored: StoredKey) -> bool:
        if stored.pepper_version not in self._peppers:
            _log.error("key hashed with an unknown pepper", key_id=key.id, pepper_version=stored.pepper_version)
        return keys.matches(key, stored.hmac, stored.pepper_version, self._peppers) and self._is_in_force(stored)

    def _is_in_force(self, stored: StoredKey) -> bool:
        return stored.revoked_at is None and not self._expired(stored)

    def _expired(self, stored: StoredKey) -> bool:
        return stored.expires_at is not None and stored.expires_at <= to_datetime(self._clock())


def _caller(stored: StoredKey, key_id: str) -> Caller:
    if stored.tenant_status != "active":
        raise errors.forbidden(f"Tenant {stored.tenant} is {stored.tenant_status}. Ask the operator.")
    return Caller(stored.tenant, stored.role, key_id, stored.tier)


def _unknown_key() -> errors.Problem:
    return errors.unauthorized("This key is unknown, expired or revoked. Use another key of the tenant.")


def database_lookup(database: Database) -> KeyLookup:
    """Return the lookup by the database's function `find_api_key`."""

    async def find(key_id: str) -> StoredKey | None:
        async with database.connection() as connection:
            row = await fetch_one(connection, "find_api_key", {"key_id": key_id})
        return None if row is None else StoredKey(**row)

    return find


_header: Final = APIKeyHeader(
    name=KEY_HEADER, scheme_name="ApiKey", description="`ps_live_<id>_<secret>_<checksum>`", auto_error=False
)


def _requires(permission: Permission) -> Callable[..., Awaitable[Caller]]:
    async def allowed_caller(request: Request, key: Annotated[str | None, Security(_header)]) -> Caller:
        known: Caller = await request.app.state.services.entrance.caller(key, request.scope)
        caller = replace(known, request_id=request_id(request.scope))
        caller.require(permission)
        return caller

    return allowed_caller


def _permission(permission: Permission) -> Any:
    return Depends(_requires(permission))


CanReadTenant = Annotated[Caller, _permission(Permission.TENANT_READ)]
CanReadData = Annotated[Caller, _permission(Permission.DATA_READ)]
CanReadSubscriptions = Annotated[Caller, _permission(Permission.SUBSCRIPTIONS_READ)]
CanWriteSubscriptions = Annotated[Caller, _permission(Permission.SUBSCRIPTIONS_WRITE)]
CanReadRules = Annotated[Caller, _permission(Permission.RULES_READ)]
CanWriteRules = Annotated[Caller, _permission(Permission.RULES_WRITE)]
CanWriteDeadLetters = Annotated[Caller, _permission(Permission.DEAD_LETTERS_WRITE)]
CanReadAudit = Annotated[Caller, _permission(Permission.AUDIT_READ)]
