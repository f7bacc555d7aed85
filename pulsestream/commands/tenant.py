"""Tenant commands over the HTTP API: what the command line does, any HTTP client can."""

from collections.abc import Sequence

from pulsestream.commands.api_client import call
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings


def register(settings: Settings, slug: str, name: str) -> str:
    """Register a tenant and return what to show: its API key, once. Raises ApiError, OutageError."""
    made = call(settings, "POST", "/api/v1/auth/register/tenant", body={"tenant": slug, "name": name})
    return f"tenant {made['tenant']} registered. Its API key, shown this once:\n{made['api_key']}"


def subscribe(settings: Settings, products: Sequence[str], key: str) -> str:
    """Set the products (EXCHANGE:PRODUCT) that the key's tenant gets; return what to show."""
    wanted = [_product(product) for product in products]
    call(settings, "PUT", "/api/v1/subscriptions", body={"subscriptions": wanted}, key=key)
    return f"subscribed to {', '.join(products)}; the first records arrive within seconds"


def _product(text: str) -> dict[str, str]:
    exchange, colon, product = text.partition(":")
    if not (exchange and colon and product):
        raise UsageError(f"{text!r} is not EXCHANGE:PRODUCT, such as coinbase:BTC-USD")
    return {"exchange": exchange, "product": product}
