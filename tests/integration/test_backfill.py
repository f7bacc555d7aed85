"""`pulsestream backfill` as a process, on a real broker and against a real HTTP server that speaks Coinbase's REST."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pulsestream.core import topics
from pulsestream.core.clock import MICROS_PER_SECOND, format_rfc3339
from pulsestream.core.settings import environment
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Bar, Trade
from tests.support.producing import read_feeds, read_topic, subscribe
from tests.support.rest_exchange import History, RestExchange

STARTED = 1_600_000_000 * MICROS_PER_SECOND
EXCHANGE = "coinbase"
FIRST, LAST = 2_001, 7_500
FROM, TO = format_rfc3339(STARTED + FIRST * MICROS_PER_SECOND), format_rfc3339(STARTED + (LAST + 1) * MICROS_PER_SECOND)
SPAN = ("--from", FROM, "--to", TO)


@dataclass
class World:
    """A broker with one subscribed tenant, an exchange's history, and the command."""

    broker: EmbeddedKafka
    exchange: RestExchange
    tenant: str
    product: str
    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        values = {
            "kafka_bootstrap": self.broker.bootstrap,
            "kafka_username": "ps-producer",
            "kafka_password": self.broker.password("ps-producer"),
            "exchange": EXCHANGE,
            "exchange_rest_url": self.exchange.url,
        }
        command = [sys.executable, "-m", "pulsestream.cli", "backfill", self.product, "--rate", "1000", *arguments]
        return subprocess.Popen(
            command, env=environment(values), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def trades(self) -> list[Trade]:
        found = read_topic(self.broker, topics.tenant_topic(self.tenant, "trades"))
        assert all(("ps-backfill", b"1") in (message.headers() or []) for message in found)
        return [codec(Trade).decode(message.value()) for message in found]

    def until_asked(self, times: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.exchange.asked) < times:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def exchange() -> Iterator[RestExchange]:
    with RestExchange({}) as served:
        yield served


@pytest.fixture
def world(
    broker: EmbeddedKafka, exchange: RestExchange, tenant: str, make_topics: Callable[..., list[str]], tmp_path: Path
) -> World:
    product = f"{tenant[-6:].upper()}-USD"
    exchange.histories[product] = History(newest=9_000, started=STARTED)
    make_topics(tenant, "bars", "trades")
    subscribe(broker, tenant, EXCHANGE, [product], datasets=["ticks", "trades"])
    return World(broker, exchange, tenant, product, tmp_path)


def test_a_killed_backfill_continues_and_every_trade_is_there(world: World) -> None:
    world.exchange.delay = 0.05
    process = world.start(*SPAN)
    world.until_asked(10)
    process.kill()
    process.communicate()
    before, asked = world.trades(), len(world.exchange.asked)

    code, said = world.run(*SPAN)

    ids = Counter(trade.trade_id for trade in world.trades())
    assert code == 0, said
    assert 0 < len(before) < LAST - FIRST
    assert "continues at trade" in said
    assert set(ids) == set(range(FIRST, LAST + 1))
    assert sum(ids.values()) <= LAST - FIRST + 1 + 1_000, "more than the page on its way was sent twice"
    assert len(world.exchange.asked) - asked <= 6, "a continued backfill looked for its beginning again"


def test_a_finished_backfill_sends_nothing_again_unless_it_is_asked_to(world: World) -> None:
    span = ("--from", FROM, "--to", format_rfc3339(STARTED + (FIRST + 50) * MICROS_PER_SECOND))

    first = world.run(*span)
    again = world.run(*span)
    sent = len(world.trades())
    restarted = world.run(*span, "--restart")

    records = [feed for key, feed in read_feeds(world.broker, EXCHANGE).items() if f":{world.product}:" in key]
    assert (first[0], again[0], restarted[0]) == (0, 0, 0), first[1] + again[1] + restarted[1]
    assert "50 trades sent" in first[1]
    assert "finished already" in again[1]
    assert sent == 50
    assert Counter(trade.trade_id for trade in world.trades()) == dict.fromkeys(range(FIRST, FIRST + 50), 2)
    assert [(feed.gap is not None and feed.gap.kind, feed.gap is not None and feed.gap.closed is not None)
            for feed in records] == [("backfill", True)]  # fmt: skip


def test_candles_go_to_the_bars(world: World) -> None:
    code, said = world.run(*SPAN, "--no-trades", "--candles", "1m", "--candles", "1h")

    found = read_topic(world.broker, topics.tenant_topic(world.tenant, "bars"))
    bars = [codec(Bar).decode(message.value()) for message in found]
    begin, end = STARTED + FIRST * MICROS_PER_SECOND, STARTED + (LAST + 1) * MICROS_PER_SECOND
    minute, hour = 60 * MICROS_PER_SECOND, 3_600 * MICROS_PER_SECOND
    assert code == 0, said
    assert sorted(bar.start for bar in bars if bar.period == "1m") == list(
        range(-(-begin // minute) * minute, end // minute * minute, minute)
    )
    assert sorted(bar.start for bar in bars if bar.period == "1h") == list(
        range(-(-begin // hour) * hour, end // hour * hour, hour)
    )
    assert all(bar.complete and bar.origin == "exchange" for bar in bars)
    assert len({bar.event_id for bar in bars}) == len(bars)
    assert world.trades() == []


def test_whatever_the_exchange_does_the_trades_arrive(world: World) -> None:
    world.exchange.misbehave([None, "500", "429:0", "truncated", "garbage", None, "cut", "reset", None, "503"])
    world.exchange.histories[world.product].absent = {2_500, 2_501, 6_000}

    code, said = world.run(*SPAN)

    assert code == 0, said
    assert "does not have 3 of the ids" in said
    assert sorted(trade.trade_id for trade in world.trades()) == [
        number for number in range(FIRST, LAST + 1) if number not in {2_500, 2_501, 6_000}
    ]


def test_ctrl_c_ends_it_between_two_pages(world: World) -> None:
    world.exchange.delay = 0.1
    process = world.start(*SPAN)
    world.until_asked(8)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert "run the same command again" in said
    assert "Traceback" not in said


def test_what_cannot_be_is_one_line_and_code_2(world: World) -> None:
    code, said = world.run(*SPAN, "--tenant", "nobody")

    assert (code, len(said.strip().splitlines())) == (2, 1), said
    assert "tenant nobody is not subscribed" in said


def test_an_unknown_product_is_said(world: World) -> None:
    del world.exchange.histories[world.product]

    code, said = world.run(*SPAN)

    assert code == 2, said
    assert f"coinbase does not know the product {world.product}" in said
