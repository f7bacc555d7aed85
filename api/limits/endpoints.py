"""GET /api/v1/tenant and /api/v1/usage: how a tenant stands, and what it has used."""

import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api import errors
from api.auth import CanReadTenant
from api.dependencies import standings, usage
from api.limits.standing import Standing, Standings
from api.limits.usage_store import DayOfUsage, UsageStore
from api.models import Moment, Shown
from api.openapi import problems

router = APIRouter(tags=["tenants"])
MAX_DAYS: Final = 366
_DEFAULT_DAYS: Final = 30
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def _full_date(text: object) -> object:
    """Let nothing but RFC 3339's full-date be a day; a number would be taken for seconds since 1970."""
    if isinstance(text, str) and not _DAY.fullmatch(text):
        raise ValueError("give a day as 2026-01-31")
    return text


Day = Annotated[date, BeforeValidator(_full_date)]


class ShownQuota(Shown):
    """How many of something the tenant may have, and has."""

    limit: int | None = Field(description="null: any number", examples=[20])
    use: int = Field(examples=[3])


class ShownQuotas(Shown):
    """What the tenant may have a number of."""

    products: ShownQuota = Field(description="products subscribed to")
    rules: ShownQuota = Field(description="alert rules")
    keys: ShownQuota = Field(description="API keys that work")
    channels: ShownQuota = Field(description="channels that alerts go to")
    kafka_credentials: ShownQuota = Field(description="Kafka credentials that have not ended")


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


class UsageParameters(BaseModel):
    """Which days. Unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_: Day | None = Field(
        None, alias="from", description=f"first day; default: {_DEFAULT_DAYS - 1} days before the last"
    )
    to: Day | None = Field(None, description="last day, included; default: today (UTC)")

    def days(self, today: date) -> tuple[date, date]:
        """Return the first and the last day; raises Problem 400."""
        last = self.to or today
        first = self.from_ or date.fromordinal(max(1, last.toordinal() - _DEFAULT_DAYS + 1))
        if not timedelta(0) <= last - first < timedelta(days=MAX_DAYS):
            raise errors.invalid_parameters(
                [errors.FieldError("from", f"{first} to {last} is not a range of 1 to {MAX_DAYS} days")]
            )
        return first, last


class ShownDay(Shown):
    """What was used on a day (UTC)."""

    day: date = Field(examples=["2026-01-31"])
    requests: int = Field(description="requests with a valid key", examples=[1200])
    events: int = Field(description="events acknowledged", examples=[50000])
    bytes: int = Field(description="of the bodies that brought them, unfolded", examples=[9000000])
    refused: int = Field(description="of the requests, those beyond a rate limit", examples=[3])


class ShownUsage(Shown):
    """The days on which the tenant used anything, the oldest first."""

    days: list[ShownDay]


@router.get("/api/v1/usage", response_model=ShownUsage, responses=problems(400, 401, 403, 503))
async def show_usage(
    asked: Annotated[UsageParameters, Query()], caller: CanReadTenant, service: Annotated[UsageStore, Depends(usage)]
) -> dict[str, Sequence[DayOfUsage]]:
    """Show what the tenant used by day. Counts of every process of the API are here a minute after the use."""
    return {"days": await service.show(caller.tenant, *asked.days(service.today()))}
