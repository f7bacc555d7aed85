"""The relay's way to the database: plain connections as role ps_relay, over the room's named queries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from api.database import query
from pulsestream.core.errors import OutageError, SettingsError
from pulsestream.core.settings import Settings

Connection = psycopg.Connection[DictRow]


@contextmanager
def connect(settings: Settings, name: str) -> Iterator[Connection]:
    """Open a connection in autocommit; raises OutageError when the database is away, or goes away inside."""
    url = settings.database_url.get_secret_value()
    if not url:
        raise SettingsError("PULSESTREAM_DATABASE_URL is empty: set it to postgresql://ps_relay:…@host/database")
    try:
        with psycopg.connect(
            url, autocommit=True, row_factory=dict_row, connect_timeout=5, application_name=name
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise OutageError(f"the relay lost the database, and ends to be started again: {reason}") from error


def fetch_all(connection: Connection, name: str, **parameters: Any) -> list[DictRow]:
    """Run a named query and return its rows."""
    return connection.execute(query(name), parameters).fetchall()


def fetch_one(connection: Connection, name: str, **parameters: Any) -> DictRow:
    """Run a named query that always gives a row, and return it."""
    row = connection.execute(query(name), parameters).fetchone()
    if row is None:
        raise RuntimeError(f"query {name} gave no row")
    return row


def execute(connection: Connection, name: str, **parameters: Any) -> int:
    """Run a named statement and return the number of rows it touched."""
    return connection.execute(query(name), parameters).rowcount


def await_notice(connection: Connection, seconds: float) -> None:
    """Return at the first notification on this connection, or after `seconds`."""
    for _ in connection.notifies(timeout=seconds, stop_after=1):
        pass
