"""Ticks and trades of the same products: whatever order they are read in, whatever is killed, the oracle's outputs."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulsestream.core.topics import SUBSCRIPTIONS
from pulsestream.local.kafka import EmbeddedKafka
from schemas.codec import codec
from schemas.records import Stat, Subscription, Tick, Trade
from tests.support.accounts import assert_every_offset_accounted_for, assert_true, truth_of
from tests.support.e2e import Service, eventually, read_topic
from tests.support.oracle import (
    WINDOWS,
    assert_one_content_each,
    assert_stats_equal,
    by_key,
    final_stats,
    newest,
    passing_stats,
)
from tests.support.rounds import Rounds
from tests.support.streaming import Feeding, Streams, market, streams_on, with_trades

PRODUCTS = tuple(f"P{number}-USD" for number in range(6))
RULES: dict[str, dict[str, Any]] = {
    "level": {"condition": {"type": "price", "above": 102, "clear": 101}, "for": "2s"},
    "edge": {"condition": {"type": "price", "crosses": 101.6}, "keep_firing_for": "1s", "cooldown": "3s"},
    "change": {"condition": {"type": "change", "window": "1m", "above_pct": 0.5, "clear_pct": 0.2}},
    "volatility": {"condition": {"type": "volatility", "window": "1m", "above": 4}, "for": "1500ms"},
    "volume": {"condition": {"type": "volume", "window": "1m", "above_ratio": 1.01, "baseline": "5m"}},
    "odd": {"condition": {"type": "zscore", "window": "1m", "above": 2}},
    "wide": {"condition": {"type": "spread", "above_bps": 98, "clear_bps": 97}},
}


@pytest.fixture
def streams(broker: EmbeddedKafka, tmp_path: Path, tenant: str) -> Iterator[Streams]:
    with streams_on(broker, tmp_path, tenant) as made:
        made.prepare()
        made.put_feed(made.exchange, "disconnected")  # the clock stands still: records alone decide
        yield made


def put_rules(streams: Streams) -> None:
    for name, rule in RULES.items():
        streams.put_rule(f"{streams.tenant}-{name}", {"name": name, "product": "*", **rule})


def test_ticks_read_whole_before_their_trades_and_the_reverse_leave_the_same(streams: Streams) -> None:
    reverse = f"{streams.tenant}r"
    streams.prepare(tenant=reverse)
    for tenant in (streams.tenant, reverse):
        streams.subscribe(*PRODUCTS, datasets=["ticks", "trades"], tenant=tenant)
    mixed = list(with_trades(market(51, 3_000, exchange=streams.exchange, products=6), seed=51))
    ticks, trades = ([r for r in mixed if isinstance(r, kind)] for kind in (Tick, Trade))
    worker = streams.start()

    streams.send(ticks)
    streams.send(trades, tenant=reverse, dataset="trades")
    wait_handled(worker, len(ticks) + len(trades))
    streams.send(trades, dataset="trades")
    streams.send(ticks, tenant=reverse)

    for tenant in (streams.tenant, reverse):
        truth = truth_of(streams, basis="trades", tenant=tenant)
        assert {stat.basis for stat in truth.stats.values()} == {"trades", "quotes"}
        eventually(lambda t=tenant, known=truth: assert_true(streams, known, t), timeout=60, every=1.0)  # type: ignore[misc] # bound at once
    assert contents(streams.stats()) == contents(streams.stats(reverse))


def contents(stats: list[Stat]) -> dict[str, dict[str, Any]]:
    """Return final statistics without what names their topic or counts their revisions."""
    return {
        name: {field: getattr(stat, field) for field in stat.__struct_fields__ if field not in {"as_of", "revision"}}
        for name, stat in newest(stats).items()
    }


@pytest.mark.timeout(1800)  # many rounds with --thorough
def test_workers_killed_under_rules_of_every_kind_leave_the_oracles_outputs(streams: Streams, rounds: Rounds) -> None:
    chance = random.Random(52)
    streams.subscribe(*PRODUCTS, datasets=["ticks", "trades"])
    put_rules(streams)
    mixed = with_trades(market(52, 80_000, exchange=streams.exchange, products=6, step=20_000), seed=52)
    worker = streams.start()

    with Feeding(streams, mixed, per_second=rounds(800, 250)) as feeding:
        for _ in range(rounds(1, 20)):
            wait_handled(worker, chance.randrange(200, rounds(4_000, 1_000)))
            worker.kill()
            worker = streams.launch()
        wait_handled(worker, 3_000)  # a score of a minute's returns takes a minute of the market's time
        feeding.enough()

    truth = truth_of(streams, basis="trades")
    assert {alert.rule_name for alert in truth.alerts} >= {"level", "edge", "change", "volatility", "odd"}
    eventually(lambda: assert_true(streams, truth), timeout=90, every=1.0)
    eventually(lambda: assert_every_offset_accounted_for(streams, "ticks", "trades"))
    assert worker.stop() == 0


@pytest.mark.heavy
@pytest.mark.timeout(1800)  # many rounds with --thorough
def test_prices_that_moved_to_trades_under_load_are_found_there_again_after_crashes(
    streams: Streams, rounds: Rounds
) -> None:
    chance = random.Random(53)
    mixed = list(with_trades(market(53, 40_000, exchange=streams.exchange, products=6), seed=53))
    before = [record for record in mixed[:4_000] if isinstance(record, Tick)]
    worker = streams.start()

    streams.send(before[:1_000])
    with Feeding(streams, before[1_000:], per_second=800):
        wait_handled(worker, 1_200)
    streams.subscribe(*PRODUCTS, datasets=["ticks", "trades"])
    with Feeding(streams, mixed[4_000:], per_second=800) as feeding:
        for _ in range(rounds(1, 5)):
            worker.kill()
            worker = streams.launch()
            wait_handled(worker, chance.randrange(1_000, 2_000))
        feeding.enough()

    expected, allowed = moved(streams)
    assert {stat.basis for stat in expected.values()} == {"ticks", "trades", "quotes"}

    def complete() -> None:
        found = streams.stats()
        assert_one_content_each(found)
        assert_stats_equal(found, expected, allowed=allowed)

    eventually(complete, timeout=60, every=1.0)


def moved(streams: Streams) -> tuple[dict[str, Stat], dict[str, Stat]]:
    """Return the oracle's statistics where prices moved from ticks to trades, and those that may be there besides.

    On the ticks nothing more is said of prices after the move; trades came after it only.
    """
    at = max(one.appended_at for one in read_topic(streams.admin, SUBSCRIPTIONS) if _is_of(streams, one.value))
    ticks, trades = streams.ticks(), streams.trades()
    expected: dict[str, Stat] = {}
    allowed: dict[str, Stat] = {}
    parts = [
        ([one for one in ticks if one.appended_at < at], "ticks", {"ticks"}),
        (ticks, "trades", {"quotes"}),
        (trades, "trades", {"trades"}),
    ]
    for records, basis, wanted in parts:
        for own in by_key(records).values():
            found = final_stats(own, list(WINDOWS), basis=basis, ended=False)
            expected |= {name: stat for name, stat in found.items() if stat.basis in wanted}
            passing = passing_stats(own, list(WINDOWS), basis=basis)
            allowed |= {name: stat for name, stat in passing.items() if stat.basis in wanted}
    return expected, allowed


def _is_of(streams: Streams, value: bytes | None) -> bool:
    return value is not None and codec(Subscription).decode(value).tenant == streams.tenant


def wait_handled(worker: Service, records: int) -> None:
    """Wait until a worker has folded or skipped so many records."""
    worker.wait_ready()

    def handled() -> None:
        worker.assert_alive()
        names = ("pulsestream_stream_records_total", "pulsestream_stream_skipped_total")
        assert sum(worker.metric(name) for name in names) >= records

    eventually(handled, timeout=60, every=0.02)
