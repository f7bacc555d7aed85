"""Rules on missing records, in a shard: from the subscription on, also while the feed is away, and after a crash."""

import json
from typing import Any

import pytest

from schemas.codec import codec
from streams.engine.rules import ActiveRule, parse_rule
from streams.engine.transitions import FEED_DOWN, QUIET_MARKET, UNSUBSCRIBED
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import make_tick

SECOND = 1_000_000
PRODUCT = ("acme", EXCHANGE, "BTC-USD")


def put_rule(world: World, **fields: Any) -> None:
    definition = {"name": "quiet", "product": "*", "condition": {"type": "no_data", "after": "60s"}} | fields
    rule = ActiveRule("acme", "quiet", 1, parse_rule(json.dumps(definition)), world.now)
    world.put_rule(rule, "quiet", 1)


def told(world: World) -> None:
    number = len(world.logs.get("ps.acme.ticks.v1", [])) + 1
    world.append("acme", [make_tick(EXCHANGE, "BTC-USD", number, 100.0, at=world.now)])


def alerts(world: World) -> list[tuple[str, str, int]]:
    return [(alert.state, alert.reason, alert.at) for alert in world.alerts("acme")]


@pytest.mark.parametrize(("connected", "reason"), [(True, QUIET_MARKET), (False, FEED_DOWN)])
def test_a_record_is_missed_at_its_exact_time_whether_the_feed_is_there_or_not(connected: bool, reason: str) -> None:  # noqa: FBT001 - a parameter of the test
    world = World()
    put_rule(world)
    told(world)
    last = world.now
    world.fold("acme")

    world.tick(60 * SECOND - 1, connected=connected)
    before = alerts(world)
    world.tick(2 * SECOND, connected=connected)
    before += alerts(world)
    world.checkpoint()

    assert before == []
    assert alerts(world) == [("firing", reason, last + 60 * SECOND)]


def test_the_next_record_ends_it() -> None:
    world = World()
    put_rule(world)
    told(world)
    world.fold("acme")
    world.tick(70 * SECOND)
    world.checkpoint()
    world.acknowledge()
    told(world)
    came = world.now

    world.fold("acme")

    assert [(state, at) for state, _, at in alerts(world)][1:] == [("resolved", came)]


def test_a_product_without_any_record_is_missed_from_its_subscription_on() -> None:
    world = World()
    put_rule(world)
    world.subscribe(*PRODUCT)
    since = world.now // 1000 * 1000

    world.tick(61 * SECOND)
    world.checkpoint()

    assert alerts(world) == [("firing", QUIET_MARKET, since + 60 * SECOND)]


def test_the_time_without_records_goes_on_while_nobody_owns_the_partition() -> None:
    world = World()
    put_rule(world)
    told(world)
    last = world.now
    world.fold("acme")
    world.checkpoint()
    world.now += 61 * SECOND
    world.crash()

    world.tick(0)
    world.checkpoint()

    assert alerts(world) == [("firing", QUIET_MARKET, last + 60 * SECOND)]


def test_a_tenants_own_ticks_are_missed_after_a_crash_too() -> None:
    world = World()
    put_rule(world, exchange="x-desk")
    tick = make_tick("x-desk", "BTC-USD", 1, 100.0, at=world.now)
    world.append_raw("acme", codec(type(tick)).encode(tick), dataset="own-ticks")
    world.fold("acme", dataset="own-ticks")
    world.checkpoint()
    world.now += 61 * SECOND
    world.crash()

    world.tick(0)
    world.checkpoint()

    assert [state for state, _, _ in alerts(world)] == ["firing"]


def test_records_that_are_not_read_yet_are_not_missed() -> None:
    world = World()
    put_rule(world)
    told(world)
    world.fold("acme")
    world.now += 50 * SECOND
    told(world)
    world.now += 30 * SECOND

    world.tick(0)
    world.checkpoint()
    assert alerts(world) == []
    world.fold("acme")
    world.tick(0)
    world.checkpoint()

    assert alerts(world) == []


def test_of_a_product_that_is_unsubscribed_nothing_is_missed() -> None:
    world = World()
    put_rule(world)
    told(world)
    world.fold("acme")
    world.unsubscribe(*PRODUCT)

    world.tick(100 * SECOND)
    world.checkpoint()

    assert alerts(world) == []


@pytest.mark.parametrize("crashed", [False, True])
def test_what_is_open_about_a_product_that_is_unsubscribed_is_closed(crashed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    world = World()
    put_rule(world)
    told(world)
    world.fold("acme")
    world.tick(61 * SECOND)
    world.checkpoint()
    world.acknowledge()
    world.checkpoint()
    world.unsubscribe(*PRODUCT)
    if crashed:
        world.crash()

    for _ in range(3):
        world.tick(SECOND)
        world.checkpoint()
        world.acknowledge()

    assert [(state, reason) for state, reason, _ in alerts(world)] == [
        ("firing", QUIET_MARKET),
        ("resolved", UNSUBSCRIBED),
    ]


def test_a_rule_that_comes_while_a_product_is_quiet_is_seen_by_the_clock() -> None:
    world = World()
    told(world)
    world.fold("acme")
    world.now += 10 * SECOND
    put_rule(world)

    world.tick(55 * SECOND)
    world.checkpoint()

    assert [state for state, _, _ in alerts(world)] == ["firing"]


def test_a_decision_that_no_checkpoint_holds_is_made_again() -> None:
    world = World()
    put_rule(world)
    told(world)
    world.fold("acme")
    world.checkpoint()
    world.tick(61 * SECOND)
    world.crash()

    assert alerts(world) == []
    world.tick(SECOND)
    world.checkpoint()

    assert [state for state, _, _ in alerts(world)] == ["firing"]
