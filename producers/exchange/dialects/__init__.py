"""The languages of the exchanges that the simulator speaks: one module an exchange, which no producer imports."""

from collections.abc import Callable, Mapping
from typing import Final

from producers.exchange.dialects.base import Dialect
from producers.exchange.dialects.binance import Binance
from producers.exchange.dialects.coinbase import Coinbase
from producers.exchange.dialects.kraken import Kraken
from producers.exchange.errors import SimulatorError

VENUES: Final[Mapping[str, Callable[[], Dialect]]] = {"coinbase": Coinbase, "binance": Binance, "kraken": Kraken}
"""Dialects by the exchange's name."""


def speak(venue: str) -> Dialect:
    """Return an exchange's language; raises SimulatorError for one that is not known."""
    if venue not in VENUES:
        raise SimulatorError(f"venue {venue!r} is not spoken here: choose one of {', '.join(VENUES)}")
    return VENUES[venue]()


__all__ = ["VENUES", "Binance", "Coinbase", "Dialect", "Kraken", "speak"]
