"""The exchange that the settings name: the language it speaks, and where it is reached."""

from typing import Final
from urllib.parse import urlsplit

from producers.venues.protocol import AggregatingExchange, Exchange, SignedExchange, load
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings

SIMULATOR: Final = "simulator"
"""The exchange name on records that no exchange made."""
_SIMULATED: Final = "coinbase"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SCHEMES: Final = {"ws": "http", "wss": "https"}


def exchange_of(settings: Settings) -> Exchange:
    """Return the exchange to feed from, under its name in records; raises UsageError."""
    venue = settings.venue or (_SIMULATED if settings.exchange == SIMULATOR else settings.exchange)
    exchange = load(venue, settings.exchange)
    if settings.aggregate_trades:
        exchange = _aggregated(exchange, venue)
    if not settings.exchange_key:
        return exchange
    if not isinstance(exchange, SignedExchange):
        raise UsageError(f"PULSESTREAM_EXCHANGE_KEY is set, but {settings.exchange} takes no signed subscriptions")
    secret, passphrase = settings.exchange_secret, settings.exchange_passphrase
    return exchange.signed(settings.exchange_key, secret.get_secret_value(), passphrase.get_secret_value())


def _aggregated(exchange: Exchange, venue: str) -> Exchange:
    if not isinstance(exchange, AggregatingExchange):
        raise UsageError(f"PULSESTREAM_AGGREGATE_TRADES is set, but {venue} offers no aggregated trades")
    if exchange.name == venue:
        raise UsageError(
            f"PULSESTREAM_AGGREGATE_TRADES needs an exchange name of its own, since its trade ids are another series:"
            f" set PULSESTREAM_VENUE={venue} and PULSESTREAM_EXCHANGE={venue}-agg"
        )
    return exchange.aggregated()


def is_local(url: str) -> bool:
    """Say whether an address is this machine's own, which no proxy reaches."""
    return urlsplit(url).hostname in _LOOPBACK


def websocket_url(settings: Settings, exchange: Exchange) -> str:
    """Return where the exchange's WebSocket is."""
    return settings.exchange_url or exchange.url


def rest_url(settings: Settings, exchange: Exchange) -> str:
    """Return where the exchange's REST API is.

    One whose WebSocket is elsewhere than the public one is never asked at the public address: it has other trades.
    """
    if settings.exchange_rest_url or not settings.exchange_url:
        return settings.exchange_rest_url or exchange.rest.url
    parts = urlsplit(settings.exchange_url)
    return f"{_SCHEMES.get(parts.scheme, 'https')}://{parts.netloc}"
