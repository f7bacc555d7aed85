"""The outbox on its way to the control topics, with a real broker and database."""

import json
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from api.ingestion.idempotency import WINDOW_HOURS
from api.outbox_publisher import BATCH, OutboxPublisher
from api.relay import prune_dead_letters, prune_idempotency_keys
from api.relay_database import connect
from pulsestream.core.clock import to_micros
from pulsestream.core.settings import Settings
from pulsestream.core.topics import RULES, SUBSCRIPTIONS
from pulsestream.local import process
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Rule
from tests.support.api import RULE, installation
from tests.support.databases import NamedDatabase
from tests.support.e2e import Arrived, eventually, read_topic

SettingsOf = Callable[..., Settings]


@pytest.fixture
def admin(database: NamedDatabase, tenant: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant, name) VALUES (%s, %s)", (tenant, tenant))
        yield connection


@contextmanager
def publishing(settings: Settings) -> Iterator[OutboxPublisher]:
    with connect(settings, "test") as connection:
        yield OutboxPublisher(settings, connection, threading.Event())


def queue(admin: psycopg.Connection, tenant: str, topic: str, key: str, value: bytes | None) -> None:
    admin.execute("INSERT INTO outbox (tenant, topic, key, value) VALUES (%s, %s, %s, %s)", (tenant, topic, key, value))


def queue_rule(admin: psycopg.Connection, tenant: str, rule_id: str, version: int) -> None:
    rule = Rule(
        rule_id=rule_id,
        tenant=tenant,
        name="n",
        enabled=True,
        deleted=False,
        definition=json.dumps(RULE),
        created_at=1,
        version=version,
    )
    admin.execute(
        """INSERT INTO rules (tenant, rule_id, version, name, definition, created_by)
        VALUES (%s, %s, %s, 'n', %s, 'test')""",
        (tenant, rule_id, version, json.dumps(RULE)),
    )
    queue(admin, tenant, RULES, rule_id, codec(Rule).encode(rule))


