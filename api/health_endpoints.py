"""GET /health, /livez, /readyz and /metrics on the API's own port."""

from importlib.metadata import version
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse

from api.dependencies import Services, services
from api.openapi import schema_like
from pulsestream.core.health import answer

router = APIRouter(tags=["health"])
ServicesOf = Annotated[Services, Depends(services)]


def _told(description: str, example: Any) -> dict[str, Any]:
    content = {"schema": schema_like(example), "example": example}
    return {"description": description, "content": {"application/json": content}}


_HEALTH: Final[dict[int | str, dict[str, Any]]] = {
    200: _told("It works", {"status": "ok", "version": "0.1.0", "checks": {"database": "ok", "kafka": "ok"}}),
    503: _told(
        "Something that it needs does not",
        {"status": "degraded", "version": "0.1.0", "checks": {"database": "no answer", "kafka": "ok"}},
    ),
}
_READY: Final[dict[int | str, dict[str, Any]]] = {
    200: _told("Requests can be served", {"status": "ready", "problems": {}, "details": {}}),
    503: _told("Not yet, or not now", {"status": "not ready", "problems": {"database": "no answer"}, "details": {}}),
}
_LIVE: Final[dict[int | str, dict[str, Any]]] = {200: _told("It answers", {"status": "live"})}
_METRICS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {"text/plain": {"example": "# TYPE pulsestream_live_clients gauge\npulsestream_live_clients 2.0\n"}}
    }
}


@router.get("/health", responses=_HEALTH)
async def health(found: ServicesOf) -> Response:
    """Tell whether this service works, and what of what it needs does not. 503 when something is missing."""
    states = found.health.states()
    ok = all(state == "ok" for state in states.values())
    body = {"status": "ok" if ok else "degraded", "version": version("pulsestream"), "checks": states}
    return Response(msgspec.json.encode(body), 200 if ok else 503, media_type="application/json")


@router.get("/livez", responses=_LIVE)
async def livez(found: ServicesOf) -> Response:
    """Tell that the process answers."""
    return _operations("/livez", found)


@router.get("/readyz", responses=_READY)
async def readyz(found: ServicesOf) -> Response:
    """Tell whether requests can be served; 503 with what is missing."""
    return _operations("/readyz", found)


@router.get("/metrics", response_class=PlainTextResponse, responses=_METRICS)
async def metrics(found: ServicesOf) -> Response:
    """Return the metrics in Prometheus' text format."""
    return _operations("/metrics", found)


def _operations(path: str, found: Services) -> Response:
    status, content_type, body = answer(path, found.health.readiness)
    return Response(body, status, {"Content-Type": content_type})
