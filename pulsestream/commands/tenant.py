"""Tenant commands over the HTTP API: what the command line does, any HTTP client can."""

from collections.abc import Sequence
from typing import Any

import httpx

from pulsestream.core.errors import OutageError, UsageError
from pulsestream.core.settings import Settings

_TIMEOUT = 15.0


class ApiError(UsageError):
    """The API refused a request; the message is the problem's own."""


def register(settings: Settings, slug: str, name: str) -> str:
    """Register a tenant and return what to show: its API key, once. Raises ApiError, OutageError."""
    made = _call(settings, "POST", "/api/v1/auth/register/tenant", {"tenant": slug, "name": name})
    return f"tenant {made['tenant']} registered. Its API key, shown this once:\n{made['api_key']}"


def subscribe(settings: Settings, products: Sequence[str], key: str) -> str:
    """Set the products (EXCHANGE:PRODUCT) that the key's tenant gets; return what to show."""
    wanted = [_product(product) for product in products]
    _call(settings, "PUT", "/api/v1/subscriptions", {"subscriptions": wanted}, key)
    return f"subscribed to {', '.join(products)}; the first records arrive within seconds"


def _product(text: str) -> dict[str, str]:
    exchange, colon, product = text.partition(":")
    if not (exchange and colon and product):
        raise UsageError(f"{text!r} is not EXCHANGE:PRODUCT, such as coinbase:BTC-USD")
    return {"exchange": exchange, "product": product}


def _call(settings: Settings, method: str, path: str, body: dict[str, Any], key: str = "") -> dict[str, Any]:
    url = f"http://{settings.api_host}:{settings.api_port}{path}"
    try:
        response = httpx.request(method, url, json=body, headers={"X-API-Key": key} if key else {}, timeout=_TIMEOUT)
    except httpx.HTTPError as error:
        raise OutageError(f"no answer from {url}: {error}. Is `pulsestream up` running?") from error
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise ApiError(f"{answer.get('title', response.reason_phrase)}: {answer.get('detail', response.text)}")
    return answer
