"""What a tenant has at the broker: topics, users, access rules, consumer groups. Found by name, whoever made them.

`User:t.{tenant}` and `User:t.{tenant}.…` are a tenant's principals; slugs hold no dot, so no tenant's name begins
another's. Every call can be repeated.
"""

from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, but not in its __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialDeletion,
)

from pulsestream.core.kafka import ADMIN_TIMEOUT, Admin, BrokerError, reason
from pulsestream.core.settings import Settings

_GONE: Final = frozenset({KafkaError.GROUP_ID_NOT_FOUND, KafkaError.RESOURCE_NOT_FOUND})
_USER: Final = "User:"


@dataclass(frozen=True, slots=True)
class Access:
    """What of a tenant's is there beside its topics."""

    users: frozenset[str]
    rules: frozenset[AclBinding]
    groups: frozenset[str]

    def __bool__(self) -> bool:
        """Return whether there is anything."""
        return bool(self.users or self.rules or self.groups)


def owns(tenant: str, name: str) -> bool:
    """Return whether a user or a consumer group is a tenant's, by its name."""
    return name == f"t.{tenant}" or name.startswith(f"t.{tenant}.")


class Belongings:
    """Finds and removes what belongs to tenants; raises BrokerError."""

    def __init__(self, settings: Settings) -> None:
        self._admin = Admin(settings, "ps-relay-erasure")
        self._client = self._admin.client

    def topics(self, tenant: str) -> list[str]:
        """Return the names of a tenant's topics, of whatever dataset and version."""
        return sorted(name for name in self._admin.topics() if name.startswith(f"ps.{tenant}."))

    def delete_topics(self, names: Collection[str]) -> None:
        """Delete topics."""
        self._admin.delete(names)

    def access(self, tenant: str) -> Access:
        """Return a tenant's users, access rules and consumer groups."""
        rules = self._rules()  # first: to see the users takes the same right, and refused that, the client aborts
        users = _result("the users cannot be listed", self._client.describe_user_scram_credentials())
        listed = self._client.list_consumer_groups(request_timeout=ADMIN_TIMEOUT)
        groups = _result("the groups cannot be listed", listed)
        return Access(
            frozenset(user for user in users if owns(tenant, user)),
            frozenset(rule for rule in rules if owns(tenant, str(rule.principal).removeprefix(_USER))),
            frozenset(group.group_id for group in groups.valid if owns(tenant, group.group_id)),
        )

    def remove(self, access: Access) -> None:
        """Remove all of it, rights first: so a client that is connected is refused, too."""
        if access.rules:
            filters = [_filter(rule) for rule in access.rules]
            forbidden = self._client.delete_acls(filters, request_timeout=ADMIN_TIMEOUT)
            _settle("an access rule cannot be removed", forbidden.values())
        if access.users:
            mechanism = ScramMechanism.SCRAM_SHA_256
            wanted: list[UserScramCredentialAlteration] = [
                UserScramCredentialDeletion(user, mechanism) for user in access.users
            ]
            altered = self._client.alter_user_scram_credentials(wanted, request_timeout=ADMIN_TIMEOUT)
            _settle("a user cannot be removed", altered.values())
        if access.groups:
            deleted = self._client.delete_consumer_groups(list(access.groups), request_timeout=ADMIN_TIMEOUT)
            _settle("a consumer group cannot be removed", deleted.values())

    def _rules(self) -> Collection[AclBinding]:
        described = self._client.describe_acls(_filter(None), request_timeout=ADMIN_TIMEOUT)
        found: Collection[AclBinding] = _result("access rules cannot be listed", described, ())
        return found


def told(rule: AclBinding) -> str:
    """Return an access rule as the report names it."""
    operation, kind = AclOperation(rule.operation).name, ResourceType(rule.restype).name
    return f"{rule.principal} {operation} {kind} {rule.name}"


def _filter(rule: AclBinding | None) -> AclBindingFilter:
    """Return the filter of exactly one access rule, or of all."""
    if rule is None:
        anything, pattern = ResourceType.ANY, ResourcePatternType.ANY
        operation, permission = AclOperation.ANY, AclPermissionType.ANY
        return AclBindingFilter(anything, None, pattern, None, None, operation, permission)  # type: ignore[arg-type] # None is any
    kind, name, pattern_of = rule.restype, rule.name, rule.resource_pattern_type
    return AclBindingFilter(kind, name, pattern_of, rule.principal, rule.host, rule.operation, rule.permission_type)


def _settle(failure: str, futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        _result(failure, future)


def _result(failure: str, future: Any, without: Any = None) -> Any:
    """Return what a request gave; `without` where the broker has no access rules at all, or the thing is gone."""
    try:
        return future.result()
    except KafkaException as error:
        if error.args[0].code() in _GONE | {KafkaError.SECURITY_DISABLED}:
            return without
        raise BrokerError(f"{failure}: {reason(error)}") from error
