"""Where tenants are sent: nowhere without users, and beyond this machine only over TLS."""

import pytest

from api.kafka_credentials.clients import Address, clients
from pulsestream.core.settings import Settings


@pytest.mark.parametrize(
    ("servers", "security", "taken"),
    [
        ("127.0.0.1:9092", "SASL_PLAINTEXT", True),
        ("localhost:9092,[::1]:9092", "SASL_PLAINTEXT", True),
        ("kafka:19092", "SASL_PLAINTEXT", False),
        ("127.0.0.1:9092,kafka:19092", "SASL_PLAINTEXT", False),
        ("127.0.0.1.example.com:9092", "SASL_PLAINTEXT", False),
        ("kafka.example.com:9093", "SASL_SSL", True),
        ("127.0.0.1:9092", "PLAINTEXT", False),
        ("", "SASL_PLAINTEXT", False),
    ],
)
def test_an_address_is_given_where_a_login_is_safe(servers: str, security: str, *, taken: bool) -> None:
    assert (Address(servers, security).fault() is None) is taken


def test_tenants_are_told_the_services_address_unless_another_is_set() -> None:
    services = Settings(kafka_bootstrap="127.0.0.1:1", kafka_security="SASL_PLAINTEXT")
    apart = services.model_copy(
        update={"kafka_tenant_bootstrap": "k.example.com:2", "kafka_tenant_security": "SASL_SSL"}
    )

    assert Address.of(services) == Address("127.0.0.1:1", "SASL_PLAINTEXT")
    assert Address.of(apart) == Address("k.example.com:2", "SASL_SSL")


def test_every_example_names_user_password_and_group() -> None:
    made = clients(Address("k.example.com:2", "SASL_SSL"), "acme", "t.acme.1", "secret")

    for text in (made.python, made.kcat, made.java):
        assert all(word in text for word in ("k.example.com:2", "SASL_SSL", "t.acme.1", "secret", "t.acme.desk"))
