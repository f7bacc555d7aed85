"""Lag and freshness as the API tells them: a real broker, a real sink's positions, role ps_api."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from api.database import Database
from api.freshness.broker import Broker
from api.freshness.service import Freshness, Status
from pulsestream.core.clock import wall_clock
from pulsestream.core.kafka import Admin
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic
from schemas.records import Tick
from tests.support.databases import BOTH_KINDS
from tests.support.sinking import encoded, running_sink, send, tick, wait_until


def ask(settings: Settings, tenant: str) -> Status:
    async def asked() -> Status:
        database = Database(settings)
        await database.open()
        with closing(Broker(settings)) as broker:
            try:
                return await Freshness(database, broker.ends, wall_clock, time.monotonic).show(tenant)
            finally:
                await database.close()

    return asyncio.run(asked())


@pytest.fixture
def ticks(tenant: str, make_topics: Callable[..., list[str]], database: Any) -> str:
    """The topic of ticks of a tenant that has it."""
    make_topics(tenant, "ticks", "dlq")
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'T')", (tenant,))
        connection.execute(
            "INSERT INTO tenant_topics (tenant, dataset, status) VALUES (%s, 'ticks', 'active')", (tenant,)
        )
    return tenant_topic(tenant, "ticks")


def now(number: int) -> Tick:
    at = wall_clock()
    return tick(number, exchange_time=at, received_time=at)


@BOTH_KINDS
def test_what_waits_and_what_is_stored_is_told_by_partition(
    service_settings: Callable[..., Settings], tenant: str, ticks: str
) -> None:
    admin, api = service_settings("admin"), service_settings("api")
    sink = service_settings("sink", sink_group=f"ps-sink-{tenant}")
    send(admin, ticks, encoded(now(number) for number in range(5)), partition=0)

    before = ask(api, tenant)
    with running_sink(sink):
        wait_until(lambda: ask(api, tenant).lag == 0, what="everything stored")
    send(admin, ticks, encoded(now(number) for number in range(5, 8)), partition=1)
    after = ask(api, tenant)

    assert (before.lag, before.newest) == (5, [])
    assert [(each.stored, each.end) for each in after.topics[0].partitions] == [(5, 5), (0, 3), (0, 0)]
    assert (after.lag, after.topics[0].lost) == (3, 0)
    [newest] = after.newest
    assert newest.dataset == "ticks"
    assert abs((newest.appended_at - newest.time).total_seconds()) < 60
    assert 0 < newest.age_seconds < 600
    assert ask(api, f"{tenant}x").topics == []


def test_a_topic_made_again_is_told_from_its_beginning(
    service_settings: Callable[..., Settings], tenant: str, ticks: str, make_topics: Callable[..., list[str]]
) -> None:
    admin = service_settings("admin")
    send(admin, ticks, encoded([now(1)]), partition=0)
    with running_sink(service_settings("sink", sink_group=f"ps-sink-{tenant}")):
        wait_until(lambda: ask(service_settings("api"), tenant).lag == 0)
    Admin(admin).delete([ticks])
    wait_until(lambda: make_topics(tenant, "ticks"))
    send(admin, ticks, encoded([now(2), now(3)]), partition=0)

    told = ask(service_settings("api"), tenant)

    assert [(each.stored, each.lag) for each in told.topics[0].partitions] == [(0, 2), (0, 0), (0, 0)]


def test_without_the_broker_rows_are_told_and_lag_is_null(
    service_settings: Callable[..., Settings], tenant: str, ticks: str
) -> None:
    told = ask(service_settings("api", kafka_bootstrap="127.0.0.1:1"), tenant)

    assert (told.lag, [topic.topic for topic in told.topics]) == (None, [ticks])
