"""The tenant itself: how it stands, who may do what in its name, what it gets, and what was done."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Unpack, cast

from pulsestream.client.objects import (
    AuditEntry,
    AuditVerdict,
    DayOfUsage,
    DeletedTenant,
    KafkaConnection,
    KafkaCredential,
    Key,
    KeyChanges,
    MadeKafkaCredential,
    MadeKey,
    Registered,
    Role,
    Subscription,
    TenantStanding,
    WholeKafkaCredential,
)
from pulsestream.client.transport import Transport, parameters, route

PAGE = 1000
"""Rows of a page: the most that the API gives at once."""


class Tenant:
    """The tenant of the key."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, tenant: str, name: str = "", *, token: str | None = None) -> Registered:
        """Make a tenant, with an invitation where the installation asks for one; its key is in this answer only."""
        body = {"tenant": tenant, "name": name, "token": token}
        made = self._transport.request("POST", route("auth", "register", "tenant"), body=body, repeatable=False)
        return cast(Registered, made)

    def show(self) -> TenantStanding:
        """Return the tier, what that allows, and how much of it is in use."""
        return cast(TenantStanding, self._transport.request("GET", route("tenant")))

    def usage(self, *, from_: str | None = None, to: str | None = None) -> Sequence[DayOfUsage]:
        """Return what was used by day, the oldest first; days such as "2026-01-31", both included, default: 30."""
        answer = self._transport.request("GET", route("usage"), query={"from": from_, "to": to})
        return cast(Sequence[DayOfUsage], answer["days"])

    def delete(self, confirm: str) -> DeletedTenant:
        """Delete the tenant with all that it has; `confirm` is its slug again, against mistakes.

        Every key of it is refused from now on. Until `delete_after` an operator can restore it.
        """
        gone = self._transport.request("DELETE", route("tenant"), body={"confirm": confirm}, repeatable=False)
        return cast(DeletedTenant, gone)


class Keys:
    """API keys of the tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, role: Role, *, expires_at: str | None = None) -> MadeKey:
        """Make a key, of a role not above your own; its text is in this answer only."""
        body = {"name": name, "role": role, "expires_at": expires_at}
        return cast(MadeKey, self._transport.request("POST", route("keys"), body=body, repeatable=False))

    def list(self, state: Literal["active", "expired", "revoked", "any"] = "active") -> Iterator[Key]:
        """Yield keys, the newest first."""
        return cast(Iterator[Key], self._transport.walk(route("keys"), "keys", {"state": state, "limit": PAGE}))

    def get(self, key_id: str) -> Key:
        """Return a key."""
        return cast(Key, self._transport.request("GET", route("keys", key_id)))

    def change(self, key_id: str, **changes: Unpack[KeyChanges]) -> Key:
        """Give a key another name, another end, or both."""
        return cast(Key, self._transport.request("PATCH", route("keys", key_id), body=changes))

    def rotate(self, key_id: str, *, overlap_seconds: int | None = None) -> MadeKey:
        """Make a key in the place of another, which works on for a while beside it, by default a day."""
        body = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        made = self._transport.request("POST", route("keys", key_id, "rotate"), body=body, repeatable=False)
        return cast(MadeKey, made)

    def revoke(self, key_id: str) -> None:
        """Revoke a key for good."""
        self._transport.request("DELETE", route("keys", key_id))


class KafkaCredentials:
    """Logins to the broker for the tenant's own Kafka clients."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, *, expires_at: str | None = None) -> MadeKafkaCredential:
        """Make a login; its password is in this answer only. The broker takes it within seconds (`active`)."""
        body = {"name": name, "expires_at": expires_at}
        made = self._transport.request("POST", route("kafka-credentials"), body=body, repeatable=False)
        return cast(MadeKafkaCredential, made)

    def list(self, *, ended: bool = False) -> Iterator[KafkaCredential]:
        """Yield logins, the newest first; with `ended` those that ended, too."""
        query = {"ended": ended, "limit": PAGE}
        found = self._transport.walk(route("kafka-credentials"), "credentials", query)
        return cast(Iterator[KafkaCredential], found)

    def connection(self) -> KafkaConnection:
        """Return where the broker is, and the tenant's topics."""
        answer = self._transport.request("GET", route("kafka-credentials"), query={"limit": 1})
        return cast(KafkaConnection, answer["connection"])

    def get(self, credential_id: str) -> WholeKafkaCredential:
        """Return a login with all that a client needs but the password."""
        return cast(WholeKafkaCredential, self._transport.request("GET", route("kafka-credentials", credential_id)))

    def rotate(self, credential_id: str, *, overlap_seconds: int | None = None) -> MadeKafkaCredential:
        """Make a login in the place of another, which works on for a while beside it, by default a day."""
        body = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        path = route("kafka-credentials", credential_id, "rotate")
        return cast(MadeKafkaCredential, self._transport.request("POST", path, body=body, repeatable=False))

    def revoke(self, credential_id: str) -> None:
        """Revoke a login for good; clients that are connected are refused, too, within seconds."""
        self._transport.request("DELETE", route("kafka-credentials", credential_id))


class Subscriptions:
    """Which products the tenant gets."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[Subscription]:
        """Return the products that the tenant gets."""
        return cast(Sequence[Subscription], self._transport.request("GET", route("subscriptions"))["subscriptions"])

    def set(
        self, products: Iterable[tuple[str, str]], datasets: Sequence[Literal["ticks", "trades"]] = ("ticks", "trades")
    ) -> Sequence[Subscription]:
        """Get exactly these products, (exchange, product) each, from now on."""
        wanted = [{"exchange": each, "product": product, "datasets": [*datasets]} for each, product in products]
        answer = self._transport.request("PUT", route("subscriptions"), body={"subscriptions": wanted})
        return cast(Sequence[Subscription], answer["subscriptions"])


class Audit:
    """What was changed and refused, by whom, and that nobody altered the account of it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, page: int = PAGE, **filters: Any) -> Iterator[AuditEntry]:
        """Yield what was changed and refused, newest first."""
        found = self._transport.walk(route("audit"), "entries", {**parameters(filters), "limit": page})
        return cast(Iterator[AuditEntry], found)

    def export(self, *, format: Literal["ndjson", "csv"] = "ndjson", **filters: Any) -> Iterator[str]:  # noqa: A002 - the parameter's name in the API
        """Yield the lines of an export: rows as JSON, or a header and rows as CSV."""
        return self._transport.lines(route("audit"), {**parameters(filters), "format": format})

    def verify(self) -> AuditVerdict:
        """Verify the whole chain and return what was found: `intact`, or where it is broken and why."""
        cursor = None
        while True:
            verdict = self._transport.request("GET", route("audit", "verify"), query={"cursor": cursor})
            cursor = verdict["next_cursor"]
            if cursor is None:
                return cast(AuditVerdict, {**verdict, "first": 1})
