"""The relay's part in Kafka credentials: it can die anywhere, and the broker comes to what the database says."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from pydantic import SecretStr

from api.kafka_credentials.broker import TenantUsers
from api.kafka_credentials.login import Salted, new_id, new_password, salted, user_name
from api.kafka_credentials.reconciler import CredentialReconciler
from api.kafka_credentials.rights import QUOTA_NAMES, Found
from api.limits.tiers import TIERS
from api.relay_database import connect
from pulsestream.core.errors import InvalidNameError
from pulsestream.core.kafka import BrokerError
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from tests.support.databases import NamedDatabase


class KilledError(Exception):
    """Stands for kill -9: nothing after it is done."""


@dataclass
class Dying:
    """The broker's administration, which works `calls` times; then the process is gone."""

    real: TenantUsers
    calls: int

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if not self.calls:
                raise KilledError
            self.calls -= 1
            return getattr(self.real, name)(*given)

        return call


@dataclass
class Desk:
    """A database whose credentials are brought to the broker by hand."""

    settings: Settings
    admin: psycopg.Connection
    tenant: str
    users: TenantUsers

    def add(self, tenant: str | None = None, tier: str = "free") -> str:
        """Store a credential as the API does, and return its id."""
        slug, made, kept = tenant or self.tenant, new_id(), salted(new_password())
        self.admin.execute(
            "INSERT INTO tenants (tenant, name, tier) VALUES (%s, 'x', %s) ON CONFLICT DO NOTHING", (slug, tier)
        )
        self.admin.execute(
            "INSERT INTO kafka_credentials (tenant, id, name, salt, iterations, salted_password, created_by)"
            " VALUES (%s, %s, 'desk', %s, %s, %s, 'a key')",
            (slug, made, kept.salt, kept.iterations, kept.salted_password),
        )
        return made

    def revoke(self, credential_id: str) -> None:
        self.admin.execute("UPDATE kafka_credentials SET revoked_at = now() WHERE id = %s", (credential_id,))

    def user(self, credential_id: str) -> str:
        return user_name(self.tenant, credential_id)

    @contextmanager
    def reconciler(self) -> Iterator[CredentialReconciler]:
        with connect(self.settings, "test") as connection:
            yield CredentialReconciler(self.settings, connection)

    def provision(self) -> None:
        with self.reconciler() as reconciler:
            reconciler.provision()

    def verify(self) -> None:
        with self.reconciler() as reconciler:
            reconciler.provision()
            reconciler.verify()

    def row(self, credential_id: str, columns: str) -> tuple[Any, ...]:
        (found,) = self.admin.execute(f"SELECT {columns} FROM kafka_credentials WHERE id = %s", (credential_id,))
        return found

    def found(self) -> Found:
        """Return what the broker knows of this tenant's users."""
        found = self.users.found()
        mine = f"t.{self.tenant}."
        return Found(
            frozenset(user for user in found.users if user.startswith(mine)),
            frozenset(rule for rule in found.acls if rule.principal.startswith(f"User:{mine}")),
            {user: quota for user, quota in found.quotas.items() if user.startswith(mine)},
        )


@pytest.fixture
def desk(
    service_settings: Callable[..., Settings], broker: EmbeddedKafka, database: NamedDatabase, tenant: str
) -> Iterator[Desk]:
    users = TenantUsers(broker.settings())
    with psycopg.connect(database.url(), autocommit=True) as admin:
        yield Desk(service_settings("relay"), admin, tenant, users)
    users.remove({user for user in users.found().users if user.startswith("t.")})


def whole(desk: Desk, *ids: str) -> None:
    """Assert that the broker knows these credentials of the free tier, and nothing else of the tenant."""
    found = desk.found()
    users = {desk.user(each) for each in ids}
    tier = TIERS["free"]
    share = (
        [amount / len(ids) for amount in (tier.kafka_produce, tier.kafka_consume, tier.kafka_percent)] if ids else []
    )
    assert found.users == users
    assert {(rule.principal.removeprefix("User:"), rule.name, rule.operation) for rule in found.acls} == {
        (user, name, operation)
        for user in users
        for name, operation in (
            (f"ps.{desk.tenant}.", AclOperation.READ),
            (f"t.{desk.tenant}.", AclOperation.READ),
            (f"ps.{desk.tenant}.events.v1", AclOperation.WRITE),
            (f"ps.{desk.tenant}.own-ticks.v1", AclOperation.WRITE),
        )
    }
    assert found.quotas == {user: dict(zip(QUOTA_NAMES, share, strict=True)) for user in users}


def test_a_relay_that_dies_anywhere_leaves_what_the_next_one_mends(desk: Desk) -> None:
    old = desk.add()
    desk.provision()
    new = desk.add()
    desk.revoke(old)

    for calls in itertools.count():
        with connect(desk.settings, "dying") as connection:
            reconciler = CredentialReconciler(desk.settings, connection)
            reconciler._users = Dying(reconciler._users, calls)  # type: ignore[assignment] # it stands in for it
            try:
                reconciler.provision()
                break
            except KilledError:
                continue

    assert calls > 3
    whole(desk, new)
    assert desk.row(old, "removed_at IS NOT NULL, salted_password") == (True, None)
    assert desk.row(new, "active_at IS NOT NULL, salted_password") == (True, None)


