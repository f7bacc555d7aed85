"""Roles, permissions and routes: docs/security.md, the declarations of the routes, and what they do agree."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from structlog.testing import capture_logs

from api import keys
from api.access_log import AccessLog
from api.app import Application, create_app
from api.audit.denials import Denials
from api.auth import ROLES, Authenticator, Permission, StoredKey
from api.database import Database
from api.dependencies import Services
from api.limits.entrance import Entrance
from api.limits.limiter import Limiter
from api.limits.usage import Usage
from tests.support.permissions import Route, route_permissions

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
PUBLIC: set[Route] = {
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/asyncapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("GET", "/redoc"),
    ("POST", "/api/v1/auth/register/tenant"),
}
"""Routes for everybody. Each is on purpose: add none without a reason that docs/security.md gives."""
PEPPERS = {1: b"pepper of the tests"}


def application(lookup: Callable[[str], Awaitable[StoredKey | None]]) -> Application:
    """Return the real application with nothing behind its routes: who gets through finds a fault, no refusal."""
    nothing: dict[str, Any] = {each.name: None for each in fields(Services)}
    authenticator = Authenticator(lookup, PEPPERS, lambda: 0, lambda: 0.0)
    entrance = Entrance(authenticator, Limiter(None, 1, lambda: 0, Usage(date(2026, 1, 1))), lambda: 0)
    denials = Denials(cast(Database, None))  # which counts, and is not asked to write
    there = {"entrance": entrance, "access_log": AccessLog("off", lambda: 0), "denials": denials}
    return create_app(Services(**nothing | there), lambda: 0)


async def nobody(_: str) -> None:
    return None


ROUTES = route_permissions(application(nobody))
GUARDED = sorted(ROUTES.keys() - PUBLIC)
OVER_HTTP = [(method, path) for method, path in GUARDED if method != "WEBSOCKET"]
"""The others get their key in a message: tests/integration/test_live.py looks at them."""


def test_every_route_declares_one_permission_or_is_public_on_purpose() -> None:
    assert {route for route, required in ROUTES.items() if not required} == PUBLIC
    assert [route for route in GUARDED if len(ROUTES[route]) != 1] == []


def test_every_route_of_the_document_is_looked_at() -> None:
    paths = application(nobody).openapi()["paths"]

    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} <= ROUTES.keys()


def test_the_documented_permissions_of_routes_are_those_that_they_require() -> None:
    told = re.findall(r"^\| `([A-Z]+) (/\S+)` \| (?:`([\w:-]+)`|everybody) \|", TEXT, re.MULTILINE)

    assert {(method, path): {permission} - {""} for method, path, permission in told} == ROUTES


def test_the_documented_table_of_roles_is_the_one_in_force() -> None:
    heading, *lines = re.findall(r"^\| (permission|`[\w-]+:\w+`) \| (.*) \|$", TEXT, re.MULTILINE)
    roles = [name.strip() for name in heading[1].lower().split("|")]
    told = {
        Permission(permission.strip("`")): {
            role for role, cell in zip(roles, cells.split("|"), strict=True) if cell.strip().startswith("yes")
        }
        for permission, cells in lines
    }

    assert told == {
        permission: {role for role, able in ROLES.items() if permission in able} for permission in Permission
    }


@pytest.mark.parametrize("role", [None, *ROLES])
def test_a_route_lets_through_those_roles_that_have_its_permission_and_nobody_without_a_key(role: str | None) -> None:
    key = keys.generate()
    stored = StoredKey("acme", role or "", keys.digest(key, PEPPERS[1]), 1, None, None, "active", "free")

    async def lookup(_: str) -> StoredKey:
        return stored

    async def answers() -> dict[Route, int]:
        app = application(lookup)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {} if role is None else {"X-API-Key": key.text}
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as http:
            return {
                (method, path): (await http.request(method, re.sub(r"\{\w+\}", "x", path), json={})).status_code
                for method, path in OVER_HTTP
            }

    with capture_logs():  # of the faults that are found
        refused = {route: status for route, status in asyncio.run(answers()).items() if status in {401, 403}}

    if role is None:
        assert refused == dict.fromkeys(OVER_HTTP, 401)
    else:
        assert refused == {route: 403 for route in OVER_HTTP if not ROUTES[route] <= ROLES[role]}
