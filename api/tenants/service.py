"""Tenants: registration, with the first key, control record and audit in one transaction; and what they have."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from api import errors, keys
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.database import Connection, Database
from api.keys_admin.repository import NewKey, insert_key
from api.limits.registrations import Registrations
from api.outbox import lock_tenant, publish_tenant
from api.tenants import invitations, repository
from api.tenants.invitations import Used
from pulsestream.core.errors import InvalidNameError
from pulsestream.core.topics import check_slug
from schemas.records import Tenant

FIRST_NAME = "first key"
FIRST_ROLE = "owner"
FIRST_TIER: Final = "free"
Mode = Literal["open", "token", "closed"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asks for who registers, and from where; `token` is an invitation's text, None without one."""

    tenant: str
    name: str
    token: str | None
    address: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Registered:
    """A new tenant and its first key, whose text nobody can see again."""

    tenant: str
    name: str
    tier: str
    api_key: str = field(repr=False)
    key_id: str
    role: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A tenant that is being deleted; an operator can restore it until `delete_after`."""

    tenant: str
    status: str
    delete_after: datetime


class Tenants:
    """What can be done with tenants. Without `registrations` any number may be registered.

    A deleted tenant can be restored for `grace`.
    """

    def __init__(
        self,
        database: Database,
        peppers: keys.Peppers,
        mode: Mode,
        registrations: Registrations | None,
        grace: timedelta = timedelta(days=7),
    ) -> None:
        self._grace = grace
        self._database = database
        self._peppers = peppers
        self._mode = mode
        self._registrations = registrations

    async def register(self, asked: Asked) -> Registered:
        """Make a tenant with an owner's key.

        Raises Problem 403 (closed, or no good invitation), 409 (taken), 422 (no slug) or 429 (too many registrations).
        """
        self._check(asked)
        key = keys.generate()
        async with self._database.tenant(asked.tenant) as connection:
            used = await invitations.use(connection, asked.token) if asked.token else None
            tier = FIRST_TIER if used is None else used.tier
            tenant = await repository.insert_tenant(connection, asked.tenant, asked.name or asked.tenant, tier)
            await insert_key(connection, asked.tenant, key, self._peppers, NewKey(FIRST_NAME, FIRST_ROLE))
            await publish_tenant(connection, tenant)
            await _audit(connection, tenant, key.id, used, asked.request_id)
        return Registered(tenant.tenant, tenant.name, tenant.tier, key.text, key.id, FIRST_ROLE)

    async def delete(self, caller: Caller, confirmed: str) -> Deleted:
        """Begin to delete the caller's tenant: from now on it is suspended. Raises Problem 403 or 422 (other slug)."""
        tenant = caller.tenant
        if confirmed != tenant:
            raise errors.invalid_body(
                [errors.FieldError("/confirm", f"is not the tenant of this key: write {tenant!r} to delete all it has")]
            )
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            delete_after = await repository.delete_tenant(connection, tenant, self._grace)
            before, after = {"status": "active"}, {"status": "deleting"}
            await append_change(
                connection, Actor.of(caller), Action.TENANT_DELETE, f"tenant:{tenant}", before=before, after=after
            )
        return Deleted(tenant, "deleting", delete_after)

    def _check(self, asked: Asked) -> None:
        """Refuse what can be refused without the database, and count what cannot."""
        if self._mode == "closed":
            raise errors.registration_closed()
        try:
            check_slug(asked.tenant)
        except InvalidNameError as error:
            raise errors.invalid_body([errors.FieldError("/tenant", str(error))]) from error
        if self._mode == "token" and not asked.token:
            raise errors.invitation_required()
        if self._registrations is not None:
            self._registrations.admit(asked.address)


async def _audit(connection: Connection, tenant: Tenant, key_id: str, used: Used | None, request_id: str) -> None:
    nobody = Actor(None, None, request_id)
    made = {"name": tenant.name, "tier": tenant.tier, "status": tenant.status}
    made |= {} if used is None else {"invitation": used.id}
    await append_change(connection, nobody, Action.TENANT_CREATE, f"tenant:{tenant.tenant}", after=made)
    first = {"name": FIRST_NAME, "role": FIRST_ROLE}
    await append_change(connection, nobody, Action.KEY_CREATE, f"key:{key_id}", after=first)
