"""Tenants that log in to the broker themselves: credentials over the API, and clients with them."""

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from tests.support.e2e import Installation, Tenant, eventually

PATH = "/api/v1/kafka-credentials"
WAIT = 15.0
"""Seconds that a client waits for an answer, or for a refusal."""


@dataclass(frozen=True)
class Login:
    """A user of the broker, as a tenant has it."""

    tenant: Tenant
    id: str
    user: str
    made: Mapping[str, Any] = field(repr=False)

    @property
    def config(self) -> dict[str, Any]:
        """What each client of this login is configured with."""
        connection = self.made["connection"]
        return {
            "bootstrap.servers": connection["bootstrap_servers"],
            "security.protocol": connection["security_protocol"],
            "sasl.mechanism": connection["sasl_mechanism"],
            "sasl.username": self.user,
            "sasl.password": self.made["password"],
            "log_level": 0,
        }

    def topic(self, dataset: str) -> str:
        """Return the tenant's topic."""
        return f"ps.{self.tenant.slug}.{dataset}.v1"

    @functools.cached_property
    def admin(self) -> AdminClient:
        """An administrative client: what it was asked is given up when it goes."""
        return AdminClient(self.config)

    def producer(self, **more: Any) -> Producer:
        """Return an idempotent producer."""
        return Producer(self.config | {"enable.idempotence": True, "message.timeout.ms": 10_000} | more)

    @contextlib.contextmanager
    def consumer(self, *topics: str, group: str | None = None, **more: Any) -> Iterator[Consumer]:
        """Give a consumer of these topics from their beginning."""
        group = group or f"t.{self.tenant.slug}.{secrets.token_hex(4)}"
        client = Consumer(self.config | {"group.id": group, "auto.offset.reset": "earliest"} | more)
        try:
            client.subscribe(list(topics))
            yield client
        finally:
            client.close()

    def send(self, topic: str, value: bytes = b"?", **more: Any) -> KafkaError | None:
        """Send a record and return why the broker refuses it, None where it does not."""
        return send(self.producer(), topic, value, **more)

    def can_log_in(self) -> bool:
        """Return whether the broker takes user and password now."""
        refused: list[KafkaError] = []
        client = AdminClient(self.config | {"error_cb": refused.append})
        deadline = time.monotonic() + WAIT
        while KafkaError._AUTHENTICATION not in {error.code() for error in refused}:
            assert time.monotonic() < deadline, f"neither taken nor refused: {refused}"
            with contextlib.suppress(KafkaException):
                client.list_topics(timeout=0.3)
                return True
            client.poll(0)
        return False


def send(producer: Producer, topic: str, value: bytes = b"?", **more: Any) -> KafkaError | None:
    """Send a record and return why the broker refuses it, None where it does not."""
    told: list[KafkaError | None] = []
    producer.produce(topic, value, on_delivery=lambda error, _: told.append(error), **more)
    producer.flush(WAIT)
    assert told, f"nothing was heard of a record for {topic}"
    return told[0]


def first_of(consumer: Consumer, wanted: Callable[[Message], bool] = lambda _: True) -> Message:
    """Return the first record that is wanted; raises KafkaException for what the broker refuses."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        if wanted(message):
            return message
    raise AssertionError("no such record came")


def refusal(consumer: Consumer) -> KafkaError:
    """Return the first error that a consumer is told."""
    try:
        message = first_of(consumer)
    except KafkaException as error:
        failure: KafkaError = error.args[0]
        return failure
    raise AssertionError(f"it reads {message.topic()}")


def register(running: Installation, slug: str) -> Tenant:
    """Register a tenant under exactly this slug."""
    http = httpx.Client(base_url=f"http://127.0.0.1:{running.api_port}", timeout=30, trust_env=False)
    running.clients.append(http)
    answer = http.post("/api/v1/auth/register/tenant", json={"tenant": slug})
    assert answer.status_code == httpx.codes.CREATED, answer.text
    return Tenant(slug, answer.json()["api_key"], http)


def make(tenant: Tenant, name: str = "desk", **more: Any) -> Login:
    """Make a credential; the broker may not know it yet."""
    return login(tenant, tenant.call("POST", PATH, json={"name": name} | more))


def login(tenant: Tenant, made: Mapping[str, Any]) -> Login:
    """Return the login of a credential as the API gave it."""
    return Login(tenant, made["id"], made["username"], made)


def state(tenant: Tenant, credential_id: str) -> str:
    """Return the state of a credential."""
    shown: str = tenant.call("GET", f"{PATH}/{credential_id}")["state"]
    return shown


def await_state(tenant: Tenant, credential_id: str, wanted: str, timeout: float = 20.0) -> None:
    """Wait until a credential has this state."""

    def reached() -> None:
        assert state(tenant, credential_id) == wanted

    eventually(reached, timeout=timeout, every=0.05)


def open_login(tenant: Tenant, name: str = "desk", **more: Any) -> Login:
    """Make a credential and wait until the broker has it and the tenant's topics."""
    made = make(tenant, name, **more)

    def ready() -> None:
        shown = tenant.call("GET", f"{PATH}/{made.id}")
        topics = {topic["status"] for topic in shown["connection"]["topics"]}
        assert (shown["state"], topics) == ("active", {"active"}), shown

    eventually(ready, timeout=30, every=0.05)
    return made
