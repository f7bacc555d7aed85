"""Bring a database to this version's schema: numbered SQL files, each applied once, in order, in a transaction.

One process at a time (advisory lock); a file that changed after it was applied is refused (checksum), and so is a
database that a newer version has migrated.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import psycopg
from psycopg import sql

from schemas.errors import MigrationError

_SQL: Final = files("schemas") / "sql"
_LOCK: Final = 0x70756C7365  # "pulse"
_OWNER_FROM: Final = 2
"""The first migration that runs as ps_owner; the one before makes the roles and needs a superuser."""
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every migration of this version, in order."""
    names = sorted(file.name for file in _SQL.iterdir() if file.name.endswith(".sql"))
    return [Migration(int(name[:4]), name.removesuffix(".sql"), (_SQL / name).read_text("utf-8")) for name in names]


def pending(applied: dict[int, str], known: list[Migration]) -> list[Migration]:
    """Return the migrations still to apply, given the checksums of those applied; raises MigrationError."""
    for migration in known:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"migration {migration.name} was changed after it had been applied: restore the file, and put the "
                "change into a new migration"
            )
    newer = sorted(set(applied) - {migration.version for migration in known})
    if newer:
        raise MigrationError(
            f"the database has migration {newer[-1]}, this version ends before it: use a newer version"
        )
    return [migration for migration in known if migration.version not in applied]


def migrate(database_url: str) -> list[str]:
    """Apply what is missing and return the names of what was applied; raises MigrationError.

    `database_url` must be a superuser's, or after the first migration a member's of ps_owner.
    """
    try:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            connection.execute(_LEDGER)
            waiting = pending(_applied(connection), migrations())
            for migration in waiting:
                _apply(connection, migration)
            _set_ingestion_clock(connection)
    except psycopg.Error as error:
        raise MigrationError(f"the database cannot be migrated: {error}") from error
    return [migration.name for migration in waiting]


def _set_ingestion_clock(connection: psycopg.Connection) -> None:
    """Let positions of ingestion rise on a server that the database was restored to."""
    with connection.transaction():
        connection.execute("SET LOCAL ROLE ps_owner")
        connection.execute("SELECT set_ingestion_clock()")


def missing(connection: psycopg.Connection) -> list[str]:
    """Return the names of the migrations that the database lacks; all of them when it was never migrated."""
    exists = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    applied = _applied(connection) if exists and exists[0] else {}
    return [migration.name for migration in pending(applied, migrations())]


def _applied(connection: psycopg.Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT version, checksum FROM schema_migrations").fetchall())


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    with connection.transaction():
        if migration.version >= _OWNER_FROM:
            connection.execute("SET LOCAL ROLE ps_owner")
        connection.execute(sql.SQL(migration.text))  # a file of ours, not input
        connection.execute("RESET ROLE")
        connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )
