"""How many things a tenant may have, checked where one is made, in the transaction that makes it.

A tenant that has more than its tier allows, since the tier was lowered, keeps what it has and gets no more.
"""

from typing import Literal

from api import errors
from api.database import Connection, fetch_one
from api.limits.tiers import Tiers

Figure = Literal["products", "rules", "keys", "channels", "kafka_credentials"]


class Quotas:
    """The quotas of every tier; without tiers there is none."""

    def __init__(self, tiers: Tiers | None) -> None:
        self._tiers = tiers

    async def check(self, connection: Connection, tenant: str, figure: Figure, use: int, wanted: int) -> None:
        """Let a tenant that has `use` of something have `wanted`; raises Problem 403.

        The transaction has to hold the tenant's lock, or two at once could both find room for the last one.
        """
        if self._tiers is None or wanted <= use:
            return
        row = await fetch_one(connection, "tenant_tier", {"tenant": tenant})
        if row is None:
            raise errors.not_found(f"There is no tenant {tenant}.")
        limit: int = getattr(self._tiers[row["tier"]], figure)
        if wanted > limit:
            raise errors.quota_exceeded(figure, limit, use, row["tier"])
