"""The reconciler of tenants' topics, with a real broker and database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from api.reconciler import Reconciler
from api.relay_database import connect
from pulsestream.core.kafka import Admin
from pulsestream.core.layout import tenant_topic_spec
from pulsestream.core.settings import Settings
from pulsestream.core.topics import parse_tenant_topic, tenant_topic
from tests.support.databases import NamedDatabase

SettingsOf = Callable[..., Settings]
Row = tuple[str, str | None, str | None]
EVERY = ("stats", "bars", "alerts", "dlq", "ticks", "trades")


@pytest.fixture
def admin(database: NamedDatabase) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def ask(admin: psycopg.Connection, tenant: str) -> Callable[..., None]:
    admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, %s)", (tenant, tenant))

    def insert(*datasets: str) -> None:
        for dataset in datasets:
            admin.execute("INSERT INTO tenant_topics (tenant, dataset) VALUES (%s, %s)", (tenant, dataset))

    return insert


@contextmanager
def reconciling(settings: Settings) -> Iterator[Reconciler]:
    with connect(settings, "test") as connection:
        yield Reconciler(settings, connection)


def provision(settings: Settings, *, again: bool = False) -> None:
    with reconciling(settings) as reconciler:
        for _ in range(100):
            if not reconciler.provision(again=again):
                return
    raise AssertionError("the topics were not seen")


def rows(admin: psycopg.Connection) -> dict[str, Row]:
    found = admin.execute("SELECT dataset, status, topic_id, detail FROM tenant_topics").fetchall()
    return {row[0]: (row[1], row[2], row[3]) for row in found}


def statuses(admin: psycopg.Connection) -> dict[str, str]:
    return {dataset: row[0] for dataset, row in rows(admin).items()}


def test_what_was_asked_for_is_made_and_its_id_is_stored(
    service_settings: SettingsOf, admin: psycopg.Connection, ask: Callable[..., None], tenant: str
) -> None:
    ask(*EVERY)

    provision(service_settings("relay"))

    infos = Admin(service_settings("admin")).describe([tenant_topic(tenant, dataset) for dataset in EVERY])
    assert rows(admin) == {
        dataset: ("active", infos[tenant_topic(tenant, dataset)].topic_id, None) for dataset in EVERY
    }
    assert {info.partitions for info in infos.values()} == {3}


def test_a_topic_made_before_a_crash_is_adopted(
    service_settings: SettingsOf, admin: psycopg.Connection, ask: Callable[..., None], tenant: str
) -> None:
    settings = service_settings("admin")
    Admin(settings).create([tenant_topic_spec(settings, tenant, dataset) for dataset in ("stats", "ticks")])
    ask(*EVERY)

    provision(service_settings("relay"))

    assert set(statuses(admin).values()) == {"active"}


def test_a_tenant_beyond_the_budget_is_refused_whole_until_there_is_room(
    service_settings: SettingsOf, admin: psycopg.Connection, ask: Callable[..., None], tenant: str
) -> None:
    existing = Admin(service_settings("admin")).topics()
    used = sum(count for name, count in existing.items() if parse_tenant_topic(name))
    ask(*EVERY)

    provision(service_settings("relay", partition_budget=used + 17))

    assert set(statuses(admin).values()) == {"refused"}
    assert f"18 more partitions are needed and {used} of {used + 17} are used" in str(rows(admin)["ticks"][2])
    assert not any(name.startswith(f"ps.{tenant}.") for name in Admin(service_settings("admin")).topics())

    provision(service_settings("relay", partition_budget=used + 18))
    assert set(statuses(admin).values()) == {"refused"}, "what was refused is looked at again with `again` only"
    provision(service_settings("relay", partition_budget=used + 18), again=True)
    assert set(statuses(admin).values()) == {"active"}


def test_a_tick_topic_with_another_partition_count_is_refused_and_the_others_are_not(
    service_settings: SettingsOf, admin: psycopg.Connection, ask: Callable[..., None], tenant: str
) -> None:
    other = service_settings("admin", partitions=4)
    Admin(other).create([tenant_topic_spec(other, tenant, dataset) for dataset in ("ticks", "stats")])
    ask(*EVERY)

    provision(service_settings("relay"))

    assert statuses(admin) == dict.fromkeys(EVERY, "active") | {"ticks": "refused"}
    assert "has 4 partitions, PULSESTREAM_PARTITIONS is 3" in str(rows(admin)["ticks"][2])


def test_a_topic_that_vanished_is_marked_and_never_made_again(
    service_settings: SettingsOf, admin: psycopg.Connection, ask: Callable[..., None], tenant: str
) -> None:
    ask(*EVERY)
    provision(service_settings("relay"))
    broker = Admin(service_settings("admin"))
    broker.delete([tenant_topic(tenant, "ticks")])

    with reconciling(service_settings("relay")) as reconciler:
        for _ in range(100):
            reconciler.verify()
            if statuses(admin)["ticks"] == "refused":
                break
        reconciler.provision(again=True)

    status, topic_id, detail = rows(admin)["ticks"]
    assert status == "refused"
    assert topic_id is not None
    assert "someone deleted it" in str(detail)
    assert {dataset for dataset, status in statuses(admin).items() if status == "active"} == set(EVERY) - {"ticks"}
    assert tenant_topic(tenant, "ticks") not in broker.topics()


def test_one_look_that_misses_a_topic_changes_nothing(
    service_settings: SettingsOf, admin: psycopg.Connection, ask: Callable[..., None]
) -> None:
    ask("stats")
    provision(service_settings("relay"))
    admin.execute("UPDATE tenant_topics SET topic_id = 'another'")

    with reconciling(service_settings("relay")) as reconciler:
        reconciler.verify()
        assert statuses(admin) == {"stats": "active"}
        reconciler.verify()
        assert statuses(admin) == {"stats": "refused"}
        assert "was made again as" in str(rows(admin)["stats"][2])
