"""The logins that an operator lists for the services: read whole, or refused without showing a password."""

import pytest
from pydantic import SecretStr

from pulsestream.core.errors import SettingsError
from pulsestream.core.settings import Settings
from pulsestream.local.logins import Logins, wanted_logins


def logins(kafka: str = "", database: str = "") -> Logins:
    return wanted_logins(Settings(kafka_logins=SecretStr(kafka), database_logins=SecretStr(database)))


def test_passwords_are_read_by_name() -> None:
    found = logins("ps-api:first,ps-sink:with:colon", " ps_api:second, ps_sink:third,")

    assert found.kafka == {"ps-api": "first", "ps-sink": "with:colon"}
    assert found.database == {"ps_api": "second", "ps_sink": "third"}


def test_nothing_is_listed_by_default() -> None:
    assert logins() == Logins({}, {})


@pytest.mark.parametrize(
    ("kafka", "database", "said"),
    [
        ("ps-apy:hunter2", "", "PULSESTREAM_KAFKA_LOGINS: entry 1 names none of ps-producer, ps-stream"),
        ("ps-api:one,hunter2", "", "PULSESTREAM_KAFKA_LOGINS: entry 2 names none of"),
        ("admin:hunter2", "", "PULSESTREAM_KAFKA_LOGINS: entry 1 names none of"),
        ("", "ps-api:hunter2", "PULSESTREAM_DATABASE_LOGINS: entry 1 names none of ps_relay, ps_sink, ps_notifier"),
        ("", "ps_owner:hunter2", "PULSESTREAM_DATABASE_LOGINS: entry 1 names none of"),
        ("ps-api:", "", "PULSESTREAM_KAFKA_LOGINS: ps-api has no password"),
        ("ps-api", "", "PULSESTREAM_KAFKA_LOGINS: ps-api has no password"),
        ("ps-api:hunter2,ps-api:hunter2", "", "PULSESTREAM_KAFKA_LOGINS: ps-api is there twice"),
    ],
)
def test_a_wrong_list_is_refused_without_showing_a_password(kafka: str, database: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        logins(kafka, database)

    assert str(caught.value).startswith(said)
    assert "hunter2" not in str(caught.value)
