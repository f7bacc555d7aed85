"""What each route of the application requires of its caller, read off the application itself."""

from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from api.app import Application
from api.auth import Permission
from api.ingestion.app import PERMISSIONS

Route = tuple[str, str]
"""Method and path."""


def route_permissions(app: Application) -> dict[Route, set[Permission]]:
    """Return every route with the permissions that it requires: the framework's own, and the plain ASGI ones."""
    found: dict[Route, set[Permission]] = {("POST", path): {needed} for path, needed in PERMISSIONS.items()}
    for context in iter_route_contexts(app.routes):
        for method in (context.methods or {"WEBSOCKET"}) - {"HEAD"}:
            assert context.path is not None
            found[method, context.path] = {
                *_required(getattr(context, "dependant", None)),
                *_declared(context.endpoint),
            }
    return found


def _required(dependant: Dependant | None) -> Iterator[Permission]:
    for below in [] if dependant is None else dependant.dependencies:
        yield from _declared(below.call)
        yield from _required(below)


def _declared(call: object) -> Iterator[Permission]:
    permission = getattr(call, "permission", None)
    if isinstance(permission, Permission):
        yield permission
