"""GET /api/v1/tenant."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from api.auth import CanReadTenant
from api.dependencies import standings
from api.limits.standing import Standing, Standings
from api.models import Moment, Shown
from api.openapi import problems

router = APIRouter(tags=["tenants"])


class ShownQuota(Shown):
    """How many of something the tenant may have, and has."""

    limit: int | None = Field(description="null: any number", examples=[20])
    use: int = Field(examples=[3])


class ShownQuotas(Shown):
    """What the tenant may have a number of."""

    products: ShownQuota = Field(description="products subscribed to")
    rules: ShownQuota = Field(description="alert rules")
    keys: ShownQuota = Field(description="API keys that work")


class ShownRates(Shown):
    """What the tenant may do in a second; null: as often as it likes."""

    requests: int | None = Field(examples=[50])
    events: int | None = Field(description="ingested", examples=[500])


class ShownTenant(Shown):
    """The tenant of the key, its limits and how much of them is in use."""

    tenant: str = Field(examples=["acme"])
    name: str = Field(examples=["Acme Trading"])
    tier: str = Field(description="free, pro or enterprise", examples=["free"])
    status: str = Field(examples=["active"])
    created_at: Moment
    rates: ShownRates
    quotas: ShownQuotas
    retention_days: int | None = Field(description="for which its rows are kept; null: for ever", examples=[30])


@router.get("/api/v1/tenant", response_model=ShownTenant, responses=problems(401, 403, 503))
async def show_tenant(caller: CanReadTenant, service: Annotated[Standings, Depends(standings)]) -> Standing:
    """Show the tenant of the key: its tier, what that allows, and how much of it is in use."""
    return await service.show(caller.tenant)
