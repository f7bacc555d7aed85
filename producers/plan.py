"""Which products a connection should receive, receives, and was refused; and the requests that close the difference.

Pure. `SubscriptionPlan` belongs to one connection, `Refusals` outlive it. Times are seconds of a monotonic clock. An
exchange may refuse a whole message for one unknown product, so after a refusal the rest of that message is asked for
again without it; and a product that was refused before is asked for apart from those that were not.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final

MAX_PRODUCTS: Final = 100
"""Products in one request: about 1.5 kB."""
MAX_REPEATED: Final = 10
"""Products in one request that were refused before: an exchange may name only one of them in its answer."""
CONFIRM_WITHIN: Final = 10.0
"""Seconds in which the exchange has to confirm a product."""
ASK_AGAIN_AFTER: Final = 60.0
"""Seconds after which a refused product is asked for again (it may have been listed since), doubled each time."""
ASK_AGAIN_AT_LAST: Final = 3600.0
"""Most seconds between two requests for a refused product."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask for: subscribe to these products, or unsubscribe from them."""

    subscribe: bool
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the exchange refused a product, how often in a row, and from when on it is asked for again."""

    reason: str
    times: int
    again_at: float


class Refusals:
    """Products that an exchange has refused, remembered over connections."""

    def __init__(self) -> None:
        self.held: dict[str, Refusal] = {}

    def add(self, product: str, reason: str, now: float) -> None:
        """Note a refusal."""
        times = self.held[product].times + 1 if product in self.held else 1
        pause = min(ASK_AGAIN_AFTER * 2.0 ** min(times - 1, 30), ASK_AGAIN_AT_LAST)
        self.held[product] = Refusal(reason, times, now + pause)

    def lift(self, products: Iterable[str]) -> None:
        """Forget the refusals of products that are delivered after all."""
        for product in self.held.keys() & set(products):
            del self.held[product]

    def keep(self, products: Collection[str]) -> None:
        """Forget all but these products."""
        self.lift(self.held.keys() - set(products))


@dataclass(frozen=True, slots=True)
class _Asked:
    """When a product was asked for, and in which request."""

    at: float
    request: int


class SubscriptionPlan:
    """What is wanted on one connection against what the exchange has confirmed."""

    def __init__(self, wanted: Collection[str] = (), refusals: Refusals | None = None) -> None:
        self.confirmed: frozenset[str] = frozenset()
        self.refusals = Refusals() if refusals is None else refusals
        self._wanted = frozenset(wanted)
        self._asked: dict[str, _Asked] = {}
        self._numbers = count()

    def want(self, products: Collection[str]) -> None:
        """Change what is wanted."""
        self._wanted = frozenset(products)

    @property
    def settled(self) -> bool:
        """Whether every wanted product is confirmed or refused."""
        return self._wanted <= self.confirmed | self.refusals.held.keys()

    def next_request(self, now: float) -> Request | None:
        """Return the request that is due next, and count it as sent; None when there is none."""
        gone = sorted((self.confirmed | self._asked.keys()) - self._wanted)[:MAX_PRODUCTS]
        if gone:
            self.confirmed -= set(gone)
            for product in gone:
                self._asked.pop(product, None)
            return Request(subscribe=False, products=tuple(gone))
        missing = self._wanted - self.confirmed - self._asked.keys()
        new = sorted(missing - self.refusals.held.keys())[:MAX_PRODUCTS]
        due = new or sorted(missing & self._due(now))[:MAX_REPEATED]
        if not due:
            return None
        self._asked |= dict.fromkeys(due, _Asked(now, next(self._numbers)))
        return Request(subscribe=True, products=tuple(due))

    def confirm(self, products: frozenset[str]) -> None:
        """Take the exchange's list of everything that it sends on this connection."""
        self.confirmed = products
        self.refusals.lift(products)
        for product in products:
            self._asked.pop(product, None)

    def refuse(self, products: Collection[str], reason: str, now: float) -> list[str]:
        """Mark those of these products that are wanted as refused, and return those of which that is news.

        The rest of the same requests is asked for again. An exchange may say the same of each channel: of a product
        that is refused already it changes nothing.
        """
        named = self._wanted & set(products)
        answered = named & self._asked.keys()
        fresh = answered | (named & self.confirmed) | (named - self.refusals.held.keys())
        requests = {self._asked[product].request for product in answered}
        self._asked = {name: asked for name, asked in self._asked.items() if asked.request not in requests}
        self.confirmed -= named
        for product in fresh:
            self.refusals.add(product, reason, now)
        return sorted(fresh)

    def expire(self, now: float) -> list[str]:
        """Give up products that were not confirmed in time, and return them."""
        late = sorted(name for name, asked in self._asked.items() if now - asked.at >= CONFIRM_WITHIN)
        for name in late:
            del self._asked[name]
            self.refusals.add(name, f"not confirmed within {CONFIRM_WITHIN:g} s", now)
        return late

    def _due(self, now: float) -> set[str]:
        return {name for name, refusal in self.refusals.held.items() if refusal.again_at <= now}
