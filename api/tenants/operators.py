"""What operators do with tenants, over the database as the relay's role: one transaction each, audited.

A suspended tenant's keys are refused. Its subscriptions end on their control topic and stay in the database, so that
producers feed it no more and `resume` brings all of it back; what streams and sink have read already they finish.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from api.audit.entry import Action, Actor, change_row
from api.outbox import OutboxRow, of_no_subscription, of_subscription, of_tenant
from api.relay_database import Connection, execute, fetch_all
from pulsestream.core.clock import to_micros
from pulsestream.core.errors import UsageError
from schemas.records import Subscription, Tenant

OPERATOR: Final = Actor(None, "operator", "")
"""Who it was, as the audit says it: nobody with a key."""
ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"
DELETING: Final = "deleting"


@dataclass(frozen=True, slots=True)
class Held:
    """A tenant as it is stored, under its lock."""

    tenant: str
    name: str
    tier: str
    status: str
    shard: int
    created_at: datetime
    version: int
    was_suspended: bool
    """Whether it was when its deletion began."""


def suspend(connection: Connection, tenant: str, reason: str) -> None:
    """Suspend an active tenant; raises UsageError for any other."""
    with _locked(connection, tenant) as held:
        _require(held, ACTIVE, "suspended")
        _change(connection, held, status=SUSPENDED)
        cut_off(connection, tenant)
        audit(connection, tenant, Action.TENANT_SUSPEND, {"status": held.status}, _with(reason, status=SUSPENDED))


def resume(connection: Connection, tenant: str) -> None:
    """Bring back a suspended tenant with all that it had; raises UsageError for any other."""
    with _locked(connection, tenant) as held:
        _require(held, SUSPENDED, "resumed")
        _change(connection, held, status=ACTIVE)
        feed_again(connection, tenant)
        audit(connection, tenant, Action.TENANT_RESUME, {"status": held.status}, {"status": ACTIVE})


def delete(connection: Connection, tenant: str, grace: timedelta) -> None:
    """Begin to delete a tenant, as its owner can; raises UsageError for one that is deleted."""
    with _locked(connection, tenant) as held:
        if held.status not in {ACTIVE, SUSPENDED}:
            raise UsageError(f"tenant {tenant} is {held.status} already")
        _change(connection, held, status=DELETING, grace=grace)
        cut_off(connection, tenant)
        audit(connection, tenant, Action.TENANT_DELETE, {"status": held.status}, {"status": DELETING})


def restore(connection: Connection, tenant: str) -> None:
    """Bring back a tenant that is being deleted, as active or suspended as it was before.

    Raises UsageError for any other tenant, and once its erasure has begun.
    """
    with _locked(connection, tenant) as held:
        _require(held, DELETING, "restored")
        if fetch_all(connection, "list_erasures", tenant=tenant):
            raise UsageError(f"tenant {tenant} is being erased since its grace period ended: nothing brings it back")
        status = SUSPENDED if held.was_suspended else ACTIVE
        _change(connection, held, status=status)
        if status == ACTIVE:
            feed_again(connection, tenant)
        audit(connection, tenant, Action.TENANT_RESTORE, {"status": DELETING}, {"status": status})


def end_grace(connection: Connection, tenant: str) -> None:
    """Let the relay erase a tenant now that is being deleted; raises UsageError for any other."""
    with _locked(connection, tenant) as held:
        _require(held, DELETING, "erased")
        _change(connection, held, status=DELETING, grace=timedelta(0))
        audit(connection, tenant, Action.TENANT_DELETE, {"status": DELETING}, {"status": DELETING, "grace": "ended"})


def change_tier(connection: Connection, tenant: str, tier: str) -> bool:
    """Give a tenant another tier and return whether it had another; raises UsageError for a deleted one.

    What it has beyond the new tier's quotas it keeps; rows go with the next retention.
    """
    with _locked(connection, tenant) as held:
        if held.status not in {ACTIVE, SUSPENDED}:
            raise UsageError(f"tenant {tenant} is {held.status}: its tier changes nothing any more")
        if held.tier == tier:
            return False
        _change(connection, held, tier=tier)
        audit(connection, tenant, Action.TENANT_TIER, {"tier": held.tier}, {"tier": tier})
    return True


def cut_off(connection: Connection, tenant: str) -> None:
    """End every subscription for producers and streams; they stay in the database."""
    for row in fetch_all(connection, "list_subscriptions", tenant=tenant):
        _queue(connection, of_no_subscription(tenant, row["exchange"], row["product"]))


def feed_again(connection: Connection, tenant: str) -> None:
    """Publish every subscription, from now on: what was not delivered meanwhile is not missing."""
    for row in fetch_all(connection, "renew_subscriptions", tenant=tenant):
        since = to_micros(row["since"])
        _queue(connection, of_subscription(Subscription(tenant=tenant, **row | {"since": since})))


def audit(
    connection: Connection, tenant: str, action: Action, before: Mapping[str, Any], after: Mapping[str, Any] | None
) -> None:
    """Append what an operator changed."""
    execute(connection, "append_audit", **change_row(OPERATOR, action, f"tenant:{tenant}", before, after))


def _with(reason: str, **changed: str) -> dict[str, str]:
    return changed | ({"reason": reason} if reason else {})


@contextmanager
def _locked(connection: Connection, tenant: str) -> Iterator[Held]:
    """Open a transaction bound to a tenant that holds its lock; raises UsageError where there is none."""
    with connection.transaction():
        execute(connection, "bind_tenant", tenant=tenant, timeout="30s")
        found = fetch_all(connection, "hold_tenant", tenant=tenant)
        if not found:
            raise UsageError(f"there is no tenant {tenant!r}: `pulsestream tenant list` shows all")
        yield Held(**found[0])


def _require(held: Held, status: str, wanted: str) -> None:
    if held.status != status:
        raise UsageError(f"tenant {held.tenant} is {held.status}: only one that is {status} can be {wanted}")


def _change(
    connection: Connection,
    held: Held,
    *,
    status: str | None = None,
    tier: str | None = None,
    grace: timedelta | None = None,
) -> None:
    changed = {"tenant": held.tenant, "status": status or held.status, "tier": tier or held.tier, "grace": grace}
    (row,) = fetch_all(connection, "change_tenant", **changed)
    _queue(connection, of_tenant(Tenant(**row | {"created_at": to_micros(row["created_at"])})))


def _queue(connection: Connection, row: OutboxRow) -> None:
    execute(connection, "insert_outbox", **row)
