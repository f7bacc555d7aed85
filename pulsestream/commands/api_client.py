"""The command line's way to the HTTP API: the client, where the settings say."""

from collections.abc import Mapping
from typing import Any

from pulsestream.client import Client
from pulsestream.core.settings import Settings


def connect(settings: Settings, key: str = "") -> Client:
    """Return a client of the API that these settings name, for the tenant of a key."""
    return Client(f"http://{settings.api_host}:{settings.api_port}", key or None)


def call(
    settings: Settings,
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    key: str = "",
) -> Any:
    """Make a request and return the JSON answer; raises ApiError for a refusal, UnavailableError for none or 5xx."""
    with connect(settings, key) as api:
        return api.transport.request(method, path, query=query, body=body, repeatable=method != "POST")
