"""Migrations: applied once, in order, by one process at a time; a changed or newer database is refused."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from schemas import migrate as module
from schemas.errors import MigrationError
from schemas.migrate import Migration, migrate, migrations, missing, pending
from tests.support.databases import BOTH_KINDS


@pytest.fixture
def empty_database(database_server: str) -> Iterator[str]:
    """The superuser's URL of a database that was never migrated."""
    name = f"migrate_{secrets.token_hex(4)}"
    with psycopg.connect(database_server, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]  # a generated name
        yield psycopg.conninfo.make_conninfo(database_server, dbname=name)
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[call-overload]  # a generated name


@BOTH_KINDS
def test_every_migration_is_applied_once_and_in_order(empty_database: str) -> None:
    names = [migration.name for migration in migrations()]

    assert migrate(empty_database) == names
    assert migrate(empty_database) == []


def test_two_processes_at_once_apply_each_migration_once(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(migrate, [empty_database] * 4))

    assert sorted(name for names in applied for name in names) == [migration.name for migration in migrations()]


def test_what_is_missing_is_named(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        before = missing(connection)
        migrate(empty_database)
        after = missing(connection)

    assert (before, after) == ([migration.name for migration in migrations()], [])


def test_a_migration_changed_after_it_was_applied_is_refused(empty_database: str) -> None:
    migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 2")

    with pytest.raises(MigrationError, match="0002_control was changed after it had been applied"):
        migrate(empty_database)


def test_a_database_of_a_newer_version_is_refused(empty_database: str) -> None:
    migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (999, 'later', 'x')")

    with pytest.raises(MigrationError, match="the database has migration 999"):
        migrate(empty_database)


def test_a_migration_that_fails_leaves_nothing(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(empty_database)
    broken = [*migrations(), Migration(900, "0900_broken", "CREATE TABLE half_done (); SELECT 1 / 0")]
    monkeypatch.setattr(module, "migrations", lambda: broken)

    with pytest.raises(MigrationError, match="division by zero"):
        migrate(empty_database)

    with psycopg.connect(empty_database) as connection:
        row = connection.execute("SELECT to_regclass('half_done'), max(version) FROM schema_migrations").fetchone()
    assert row == (None, migrations()[-1].version)


def test_pending_names_only_what_is_not_applied() -> None:
    first, second, *_ = migrations()

    assert pending({first.version: first.checksum}, [first, second]) == [second]
    with pytest.raises(MigrationError):
        pending({first.version: first.checksum}, [replace(first, text="other"), second])


@BOTH_KINDS
def test_time_series_are_hypertables_where_the_extension_exists(empty_database: str) -> None:
    migrate(empty_database)

    with psycopg.connect(empty_database) as connection:
        extension = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
        hypertables = (
            connection.execute("SELECT hypertable_name FROM timescaledb_information.hypertables").fetchall()
            if extension
            else []
        )

    assert {name for (name,) in hypertables} == (
        {"ticks", "trades", "events", "stats", "bars", "alerts"} if extension else set()
    )


def test_tables_of_tenants_enforce_row_level_security_even_for_their_owner(empty_database: str) -> None:
    migrate(empty_database)

    with psycopg.connect(empty_database) as connection:
        unguarded = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND attname = 'tenant'"
            " AND NOT (relrowsecurity AND relforcerowsecurity)"
        ).fetchall()

    assert unguarded == []
