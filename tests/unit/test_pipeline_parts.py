"""The small pure parts beside the shard: clocks, rules, parked tenants, discovery, pauses, entries."""

import json
import re

import pytest

from pulsestream.core import topics
from pulsestream.core.sharding import feed_shard
from pulsestream.core.topics import tenant_topic_pattern
from schemas.control import Change
from schemas.records import Feed, Rule
from streams import discovery
from streams.engine.rules import ActiveRule
from streams.entries import OWNER, PendingAlert, Position, alert_entry, position_entry, rule_entry, sort
from streams.errors import StateError
from streams.eventclock import SILENCE, EventClocks, FeedStates
from streams.intake import DATASETS
from streams.outbox import Outbox
from streams.parking import FIRST_RETRY, LAST_RETRY, Parking
from streams.rulebook import KEPT, RuleBook
from streams.vigil import LIMIT, Vigil
from tests.support.ticking import definition

PAIR = ("ps.acme.ticks.v1", "coinbase:0")
SHARDS = 8
SECOND = 1_000_000


def feed(state: str, exchange: str = "coinbase", version: int = 1) -> Feed:
    return Feed(exchange=exchange, state=state, at=1, version=version)


# ---- feeds and clocks ----


def test_a_feeds_time_stands_still_while_it_is_disconnected() -> None:
    feeds = FeedStates(SHARDS)
    feeds.update({"conn:coinbase:0": feed("connected")}, 100)

    feeds.update({"conn:coinbase:0": feed("disconnected", version=2)}, 150)
    stood = [feeds.running("coinbase:0", now) for now in (150, 170, 200)]
    feeds.update({"conn:coinbase:0": feed("connected", version=3)}, 200)

    assert stood == [150, 150, 150]
    assert feeds.running("coinbase:0", 230) == 180


def test_a_product_follows_the_connection_of_its_shard_and_one_that_nobody_reports_on_is_connected() -> None:
    feeds = FeedStates(SHARDS)
    shard = {product: feed_shard("kraken", product, SHARDS) for product in ("BTC-USD", "ETH-USD", "SOL-USD")}
    away, up, silent = shard.values()
    assert len({away, up, silent}) == 3
    records = {f"conn:kraken:{away}": feed("stale", "kraken"), f"conn:kraken:{up}": feed("connected", "kraken")}

    feeds.update(records | {f"gap:kraken:*{silent}:1": feed("stale", "kraken")}, 1)

    connected = {product: feeds.connected(feeds.connection("kraken", product)) for product in shard}
    assert connected == {"BTC-USD": False, "ETH-USD": True, "SOL-USD": True}
    assert feeds.connected(feeds.connection("binance", "BTC-USD"))


def test_ticks_and_trades_are_read_and_nothing_else() -> None:
    read = re.compile(tenant_topic_pattern(*DATASETS))

    assert {name for name in topics.DATASETS if read.fullmatch(topics.tenant_topic("acme", name))} == {
        "ticks",
        "own-ticks",
        "trades",
    }


def test_a_feed_that_falls_silent_counts_as_disconnected_until_it_speaks_again() -> None:
    feeds = FeedStates(SHARDS)
    feeds.update({"conn:coinbase:0": feed("connected")}, 0)

    feeds.expire(SILENCE)
    alive = feeds.connected("coinbase:0")
    feeds.expire(SILENCE + 1)
    silent = feeds.connected("coinbase:0")
    feeds.update({"conn:coinbase:0": feed("connected", version=2)}, 4 * SILENCE)

    assert (alive, silent) == (True, False)
    assert feeds.connected("coinbase:0")
    assert feeds.running("coinbase:0", 4 * SILENCE + 5) == SILENCE + 1 + 5


def test_the_same_record_seen_again_is_no_sign_of_life() -> None:
    feeds = FeedStates(SHARDS)
    feeds.update({"conn:coinbase:0": feed("connected")}, 0)

    feeds.update({"conn:coinbase:0": feed("connected"), "conn:kraken:0": feed("connected", "kraken")}, 2 * SILENCE)

    assert not feeds.connected("coinbase:0")
    assert feeds.connected("kraken:0")


def test_a_removed_feed_counts_as_connected_again() -> None:
    feeds = FeedStates(SHARDS)
    feeds.update({"conn:coinbase:0": feed("disconnected")}, 5)

    feeds.update({}, 9)

    assert feeds.connected("coinbase:0")
    assert feeds.running("coinbase:0", 10) == 6


