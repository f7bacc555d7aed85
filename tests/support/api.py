"""What the API's tests share: relay and API as real processes on the session's broker, and records on its topics."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

from pulsestream.local.kafka import EmbeddedKafka
from tests.support.databases import NamedDatabase, execute
from tests.support.e2e import Installation, logs_shown

PROBLEM = "application/problem+json"
RULE = {"name": "btc-low", "product": "BTC-USD", "condition": {"type": "price", "below": 15000}}
EVENT = {"id": "fill-17", "type": "order.filled", "source": "/desk/1", "product": "BTC-USD", "data": {"size": 0.25}}


@contextmanager
def installation(
    folder: Path, broker: EmbeddedKafka, server_url: str, template: str, *names: str, **settings: object
) -> Iterator[Installation]:
    """Start these services on `broker` and a copy of the migrated `template`; every one has to end cleanly."""
    name = f"ps_api_{secrets.token_hex(6)}"
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    running = Installation(folder, broker, NamedDatabase(server_url, name))
    try:
        with logs_shown(running):
            running.start(*names, **settings)
            yield running
            codes = running.stop()
            assert set(codes.values()) <= {0}, f"not every process ended cleanly: {codes}"
    finally:
        running.stop()
        for client in running.clients:
            client.close()
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """Assert that an answer is this problem, and return its document."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    document: dict[str, object] = answer.json()
    assert document["type"] == f"urn:pulsestream:problem:{code}", document
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def store_alert(
    database: NamedDatabase,
    tenant: str,
    rule_id: str,
    state: str = "firing",
    *,
    version: int = 1,
    seq: int = 1,
    product: str = "BTC-USD",
) -> str:
    """Store an alert as the sink does, and return its id."""
    alert_id = f"{rule_id}:{version}:coinbase:{product}:{state}:{seq}"
    with psycopg.connect(database.url("ps_sink")) as connection:
        connection.execute(
            "INSERT INTO alerts (tenant, alert_id, seq, rule_id, rule_name, rule_version, exchange, product, state, at,"
            " reason, severity, labels, last_prices, appended_at) VALUES (%s, %s, %s, %s, 'low', %s, 'coinbase', %s,"
            " %s, now(), '', 'warning', '{}', '[]', now())",
            (tenant, alert_id, seq, rule_id, version, product, state),
        )
    return alert_id
