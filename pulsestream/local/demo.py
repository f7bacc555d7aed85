"""The first tenant: registered over HTTP like any other, subscribed to a few products, its key kept for later runs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from pulsestream.core.errors import OutageError
from pulsestream.local.private import write_private

TENANT: Final = "demo"
SEARCH: Final = "/api/v1/ingestion/events/search?dataset=ticks"
_POLL: Final = 0.1
_CONFLICT: Final = 409


class DemoError(OutageError):
    """The demo tenant cannot be made or used."""


def ensure_demo(
    api_url: str, key_file: Path, exchange: str, products: Sequence[str], invitation: Callable[[], str | None]
) -> tuple[str, bool]:
    """Return the demo tenant's key and whether it is new, after subscribing it to these products of `exchange`.

    A new one is registered with what `invitation` gives.
    """
    new = not key_file.exists()
    with httpx.Client(base_url=api_url, timeout=15, trust_env=False) as client:
        key = _register(client, key_file, invitation()) if new else key_file.read_text("utf-8").strip()
        wanted = [{"exchange": exchange, "product": product} for product in products]
        _call(client, "PUT", "/api/v1/subscriptions", key, {"subscriptions": wanted})
    return key, new


def wait_for_tick(api_url: str, key: str, since: str, timeout: float, stopping: Callable[[], bool]) -> bool:
    """Return True as soon as search finds a tick of the demo tenant; False after `timeout` s or when stopping.

    `since` (RFC 3339; empty: any) is the earliest exchange time that counts.
    """
    query = f"{SEARCH}&limit=1" + (f"&from={since}" if since else "")
    deadline = time.monotonic() + timeout
    with httpx.Client(base_url=api_url, timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline and not stopping():
            if _call(client, "GET", query, key)["rows"]:
                return True
            time.sleep(_POLL)
    return False


def _register(client: httpx.Client, key_file: Path, token: str | None) -> str:
    body = {"tenant": TENANT, "name": "Demo", "token": token}
    key = str(_call(client, "POST", "/api/v1/auth/register/tenant", "", body)["api_key"])
    write_private(key_file, key + "\n")
    return key


def _call(client: httpx.Client, method: str, path: str, key: str, body: dict[str, Any] | None = None) -> Any:
    try:
        response = client.request(method, path, json=body, headers={"X-API-Key": key} if key else {})
    except httpx.HTTPError as error:
        raise DemoError(f"the API does not answer {method} {path}: {error}") from error
    if response.status_code == _CONFLICT and not key:
        raise DemoError(
            f"tenant {TENANT} is registered already, but its key is not in this folder: put the key into the file "
            "demo.key there, or start with another database"
        )
    if response.is_error:
        raise DemoError(f"{method} {path} answers {response.status_code}: {response.text}")
    return response.json()
