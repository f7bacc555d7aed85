"""What a tenant's client needs to know: where the broker is, what may be done there, settings ready to use. Pure."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from api.kafka_credentials.login import group_prefix
from api.kafka_credentials.rights import WRITABLE
from api.topics import TopicStatus
from pulsestream.core.settings import Settings
from pulsestream.core.topics import tenant_topic

MECHANISM: Final = "SCRAM-SHA-256"
HIDDEN: Final = "<password>"
"""Stands in for a password that nobody has but its tenant."""
_SHOWN: Final = ("alerts", "events")
"""Datasets that the examples read: they are there from the first credential on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where tenants' own clients reach the broker, and how it speaks there."""

    bootstrap_servers: str
    security_protocol: str

    @staticmethod
    def of(settings: Settings) -> "Address":
        """Return the address that the settings give tenants."""
        return Address(
            settings.kafka_tenant_bootstrap or settings.kafka_bootstrap,
            settings.kafka_tenant_security or settings.kafka_security,
        )

    def fault(self) -> str | None:
        """Return why nobody is to log in there, None where they may: passwords need SASL, and other machines TLS."""
        if not self.security_protocol.startswith("SASL"):
            return f"its security is {self.security_protocol}, which knows no users"
        if self.security_protocol != "SASL_SSL" and not all(map(_is_local, self.bootstrap_servers.split(","))):
            return f"{self.bootstrap_servers} is not on this machine, and {self.security_protocol} hides no records"
        return None


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the tenant, and what its users may do with it."""

    topic: str
    dataset: str
    status: str
    detail: str | None
    may: Sequence[str]

    @staticmethod
    def of(status: TopicStatus) -> "Topic":
        """Return what may be done with a topic that the tenant asked for."""
        may = ("read", "write") if status.dataset in WRITABLE else ("read",)
        return Topic(status.topic, status.dataset, status.status, status.detail, may)


@dataclass(frozen=True, slots=True)
class Clients:
    """A program, a command line and a file that read two topics of the tenant."""

    python: str
    kcat: str
    java: str


def clients(address: Address, tenant: str, user: str, password: str) -> Clients:
    """Return them for a user; its group is `t.{tenant}.desk`."""
    topics = [tenant_topic(tenant, dataset) for dataset in _SHOWN]
    settings = {
        "bootstrap.servers": address.bootstrap_servers,
        "security.protocol": address.security_protocol,
        "sasl.mechanism": MECHANISM,
        "sasl.username": user,
        "sasl.password": password,
        "group.id": f"{group_prefix(tenant)}desk",
        "auto.offset.reset": "earliest",
    }
    return Clients(_python(settings, topics), _kcat(settings, topics), _java(settings))


def _python(settings: dict[str, str], topics: Sequence[str]) -> str:
    lines = "".join(f'        "{name}": "{value}",\n' for name, value in settings.items())
    return f"""\
from confluent_kafka import Consumer

consumer = Consumer(
    {{
{lines}    }}
)
consumer.subscribe({str(list(topics)).replace("'", '"')})
while True:
    message = consumer.poll(1)
    if message is not None:
        print(message.error() or (message.topic(), message.offset(), message.key()), flush=True)
"""


def _kcat(settings: dict[str, str], topics: Sequence[str]) -> str:
    options = dict(settings)
    group = options.pop("group.id")
    given = " ".join(f"-X '{name}={value}'" for name, value in options.items())
    return f"kcat {given} -G {group} -f '%t %o %k\\n' {' '.join(topics)}\n"


def _java(settings: dict[str, str]) -> str:
    options = dict(settings)
    user, password = options.pop("sasl.username"), options.pop("sasl.password")
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    options["sasl.jaas.config"] = f'{module} username="{user}" password="{password}";'
    return "".join(f"{name}={value}\n" for name, value in options.items())


def _is_local(server: str) -> bool:
    host = server.strip().rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
