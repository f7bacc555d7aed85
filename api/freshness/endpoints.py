"""GET /api/v1/ingestion/status."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.auth import CanReadData
from api.dependencies import freshness
from api.freshness.service import Freshness, Status
from api.models import Moment, Shown
from api.openapi import problems

router = APIRouter(tags=["ingestion"])
_TIME: Final = "2026-01-31T12:00:00.000000Z"


class StatusParameters(BaseModel):
    """None; what is asked for beside it is refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShownPartition(Shown):
    """One partition of a topic."""

    partition: int = Field(examples=[0])
    stored: int = Field(description="every record before this offset is stored, or a dead letter", examples=[81_220])
    end: int | None = Field(description="the offset of the next record to come; null: the broker does not answer")
    lag: int | None = Field(description="records that wait to be stored: end - stored", examples=[12])
    moved_at: Moment | None = Field(description="when `stored` last moved; null: never", examples=[_TIME])


class ShownTopic(Shown):
    """One of the tenant's topics."""

    dataset: str = Field(examples=["ticks"])
    topic: str = Field(examples=["ps.acme.ticks.v1"])
    status: str = Field(description="provisioning, active or refused", examples=["active"])
    lag: int | None = Field(description="of all its partitions; null: not known now", examples=[12])
    lost: int = Field(description="records that left the topic before they could be stored, ever", examples=[0])
    partitions: list[ShownPartition]


class ShownNewest(Shown):
    """The newest row of a dataset."""

    dataset: str = Field(examples=["ticks"])
    time: Moment = Field(description="when it happened", examples=[_TIME])
    appended_at: Moment = Field(description="when the broker took it", examples=[_TIME])
    age_seconds: float = Field(description="how long ago it happened", examples=[0.41])


class ShownStatus(Shown):
    """How far the database is behind the tenant's topics."""

    at: Moment = Field(description="when this was looked at", examples=[_TIME])
    lag: int | None = Field(description="records of all topics that wait to be stored; null: not known now")
    topics: list[ShownTopic]
    newest: list[ShownNewest] = Field(description="of each dataset that has rows; own ticks are ticks")


@router.get("/api/v1/ingestion/status", response_model=ShownStatus, responses=problems(400, 401, 403, 503))
async def ingestion_status(
    _: Annotated[StatusParameters, Query()], caller: CanReadData, service: Annotated[Freshness, Depends(freshness)]
) -> Status:
    """Show how many records of each partition wait to be stored, and how old the newest stored rows are.

    An answer is up to a second old. While the broker does not answer, what it alone knows is null.
    """
    return await service.show(caller.tenant)
