"""Tenants: registration, with the first key, control record and audit in one transaction; and what they have."""

from dataclasses import dataclass, field

from api import errors, keys
from api.audit.entry import Action, Actor, append_change
from api.database import Database
from api.keys_admin.repository import NewKey, insert_key
from api.outbox import publish_tenant
from api.tenants import repository
from pulsestream.core.errors import InvalidNameError
from pulsestream.core.topics import check_slug

FIRST_NAME = "first key"
FIRST_ROLE = "owner"


@dataclass(frozen=True, slots=True)
class Registered:
    """A new tenant and its first key, whose text nobody can see again."""

    tenant: str
    name: str
    api_key: str = field(repr=False)
    key_id: str
    role: str


class Tenants:
    """What can be done with tenants."""

    def __init__(self, database: Database, peppers: keys.Peppers, *, is_open: bool) -> None:
        self._database = database
        self._peppers = peppers
        self._is_open = is_open

    async def register(self, slug: str, name: str, request_id: str) -> Registered:
        """Make a tenant with an owner's key; raises Problem 403 (closed), 409 (taken) or 422 (no slug)."""
        if not self._is_open:
            raise errors.registration_closed()
        try:
            check_slug(slug)
        except InvalidNameError as error:
            raise errors.invalid_body([errors.FieldError("/tenant", str(error))]) from error
        key = keys.generate()
        first_key = NewKey(FIRST_NAME, FIRST_ROLE)
        async with self._database.tenant(slug) as connection:
            tenant = await repository.insert_tenant(connection, slug, name or slug)
            await insert_key(connection, slug, key, self._peppers, first_key)
            await publish_tenant(connection, tenant)
            nobody = Actor(None, None, request_id)
            made = {"name": tenant.name, "tier": tenant.tier, "status": tenant.status}
            await append_change(connection, nobody, Action.TENANT_CREATE, f"tenant:{slug}", after=made)
            first = {"name": FIRST_NAME, "role": FIRST_ROLE}
            await append_change(connection, nobody, Action.KEY_CREATE, f"key:{key.id}", after=first)
        return Registered(tenant.tenant, tenant.name, key.text, key.id, FIRST_ROLE)
