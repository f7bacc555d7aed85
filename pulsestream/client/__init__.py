"""A typed client of PulseStream's HTTP API.

    with Client("http://127.0.0.1:8000", key) as api:
        api.subscriptions.set([("coinbase", "BTC-USD")])
        api.send({"type": "order.filled", "source": "/desk/1", "data": {"size": 0.25}})
        for tick in api.ticks(product="BTC-USD", order="asc"):
            print(tick["exchange_time"], tick["price"])

What may be repeated is repeated: while the API is away, when it asks for patience, and with the same ids, so that an
event has one effect. Lists are walked page by page as they are read.
"""

from pulsestream.client.client import Client
from pulsestream.client.errors import ApiError, UnavailableError
from pulsestream.client.rows import AlertRow, BarRow, EventRow, StatRow, TickRow, TradeRow

__all__ = [
    "AlertRow",
    "ApiError",
    "BarRow",
    "Client",
    "EventRow",
    "StatRow",
    "TickRow",
    "TradeRow",
    "UnavailableError",
]
