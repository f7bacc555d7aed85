"""The commands that look at a running installation: tail shows every record, doctor finds what is wrong."""

import io
import json
import re
from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import Producer

from pulsestream.commands import tail as tail_module
from pulsestream.commands.doctor import Finding, examine, report
from pulsestream.commands.tail import tail
from pulsestream.core import kafka
from pulsestream.core.errors import OutageError, UsageError
from pulsestream.core.kafka import Admin, TopicSpec, producer_config
from pulsestream.core.settings import Settings
from schemas.codec import codec
from schemas.records import Tick
from tests.support.sinking import bar, trade

SettingsFor = Callable[..., Settings]
MakeTopics = Callable[..., list[str]]


def tick(sequence: int, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "event_id": f"simulator:BTC-USD:{sequence}",
        "exchange": "simulator",
        "product": "BTC-USD",
        "sequence": sequence,
        "price": 60000.5,
        "exchange_time": 1_618_677_817_056_746,
        "received_time": 1_618_677_817_129_330,
    }
    return codec(Tick).encode(Tick(**(fields | changes)))  # type: ignore[arg-type] # the fields are a tick's


def publish(settings: Settings, topic: str, *values: bytes) -> None:
    producer = Producer(producer_config(settings, "test"))
    for value in values:
        producer.produce(topic, key=b"BTC-USD", value=value)
    assert producer.flush(15) == 0


def tailed(settings: Settings, tenant: str, limit: int, dataset: str = "ticks") -> list[dict[str, object]]:
    out = io.StringIO()
    tail(settings, tenant, dataset, limit=limit, beginning=True, out=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


# ---- tail ----


def test_tail_shows_each_record_in_order_with_readable_times(
    service_settings: SettingsFor, tenant: str, make_topics: MakeTopics
) -> None:
    settings = service_settings("admin")
    [topic] = make_topics(tenant, "ticks")
    publish(settings, topic, tick(1), tick(2), tick(3))

    lines = tailed(settings, tenant, 3)

    assert [line["sequence"] for line in lines] == [1, 2, 3]
    assert lines[0]["exchange_time"] == "2021-04-17T16:43:37.056746Z"


def test_tail_shows_trades_and_bars(service_settings: SettingsFor, tenant: str, make_topics: MakeTopics) -> None:
    settings = service_settings("admin")
    for topic, record in zip(make_topics(tenant, "trades", "bars"), (trade(7), bar(1, offset=3)), strict=True):
        publish(settings, topic, codec(type(record)).encode(record))

    [shown], [candle] = tailed(settings, tenant, 1, "trades"), tailed(settings, tenant, 1, "bars")

    assert (shown["trade_id"], shown["side"], shown["exchange_time"]) == (7, "sell", "2021-04-17T16:43:37.063746Z")
    assert (candle["period"], candle["start"]) == ("1m", "2021-04-17T16:44:00.000000Z")


def test_tail_shows_what_cannot_be_decoded_with_its_position_and_goes_on(
    service_settings: SettingsFor, tenant: str, make_topics: MakeTopics
) -> None:
    settings = service_settings("admin")
    [topic] = make_topics(tenant, "ticks")
    publish(settings, topic, b"nonsense", tick(1, exchange_time=2**62), tick(2))

    poison, timeless, good = tailed(settings, tenant, 3)

    assert poison["offset"] == 0
    assert "no Confluent wire format" in str(poison["undecodable"])
    assert timeless["exchange_time"] == 2**62
    assert good["sequence"] == 2


def test_tail_of_a_topic_that_does_not_exist_says_when_it_will(service_settings: SettingsFor, tenant: str) -> None:
    with pytest.raises(UsageError, match="made at its first subscription"):
        tailed(service_settings("admin"), tenant, 1)


# ---- doctor ----


def finding(findings: list[Finding], subject: str) -> Finding:
    return next(found for found in findings if found.subject == subject)


def test_doctor_finds_nothing_wrong_with_a_sound_installation(service_settings: SettingsFor) -> None:
    findings = examine(service_settings("admin"))

    assert {found.subject for found in findings} >= {"broker", "platform topics", "database", "migrations", "outbox"}
    assert finding(findings, "platform topics").ok
    assert finding(findings, "feed shards").ok
    assert finding(findings, "feed connections").ok
    assert finding(findings, "feed gaps").ok
    assert finding(findings, "migrations").ok
    assert finding(findings, "tenant topics").ok


def test_doctor_tells_of_dead_letters_and_calls_them_no_fault(service_settings: SettingsFor) -> None:
    settings = service_settings("admin")
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        for number, age, settled in ((1, 0, None), (2, 0, None), (3, 0, "replayed"), (4, 2, None)):
            connection.execute(
                """INSERT INTO dead_letters
                (tenant, id, reason, message, topic, partition, "offset", first_seen, replays, letter, appended_at,
                settled)
                VALUES ('acme', %s, %s, 'm', 't', 0, 0, now(), 0, '', now() - make_interval(hours => %s), %s)""",
                (str(number), "rare" if number == 1 else "often", age, settled),
            )

    found = finding(examine(settings), "dead letters")

    assert found.ok
    assert found.detail.startswith("3 open, 3 in the last hour, most of them often on t: ")


def test_doctor_names_missing_migrations_and_the_command_that_applies_them(service_settings: SettingsFor) -> None:
    settings = service_settings("admin")
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version = 4")

    found = finding(examine(settings), "migrations")

    assert not found.ok
    assert "0004_hypertables" in found.detail
    assert "pulsestream migrate" in found.advice


def test_doctor_finds_a_topic_with_another_partition_count_and_one_that_vanished(
    service_settings: SettingsFor, tenant: str
) -> None:
    settings = service_settings("admin")
    Admin(settings).create([TopicSpec(f"ps.{tenant}.ticks.v1", settings.partitions + 1)])
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant, name) VALUES (%s, 'T')", (tenant,))
        connection.execute(
            "INSERT INTO tenant_topics (tenant, dataset, status)"
            " SELECT %s, dataset, 'active' FROM unnest(ARRAY['ticks', 'stats']) AS wanted (dataset)",
            (tenant,),
        )

    found = finding(examine(settings), "tenant topics")

    assert not found.ok
    assert f"ps.{tenant}.ticks.v1 has {settings.partitions + 1} partitions" in found.detail
    assert f"ps.{tenant}.stats.v1 has vanished" in found.detail