def test_nothing_is_marked_that_the_broker_did_not_take(desk: Desk) -> None:
    made = desk.add()
    away = desk.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})

    with connect(away, "test") as connection:
        reconciler = CredentialReconciler(away, connection)
        reconciler._users._client = TenantUsers(desk.settings)._client  # only the requests of ours find nobody
        with pytest.raises(BrokerError):
            reconciler.provision()

    assert desk.row(made, "active_at, salted_password IS NOT NULL") == (None, True)
    desk.provision()
    whole(desk, made)


def test_a_user_that_nobody_asked_for_is_removed_with_its_rights(desk: Desk) -> None:
    made = desk.add()
    desk.provision()
    stray = user_name(desk.tenant, new_id())
    desk.users.allow([rule_of(stray, f"ps.{desk.tenant}.")])
    desk.users.put({stray: salted(new_password())})
    desk.users.set_quotas({stray: {"producer_byte_rate": 1.0}})

    desk.verify()

    whole(desk, made)


def test_a_relay_that_slept_cannot_bring_a_revoked_login_back_for_long(desk: Desk) -> None:
    kept, revoked = desk.add(), desk.add()
    salt, iterations, secret = desk.row(revoked, "salt, iterations, salted_password")
    desk.provision()
    desk.revoke(revoked)
    desk.provision()

    desk.users.put({desk.user(revoked): Salted(salt, iterations, secret)})  # the sleeper's step
    desk.verify()

    whole(desk, kept)


def test_rights_that_differ_are_put_right(desk: Desk) -> None:
    made = desk.add()
    desk.provision()
    user = desk.user(made)
    desk.users.forbid([rule for rule in desk.found().acls if rule.operation == AclOperation.WRITE])
    desk.users.allow([rule_of(user, "ps.")])
    desk.users.set_quotas({user: {"producer_byte_rate": 1e12}})

    desk.verify()

    whole(desk, made)


def test_a_user_that_the_broker_lost_is_told_of_as_lost_when_it_was_missed_twice(desk: Desk) -> None:
    lost, kept = desk.add(), desk.add()
    desk.provision()
    desk.users.remove([desk.user(lost)])

    with desk.reconciler() as reconciler:
        reconciler.verify()
        assert desk.row(lost, "lost_at") == (None,)
        reconciler.verify()
        assert desk.row(lost, "lost_at IS NOT NULL") == (True,)
        reconciler.provision()

    whole(desk, kept)


def test_credentials_of_a_tenant_share_its_quotas_and_a_change_of_tier_changes_them(desk: Desk) -> None:
    first = desk.add()
    desk.provision()
    whole(desk, first)
    second = desk.add()
    desk.provision()
    whole(desk, first, second)

    desk.admin.execute("UPDATE tenants SET tier = 'pro' WHERE tenant = %s", (desk.tenant,))
    desk.provision()
    assert [quota["producer_byte_rate"] for quota in desk.found().quotas.values()] == [4 * 1_048_576] * 2

    desk.admin.execute("UPDATE tenants SET tier = 'free' WHERE tenant = %s", (desk.tenant,))
    desk.revoke(first)
    desk.provision()
    whole(desk, second)


def test_without_limits_there_are_no_quotas(desk: Desk) -> None:
    made = desk.add()
    desk.provision()
    desk.settings = desk.settings.model_copy(update={"limits": "off"})

    desk.verify()

    assert desk.found().users == {desk.user(made)}
    assert desk.found().quotas == {}


def test_only_users_of_tenants_are_ever_touched(desk: Desk) -> None:
    for touch in (
        lambda: desk.users.put({"admin": salted("guessed")}),
        lambda: desk.users.remove(["ps-api"]),
        lambda: desk.users.set_quotas({"ps-sink": {}}),
        lambda: desk.users.allow([rule_of("ps-relay", "x")]),
    ):
        with pytest.raises(InvalidNameError, match="no tenant's user"):
            touch()


def test_a_relay_without_the_right_to_make_users_says_so_and_lives(desk: Desk, broker: EmbeddedKafka) -> None:
    desk.add()
    password = SecretStr(broker.password("ps-api"))
    desk.settings = desk.settings.model_copy(update={"kafka_username": "ps-api", "kafka_password": password})

    with pytest.raises(BrokerError, match="error 31"):
        desk.provision()
    with pytest.raises(BrokerError, match="error 31"), desk.reconciler() as reconciler:
        reconciler.verify()


def rule_of(user: str, prefix: str) -> AclBinding:
    kind, pattern = ResourceType.TOPIC, ResourcePatternType.PREFIXED
    return AclBinding(kind, prefix, pattern, f"User:{user}", "*", AclOperation.READ, AclPermissionType.ALLOW)


def test_a_users_name_cannot_be_that_of_another_tenant() -> None:
    assert user_name("acme", "1") == "t.acme.1"
    for tenant, made in (("acme.x", "1"), ("acme", "x.1"), ("_platform", "1"), ("acme", ""), ("a" * 40, "1")):
        with pytest.raises(InvalidNameError):
            user_name(tenant, made)
    assert secrets.compare_digest(salted("x").salt, salted("x").salt) is False
