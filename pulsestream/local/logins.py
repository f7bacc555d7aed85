"""What the services log in with, where an operator chooses the passwords: their Kafka users and database roles.

The settings list them as name:password,…; `give_logins` makes the broker and the database take these from now on, so a
changed password is given by running it again. Each user gets the rights of `pulsestream.local.access`; the roles have
theirs from the migrations.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from pulsestream.core.errors import SettingsError
from pulsestream.core.settings import PREFIX, Settings
from pulsestream.local.access import SERVICES, ensure_acls, ensure_users
from pulsestream.local.roles import SERVICES as ROLES
from schemas.logins import set_passwords

_ROLES: Final = tuple(role for role in ROLES.values() if role is not None)


@dataclass(frozen=True, slots=True)
class Logins:
    """Passwords by Kafka user and by database role."""

    kafka: Mapping[str, str]
    database: Mapping[str, str]


def wanted_logins(settings: Settings) -> Logins:
    """Return the logins that the settings list; raises SettingsError for a name that no service has."""
    return Logins(
        _parsed("kafka_logins", settings.kafka_logins, SERVICES),
        _parsed("database_logins", settings.database_logins, _ROLES),
    )


def give_logins(admin_settings: Settings, logins: Logins) -> list[str]:
    """Let the services log in so, and return their names; raises BrokerError or MigrationError."""
    if logins.database:
        set_passwords(admin_settings.database_url.get_secret_value(), logins.database)
    if logins.kafka:
        ensure_users(admin_settings, logins.kafka)
        ensure_acls(admin_settings)
    return [*logins.kafka, *logins.database]


def _parsed(setting: str, text: SecretStr, known: Collection[str]) -> dict[str, str]:
    """Return the passwords by name. No message shows a password, or what might be one."""
    variable = PREFIX + setting.upper()
    logins: dict[str, str] = {}
    for number, entry in enumerate(filter(None, text.get_secret_value().split(",")), 1):
        name, _, password = entry.partition(":")
        name = name.strip()
        if name not in known:
            raise SettingsError(f"{variable}: entry {number} names none of {', '.join(known)}; write name:password,…")
        if not password:
            raise SettingsError(f"{variable}: {name} has no password; write {name}:password")
        if name in logins:
            raise SettingsError(f"{variable}: {name} is there twice")
        logins[name] = password
    return logins
