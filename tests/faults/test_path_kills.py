"""kill -9 while frames flow: what reached the ticks topic is stored and computed as if nothing had happened."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pulsestream.core.topics import FEEDS
from schemas.codec import codec
from schemas.records import Feed, Gap
from tests.support.e2e import Installation, Service, eventually, installed, logs_shown, read_topic, rows, sourced_ticks
from tests.support.evidence import Watched, assert_alerts_right, assert_rows_are, assert_statistics_right
from tests.support.oracle import SECOND, frame_ticks, read_frames

pytestmark = pytest.mark.heavy
SPEED = 3
"""Market time runs faster than the event clock, so that the clock overtakes no record which is still on its way."""
SECONDS = 30.0
"""How long the recording plays."""
PRODUCER_KILLS = (4.0, 15.0)
"""From when on each kill of the producer may come: its shards are taken over before the next, and before the end."""
LEDGER_BEHIND = 10.0
"""Seconds by which a killed producer's ledger may be behind what it had published: one, on a machine that is idle."""
SCHEDULING = SECOND
"""Microseconds by which a frame's sending and its receipt may differ on a busy machine."""


@dataclass(frozen=True, slots=True)
class Kill:
    """When to end which process, in seconds from the first frame."""

    at: float
    victim: str


def kills(seed: int) -> list[Kill]:
    dice = random.Random(seed)
    planned = [Kill(dice.uniform(2, SECONDS - 8), victim) for victim in ["stream"] * 2 + ["sink"] * 3]
    planned += [Kill(dice.uniform(begin, begin + 4), "producer") for begin in PRODUCER_KILLS]
    return sorted(planned, key=lambda kill: kill.at)


@pytest.fixture
def installation(
    tmp_path_factory: pytest.TempPathFactory, database_server: str, migrated_template: str
) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("kills"), database_server, migrated_template) as path:
        path.start("relay", "api", "stream", "sink")
        yield path


def test_whatever_is_killed_rows_statistics_and_alerts_equal_the_oracle_over_the_ticks_topic(
    installation: Installation, tmp_path: Path
) -> None:
    frames, sent = tmp_path / "market.frames", tmp_path / "sent.frames"
    installation.record_market(frames, seed=23, seconds=SECONDS * SPEED, rate=2.5)
    watched = _tenants(installation, frames)
    expected = [tick for tick in frame_ticks(frames, "simulator") if tick.product in watched[0].products]
    installation.serve_exchange(frames, speed=SPEED, sent=sent)
    installation.start("producer", exchange="simulator")

    with logs_shown(installation):
        producer = installation["producer"]
        _kill(installation, kills(seed=5))
        last = expected[-1].event_id
        eventually(lambda: _assert_arrived(installation, watched, last), timeout=60)
        for one in watched:
            records = sourced_ticks(installation.admin, one.slug)
            eventually(lambda: assert_rows_are(installation, one, [record.record for record in records]))  # noqa: B023 - called at once
            assert_statistics_right(installation, one)
            assert assert_alerts_right(installation, one)
        assert installation.stop("producer", "exchange") == {"producer": 0, "exchange": 0}
        gaps = _gaps(installation)
        received = [record.record.received_time for record in sourced_ticks(installation.admin, watched[0].slug)]
        _assert_one_gap_a_kill(gaps, producer.kills, received)
        eventually(lambda: _assert_ledger_stored(installation, gaps))
        for one in watched:
            _assert_missing_lie_in_gaps(installation, one, frames, sent, gaps)


def _tenants(installation: Installation, frames: Path) -> list[Watched]:
    prices = {product: _middle(frames, product) for product in ("BTC-USD", "ETH-USD", "SOL-USD")}
    first = Watched(installation.register("one"), ("BTC-USD", "ETH-USD", "SOL-USD"))
    second = Watched(installation.register("two"), ("ETH-USD",))
    for one in (first, second):
        one.tenant.subscribe("simulator", one.products)
    with installation.rules_loaded(5):
        for product, price in prices.items():
            first.add_rule(_rule(f"above-{product}", product, {"above": price}))
        first.add_rule(_rule("held", "BTC-USD", {"below": prices["BTC-USD"]}, **{"for": "2s"}))
        second.add_rule(_rule("kept", "*", {"below": prices["ETH-USD"]}, keep_firing_for="2s", cooldown="3s"))
    for one in (first, second):
        installation.wait_for_topics(one.tenant)
    return [first, second]


