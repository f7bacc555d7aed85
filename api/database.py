"""The API's way to the database: a pool as role ps_api, and transactions that see one tenant.

The one boundary where driver errors become Problems: what is missing or slow is 503, anything else is a fault of ours.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection, DataError, OperationalError, sql
from psycopg.errors import QueryCanceled
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from api import errors
from pulsestream.core.errors import OutageError, SettingsError
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

Connection = AsyncConnection[DictRow]
Parameters = Mapping[str, Any]

POOL_SIZE: Final = 10
POOL_WAIT: Final = 3.0
"""Seconds that a request waits for a connection."""
TIMEOUT: Final = 10.0
"""Seconds that a statement may take."""
_CONNECT: Final = {
    "connect_timeout": 3,
    # Few rows are read at a time: compiling a plan, or starting workers for it, takes longer than running it.
    "options": f"-c statement_timeout={TIMEOUT:.0f}s -c jit=off -c max_parallel_workers_per_gather=0",
    "application_name": "pulsestream-api",
}
_START: Final = 30.0
_log = logger(__name__)


@cache
def queries() -> dict[str, str]:
    """Return the named queries of `queries.sql`."""
    text = (files("api") / "queries.sql").read_text("utf-8")
    blocks = text.split("-- name: ")[1:]
    return {name.strip(): body.strip() for name, _, body in (block.partition("\n") for block in blocks)}


def query(name: str) -> sql.SQL:
    """Return a named query; raises KeyError."""
    return sql.SQL(queries()[name])  # a file of ours, not input


class Database:
    """A pool of connections. Open it inside the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url.get_secret_value()
        if not url:
            raise SettingsError("PULSESTREAM_DATABASE_URL is empty: set it to postgresql://ps_api:…@host/database")
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            connection_class=AsyncConnection[DictRow],
            kwargs={**_CONNECT, "row_factory": dict_row, "autocommit": True},
            min_size=1,
            max_size=POOL_SIZE,
            timeout=POOL_WAIT,
            max_waiting=1000,
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
            open=False,
            name="api",
        )

    async def open(self) -> None:
        """Connect; raises OutageError when the database does not answer in time."""
        try:
            await self._pool.open(wait=True, timeout=_START)
        except PoolTimeout as error:
            await self._pool.close()
            raise OutageError(
                f"the database did not take a connection within {_START:.0f} s: is PULSESTREAM_DATABASE_URL right, and "
                "is it up?"
            ) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection that sees no tenant; raises Problem 503 when the database is away."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except QueryCanceled as error:
            raise errors.too_slow() from error
        except (OperationalError, PoolTimeout) as error:
            _log.warning("database unavailable", reason=str(error))
            raise errors.database_away() from error
        except DataError as error:
            raise errors.refused_value(str(error)) from error

    @asynccontextmanager
    async def tenant(self, tenant: str, seconds: float = TIMEOUT) -> AsyncIterator[Connection]:
        """Open a transaction that sees one tenant; raises Problem 503 when the database is away.

        A statement that takes longer than `seconds` is ended, which raises Problem 503 too.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.execute(query("bind_tenant"), {"tenant": tenant, "timeout": f"{seconds * 1000:.0f}"})
            yield connection

    @asynccontextmanager
    async def moment(self, tenant: str) -> AsyncIterator[Connection]:
        """Open a transaction that sees one tenant as it is at its first query, and changes nothing."""
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await connection.execute(query("bind_tenant"), {"tenant": tenant, "timeout": f"{TIMEOUT * 1000:.0f}"})
            yield connection


async def fetch_all(connection: Connection, name: str, parameters: Parameters) -> list[DictRow]:
    """Run a named query and return its rows."""
    cursor = await connection.execute(query(name), parameters)
    return await cursor.fetchall()


async def fetch_one(connection: Connection, name: str, parameters: Parameters) -> DictRow | None:
    """Run a named query and return its first row."""
    cursor = await connection.execute(query(name), parameters)
    return await cursor.fetchone()


async def execute(connection: Connection, name: str, parameters: Parameters) -> int:
    """Run a named statement and return the number of rows it touched."""
    cursor = await connection.execute(query(name), parameters)
    return cursor.rowcount


async def _configure(connection: Connection) -> None:
    # JSON goes from the database to the client as it is: nothing here looks inside.
    set_json_loads(msgspec.Raw, connection)
    await connection.execute("SET TIME ZONE 'UTC'")
