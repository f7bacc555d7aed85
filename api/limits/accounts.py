"""The buckets of every tenant and key that asked of late, in bounded memory. Pure.

A bucket that nobody has touched for as long as the longest one takes to fill is full, and a full one is the same as a
new one. So accounts live in two generations: what is used moves to the younger, and when a generation has lasted that
long the older one is dropped whole. No bucket is ever forgotten before it is full, and nothing is swept.
"""

from collections.abc import Mapping
from typing import Final

from api.auth import Caller
from api.limits.bucket import Bucket, Twice
from api.limits.plan import Plan, longest


class Account:
    """The two buckets of a tenant, or of a key."""

    __slots__ = ("events", "requests")

    def __init__(self) -> None:
        self.requests: Final = Bucket()
        self.events: Final = Bucket()


class Draw:
    """What a key draws on under its plan: its tenant's buckets, as the tenant's other keys do, and its own."""

    __slots__ = ("events", "key", "plan", "requests", "tenant")

    def __init__(self, plan: Plan, tenant: Account, key: Account) -> None:
        self.plan: Final = plan
        self.tenant: Final = tenant
        self.key: Final = key
        self.requests: Final = Twice(tenant.requests, plan.requests, key.requests, plan.key_requests)
        self.events: Final = Twice(tenant.events, plan.events, key.events, plan.key_events)


class Accounts:
    """What keys draw on under the plans of their tiers."""

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        self._plans = plans
        self._longest = longest(plans)
        self._ends = 0
        self._draws: dict[str, Draw] = {}
        self._old_draws: dict[str, Draw] = {}
        self._tenants: dict[str, Account] = {}
        self._old_tenants: dict[str, Account] = {}

    def draw(self, caller: Caller, now: int) -> Draw:
        """Return what a key draws on. Ask anew whenever time has passed: what was kept may be forgotten here."""
        if now >= self._ends:
            self._turn(now)
        found = self._draws.get(caller.key_id)
        # What is in this generation was used in it, and so was its tenant.
        return self._moved(caller, now) if found is None or found.plan.tier != caller.tier else found

    def __len__(self) -> int:
        """Return how many accounts are held."""
        return len(self._draws) + len(self._old_draws) + len(self._tenants) + len(self._old_tenants)

    def _moved(self, caller: Caller, now: int) -> Draw:
        """Bring a key and its tenant into this generation, under the plan of the tier that it has now."""
        tenant = self._tenants.get(caller.tenant)
        if tenant is None:
            old = self._old_tenants.pop(caller.tenant, None)
            tenant = self._tenants[caller.tenant] = Account() if old is None else old
        found = self._draws.get(caller.key_id) or self._old_draws.pop(caller.key_id, None)
        if found is None or found.plan.tier != caller.tier:
            found = Draw(self._plans[caller.tier], tenant, Account() if found is None else found.key)
            found.requests.settle(now)
            found.events.settle(now)
        self._draws[caller.key_id] = found
        return found

    def _turn(self, now: int) -> None:
        is_next = now < self._ends + self._longest
        self._old_draws, self._old_tenants = (self._draws, self._tenants) if is_next else ({}, {})
        self._draws, self._tenants = {}, {}
        self._ends = now + self._longest
