"""Tenant commands over the HTTP API: what the command line does, any HTTP client can."""

from collections.abc import Sequence

from pulsestream.commands.api_client import connect
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings


def register(settings: Settings, slug: str, name: str, token: str | None) -> str:
    """Register a tenant and return what to show: its API key, once. Raises ApiError, UnavailableError."""
    with connect(settings) as api:
        made = api.tenant.register(slug, name, token=token)
    return f"tenant {made['tenant']} registered, tier {made['tier']}. Its API key, shown this once:\n{made['api_key']}"


def subscribe(settings: Settings, products: Sequence[str], key: str) -> str:
    """Set the products (EXCHANGE:PRODUCT) that the key's tenant gets; return what to show."""
    wanted = [_product(product) for product in products]
    with connect(settings, key) as api:
        api.subscriptions.set(wanted)
    return f"subscribed to {', '.join(products)}; the first records arrive within seconds"


def _product(text: str) -> tuple[str, str]:
    exchange, colon, product = text.partition(":")
    if not (exchange and colon and product):
        raise UsageError(f"{text!r} is not EXCHANGE:PRODUCT, such as coinbase:BTC-USD")
    return exchange, product
