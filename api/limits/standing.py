"""How a tenant stands: its tier, what that allows, and how much of it is in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from api import errors
from api.database import Database, fetch_one
from api.limits.tiers import Tiers


@dataclass(frozen=True, slots=True)
class Quota:
    """How many of something a tenant may have (None: any number), and has."""

    limit: int | None
    use: int


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a tenant may have a number of."""

    products: Quota
    rules: Quota
    keys: Quota
    channels: Quota
    kafka_credentials: Quota


@dataclass(frozen=True, slots=True)
class Rates:
    """What a tenant may do in a second; None: as often as it likes."""

    requests: int | None
    events: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant, its limits and their use. `retention_days` is None where rows are kept for ever."""

    tenant: str
    name: str
    tier: str
    status: str
    created_at: datetime
    rates: Rates
    quotas: Quotas
    retention_days: int | None


class Standings:
    """Tells tenants how they stand. `periods` says how long each tier keeps rows."""

    def __init__(self, database: Database, tiers: Tiers | None, periods: Mapping[str, timedelta | None]) -> None:
        self._database = database
        self._tiers = tiers
        self._periods = periods

    async def show(self, tenant: str) -> Standing:
        """Return how a tenant stands; raises Problem 404."""
        async with self._database.tenant(tenant) as connection:
            row = await fetch_one(connection, "tenant_and_use", {"tenant": tenant})
        if row is None:
            raise errors.not_found(f"There is no tenant {tenant}.")
        limits = None if self._tiers is None else self._tiers[row["tier"]]
        period = self._periods[row["tier"]]
        return Standing(
            row["tenant"],
            row["name"],
            row["tier"],
            row["status"],
            row["created_at"],
            Rates(None, None) if limits is None else Rates(limits.requests, limits.events),
            Quotas(
                Quota(None if limits is None else limits.products, row["products"]),
                Quota(None if limits is None else limits.rules, row["rules"]),
                Quota(None if limits is None else limits.keys, row["keys"]),
                Quota(None if limits is None else limits.channels, row["channels"]),
                Quota(None if limits is None else limits.kafka_credentials, row["kafka_credentials"]),
            ),
            None if period is None else period.days,
        )