def _rule(name: str, product: str, condition: dict[str, Any], **times: str) -> dict[str, Any]:
    return {"name": name, "product": product, "condition": {"type": "price", **condition}, **times}


def _middle(frames: Path, product: str) -> float:
    prices = sorted(tick.price for tick in frame_ticks(frames) if tick.product == product)
    return prices[len(prices) // 2]


def _kill(installation: Installation, plan: Sequence[Kill]) -> None:
    """End processes when their time has come; each starts again at once, as under a supervisor."""
    begun = time.monotonic()
    for kill in plan:
        while time.monotonic() < begun + kill.at:
            time.sleep(0.01)  # the moment itself is the condition
        victim: Service = installation[kill.victim]
        victim.kill()
        victim.start()


def _assert_arrived(installation: Installation, watched: Sequence[Watched], last: str) -> None:
    for service in ("producer", "exchange", "stream", "sink"):
        installation[service].assert_alive()
    found = {record.record.event_id for record in sourced_ticks(installation.admin, watched[0].slug)}
    assert last in found, f"{last} is not on the topic, {len(found)} ticks are"


# ---- the ledger ----


def _gaps(installation: Installation) -> dict[str, Gap]:
    """Return the recorded intervals by key, as the topic's newest records say."""
    newest: dict[str, Feed | None] = {}
    for arrived in read_topic(installation.admin, FEEDS):
        key = (arrived.key or b"").decode()
        newest[key] = None if arrived.value is None else codec(Feed).decode(arrived.value)
    return {key: feed.gap for key, feed in newest.items() if feed is not None and feed.gap is not None}


def _assert_one_gap_a_kill(gaps: dict[str, Gap], moments: Sequence[float], received: Sequence[int]) -> None:
    """Assert that each kill has its interval, which begins shortly before the last tick published, and is closed."""
    intervals = (gap for gap in gaps.values() if (gap.kind, gap.cause) == ("time", "killed"))
    killed = sorted(intervals, key=lambda gap: gap.opened)
    assert len(killed) == len(moments)
    for gap, moment in zip(killed, moments, strict=True):
        published = max(at for at in received if at / SECOND <= moment) / SECOND
        assert published - LEDGER_BEHIND <= gap.opened / SECOND <= moment <= (gap.closed or 0) / SECOND


def _assert_ledger_stored(installation: Installation, gaps: dict[str, Gap]) -> None:
    found = rows(
        installation.database,
        "SELECT key, gap_cause,"
        " (extract(epoch FROM gap_opened) * 1000000)::bigint AS opened,"
        " (extract(epoch FROM gap_closed) * 1000000)::bigint AS closed"
        " FROM feeds WHERE gap_kind IS NOT NULL",
    )
    stored = {row["key"]: (row["gap_cause"], row["opened"], row["closed"]) for row in found}
    assert stored == {key: (gap.cause, gap.opened, gap.closed) for key, gap in gaps.items()}


def _assert_missing_lie_in_gaps(
    installation: Installation, watched: Watched, frames: Path, sent: Path, gaps: dict[str, Gap]
) -> None:
    """Assert that each frame which is not on the topic was sent, or was due, within a recorded interval."""
    there = {record.record.event_id for record in sourced_ticks(installation.admin, watched.slug)}
    moments = _moments(frames, sent)
    missing = [
        tick.event_id
        for tick in frame_ticks(frames, "simulator")
        if tick.product in watched.products and tick.event_id not in there
    ]
    intervals = [gap for gap in gaps.values() if gap.kind == "time"]
    outside = [name for name in missing if not any(_within(moments[name], gap) for gap in intervals)]
    assert not outside, f"{len(outside)} of {len(missing)} missing ticks lie in no gap: {outside[:5]}, gaps {gaps}"


def _moments(frames: Path, sent: Path) -> dict[str, int]:
    """Return when each tick was first sent; for one that nobody was there to get, when it was due. Wall time."""
    recorded = {tick.event_id: tick.received_time for tick in frame_ticks(frames, "simulator")}
    known: dict[str, int] = {}
    for at, frame in read_frames(sent):
        if frame["type"] == "ticker":
            known.setdefault(f"simulator:{frame['product_id']}:{frame['sequence']}", at)
    begun = min(at - recorded[name] // SPEED for name, at in known.items() if name in recorded)
    return {name: known.get(name, received // SPEED + begun) for name, received in recorded.items()}


def _within(moment: int, gap: Gap) -> bool:
    return gap.opened - SCHEDULING <= moment and (gap.closed is None or moment <= gap.closed + SCHEDULING)
