"""PUT and GET /api/v1/subscriptions."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from api.auth import CanReadSubscriptions, CanWriteSubscriptions
from api.dependencies import subscriptions
from api.models import Body, Moment, Shown
from api.openapi import problems
from api.subscriptions.repository import DATASETS, Product
from api.subscriptions.service import Subscriptions, Wanted

router = APIRouter(tags=["subscriptions"], prefix="/api/v1/subscriptions")
MAX_PRODUCTS = 1000


class WantedProduct(Body):
    """A product of an exchange."""

    exchange: str = Field(description="the exchange's name", examples=["coinbase"])
    product: str = Field(description="the product's normalised name", examples=["BTC-USD"])
    datasets: list[Literal["ticks", "trades"]] = Field(
        list(DATASETS), min_length=1, description="what the tenant gets of it; default: both", examples=[["trades"]]
    )


class WantedSet(Body):
    """Every product that the tenant wants."""

    subscriptions: list[WantedProduct] = Field(
        max_length=MAX_PRODUCTS, examples=[[{"exchange": "coinbase", "product": "BTC-USD"}]]
    )


class ShownSubscription(Shown):
    """A product that the tenant gets."""

    exchange: str = Field(examples=["coinbase"])
    product: str = Field(examples=["BTC-USD"])
    datasets: list[str] = Field(examples=[["ticks", "trades"]])
    since: Moment


class ShownTopic(Shown):
    """A topic of the tenant."""

    dataset: str = Field(examples=["ticks"])
    topic: str = Field(examples=["ps.acme.ticks.v1"])
    status: str = Field(description="provisioning, active or refused", examples=["active"])
    detail: str | None = Field(description="why it is refused", examples=[None])


class ShownSet(Shown):
    """What the tenant is subscribed to, and the state of its topics."""

    subscriptions: list[ShownSubscription]
    topics: list[ShownTopic]


@router.put("", response_model=ShownSet, responses=problems(400, 401, 403, 422, 503))
async def replace_subscriptions(
    body: WantedSet, caller: CanWriteSubscriptions, service: Annotated[Subscriptions, Depends(subscriptions)]
) -> Wanted:
    """Set the products that the tenant gets: the full set, so that sending it again changes nothing.

    The topics are made behind this answer; they are `active` within seconds. A subscription made before there were
    trades gets them when its set is sent again.
    """
    wanted = [(Product(one.exchange, one.product), one.datasets) for one in body.subscriptions]
    return await service.replace(caller, wanted)


@router.get("", response_model=ShownSet, responses=problems(400, 401, 403, 503))
async def list_subscriptions(
    caller: CanReadSubscriptions, service: Annotated[Subscriptions, Depends(subscriptions)]
) -> Wanted:
    """List what the tenant is subscribed to, with the state of its topics."""
    return await service.show(caller.tenant)
