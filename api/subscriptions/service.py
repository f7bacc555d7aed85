"""The full set of products that a tenant wants, brought about, and audited, by its difference to what is stored."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from api import errors
from api.audit.entry import Action, Actor, append_change
from api.auth import Caller
from api.database import Connection, Database
from api.limits.quotas import Quotas
from api.outbox import lock_tenant, publish_subscription, remove_subscription
from api.subscriptions import repository
from api.subscriptions.known import KnownProducts, Lists, explained
from api.subscriptions.repository import Product, SubscriptionRow
from api.topics import TopicStatus, request_topics, topic_statuses
from schemas.validate import OWN_PREFIX, check_names

EXPLAINED: Final = 10
"""Unknown products of a request that are told with others that are like them; looking for these takes time."""
_Changed = dict[str, list[str]]
"""Datasets by exchange and product."""


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A product of a request, where it stands there, and what its exchange has instead."""

    index: int
    product: Product
    products: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tenant is subscribed to, and the state of its topics."""

    subscriptions: list[SubscriptionRow]
    topics: list[TopicStatus]


class Subscriptions:
    """What can be done with subscriptions."""

    def __init__(self, database: Database, quotas: Quotas, known: KnownProducts) -> None:
        self._database = database
        self._quotas = quotas
        self._known = known

    async def show(self, tenant: str) -> Wanted:
        """Return the tenant's subscriptions and topics."""
        async with self._database.tenant(tenant) as connection:
            return await _wanted(connection, tenant)

    async def replace(self, caller: Caller, wanted: Sequence[tuple[Product, Iterable[str]]]) -> Wanted:
        """Make these products with their datasets the full set; a product named twice gets the datasets of both.

        What stays as it is is not touched. Raises Problem 403 (quota), or 422 for an impossible name and for a new
        product that its exchange does not have, where that is known.
        """
        tenant, named = caller.tenant, [product for product, _ in wanted]
        faults = _faults(named) or await self._missing(tenant, named)
        if faults:
            raise errors.invalid_body(faults)
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            products, stored = _by_product(wanted), await repository.list_subscriptions(connection, tenant)
            await self._quotas.check(connection, tenant, "products", len(stored), len(products))
            before, after = await _replace(connection, tenant, stored, products)
            shown = await _wanted(connection, tenant)
            if before or after:
                changed = {"before": before, "after": after}
                await append_change(
                    connection, Actor.of(caller), Action.SUBSCRIPTIONS_REPLACE, "subscriptions", **changed
                )
            return shown

    async def _missing(self, tenant: str, products: Sequence[Product]) -> list[errors.FieldError]:
        """Return what is wrong with products that the tenant has not got yet: that their exchanges do not have them."""
        unknown = _unknown(products, await self._known.lists()) if products else []
        if not unknown:
            return []
        held = {Product(row.exchange, row.product) for row in (await self.show(tenant)).subscriptions}
        return await asyncio.to_thread(_refused, [one for one in unknown if one.product not in held])


def _unknown(products: Sequence[Product], lists: Lists) -> list[_Unknown]:
    """Return those products that their exchanges do not have, as far as is known."""
    known = {exchange: frozenset(names) for exchange, names in lists.items()}
    return [
        _Unknown(index, product, lists[product.exchange])
        for index, product in enumerate(products)
        if product.exchange in known and product.product not in known[product.exchange]
    ]


def _refused(unknown: Sequence[_Unknown]) -> list[errors.FieldError]:
    """Return what to say of these products; of the first ones with what is like them."""
    return [
        errors.FieldError(
            f"/subscriptions/{one.index}/product",
            explained(one.product.exchange, one.product.product, one.products if number < EXPLAINED else ()),
        )
        for number, one in enumerate(unknown)
    ]


def _by_product(wanted: Iterable[tuple[Product, Iterable[str]]]) -> dict[Product, list[str]]:
    named: dict[Product, set[str]] = {}
    for product, datasets in wanted:
        named.setdefault(product, set()).update(datasets)
    return {product: [name for name in repository.DATASETS if name in names] for product, names in named.items()}


async def _replace(
    connection: Connection, tenant: str, stored: Sequence[SubscriptionRow], wanted: Mapping[Product, list[str]]
) -> tuple[_Changed, _Changed]:
    """Bring the set about and return what of it was there before and is there now, of the products that change."""
    held = {Product(row.exchange, row.product): row.datasets for row in stored}
    if wanted:
        await request_topics(connection, tenant, *sorted({name for names in wanted.values() for name in names}))
    gone = sorted(held.keys() - wanted.keys())
    other = [(product, datasets) for product, datasets in sorted(wanted.items()) if held.get(product) != datasets]
    for product in gone:
        await repository.delete_subscription(connection, tenant, product)
        await remove_subscription(connection, tenant, product.exchange, product.product)
    for product, datasets in other:
        changed = await repository.put_subscription(connection, tenant, product, datasets)
        await publish_subscription(connection, changed)
    touched = [*gone, *(product for product, _ in other)]
    return _named({product: held[product] for product in touched if product in held}), _named(dict(other))


def _named(datasets: Mapping[Product, list[str]]) -> _Changed:
    return {f"{product.exchange}:{product.product}": names for product, names in datasets.items()}


async def _wanted(connection: Connection, tenant: str) -> Wanted:
    return Wanted(await repository.list_subscriptions(connection, tenant), await topic_statuses(connection, tenant))


def _faults(products: Sequence[Product]) -> list[errors.FieldError]:
    found = []
    for index, product in enumerate(products):
        fault = check_names(product.exchange, product.product)
        if fault is not None:
            found.append(errors.FieldError(f"/subscriptions/{index}", fault.message))
        elif product.exchange.startswith(OWN_PREFIX):
            found.append(
                errors.FieldError(
                    f"/subscriptions/{index}/exchange",
                    f"exchanges that begin with {OWN_PREFIX} are a tenant's own, and no feed delivers them",
                )
            )
    return found
