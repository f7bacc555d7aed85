"""Logins that `migrate` gives the services: broker and database take the passwords that an operator chose."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaException
from pydantic import SecretStr
from typer.testing import CliRunner

from pulsestream import cli
from pulsestream.core.errors import SettingsError
from pulsestream.core.kafka import Admin, BrokerError
from pulsestream.core.settings import Settings, environment
from pulsestream.local.access import ensure_users
from pulsestream.local.kafka import EmbeddedKafka
from schemas.errors import MigrationError
from schemas.logins import set_passwords
from tests.support.databases import NamedDatabase
from tests.support.e2e import eventually

SettingsFor = Callable[..., Settings]


@contextmanager
def restored(broker: EmbeddedKafka, database: NamedDatabase) -> Iterator[None]:
    """Give the relay its login back: broker and server are others' too."""
    yield
    ensure_users(broker.settings(), {"ps-relay": broker.password("ps-relay")})
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("ALTER ROLE ps_relay PASSWORD NULL")


def verifier(database: NamedDatabase, role: str) -> str:
    with psycopg.connect(database.url()) as connection:
        [(stored,)] = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,)).fetchall()
    return str(stored)


def proves(stored: str, password: str) -> bool:
    """Return whether a SCRAM verifier (RFC 5803) was made from a password, as RFC 5802 computes its StoredKey."""
    _, hashed, keys = stored.split("$")
    iterations, salt = hashed.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return base64.b64encode(hashlib.sha256(client_key).digest()).decode() == keys.split(":")[0]


def run_migrate(monkeypatch: pytest.MonkeyPatch, settings: Settings, **logins: str) -> Any:
    given: dict[str, object] = {
        "kafka_bootstrap": settings.kafka_bootstrap,
        "kafka_username": settings.kafka_username,
        "kafka_password": settings.kafka_password.get_secret_value(),
        "database_url": settings.database_url.get_secret_value(),
    }
    for name, value in environment(given | logins).items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(cli.app, ["migrate"])


def test_migrate_lets_a_service_log_in_with_the_password_given_and_no_longer_with_another(
    broker: EmbeddedKafka, database: NamedDatabase, service_settings: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = broker.settings("ps-relay").model_copy(update={"kafka_password": SecretStr("chosen")})

    def logs_in() -> None:
        try:
            assert Admin(chosen).topics()
        except BrokerError as error:
            raise AssertionError from error

    with restored(broker, database):
        done = run_migrate(
            monkeypatch, service_settings("admin"), kafka_logins="ps-relay:chosen", database_logins="ps_relay:secret"
        )

        assert done.exit_code == 0, done.output
        assert "logins: ps-relay, ps_relay\n" in done.output
        eventually(logs_in)
        with pytest.raises(KafkaException):
            Admin(broker.settings("ps-relay")).client.list_topics(timeout=2)
        assert proves(verifier(database, "ps_relay"), "secret")
        assert not proves(verifier(database, "ps_relay"), "chosen")


def test_migrate_leaves_the_logins_where_none_are_given(
    broker: EmbeddedKafka, service_settings: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_migrate(monkeypatch, service_settings("admin"))

    assert done.exit_code == 0, done.output
    assert "logins: left as they are\n" in done.output
    assert Admin(broker.settings("ps-relay")).topics()


def test_migrate_does_nothing_with_a_wrong_list(service_settings: SettingsFor, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run_migrate(monkeypatch, service_settings("admin"), kafka_logins="ps-relais:hunter2")

    assert isinstance(refused.exception, SettingsError)
    assert refused.output == ""


def test_a_role_that_is_not_there_is_named(database: NamedDatabase) -> None:
    with pytest.raises(MigrationError, match=r'ps_nobody.*role "ps_nobody" does not exist'):
        set_passwords(database.url(), {"ps_nobody": "secret"})
