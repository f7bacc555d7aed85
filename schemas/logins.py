"""The passwords of the database's roles, which the migrations make without one."""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from schemas.errors import MigrationError


def set_passwords(database_url: str, passwords: Mapping[str, str]) -> None:
    """Let each role log in with its password from now on; raises MigrationError.

    `database_url` must be a superuser's. The server is sent what it stores, so that no log of statements shows one.
    """
    try:
        with psycopg.connect(database_url) as connection:
            for role, password in passwords.items():
                stored = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
                connection.execute(
                    sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(stored.decode()))
                )
    except psycopg.Error as error:
        raise MigrationError(f"the roles {', '.join(passwords)} cannot be given passwords: {error}") from error
