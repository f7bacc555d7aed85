"""Stored rows for searches, as role ps_api with row level security, on a real database."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from api.cursor import CursorSeal
from api.database import Database
from api.search.plan import SearchRequest
from api.search.series import Series
from api.search.service import Page, Search
from pulsestream.core.clock import to_micros
from pulsestream.core.settings import Settings
from tests.support.databases import NamedDatabase, execute

START = datetime(2021, 4, 17, 23, 59, 59, 999_990, tzinfo=UTC)
"""Ten microseconds before a chunk of a hypertable ends."""
SEAL = CursorSeal({1: b"pepper of the tests"})
NOW = to_micros(START) + 30 * 86_400_000_000
"""When series of bars are asked for."""


@dataclass
class Store:
    """A database with rows, and searches in it, in one event loop."""

    urls: NamedDatabase
    admin: psycopg.Connection[Any]
    runner: asyncio.Runner
    database: Database
    search: Search
    series: Series

    def page(self, tenant: str, request: SearchRequest, cursor: str | None = None) -> Page:
        return self.runner.run(self.search.page(tenant, request, cursor))

    def walk(self, tenant: str, request: SearchRequest) -> list[dict[str, Any]]:
        """Return the rows of a whole walk by time, page after page."""
        rows: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.page(tenant, request, cursor)
            rows += page.rows
            cursor = page.next_cursor
            if cursor is None:
                return rows

    def insert(self, table: str, rows: list[dict[str, Any]], connection: psycopg.Connection[Any] | None = None) -> None:
        for row in rows:
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(map(sql.Placeholder, row)),
            )
            (connection or self.admin).execute(statement, row)


@contextmanager
def opened_store(database_server: str, migrated_template: str) -> Iterator[Store]:
    """Copy the template, and open it for searches."""
    name = f"ps_search_{secrets.token_hex(6)}"
    execute(database_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    urls = NamedDatabase(database_server, name)
    with asyncio.Runner() as runner, psycopg.connect(urls.url(), autocommit=True) as admin:

        async def opened() -> Database:
            database = Database(Settings(database_url=urls.url("ps_api")))  # type: ignore[arg-type] # made secret
            await database.open()
            return database

        database = runner.run(opened())
        yield Store(urls, admin, runner, database, Search(database, SEAL), Series(database, SEAL, lambda: NOW))
        runner.run(database.close())
    execute(database_server, f"DROP DATABASE {name} WITH (FORCE)")


def moment(step: int) -> datetime:
    return START + timedelta(microseconds=step)


def shown(step: int) -> str:
    return moment(step).isoformat(timespec="microseconds").replace("+00:00", "Z")


def tick(tenant: str, event_id: str, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "event_id": event_id,
        "exchange": "coinbase",
        "product": "BTC-USD",
        "price": 61902.5,
        "exchange_time": moment(step),
        "received_time": moment(step),
        "appended_at": moment(step),
    } | changes


def event(tenant: str, event_id: str, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "event_id": event_id,
        "type": "order.filled",
        "source": "/desk/1",
        "product": "BTC-USD",
        "time": moment(step),
        "received_time": moment(step),
        "data": json.dumps({"size": 0.25}),
        "appended_at": moment(step),
    } | changes


def stat(tenant: str, event_id: str, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "event_id": event_id,
        "exchange": "coinbase",
        "product": "BTC-USD",
        "window": "1m",
        "at": moment(step),
        "basis": "ticks",
        "count": 3,
        "as_of_topic": "id",
        "as_of_partition": 0,
        "as_of_offset": 7,
        "revision": 0,
        "appended_at": moment(step),
    } | changes


def alert(tenant: str, alert_id: str, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "alert_id": alert_id,
        "seq": 1,
        "rule_id": "r",
        "rule_name": "low",
        "rule_version": 1,
        "exchange": "coinbase",
        "product": "BTC-USD",
        "state": "firing",
        "at": moment(step),
        "reason": "price 1 below 2",
        "severity": "warning",
        "labels": json.dumps({"desk": "spot"}),
        "last_prices": json.dumps([]),
        "appended_at": moment(step),
    } | changes


def trade(tenant: str, event_id: str, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "event_id": event_id,
        "exchange": "coinbase",
        "product": "BTC-USD",
        "trade_id": step,
        "price": 61902.5,
        "size": 0.25,
        "side": "buy",
        "exchange_time": moment(step),
        "received_time": moment(step),
        "appended_at": moment(step),
    } | changes


def bar(tenant: str, event_id: str, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "event_id": event_id,
        "exchange": "coinbase",
        "product": "BTC-USD",
        "period": "1m",
        "start": moment(step),
        "open": 2.0,
        "high": 4.0,
        "low": 1.0,
        "close": 3.0,
        "volume": 0.5,
        "complete": True,
        "revision": 0,
        "origin": "exchange",
        "received_time": moment(step),
        "appended_at": moment(step),
    } | changes


TABLES = {"ticks": tick, "trades": trade, "events": event, "stats": stat, "bars": bar, "alerts": alert}


def slug() -> str:
    return f"t{secrets.token_hex(6)}"


def fill(store: Store, tenant: str, *rows: tuple[str, str, int]) -> None:
    for dataset, identifier, step in rows:
        store.insert(dataset, [TABLES[dataset](tenant, identifier, step)])


def ids(page: Page) -> list[str]:
    return [row["event_id"] for row in page.rows]
