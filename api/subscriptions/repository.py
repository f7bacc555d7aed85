"""Rows of subscriptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from api.database import Connection, execute, fetch_all, fetch_one
from pulsestream.core.clock import to_micros
from schemas.records import Subscription

DATASETS: Final = ("ticks", "trades")
"""What a subscription brings, unless it says otherwise."""


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """A product of an exchange."""

    exchange: str
    product: str


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """A stored subscription."""

    exchange: str
    product: str
    datasets: list[str]
    since: datetime


async def list_subscriptions(connection: Connection, tenant: str) -> list[SubscriptionRow]:
    """Return the tenant's subscriptions by exchange and product."""
    rows = await fetch_all(connection, "list_subscriptions", {"tenant": tenant})
    return [SubscriptionRow(**row) for row in rows]


async def put_subscription(
    connection: Connection, tenant: str, wanted: Product, datasets: Sequence[str]
) -> Subscription:
    """Store a subscription, or other datasets of one, and return it as the control topic shows it."""
    named = {"tenant": tenant, "exchange": wanted.exchange, "product": wanted.product}
    row = await fetch_one(connection, "put_subscription", {**named, "datasets": list(datasets)})
    if row is None:
        raise RuntimeError("INSERT INTO subscriptions returned no row")
    return Subscription(**named, datasets=list(datasets), since=to_micros(row["since"]), version=row["version"])


async def delete_subscription(connection: Connection, tenant: str, unwanted: Product) -> None:
    """Remove a subscription."""
    named = {"tenant": tenant, "exchange": unwanted.exchange, "product": unwanted.product}
    await execute(connection, "delete_subscription", named)
