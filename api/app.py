"""The application: routers, the edge around them, and every error as a problem."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, cast

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match, WebSocketRoute

from api import asyncapi, errors, health_endpoints
from api.admission import Admission
from api.alerts import endpoints as alerts
from api.asgi import Receive, Scope, Send, request_id
from api.audit import endpoints as audit
from api.channels import endpoints as channels
from api.dead_letters import endpoints as dead_letters
from api.dependencies import Services
from api.edge import Edge
from api.errors import MEDIA_TYPE, FieldError, Problem
from api.feeds import endpoints as feeds
from api.freshness import endpoints as freshness
from api.ingestion.app import IngestionApp
from api.ingestion.idempotency import IdempotencyKeys
from api.kafka_credentials import endpoints as kafka_credentials
from api.keys_admin import endpoints as keys_admin
from api.limits import endpoints as limits
from api.live import events
from api.live import websocket as live
from api.openapi import documented
from api.rules import endpoints as rules
from api.schema_registry import endpoints as schema_registry
from api.schema_registry.errors import RegistryError, of_problem
from api.search import endpoints as search
from api.silences import endpoints as silences
from api.subscriptions import endpoints as subscriptions
from api.tenants import endpoints as tenants
from pulsestream.core.clock import Clock

_ROUTERS: Final[tuple[APIRouter, ...]] = (
    health_endpoints.router,
    tenants.router,
    limits.router,
    keys_admin.router,
    kafka_credentials.router,
    subscriptions.router,
    rules.router,
    channels.router,
    alerts.router,
    silences.router,
    search.router,
    feeds.router,
    freshness.router,
    dead_letters.router,
    events.router,
    schema_registry.router,
    asyncapi.router,
    audit.router,
)
_NOTHING: Final = object()
_DESCRIPTION: Final = (
    "Market data for tenants. The tenant of a request is the one of its `X-API-Key`; errors are RFC 9457 problems."
)


class Application(FastAPI):
    """FastAPI with the edge around all of it, its own middleware included: the two hot routes pay for none of that."""

    edge: Edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self.edge(scope, receive, send)

    async def behind_the_edge(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request by FastAPI's routes."""
        await super().__call__(scope, receive, send)


def create_app(services: Services, clock: Clock) -> Application:
    """Return the ASGI application over these services."""
    app = Application(
        title="PulseStream",
        version=version("pulsestream"),
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        redirect_slashes=False,
        strict_content_type=False,
    )
    app.state.services = services
    for router in _ROUTERS:
        app.include_router(router)
    app.router.routes.append(
        WebSocketRoute(live.PATH, live.LiveSocket(services.entrance, services.denials, services.live))
    )
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(RegistryError, _answer_registry_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http_error)
    admission = Admission()
    keys = IdempotencyKeys(services.database)
    ingestion = IngestionApp(services.entrance, services.ingestion, keys, admission, clock)
    limiter, access_log = services.entrance.limiter, services.access_log
    app.edge = Edge(
        app.behind_the_edge, ingestion, admission, limiter, services.denials, access_log=access_log, clock=clock
    )
    app.openapi = documented(app)  # type: ignore[method-assign] # FastAPI's documented way to extend the document
    return app


async def _answer_problem(request: Request, error: Exception) -> Response:
    problem = cast(Problem, error)
    _note(request, problem)
    return _response(problem)


def _note(request: Request, problem: Problem) -> None:
    """Let the audit know of a refusal that it keeps."""
    services: Services = request.app.state.services
    services.denials.note(problem, request_id(request.scope))


async def _answer_registry_error(request: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, Problem):
        _note(request, error.__cause__)
    return schema_registry.answer_error(cast(RegistryError, error))


async def _answer_invalid(request: Request, error: Exception) -> Response:
    problem = problem_of(cast(RequestValidationError, error))
    if _is_of_registry(request):
        return schema_registry.answer_error(of_problem(problem))
    return _response(problem)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    failure = cast(HTTPException, error)
    if failure.status_code == 404:  # noqa: PLR2004 - the status of an unknown route
        return _response(errors.not_found(f"There is no route {request.url.path}: /docs lists them."))
    if failure.status_code == 405:  # noqa: PLR2004 - the status of an unknown method
        raised = (failure.headers or {}).get("Allow", "another method")
        return _response(errors.method_not_allowed(request.method, _allowed(request, raised)))
    refused = Problem(failure.status_code, "http-error", "Request refused", str(failure.detail))
    if _is_of_registry(request):
        return schema_registry.answer_error(of_problem(refused))
    return _response(refused)


def _allowed(request: Request, raised: str) -> str:
    """Return the methods of the path: what was `raised` names those of its first route only.

    A path that is a route's own, such as /things/preview, is not another's thing of that name.
    """
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    own = [route for route in fitting if route.path == request.url.path] or fitting
    found = {method for route in own for method in route.methods or ()}
    return ", ".join(sorted(found)) or raised


def _is_of_registry(request: Request) -> bool:
    return request.url.path.startswith(schema_registry.PREFIX + "/")


def problem_of(error: RequestValidationError) -> Problem:
    """Return the problem that says what pydantic found."""
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return errors.malformed(f"{found[0].get('ctx', {}).get('error', 'The body is not JSON')}.")
    if any(item["type"] == "extra_forbidden" and item["loc"][-1] == "tenant" for item in found):
        return errors.tenant_not_allowed("The request")
    if found[0]["loc"][0] != "body":
        return errors.invalid_parameters(_faults(found, None))
    return errors.invalid_body(_faults(found, error.body))


def _faults(found: Sequence[Mapping[str, Any]], body: object) -> list[FieldError]:
    """Return one error for each place; where no branch of a union fits, its message holds what each one says."""
    messages: dict[str, list[str]] = {}
    for item in found:
        messages.setdefault(_pointer(item, body), []).append(_words(item))
    return [FieldError(pointer, "; or ".join(dict.fromkeys(said))) for pointer, said in messages.items()]


def _words(item: Mapping[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "is unknown: leave it out"
    if item["type"] == "missing":
        return "is missing"
    return str(item["msg"]).removeprefix("Value error, ")


def _pointer(item: Mapping[str, Any], body: object) -> str:
    """Return a JSON pointer into `body`: pydantic's location also names branches of unions, which are no members."""
    where, *path = item["loc"]
    if where != "body":
        return ".".join(str(part) for part in path)
    pointer = ""
    for index, part in enumerate(path):
        below = _member(body, part)
        if below is not _NOTHING or (item["type"] == "missing" and index == len(path) - 1):
            pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
            body = below
    return pointer


def _member(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part, _NOTHING)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else _NOTHING


def _response(problem: Problem) -> Response:
    return Response(problem.encoded(), problem.status, dict(problem.headers), MEDIA_TYPE)
