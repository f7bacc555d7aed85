"""What each service of the local stack is given: its Kafka user, its database role, its settings as variables."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from pulsestream.core.settings import Settings, environment

SERVICES: Final[Mapping[str, str | None]] = {
    "producer": None,
    "relay": "ps_relay",
    "stream": None,
    "sink": "ps_sink",
    "notifier": "ps_notifier",
    "api": "ps_api",
}
"""The services in the order in which they start, and the database role of those that have one."""


def kafka_user(service: str) -> str:
    """Return a service's Kafka user on the embedded broker."""
    return f"ps-{service}"


def as_role(database_url: str, role: str) -> str:
    """Return a URL that logs in as before and acts as `role` from the first statement on.

    So a database that was given by one URL needs no further logins; its user must be a superuser, as for migrations.
    """
    parts = urlsplit(database_url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "options"]
    query.append(("options", f"-c role={role}"))
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which a child reads exactly these settings."""
    shown = {name: _plain(value) for name, value in settings}
    return environment({name: value for name, value in shown.items() if value is not None})


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