def waiting(admin: psycopg.Connection) -> int:
    row = admin.execute("SELECT count(*) FROM outbox WHERE published_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


def effective(admin: psycopg.Connection, rule_id: str) -> list[int | None]:
    rows = admin.execute("SELECT effective_at FROM rules WHERE rule_id = %s ORDER BY version", (rule_id,)).fetchall()
    return [None if row[0] is None else to_micros(row[0]) for row in rows]


def records(settings: Settings, topic: str, key: str) -> list[Arrived]:
    return [record for record in read_topic(settings, topic) if record.key == key.encode()]


def test_what_waits_is_published_in_order_and_marked(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str
) -> None:
    settings = service_settings("relay")
    key = f"{tenant}:coinbase:BTC-USD"
    for number in range(2 * BATCH + 7):
        queue(admin, tenant, SUBSCRIPTIONS, key, b"%d" % number if number % 3 else None)

    with publishing(settings) as publisher:
        counts = [publisher.publish() for _ in range(4)]

    assert sum(counts) == 2 * BATCH + 7
    assert waiting(admin) == 0
    values = [record.value for record in records(service_settings("admin"), SUBSCRIPTIONS, key)]
    assert values == [b"%d" % number if number % 3 else None for number in range(2 * BATCH + 7)]


def test_a_rule_takes_effect_at_the_brokers_append_time(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str
) -> None:
    rule_id = secrets.token_hex(8)
    queue_rule(admin, tenant, rule_id, 1)
    queue_rule(admin, tenant, rule_id, 2)

    with publishing(service_settings("relay")) as publisher:
        assert publisher.publish() == 2

    found = records(service_settings("admin"), RULES, rule_id)
    assert effective(admin, rule_id) == [record.appended_at for record in found]


def test_after_a_crash_between_acknowledgement_and_mark_a_rule_is_not_published_twice(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str
) -> None:
    rule_id, later = secrets.token_hex(8), secrets.token_hex(8)
    queue_rule(admin, tenant, rule_id, 1)
    with publishing(service_settings("relay")) as publisher:
        publisher.publish()
    first = effective(admin, rule_id)
    admin.execute("UPDATE outbox SET published_at = NULL")
    admin.execute("UPDATE rules SET effective_at = NULL")
    queue_rule(admin, tenant, later, 1)

    with publishing(service_settings("relay")) as publisher:
        while waiting(admin):
            publisher.publish()

    assert effective(admin, rule_id) == first
    assert len(records(service_settings("admin"), RULES, rule_id)) == 1
    assert len(records(service_settings("admin"), RULES, later)) == 1


def test_while_the_broker_is_away_nothing_is_marked_and_the_reason_is_told(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(admin, tenant, SUBSCRIPTIONS, f"{tenant}:a:B", None)
    away = service_settings("relay", kafka_bootstrap=f"127.0.0.1:{process.free_port()}")

    with monkeypatch.context() as quick:
        quick.setattr("api.outbox_publisher.CONFIRM_WITHIN", 0.3)
        with publishing(away) as publisher:
            assert publisher.publish() == 0
            assert "cannot be published" in str(publisher.problem())
    assert waiting(admin) == 1

    with publishing(service_settings("relay")) as publisher:
        assert publisher.publish() == 1
        assert publisher.problem() is None


def test_published_rows_older_than_a_day_are_pruned(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str
) -> None:
    for age in ("25 hours", "23 hours"):
        admin.execute(
            """INSERT INTO outbox (tenant, topic, key, created_at, published_at)
            VALUES (%s, 't', %s, now() - %s::interval, now() - %s::interval)""",
            (tenant, age, age, age),
        )
    admin.execute(
        "INSERT INTO outbox (tenant, topic, key, created_at) VALUES (%s, 't', 'w', now() - INTERVAL '2 days')",
        (tenant,),
    )

    with publishing(service_settings("relay")) as publisher:
        assert publisher.prune() == 1

    assert [row[0] for row in admin.execute("SELECT key FROM outbox ORDER BY id").fetchall()] == ["23 hours", "w"]


def test_dead_letters_older_than_their_days_are_pruned_whatever_became_of_them(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str
) -> None:
    for age, settled in ((29, None), (31, None), (31, "replayed")):
        admin.execute(
            """INSERT INTO dead_letters
            (tenant, id, reason, message, topic, partition, "offset", first_seen, replays, letter, appended_at, settled)
            VALUES (%s, %s, 'r', 'm', 't', 0, 0, now(), 0, '', now() - make_interval(days => %s), %s)""",
            (tenant, f"{age} {settled}", age, settled),
        )

    with connect(service_settings("relay"), "test") as connection:
        assert prune_dead_letters(connection, 30) == 2

    assert [row[0] for row in admin.execute("SELECT id FROM dead_letters").fetchall()] == ["29 None"]


def test_idempotency_keys_that_are_free_again_are_pruned(
    service_settings: SettingsOf, admin: psycopg.Connection, tenant: str
) -> None:
    admin.execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'x') ON CONFLICT DO NOTHING", (tenant,))
    for hours in (WINDOW_HOURS - 1, WINDOW_HOURS + 1):
        admin.execute(
            """INSERT INTO idempotency_keys (tenant, key, fingerprint, used_at)
            VALUES (%s, %s, '', now() - make_interval(hours => %s))""",
            (tenant, str(hours), hours),
        )

    with connect(service_settings("relay"), "test") as connection:
        assert prune_idempotency_keys(connection) == 1

    assert [row[0] for row in admin.execute("SELECT key FROM idempotency_keys").fetchall()] == [str(WINDOW_HOURS - 1)]


def test_a_second_relay_waits_ready_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, broker: EmbeddedKafka, database_server: str, migrated_template: str
) -> None:
    with installation(tmp_path, broker, database_server, migrated_template, "relay", "api") as running:
        first = running.services.pop("relay")
        running.start("relay")
        tenant = running.register("handover")
        assert first.metric("pulsestream_outbox_pending") == 0
        assert first.running is not None
        first.running.send_signal(signal.SIGSTOP)

        rule_id = tenant.create_rule(RULE)["rule_id"]

        def published() -> None:
            assert tenant.call("GET", f"/api/v1/rules/{rule_id}")["effective_at"] is not None

        with pytest.raises(AssertionError):
            eventually(published, timeout=3)
        first.kill()
        eventually(published)
        assert len(records(running.admin, RULES, rule_id)) == 1
