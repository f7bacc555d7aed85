"""Which products a connection should receive, receives, and was refused; and the messages that close the difference.

Pure, one object for each connection. Times are seconds of a monotonic clock. An exchange may refuse a whole message
for one unknown product, so after a refusal everything unconfirmed is asked for again without that product.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

MAX_PRODUCTS: Final = 100
"""Products in one message: about 1.5 kB."""
CONFIRM_WITHIN: Final = 10.0
"""Seconds in which the exchange has to confirm a product."""
ASK_AGAIN_AFTER: Final = 60.0
"""Seconds after which a refused product is asked for again: it may have been listed since."""


@dataclass(frozen=True, slots=True)
class Request:
    """A message to send: subscribe to these products, or unsubscribe from them."""

    subscribe: bool
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why and when the exchange refused a product."""

    reason: str
    at: float


class SubscriptionPlan:
    """What is wanted against what the exchange has confirmed."""

    def __init__(self, wanted: Collection[str] = ()) -> None:
        self.confirmed: frozenset[str] = frozenset()
        self.refused: dict[str, Refusal] = {}
        self._wanted = frozenset(wanted)
        self._sent: dict[str, float] = {}

    def want(self, products: Collection[str]) -> None:
        """Change what is wanted."""
        self._wanted = frozenset(products)
        self.refused = {product: why for product, why in self.refused.items() if product in self._wanted}

    @property
    def settled(self) -> bool:
        """Whether every wanted product is confirmed or refused."""
        return not self._missing()

    def requests(self, now: float) -> list[Request]:
        """Return the messages that are due, and count them as sent."""
        gone = (self.confirmed | self._sent.keys()) - self._wanted
        new = self._missing() - self._sent.keys()
        self.confirmed -= gone
        for product in gone:
            self._sent.pop(product, None)
        self._sent |= dict.fromkeys(new, now)
        return [*_requests(gone, subscribe=False), *_requests(new, subscribe=True)]

    def confirm(self, products: frozenset[str]) -> None:
        """Take the exchange's list of everything that it sends on this connection."""
        self.confirmed = products
        for product in products:
            self._sent.pop(product, None)
            self.refused.pop(product, None)

    def refuse(self, reason: str, now: float) -> list[str]:
        """Mark the products that an error's reason names as refused, and return them; the rest is asked for again.

        An exchange may say the same of each channel, so a product that is refused already is named once more.
        """
        named = sorted(set(reason.replace(",", " ").split()) & (self._sent.keys() | self.refused.keys()))
        if any(product in self._sent for product in named):
            self._sent.clear()
        self.refused |= dict.fromkeys(named, Refusal(reason, now))
        return named

    def expire(self, now: float) -> list[str]:
        """Give up products that were not confirmed in time, and forget old refusals; return those given up."""
        self.refused = {name: why for name, why in self.refused.items() if now - why.at < ASK_AGAIN_AFTER}
        late = sorted(name for name, sent in self._sent.items() if now - sent >= CONFIRM_WITHIN)
        for name in late:
            del self._sent[name]
            self.refused[name] = Refusal(f"not confirmed within {CONFIRM_WITHIN:g} s", now)
        return late

    def _missing(self) -> frozenset[str]:
        return self._wanted - self.confirmed - self.refused.keys()


def _requests(products: Collection[str], *, subscribe: bool) -> Iterator[Request]:
    ordered = sorted(products)
    for start in range(0, len(ordered), MAX_PRODUCTS):
        yield Request(subscribe, tuple(ordered[start : start + MAX_PRODUCTS]))
