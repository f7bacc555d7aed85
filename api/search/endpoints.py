"""GET /api/v1/ingestion/events/search."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api import errors
from api.auth import CanReadData
from api.dependencies import search
from api.models import Shown
from api.openapi import problems
from api.search.plan import DEFAULT_LIMIT, MAX_LIMIT, SearchRequest
from api.search.service import Search
from pulsestream.core.clock import parse_rfc3339, to_datetime, to_micros

router = APIRouter(tags=["search"])
_encoder = msgspec.json.Encoder()
_FIELDS = ("product", "exchange", "period", "type", "source")


class SearchParameters(BaseModel):
    """What to search for. Unknown parameters are refused, so that a misspelt filter is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str | None = Field(
        None, description="ticks, trades, events, stats, bars or alerts; default: ticks and events together"
    )
    product: str | None = Field(None, max_length=256, examples=["BTC-USD"])
    exchange: str | None = Field(None, max_length=256, description="of all but events", examples=["coinbase"])
    period: str | None = Field(None, max_length=256, description="of bars: 1s, 1m, 5m, 15m, 1h, 1d", examples=["1m"])
    type: str | None = Field(None, max_length=256, description="of events", examples=["order.filled"])
    source: str | None = Field(None, max_length=256, description="of events", examples=["/desk/1"])
    from_: str | None = Field(None, alias="from", description="RFC 3339, included", examples=["2026-01-31T12:00:00Z"])
    to: str | None = Field(None, description="RFC 3339, not included", examples=["2026-01-31T13:00:00Z"])
    order: Literal["desc", "asc"] = Field("desc", description="by event time: newest first, or oldest first")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(None, max_length=2048, description="next_cursor of the page before")

    def request(self) -> SearchRequest:
        """Return the search; raises Problem 400 for a time that is none."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return SearchRequest(
            self.dataset,
            {name: value for name, value in values.items() if value is not None},
            _moment("from", self.from_),
            _moment("to", self.to),
            self.order == "asc",
            self.limit,
        )


class SearchPage(Shown):
    """Rows with the fields of their dataset's record."""

    rows: list[dict[str, Any]] = Field(
        description="each has its dataset and event_id",
        examples=[[{"dataset": "ticks", "event_id": "coinbase:BTC-USD:23754322145", "price": 61902.5}]],
    )
    next_cursor: str | None = Field(description="for the next page; null after the last row", examples=[None])


@router.get("/api/v1/ingestion/events/search", response_model=SearchPage, responses=problems(400, 401, 403, 503))
async def search_events(
    parameters: Annotated[SearchParameters, Query()], caller: CanReadData, service: Annotated[Search, Depends(search)]
) -> Response:
    """Search what is stored, newest first. Follow `next_cursor` to walk on; a walk skips and repeats no row."""
    page = await service.page(caller.tenant, parameters.request(), parameters.cursor)
    return Response(
        _encoder.encode({"rows": page.rows, "next_cursor": page.next_cursor}), media_type="application/json"
    )


def _moment(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return to_micros(to_datetime(parse_rfc3339(text)))
    except (ValueError, OverflowError) as error:
        raise errors.invalid_parameters(
            [errors.FieldError(name, f"{text[:60]!r} is not a time: write it as 2026-01-31T12:00:00Z")]
        ) from error