def test_doctor_finds_a_setting_that_divides_the_feeds_otherwise_than_the_topic(service_settings: SettingsFor) -> None:
    settings = service_settings("admin")

    found = finding(examine(settings.model_copy(update={"feed_shards": settings.feed_shards + 1})), "feed shards")

    assert not found.ok
    assert f"PULSESTREAM_FEED_SHARDS={settings.feed_shards}" in found.advice


def test_doctor_finds_feeds_that_are_silent_away_or_not_there_and_gaps_that_nobody_fills(
    service_settings: SettingsFor,
) -> None:
    settings = service_settings("admin")
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant, name) VALUES ('acme', 'T')")
        connection.execute(
            "INSERT INTO subscriptions (tenant, exchange, product, datasets) VALUES ('acme', 'kraken', 'P', '{ticks}')"
        )
        connection.execute(
            "INSERT INTO feeds (key, exchange, state, at, version, appended_at) VALUES"
            " ('conn:coinbase:0', 'coinbase', 'connected', now(), 1, now()),"
            " ('conn:coinbase:1', 'coinbase', 'connected', now(), 1, now() - interval '40 seconds'),"
            " ('conn:coinbase:2', 'coinbase', 'disconnected', now(), 1, now())"
        )
        connection.execute(
            "INSERT INTO feeds (key, exchange, state, at, version, gap_kind, gap_missing, gap_opened, gap_closed)"
            " VALUES ('gap:coinbase:P:t1', 'coinbase', 'up', now(), 1, 'trade_id', 7, now() - interval '180 s', NULL),"
            " ('gap:coinbase:P:t9', 'coinbase', 'up', now(), 1, 'trade_id', 2, now(), now())"
        )

    findings = examine(settings)
    connections, gaps = finding(findings, "feed connections"), finding(findings, "feed gaps")

    assert _without_seconds(connections.detail) == (
        "kraken is subscribed to, and nobody feeds it; coinbase:1 has said nothing for … s; coinbase:2 is disconnected"
    )
    assert _without_seconds(gaps.detail) == (
        "1 open, the oldest for … s, with 7 trade ids missing;"
        " 2 trade ids of gaps closed in the last day cannot be recovered"
    )
    assert not connections.ok
    assert not gaps.ok


def _without_seconds(said: str) -> str:
    """Return a sentence without the seconds that a busy machine makes longer."""
    return re.sub(r"\d+ s\b", "… s", said)


def test_doctor_finds_control_records_that_nobody_publishes(service_settings: SettingsFor) -> None:
    settings = service_settings("admin")
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO outbox (tenant, topic, key, created_at)"
            " VALUES ('acme', 't', 'k', now() - interval '5 minutes')"
        )

    found = finding(examine(settings), "outbox")

    assert not found.ok
    assert "1 control records wait, the oldest for 300 s" in found.detail


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that nobody hears of is given up after a second."""
    for module in (kafka, tail_module):
        monkeypatch.setattr(module, "ADMIN_TIMEOUT", 1.0)


@pytest.mark.usefixtures("impatient")
def test_doctor_says_of_each_outage_what_to_do_and_still_makes_the_other_checks(service_settings: SettingsFor) -> None:
    settings = service_settings("admin", kafka_bootstrap="127.0.0.1:1")

    findings = examine(settings)
    text = report(findings)

    assert not finding(findings, "broker").ok
    assert finding(findings, "migrations").ok
    assert finding(findings, "stream lag").detail == "not looked at, because the broker cannot be used"
    assert "make up" in text
    assert text.count("NOT OK") == text.count("->")


@pytest.mark.usefixtures("impatient")
def test_an_outage_is_an_outage_error_for_tail(service_settings: SettingsFor, tenant: str) -> None:
    with pytest.raises(OutageError, match="pulsestream up"):
        tailed(service_settings("admin", kafka_bootstrap="127.0.0.1:1"), tenant, 1)
