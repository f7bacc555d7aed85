"""What tenants wish to be fed with, from their subscriptions. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from producers.ledger import Shard
from schemas.records import Subscription

DATASETS: Final = ("ticks", "trades")
"""What a feed delivers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Products that are to be fed, each with the tenants that get something of it; none: it is fed all the same."""

    tenants: Mapping[str, frozenset[str]]

    def of(self, shard: Shard) -> dict[str, frozenset[str]]:
        """Return the part that belongs to a shard."""
        return {product: tenants for product, tenants in self.tenants.items() if shard.has(product)}


def routes(subscriptions: Mapping[str, Subscription], exchange: str) -> dict[str, dict[str, list[str]]]:
    """Return which tenants get what of an exchange: dataset -> product -> tenants."""
    found: dict[str, defaultdict[str, list[str]]] = {dataset: defaultdict(list) for dataset in DATASETS}
    for subscription in subscriptions.values():
        for dataset in set(subscription.datasets) & found.keys() if subscription.exchange == exchange else ():
            found[dataset][subscription.product].append(subscription.tenant)
    return {dataset: dict(products) for dataset, products in found.items()}


def wanted(subscriptions: Mapping[str, Subscription], exchange: str, always: str = "") -> Wanted:
    """Return what is to be fed; `always`: products fed whatever tenants wish, comma-separated."""
    tenants: defaultdict[str, set[str]] = defaultdict(set)
    for product in always.split(","):
        if product.strip():
            tenants[product.strip()].update()
    for products in routes(subscriptions, exchange).values():
        for product, names in products.items():
            tenants[product].update(names)
    return Wanted({product: frozenset(names) for product, names in tenants.items()})
