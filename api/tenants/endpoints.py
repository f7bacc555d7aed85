"""POST /api/v1/auth/register/tenant, DELETE /api/v1/tenant."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi import Body as Given
from pydantic import Field

from api.asgi import request_id
from api.auth import CanDeleteTenant
from api.dependencies import tenants
from api.models import Body, Moment, Shown
from api.openapi import problems
from api.tenants.service import Asked, Deleted, Registered, Tenants

router = APIRouter(tags=["tenants"])


class RegisterTenant(Body):
    """A tenant to make."""

    tenant: str = Field(
        max_length=64, description="slug: 3 to 32 characters of a-z, 0-9 and inner hyphens", examples=["acme"]
    )
    name: str = Field("", max_length=200, description="as people call it; default: the slug", examples=["Acme Trading"])
    token: str | None = Field(
        None,
        max_length=200,
        description="invitation that an operator made, where registration asks for one; it decides the tier",
        examples=["ps_invite_<id>_<secret>_<checksum>"],
    )


class RegisteredTenant(Shown):
    """A new tenant with its first key."""

    tenant: str = Field(examples=["acme"])
    name: str = Field(examples=["Acme Trading"])
    tier: str = Field(description="free, pro or enterprise", examples=["free"])
    api_key: str = Field(description="shown this once: store it", examples=["ps_live_<id>_<secret>_<checksum>"])
    key_id: str = Field(description="the key's public part", examples=["03kV8sLq2ZxYb"])
    role: str = Field(examples=["owner"])


@router.post(
    "/api/v1/auth/register/tenant",
    status_code=201,
    response_model=RegisteredTenant,
    responses=problems(400, 403, 409, 422, 429, 503),
)
async def register_tenant(
    body: Annotated[RegisterTenant, Given(examples=[{"tenant": "acme", "name": "Acme Trading"}])],
    request: Request,
    service: Annotated[Tenants, Depends(tenants)],
) -> Registered:
    """Register a tenant. Its key has role owner and is shown in this answer only.

    Installations may ask for an invitation, or take no registrations at all; how many an address may make in an hour is
    bounded. A slug is given once: not even a deleted tenant's is given again.
    """
    address = request.client.host if request.client else ""
    return await service.register(Asked(body.tenant, body.name, body.token, address, request_id(request.scope)))


class DeleteTenant(Body):
    """That the tenant, and all that it has, is to go."""

    confirm: str = Field(max_length=64, description="the tenant's slug, against mistakes", examples=["acme"])


class DeletedTenant(Shown):
    """A tenant that is being deleted."""

    tenant: str = Field(examples=["acme"])
    status: str = Field(examples=["deleting"])
    delete_after: Moment


@router.delete(
    "/api/v1/tenant", status_code=202, response_model=DeletedTenant, responses=problems(400, 401, 403, 422, 503)
)
async def delete_tenant(
    body: DeleteTenant, caller: CanDeleteTenant, service: Annotated[Tenants, Depends(tenants)]
) -> Deleted:
    """Delete the tenant of the key. From now on it is suspended: this key and all others are refused within seconds.

    Until `delete_after` an operator can restore it; then its topics, rows, keys and logins are erased for good. What
    stays is the audit, and that the slug was given.
    """
    return await service.delete(caller, body.confirm)