def test_a_key_is_due_when_its_clock_has_run_on_to_the_deadline() -> None:
    clocks = EventClocks()
    clocks.heard("key", event_time=1_000, running=50)
    clocks.wait_for(PAIR, "key", 1_030)

    assert not clocks.is_due(PAIR, 79)
    assert clocks.is_due(PAIR, 80)
    assert clocks.take_due(PAIR, 85) == [("key", 1_035)]
    assert clocks.queues == []


def test_a_later_deadline_replaces_an_earlier_one() -> None:
    clocks = EventClocks()
    clocks.heard("key", event_time=1_000, running=0)
    clocks.wait_for(PAIR, "key", 1_010)
    clocks.wait_for(PAIR, "key", 1_020)

    assert clocks.take_due(PAIR, 15) == []
    assert clocks.take_due(PAIR, 20) == [("key", 1_020)]


def test_a_key_without_deadline_or_forgotten_is_never_due() -> None:
    clocks = EventClocks()
    for key in ("cleared", "forgotten"):
        clocks.heard(key, event_time=0, running=0)
        clocks.wait_for(PAIR, key, 10)

    clocks.wait_for(PAIR, "cleared", None)
    clocks.forget("forgotten")

    assert clocks.take_due(PAIR, 100) == []


# ---- rules ----


def change(version: int, at: int, *, deleted: bool = False, text: str | None = None, **fields: object) -> Change[Rule]:
    body = json.dumps({"name": "a", "product": "*", "condition": {"type": "price", "above": 1}} | fields)
    rule = Rule(
        rule_id="r",
        tenant="acme",
        name="a",
        enabled=True,
        deleted=deleted,
        definition=text or body,
        created_at=1,
        version=version,
    )
    return Change("r", rule, at)


def test_a_rule_is_in_force_from_its_append_time() -> None:
    book = RuleBook()

    taken = book.take(change(1, 500))

    assert taken.rule is not None
    assert (taken.rule.effective_at, taken.rule.ended_at, book.in_force) == (500, None, 1)


@pytest.mark.parametrize(
    "ending",
    [change(2, 900, deleted=True), change(2, 900, enabled=False), change(2, 900, text="{"), Change("r", None, 900)],
    ids=["deleted", "disabled", "unreadable", "null"],
)
def test_a_rule_ends(ending: Change[Rule]) -> None:
    book = RuleBook()
    book.take(change(1, 500))

    taken = book.take(ending)

    assert (taken.rule, taken.version, taken.at, book.in_force) == (None, 2, 900, 0)


def test_the_same_version_told_again_keeps_its_first_time() -> None:
    book = RuleBook()
    first = book.take(change(1, 500))

    assert book.take(change(1, 700)) is first
    assert book.changes == [first]


def test_earlier_versions_are_kept_for_a_day() -> None:
    book = RuleBook()
    for version, at in ((1, 500), (2, 600), (3, 700)):
        book.take(change(version, at))
    assert [kept.version for kept in book.changes] == [1, 2, 3]

    book.take(change(4, 650 + KEPT))

    assert [kept.version for kept in book.changes] == [2, 3, 4]


# ---- outbox ----


def pending(key: str) -> PendingAlert:
    return PendingAlert(key, b"BTC-USD", b"value", [("ce_id", b"1")])


def test_an_alert_is_ready_once_it_is_in_a_checkpoint_and_sent_once() -> None:
    outbox = Outbox({})
    number = outbox.add(pending("acme/c/P"))
    fresh = outbox.take_ready(())

    outbox.checkpointed([number])

    assert fresh == []
    assert outbox.take_ready(()) == [(number, pending("acme/c/P"))]
    assert outbox.take_ready(()) == []


def test_a_key_is_held_until_the_broker_has_its_alerts() -> None:
    outbox = Outbox({})
    number = outbox.add(pending("acme/c/P"))
    fresh = [outbox.holds("acme/c/P"), outbox.holds("acme/c/Q")]
    outbox.checkpointed([number])
    outbox.take_ready(())
    sent = outbox.holds("acme/c/P")

    assert outbox.acknowledged(number)
    assert not outbox.acknowledged(number)
    assert (fresh, sent, outbox.holds("acme/c/P")) == ([True, False], True, False)


