"""Which tenants a group of workers serves: those of its shard, as the tenants topic says. Pure.

A tenant's shard is `tenant.shard` modulo the number of shards, so that everybody is served by exactly one group,
whatever the number is; a tenant that nobody knows of belongs to shard 0.
"""

from collections.abc import Iterable

from pulsestream.core.topics import parse_tenant_topic
from schemas.control import Change
from schemas.records import Tenant


class Tenancy:
    """The tenants of other shards. `serves` may be asked from any thread."""

    def __init__(self, shard: int, shards: int) -> None:
        self._shard = shard
        self._shards = shards
        self._shard_of: dict[str, int] = {}

    def learn(self, changes: Iterable[Change[Tenant]]) -> bool:
        """Take changes of the tenants topic in; tell whether they move a tenant to this shard or away from it."""
        moved = False
        for change in changes:
            tenant = change.record
            if tenant is not None:
                before = self.serves(tenant.tenant)
                self._shard_of[tenant.tenant] = tenant.shard % self._shards
                moved = moved or self.serves(tenant.tenant) is not before
        return moved

    def serves(self, tenant: str) -> bool:
        """Tell whether a tenant is of this shard."""
        return self._shard_of.get(tenant, 0) == self._shard

    def reads(self, topic: str) -> bool:
        """Tell whether a tenant's topic is read by this shard."""
        name = parse_tenant_topic(topic)
        return name is not None and self.serves(name.tenant)
