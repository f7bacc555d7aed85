"""GET /health, /livez, /readyz and /metrics on the API's own port."""

from importlib.metadata import version
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse

from api.dependencies import Services, services
from pulsestream.core.health import answer

router = APIRouter(tags=["health"])
ServicesOf = Annotated[Services, Depends(services)]


@router.get("/health")
async def health(found: ServicesOf) -> Response:
    """Tell whether this service works, and what of what it needs does not. 503 when something is missing."""
    states = found.health.states()
    ok = all(state == "ok" for state in states.values())
    body = {"status": "ok" if ok else "degraded", "version": version("pulsestream"), "checks": states}
    return Response(msgspec.json.encode(body), 200 if ok else 503, media_type="application/json")


@router.get("/livez")
async def livez(found: ServicesOf) -> Response:
    """Tell that the process answers."""
    return _operations("/livez", found)


@router.get("/readyz")
async def readyz(found: ServicesOf) -> Response:
    """Tell whether requests can be served; 503 with what is missing."""
    return _operations("/readyz", found)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(found: ServicesOf) -> Response:
    """Return the metrics in Prometheus' text format."""
    return _operations("/metrics", found)


def _operations(path: str, found: Services) -> Response:
    status, content_type, body = answer(path, found.health.readiness)
    return Response(body, status, {"Content-Type": content_type})
