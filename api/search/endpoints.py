"""The routes that search: one over all collections, and one for each but events, which the first one is for."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query, Response

from api.auth import Caller, CanReadData
from api.dependencies import exports, search, series
from api.openapi import problems
from api.search import document
from api.search.export import Export, ExportResponse, Exports, arranged
from api.search.parameters import (
    AlertsParameters,
    BarsParameters,
    SearchParameters,
    StatsParameters,
    TicksParameters,
    TradesParameters,
    WalkParameters,
)
from api.search.series import Series
from api.search.service import Count, Page, Search

router = APIRouter(tags=["search"])
Service = Annotated[Search, Depends(search)]
UnderWay = Annotated[Exports, Depends(exports)]
Bars = Annotated[Series, Depends(series)]
_encoder: Final = msgspec.json.Encoder()
_REFUSED: Final = problems(400, 401, 403, 503)
_TICK: Final = {
    "event_id": "coinbase:BTC-USD:23754322145",
    "exchange": "coinbase",
    "product": "BTC-USD",
    "price": 61902.5,
    "exchange_time": "2026-01-31T12:00:00.123456Z",
}
_TRADE: Final = {
    "event_id": "coinbase:BTC-USD:t155018204",
    "exchange": "coinbase",
    "product": "BTC-USD",
    "trade_id": 155018204,
    "price": 61902.5,
    "size": 0.25,
    "side": "buy",
    "exchange_time": "2026-01-31T12:00:00.123456Z",
}
_STAT: Final = {
    "event_id": "coinbase:BTC-USD:1m:1769860800:trades",
    "exchange": "coinbase",
    "product": "BTC-USD",
    "window": "1m",
    "at": "2026-01-31T12:00:00.000000Z",
    "basis": "trades",
    "count": 42,
    "vwap": 61898.25,
}
_ALERT: Final = {
    "alert_id": "0f8fad5bd9cb469fa16570867728950e",
    "rule_name": "btc-below-15000",
    "exchange": "coinbase",
    "product": "BTC-USD",
    "state": "firing",
    "at": "2026-01-31T12:00:00.000000Z",
    "value": 14999.5,
    "threshold": 15000.0,
    "severity": "warning",
    "labels": {"desk": "spot"},
}


def _answers(described: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: described} | _REFUSED


@router.get(
    "/api/v1/ingestion/events/search",
    response_class=Response,
    responses=_answers(document.rows_of_any({"dataset": "ticks"} | _TICK)),
)
async def search_events(
    parameters: Annotated[SearchParameters, Query()], caller: CanReadData, service: Service, under_way: UnderWay
) -> Response:
    """Search what is stored, newest first. Follow `next_cursor` to walk on; a walk skips and repeats no row."""
    return await _answer(service, under_way, caller, parameters, named=True)


@router.get("/api/v1/ticks", response_class=Response, responses=_answers(document.rows_of("ticks", _TICK)))
async def list_ticks(
    parameters: Annotated[TicksParameters, Query()], caller: CanReadData, service: Service, under_way: UnderWay
) -> Response:
    """List ticks."""
    return await _answer(service, under_way, caller, parameters)


@router.get("/api/v1/trades", response_class=Response, responses=_answers(document.rows_of("trades", _TRADE)))
async def list_trades(
    parameters: Annotated[TradesParameters, Query()], caller: CanReadData, service: Service, under_way: UnderWay
) -> Response:
    """List trades."""
    return await _answer(service, under_way, caller, parameters)


@router.get("/api/v1/stats", response_class=Response, responses=_answers(document.rows_of("stats", _STAT)))
async def list_stats(
    parameters: Annotated[StatsParameters, Query()], caller: CanReadData, service: Service, under_way: UnderWay
) -> Response:
    """List rolling statistics."""
    return await _answer(service, under_way, caller, parameters)


@router.get("/api/v1/alerts", response_class=Response, responses=_answers(document.rows_of("alerts", _ALERT)))
async def list_alerts(
    parameters: Annotated[AlertsParameters, Query()], caller: CanReadData, service: Service, under_way: UnderWay
) -> Response:
    """List alerts: every transition of every rule."""
    return await _answer(service, under_way, caller, parameters)


@router.get("/api/v1/bars", response_class=Response, responses=_answers(document.series()))
async def list_bars(
    parameters: Annotated[BarsParameters, Query()],
    caller: CanReadData,
    service: Service,
    under_way: UnderWay,
    bars: Bars,
) -> Response:
    """List bars as they are stored, or with `period` a series: one bar a period, of any multiple of a stored one."""
    wanted = parameters.series()
    if wanted is None:
        return await _answer(service, under_way, caller, parameters)
    if parameters.format != "json":
        pages = arranged(bars.pages(caller.tenant, wanted, parameters.limit), parameters.arranged)
        return ExportResponse(Export(caller.tenant, parameters.format, parameters.columns_shown, pages), under_way)
    page = await bars.page(caller.tenant, wanted, parameters.cursor)
    return shown(page, parameters.arranged(page.rows))


async def _answer(
    service: Search, under_way: Exports, caller: Caller, parameters: WalkParameters, *, named: bool = False
) -> Response:
    request = parameters.request()
    if parameters.format != "json":
        header = service.header(request, named=named)
        pages = service.pages(caller.tenant, request, parameters.limit, named=named)
        return ExportResponse(Export(caller.tenant, parameters.format, header, pages), under_way)
    if parameters.begin == "now":
        page = await service.end(caller.tenant, request)
    else:
        page = await service.page(caller.tenant, request, parameters.cursor, named=named, counted=parameters.count)
    return shown(page)


def shown(page: Page, rows: Sequence[Any] | None = None) -> Response:
    """Return a page as an answer, perhaps with its rows arranged otherwise."""
    body: dict[str, Any] = {"rows": page.rows if rows is None else rows, "next_cursor": page.next_cursor}
    if page.count is not None:
        body["count"] = _count(page.count)
    return Response(_encoder.encode(body), media_type="application/json")


def _count(count: Count) -> dict[str, Any]:
    return {"rows": count.rows, "exact": count.is_exact}
