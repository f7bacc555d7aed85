"""The full set of products that a tenant wants, brought about by its difference to what is stored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from api import errors
from api.database import Connection, Database
from api.outbox import lock_tenant, publish_subscription, remove_subscription
from api.subscriptions import repository
from api.subscriptions.repository import Product, SubscriptionRow
from api.topics import TopicStatus, request_topics, topic_statuses
from schemas.validate import OWN_PREFIX, check_names


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tenant is subscribed to, and the state of its topics."""

    subscriptions: list[SubscriptionRow]
    topics: list[TopicStatus]


class Subscriptions:
    """What can be done with subscriptions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, tenant: str) -> Wanted:
        """Return the tenant's subscriptions and topics."""
        async with self._database.tenant(tenant) as connection:
            return await _wanted(connection, tenant)

    async def replace(self, tenant: str, products: Sequence[Product]) -> Wanted:
        """Make `products` the full set; what stays is not touched. Raises Problem 422 for an impossible name."""
        faults = list(_faults(products))
        if faults:
            raise errors.invalid_body(faults)
        async with self._database.tenant(tenant) as connection:
            await lock_tenant(connection, tenant)
            await _replace(connection, tenant, set(products))
            return await _wanted(connection, tenant)


async def _replace(connection: Connection, tenant: str, wanted: Collection[Product]) -> None:
    stored = await repository.list_subscriptions(connection, tenant)
    held = {Product(row.exchange, row.product) for row in stored}
    if wanted:
        await request_topics(connection, tenant, "ticks")
    for product in sorted(held.difference(wanted)):
        await repository.delete_subscription(connection, tenant, product)
        await remove_subscription(connection, tenant, product.exchange, product.product)
    for product in sorted(set(wanted) - held):
        await publish_subscription(connection, await repository.insert_subscription(connection, tenant, product))


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
