"""The exchange that the settings name, and where it is."""

import json

import pytest

from producers.source import exchange_of, rest_url, websocket_url
from pulsestream.core.errors import UsageError
from pulsestream.core.settings import Settings


def test_the_simulator_speaks_coinbase_under_its_own_name() -> None:
    exchange = exchange_of(Settings(exchange="simulator"))

    assert exchange.name == "simulator"
    assert json.loads(exchange.session().subscribe(["BTC-USD"])[0])["type"] == "subscribe"


def test_aggregated_trades_are_taken_under_a_name_of_their_own() -> None:
    exchange = exchange_of(Settings(exchange="binance-agg", venue="binance", aggregate_trades=True))

    streams = [name for message in exchange.session().subscribe(["BTC-USDT"]) for name in json.loads(message)["params"]]

    assert exchange.name == "binance-agg"
    assert "btcusdt@aggTrade" in streams
    assert "btcusdt@trade" not in streams


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(exchange="binance", aggregate_trades=True), "PULSESTREAM_EXCHANGE=binance-agg"),
        (Settings(exchange="kraken", aggregate_trades=True), "kraken offers no aggregated trades"),
        (Settings(exchange="kraken", exchange_key="key"), "kraken takes no signed subscriptions"),
        (Settings(exchange="nasdaq"), "not spoken here"),
    ],
)
def test_what_an_exchange_does_not_offer_is_said(settings: Settings, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        exchange_of(settings)


def test_an_exchange_elsewhere_is_never_asked_at_its_public_rest_address() -> None:
    local = Settings(exchange="kraken", exchange_url="ws://127.0.0.1:9443/v2")

    assert rest_url(local, exchange_of(local)) == "http://127.0.0.1:9443"
    assert websocket_url(local, exchange_of(local)) == "ws://127.0.0.1:9443/v2"
