"""Trades through kill -9 of the producer, and a backfill over the same time: every id is stored once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pulsestream.core.clock import format_rfc3339, wall_clock
from pulsestream.core.settings import Settings
from pulsestream.local.kafka import EmbeddedKafka
from pulsestream.local.roles import child_environment
from schemas.records import Feed
from tests.support.e2e import DatabaseUrl, Service, eventually
from tests.support.producing import read_feeds, read_trades, start_exchange, start_producer, subscribe

pytestmark = pytest.mark.heavy
PRODUCT = "BTC-USD"


@pytest.fixture
def services() -> Iterator[list[Service]]:
    started: list[Service] = []
    yield started
    for service in started:
        service.stop()


def backfill(settings: Settings, url: str, begin: int, end: int) -> str:
    env = child_environment(settings.model_copy(update={"exchange": "simulator", "exchange_url": url}))
    span = ("--from", format_rfc3339(begin), "--to", format_rfc3339(end))
    command = [sys.executable, "-m", "pulsestream.cli", "backfill", PRODUCT, *span, "--rate", "5"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120).stdout


def test_trades_missed_by_a_killed_producer_are_filled_and_every_id_is_stored_once(
    *,
    broker: EmbeddedKafka,
    database: DatabaseUrl,
    tenant: str,
    make_topics: Callable[..., list[str]],
    service_settings: Callable[..., Settings],
    services: list[Service],
    tmp_path: Path,
) -> None:
    make_topics(tenant, "ticks", "trades", "dlq")
    subscribe(broker, tenant, "simulator", [PRODUCT], datasets=["ticks", "trades"])
    market, url = start_exchange(tmp_path, "--synthetic", "7", "--rate", "20")
    killed = start_producer(broker, tmp_path, url, "simulator")
    services += [market, killed]
    began = wall_clock()

    def feeds() -> dict[str, Feed]:
        return read_feeds(broker, "simulator")

    def some_trades_are_written_down() -> None:
        killed.assert_alive()
        position = feeds().get(f"trades:simulator:{PRODUCT}")
        assert position is not None
        assert len(read_trades(broker, tenant)) > 40

    eventually(some_trades_are_written_down, timeout=60)
    killed.kill()
    before = {trade.trade_id for trade in read_trades(broker, tenant)}
    successor = start_producer(broker, tmp_path, url, "simulator")
    services.append(successor)

    def the_gap_is_filled() -> None:
        successor.assert_alive()
        gaps = [feed.gap for key, feed in feeds().items() if key.startswith(f"gap:simulator:{PRODUCT}:t") and feed.gap]
        assert [gap for gap in gaps if gap.cause == "killed"]
        assert all(gap.closed is not None and gap.missing == 0 for gap in gaps)

    eventually(the_gap_is_filled, timeout=60)
    live = {trade.trade_id for trade in read_trades(broker, tenant)}
    said = backfill(service_settings("producer"), url, began, wall_clock())
    assert successor.stop() == 0
    stored = {trade.trade_id for trade in read_trades(broker, tenant)}

    assert "trades sent" in said
    assert live > before
    assert stored == set(range(min(stored), max(stored) + 1))
    sink = Service(
        "sink", [sys.executable, "-m", "pulsestream.cli", "sink"], child_environment(service_settings("sink")),
        tmp_path / "sink.log",
    )  # fmt: skip
    services.append(sink)
    sink.start()

    def every_id_is_a_row() -> None:
        sink.assert_alive()
        with psycopg.connect(database.url()) as connection:
            found = connection.execute("SELECT trade_id FROM trades WHERE tenant = %s", [tenant]).fetchall()
        assert sorted(row[0] for row in found) == sorted(stored)

    eventually(every_id_is_a_row, timeout=60)
