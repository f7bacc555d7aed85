"""Tenants' users at the broker, as its administrator sees and changes them. Every call can be repeated."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, but not in its __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from api.kafka_credentials import requests
from api.kafka_credentials.login import PREFIX, Salted
from api.kafka_credentials.rights import Found, Quota
from pulsestream.core.errors import InvalidNameError
from pulsestream.core.kafka import ADMIN_TIMEOUT, Admin, BrokerError, reason
from pulsestream.core.settings import Settings

_PRINCIPAL: Final = f"User:{PREFIX}"


class TenantUsers:
    """The users whose names begin with `t.`; any other is refused here, whoever asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = Admin(settings, "ps-relay-users").client

    def found(self) -> Found:
        """Return what the broker knows of tenants' users; raises BrokerError."""
        users = requests.scram_users(self._settings)
        rules = self._result(
            "access rules cannot be read", self._client.describe_acls(_rules_of(None), request_timeout=ADMIN_TIMEOUT)
        )
        quotas = requests.user_quotas(self._settings)
        return Found(
            frozenset(user for user in users if user.startswith(PREFIX)),
            frozenset(rule for rule in rules if rule.principal.startswith(_PRINCIPAL)),
            {user: quota for user, quota in quotas.items() if user.startswith(PREFIX)},
        )

    def allow(self, rules: Collection[AclBinding]) -> None:
        """Add access rules; raises BrokerError."""
        _check(str(rule.principal).removeprefix("User:") for rule in rules)
        if rules:
            for future in self._client.create_acls(list(rules), request_timeout=ADMIN_TIMEOUT).values():
                self._result("an access rule cannot be made", future)

    def forbid(self, rules: Collection[AclBinding]) -> None:
        """Remove access rules; raises BrokerError."""
        _check(str(rule.principal).removeprefix("User:") for rule in rules)
        self._delete([_exactly(rule) for rule in rules])

    def forbid_all(self, users: Collection[str]) -> None:
        """Remove every access rule of users; raises BrokerError."""
        _check(users)
        self._delete([_rules_of(user) for user in users])

    def set_quotas(self, quotas: Mapping[str, Quota]) -> None:
        """Give users these client quotas and no others; raises BrokerError."""
        _check(quotas)
        requests.set_quotas(self._settings, quotas)

    def put(self, users: Mapping[str, Salted]) -> None:
        """Let users log in; raises BrokerError."""
        _check(users)
        requests.put_users(self._settings, users)

    def remove(self, users: Collection[str]) -> None:
        """Take everything from users, rights first: so a client that is connected is refused, too. BrokerError."""
        self.forbid_all(users)
        requests.drop_users(self._settings, users)
        requests.set_quotas(self._settings, {user: {} for user in users})

    def _delete(self, filters: list[AclBindingFilter]) -> None:
        if filters:
            for future in self._client.delete_acls(filters, request_timeout=ADMIN_TIMEOUT).values():
                self._result("access rules cannot be removed", future)

    def _result(self, failure: str, future: Any) -> Any:  # the library's futures have no types
        try:
            return future.result(ADMIN_TIMEOUT)
        except (KafkaException, TimeoutError) as error:
            why = reason(error) if isinstance(error, KafkaException) else "no answer in time"
            raise BrokerError(f"{failure}: {why}") from error


def _check(users: Iterable[str]) -> None:
    for user in users:
        if not user.startswith(PREFIX):
            raise InvalidNameError(f"{user!r} is no tenant's user: those begin with {PREFIX}")


def _rules_of(user: str | None) -> AclBindingFilter:
    principal = None if user is None else f"User:{user}"
    anything, pattern = ResourceType.ANY, ResourcePatternType.ANY
    operation, permission = AclOperation.ANY, AclPermissionType.ANY
    return AclBindingFilter(anything, None, pattern, principal, None, operation, permission)  # type: ignore[arg-type] # None is any


def _exactly(rule: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        rule.restype,
        rule.name,
        rule.resource_pattern_type,
        rule.principal,
        rule.host,
        rule.operation,
        rule.permission_type,
    )
