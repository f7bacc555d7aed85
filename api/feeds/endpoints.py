"""GET /api/v1/feeds."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api.auth import CanReadData
from api.dependencies import feeds
from api.feeds.service import MAX_GAPS, FeedList, Feeds
from api.models import Moment, Shown
from api.openapi import problems

router = APIRouter(tags=["feeds"])
MAX_HOURS: Final = 168
_TIME: Final = "2026-01-31T12:00:00.000000Z"


class FeedParameters(BaseModel):
    """Which feeds to show. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exchange: str | None = Field(None, max_length=256, examples=["coinbase"])
    product: str | None = Field(None, max_length=256, examples=["BTC-USD"])
    hours: int = Field(24, ge=1, le=MAX_HOURS, description="the present hour and how many before it, less one")


class ShownConnection(Shown):
    """The connection that a product comes over; a product's shard decides which."""

    shard: int = Field(examples=[3])
    state: str = Field(
        description="connected, stale (open but silent, or its producer has said nothing for 10 s) or disconnected",
        examples=["connected"],
    )
    since: Moment = Field(description="since when it is in the state that it last told", examples=[_TIME])
    heard: Moment | None = Field(description="when it last told", examples=[_TIME])
    complete_until: Moment | None = Field(
        description="everything that it received up to here is with the broker", examples=[_TIME]
    )


class ShownGap(Shown):
    """Something that is or was missing."""

    kind: str = Field(description="trade_id (a range of ids) or time (an interval)", examples=["trade_id"])
    scope: str = Field(description="product, or connection: everything that came over it", examples=["product"])
    from_id: int | None = Field(description="first missing id", examples=[881_200_017])
    to_id: int | None = Field(description="last missing id", examples=[881_200_031])
    missing: int | None = Field(
        description="ids still missing; left of a closed gap: not recoverable; null: the exchange counts anew",
        examples=[0],
    )
    opened: Moment = Field(description="last moment known to be complete", examples=[_TIME])
    closed: Moment | None = Field(description="null while it is open", examples=[None])
    cause: str = Field(examples=["disconnected"])


class ShownHour(Shown):
    """The trades of one hour, by their event times."""

    hour: Moment = Field(description="its beginning, UTC", examples=[_TIME])
    trades: int = Field(description="stored for this tenant", examples=[41_200])
    expected: int | None = Field(description="last id of the hour minus last id before it", examples=[41_215])
    percent: float | None = Field(
        description="100 x trades / expected, cut to four digits; null in an hour without trades", examples=[99.9636]
    )


class ShownFeed(Shown):
    """One product's feed."""

    exchange: str = Field(examples=["coinbase"])
    product: str = Field(examples=["BTC-USD"])
    datasets: list[str] = Field(examples=[["ticks", "trades"]])
    since: Moment = Field(description="when it was subscribed to", examples=[_TIME])
    state: str = Field(description="of its connection; unknown while no producer tells of one", examples=["connected"])
    connection: ShownConnection | None
    last_trade_id: int | None = Field(
        description="every trade up to here is with the broker, or in an open gap", examples=[881_241_215]
    )
    gaps: list[ShownGap] = Field(
        description=f"open, or closed within the hours asked for; open ones first, then the newest; at most {MAX_GAPS}"
    )
    gaps_left_out: int = Field(description="further gaps of the product", examples=[0])
    completeness: list[ShownHour] = Field(description="of trades, oldest hour first")


class ShownFeeds(Shown):
    """The feeds of the tenant's products."""

    at: Moment = Field(description="when this was read", examples=[_TIME])
    feeds: list[ShownFeed]


@router.get("/api/v1/feeds", response_model=ShownFeeds, responses=problems(400, 401, 403, 503))
async def list_feeds(
    parameters: Annotated[FeedParameters, Query()], caller: CanReadData, service: Annotated[Feeds, Depends(feeds)]
) -> FeedList:
    """Show how the products that the tenant gets are fed, what is missing, and how complete the stored trades are.

    Completeness of an hour, in per cent: 100 x stored trades / (last id in the hour - last id before the hour). Trade
    ids count up without holes; a hole belongs to the hour of the first trade stored behind it. The last id before the
    hour is the greatest of the stored hours since the subscription began (or of the hour just before); where there is
    none, the hour counts from its first stored id on. An hour without trades says nothing: null.
    """
    return await service.show(caller.tenant, parameters.exchange, parameters.product, parameters.hours)
