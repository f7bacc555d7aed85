"""What the tests of API keys share: a holder of a key, each of whose answers is held against the OpenAPI document."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from pulsestream.core.topics import check_slug
from tests.support.api import problem
from tests.support.e2e import Installation

pytest.importorskip("jsonschema", reason="jsonschema checks answers against the document: make install")

from tests.support.contract import Got, Operation

KEYS: Final = "/api/v1/keys"
_PATHS: Final = (("/keys", "/api/v1/keys"), ("/rotate", "/api/v1/keys/{key_id}/rotate"), ("", "/api/v1/keys/{key_id}"))


@dataclass(frozen=True)
class Holder:
    """Somebody with a key of a tenant."""

    slug: str
    text: str
    http: httpx.Client
    document: Any

    @property
    def id(self) -> str:
        """The key's public part."""
        return self.text.split("_")[2]

    def send(self, method: str, path: str = "", **request: Any) -> httpx.Response:
        """Make a request below /api/v1/keys, and return its answer, which has to be as the document says."""
        answer = self.http.request(method, KEYS + path, headers={"X-API-Key": self.text}, **request)
        route = next(route for end, route in _PATHS if (KEYS + path).partition("?")[0].endswith(end))
        operation = Operation(self.document, self.document["paths"][route][method.lower()])
        body = answer.json() if answer.content else None
        assert operation.faults(Got(answer.status_code, answer.headers, body)) == [], answer.text
        return answer

    def call(self, method: str, path: str = "", **request: Any) -> Any:
        """Likewise a request that has to go well; returns what was answered."""
        answer = self.send(method, path, **request)
        assert answer.status_code in {200, 201, 204}, answer.text
        return answer.json() if answer.content else None

    def refused(self, status: int, code: str, method: str, path: str = "", **request: Any) -> Mapping[str, Any]:
        """Likewise a request that has to be refused as this problem, which is returned."""
        return problem(self.send(method, path, **request), status, code)

    def create(self, role: str, **more: Any) -> "Holder":
        """Make a key and return who holds it."""
        return self.with_key(self.call("POST", json={"name": f"a {role}", "role": role} | more)["api_key"])

    def rotate(self, key_id: str, overlap: int) -> "Holder":
        """Rotate a key and return who holds its successor."""
        return self.with_key(self.call("POST", f"/{key_id}/rotate", json={"overlap_seconds": overlap})["api_key"])

    def with_key(self, text: str, http: httpx.Client | None = None) -> "Holder":
        """Return who holds another key, or the same one at another process."""
        return Holder(self.slug, text, http or self.http, self.document)

    def works(self) -> bool:
        """Return whether the key is taken, where every role is allowed; any other answer than yes and no fails."""
        answer = self.http.get("/api/v1/rules", headers={"X-API-Key": self.text})
        assert answer.status_code in {200, 401}, answer.text
        return answer.status_code == httpx.codes.OK


def owner_of(running: Installation, name: str = "keys") -> Holder:
    """Register a tenant and return who holds its first key."""
    tenant = running.register(name)
    check_slug(tenant.slug)
    return Holder(tenant.slug, tenant.key, tenant.http, tenant.http.get("/openapi.json").json())


def secret_of(text: str) -> str:
    """Return the part of a key that nobody else may see."""
    found = re.fullmatch(r"ps_live_\w{13}_(\w{43})_\w{6}", text)
    assert found is not None
    return found[1]
