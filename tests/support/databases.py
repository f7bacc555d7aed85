"""Databases of one server, by their names, and the two kinds of servers."""

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

PLAIN = "PostgreSQL"
TIMESCALEDB = "TimescaleDB"
BOTH_KINDS = pytest.mark.parametrize("database_server", [PLAIN, TIMESCALEDB], indirect=True)
"""Marks tests that depend on the kind of database: they run on the embedded PostgreSQL and on the TimescaleDB given."""


@dataclass(frozen=True, slots=True)
class NamedDatabase:
    """A database of a server, of which `server_url` is a superuser's."""

    server_url: str
    name: str

    def url(self, role: str = "postgres") -> str:
        """The URL of the superuser, or of another role, which logs in without a password."""
        parts = urlsplit(self.server_url)
        login, _, host = parts.netloc.rpartition("@")
        user = login if role == "postgres" else role
        return urlunsplit(parts._replace(netloc=f"{user}@{host}", path=f"/{self.name}"))


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def has_timescale(server_url: str) -> bool:
    """Return whether databases of a server can have the extension."""
    with psycopg.connect(server_url) as connection:
        found = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'timescaledb'")
        return found.fetchone() is not None
