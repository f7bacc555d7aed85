"""Databases of one server, by their names."""

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg


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