def test_restored_alerts_are_ready_and_numbers_go_on() -> None:
    outbox = Outbox({7: pending("acme/c/P"), 3: pending("zeta/c/P")})

    assert [number for number, _ in outbox.take_ready(())] == [3, 7]
    assert outbox.add(pending("acme/c/P")) == 8


def test_a_parked_tenants_alerts_wait_and_are_sent_again() -> None:
    outbox = Outbox({1: pending("acme/c/P"), 2: pending("acme2/c/P")})

    assert [number for number, _ in outbox.take_ready({"acme"})] == [2]
    assert [number for number, _ in outbox.take_ready(())] == [1]
    outbox.send_again("acme")
    assert [number for number, _ in outbox.take_ready(())] == [1]


# ---- entries ----


def test_entries_are_read_back_as_written() -> None:
    rule = ActiveRule("acme", "r", 2, definition({"above": 5}), 10, 20)
    alert = pending("acme/c/P")
    written = dict(
        [
            position_entry("ps.acme.ticks.v1", Position("id", 7)),
            rule_entry(rule, kept=True),
            alert_entry(4, alert),
            (OWNER, b"\x01"),
            ("acme/c/P|head", b"engine"),
        ]
    )

    restored = sort({name: value for name, value in written.items() if value is not None})

    assert restored.positions == {"ps.acme.ticks.v1": Position("id", 7)}
    assert restored.rules == [rule]
    assert restored.alerts == {4: alert}
    assert restored.engine == {"acme/c/P|head": b"engine"}


@pytest.mark.parametrize("value", [b"", b"\x02\x92\xa2id\x07", b"\x01\x92\xa2id", b"\x01\xa2id"])
def test_an_entry_that_this_version_cannot_read_stops_the_worker(value: bytes) -> None:
    with pytest.raises(StateError, match="_source/t"):
        sort({"_source/t": value})


# ---- parked tenants, discovery, pauses ----


def test_a_tenant_parked_again_and_again_is_looked_at_ever_more_seldom() -> None:
    parking, now, waits = Parking(), 0.0, []
    for _ in range(6):
        parking.park("acme", "gone", now)
        wait = next(seconds for seconds in range(1, 200) if parking.due(now + seconds))
        parking.release("acme")
        waits.append(wait)
        now += wait

    assert waits == [FIRST_RETRY, 10, 20, 40, LAST_RETRY, LAST_RETRY]


def test_a_tenant_that_was_sound_for_long_begins_anew() -> None:
    parking = Parking()
    for now in (0.0, 6.0):
        parking.park("acme", "gone", now)
        parking.release("acme")

    parking.park("acme", "gone", 1_000.0)

    assert parking.due(1_000.0 + FIRST_RETRY) == ["acme"]


def test_the_parked_tenants_are_named_with_their_reasons() -> None:
    parking = Parking()
    assert parking.problem() is None
    for number in range(7):
        parking.park(f"t{number}", "no topic", 0.0)

    parking.keep_only({"t1", "t2", "t3", "t4", "t5", "t6"})

    said = parking.problem()
    assert said is not None
    assert said.startswith("tenants parked: t1 (no topic), t2 (no topic)")
    assert said.endswith(" and 1 more")


def test_new_topics_are_looked_for_often_while_they_are_few_or_expected() -> None:
    assert discovery.pause(10, 1_000.0) == discovery.SHORTEST
    assert discovery.pause(2_000, 1_000.0) == 20.0
    assert discovery.pause(100_000, 1_000.0) == discovery.LONGEST
    assert discovery.pause(100_000, 3.0) == discovery.SHORTEST


def test_refused_topics_are_named() -> None:
    refused = discovery.refused({"ps.a.ticks.v1": 3, "ps.b.ticks.v1": 2}, 3)

    assert refused == {"ps.b.ticks.v1": 2}
    assert discovery.problem(refused, 3) == "1 topics refused, they need 3 partitions: ps.b.ticks.v1 has 2"
    assert discovery.problem({}, 3) is None


def test_a_pause_is_counted_once_and_short_gaps_are_none() -> None:
    vigil = Vigil(0)

    counts = [vigil.pauses(now) for now in (LIMIT, 2 * LIMIT + 1, 2 * LIMIT + 2, 3 * LIMIT)]

    assert counts == [0, 1, 1, 1]
    assert vigil.pauses(5 * LIMIT) == 2
