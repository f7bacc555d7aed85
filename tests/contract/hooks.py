"""What schemathesis has to know of the API besides its document; it loads this as SCHEMATHESIS_HOOKS."""

import os
from base64 import b64encode
from typing import Any, Final

import requests
import schemathesis
from schemathesis import AuthContext, Case, HookContext

KEY: Final = os.environ["CONTRACT_KEY"]
"""What all requests are made with: what ended it, or its tenant, would end the run."""
KEY_ID: Final = KEY.split("_")[2]
TENANT: Final = os.environ["CONTRACT_TENANT"]
_STREAM: Final = "/api/v1/live/events"
_FIRST: Final = 64 * 1024


@schemathesis.auth().apply_to(path_regex="^/registry/")
class RegistryLogin:
    """How registry clients log in."""

    def get(self, _: Case, __: AuthContext) -> str:
        return "Basic " + b64encode(f"{KEY_ID}:{KEY}".encode()).decode()

    def set(self, case: Case, data: str, _: AuthContext) -> None:
        case.headers["Authorization"] = data


@schemathesis.auth().skip_for(path_regex="^/registry/")
class ApiKey:
    """How everybody else does."""

    def get(self, _: Case, __: AuthContext) -> str:
        return KEY

    def set(self, case: Case, data: str, _: AuthContext) -> None:
        case.headers["X-API-Key"] = data


@schemathesis.hook
def before_call(_: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Leave the caller its key and its tenant, and of the stream, which has no end, read what comes first."""
    if case.path_parameters.get("key_id") == KEY_ID and case.method != "GET":
        case.path_parameters["key_id"] = KEY_ID[::-1]
    if isinstance(case.body, dict) and case.body.get("confirm") == TENANT:
        case.body["confirm"] = TENANT[::-1]
    if case.path == _STREAM:
        kwargs["hooks"] = {"response": _read_the_first}


def _read_the_first(response: requests.Response, *_: object, **__: object) -> None:
    if response.headers.get("Content-Type", "").startswith("text/event-stream"):
        response._content = next(response.iter_content(_FIRST), b"")
        response.close()
