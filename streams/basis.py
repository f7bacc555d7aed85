"""Which of a product's sources its prices are taken from, since when, as the subscriptions say. Pure.

Prices live on trades where the tenant gets trades of the product, otherwise on ticks; where nothing is known the tenant
gets both. What a tenant publishes itself (own-ticks) stands for itself. A change acts by append time: on records
appended at it or after it. An unsubscribed product keeps what it had.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from schemas.control import Change
from schemas.records import Subscription
from streams.engine.cut import KeyBatch
from streams.engine.inputs import Row
from streams.intake import key_of, parts_of
from streams.rulebook import KEPT

UNKNOWN_GETS_TRADES: Final = True
OWN: Final = "own-ticks"
_TICKS: Final = "ticks"
_TRADES: Final = "trades"

Records = KeyBatch | Sequence[Row]
Product = tuple[str, str, str]
"""A tenant, and a product of an exchange: tenant, exchange, product."""


@dataclass(frozen=True, slots=True)
class BasisChange:
    """From append time `at` (micros) on, a tenant gets trades of a product, or no more."""

    product: Product
    at: int
    trades: bool


def product_of(key: str) -> Product:
    """Return the product that a key is a source of."""
    tenant, _, exchange, product = parts_of(key)
    return tenant, exchange, product


def sources_of(product: Product) -> list[str]:
    """Return the keys between which the prices of a product move."""
    tenant, exchange, name = product
    return [key_of(tenant, dataset, exchange, name) for dataset in (_TICKS, _TRADES)]


def prices_live_on(dataset: str, change: BasisChange) -> bool:
    """Tell whether prices live on a product's source of a dataset from a change on."""
    return dataset == OWN or change.trades is (dataset == _TRADES)


@dataclass(slots=True)
class Bases:
    """The changes of each product, oldest first, as far as they say anything but that the tenant gets trades."""

    _changes: dict[Product, list[BasisChange]] = field(default_factory=dict)

    @classmethod
    def restored(cls, changes: Iterable[BasisChange]) -> "Bases":
        """Return what these changes come to."""
        bases = cls()
        for change in changes:
            bases.learn(change)
        return bases

    def __bool__(self) -> bool:
        return bool(self._changes)

    def learn(self, change: BasisChange) -> bool:
        """Take a change in; False if it says nothing new. Those a day older than it are forgotten."""
        known = self._changes.get(change.product, [])
        last = known[-1].trades if known else UNKNOWN_GETS_TRADES
        if change.trades is last or (known and change.at < known[-1].at):
            return False
        known = [*(one for one in known if one.at < change.at), change]
        while len(known) > 1 and known[1].at < change.at - KEPT:
            del known[0]
        self._changes[change.product] = known
        return True

    def forget(self, tenant: str) -> list[Product]:
        """Forget a tenant's products, and return them."""
        products = [product for product in self._changes if product[0] == tenant]
        for product in products:
            del self._changes[product]
        return products

    def of(self, product: Product) -> list[BasisChange]:
        """Return the changes of a product, oldest first."""
        return self._changes.get(product, [])

    @property
    def all(self) -> list[BasisChange]:
        """The changes of all products, each product's in order."""
        return [change for changes in self._changes.values() for change in changes]

    def in_force(self, product: Product, appended_at: int) -> BasisChange:
        """Return the last change at an append time or before it."""
        changes = self.of(product)
        place = bisect_right(changes, appended_at, key=lambda change: change.at)
        return changes[place - 1] if place else _unknown(product)

    def newest(self, product: Product) -> BasisChange:
        """Return the last change there is."""
        changes = self.of(product)
        return changes[-1] if changes else _unknown(product)

    def split(self, product: Product, records: Records) -> list[tuple[Records, BasisChange]]:
        """Part records, in offset order, where the basis of their product changes; each part with what is in force."""
        changes = self.of(product)
        if not changes:
            return [(records, _unknown(product))]
        first, last = _appended(records)
        if not any(first < change.at <= last for change in changes):
            return [(records, self.in_force(product, last))]
        rows = records.rows() if isinstance(records, KeyBatch) else records
        parts = groupby(rows, lambda row: self.in_force(product, row.appended_at))
        return [(list(part), change) for change, part in parts]


def _unknown(product: Product) -> BasisChange:
    return BasisChange(product, 0, UNKNOWN_GETS_TRADES)


def _appended(records: Records) -> tuple[int, int]:
    """Return the append times of the first and the last record."""
    if isinstance(records, KeyBatch):
        appended_at = records.columns.appended_at
        return int(appended_at[0]), int(appended_at[-1])
    return records[0].appended_at, records[-1].appended_at


def subscribed_since(change: Change[Subscription]) -> tuple[Product, int | None] | None:
    """Return which product a record of the subscriptions topic is about, and since when (micros) it is subscribed.

    None instead of a time: it is no more. None at all: the record's key names no product.
    """
    if change.record is not None:
        said = change.record
        return (said.tenant, said.exchange, said.product), said.since
    try:
        tenant, exchange, product = change.key.split(":", 2)
    except ValueError:
        return None
    return (tenant, exchange, product), None


def basis_change(change: Change[Subscription]) -> BasisChange | None:
    """Return what a record of the subscriptions topic says; None: a product is unsubscribed, and keeps what it had."""
    said = change.record
    if said is None:
        return None
    return BasisChange((said.tenant, said.exchange, said.product), change.appended_at, _TRADES in said.datasets)
