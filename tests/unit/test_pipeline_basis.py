"""Prices of a product move between its ticks and its trades as the subscription says, wherever a worker crashes."""

import random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pulsestream.core.topics import tenant_topic
from schemas.codec import codec
from schemas.control import Change
from schemas.records import Stat, Subscription, Trade
from streams.basis import Bases, BasisChange, basis_change, prices_live_on
from streams.engine.rules import ActiveRule
from streams.entries import basis_entry, sort
from streams.rulebook import KEPT
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import make_tick
from tests.support.ticking import definition
from tests.support.trading import make_trade

SECOND = 1_000_000
PRODUCT = ("acme", EXCHANGE, "BTC-USD")
KEY = f"acme/ticks/{EXCHANGE}/BTC-USD"


def subscription(*datasets: str) -> Subscription:
    return Subscription(tenant="acme", exchange=EXCHANGE, product="BTC-USD", datasets=[*datasets], since=1, version=1)


def test_prices_live_on_trades_where_a_tenant_gets_them_and_otherwise_on_ticks() -> None:
    both = basis_change(Change("k", subscription("ticks", "trades"), 5))
    ticks = basis_change(Change("k", subscription("ticks"), 6))

    assert (both, ticks) == (BasisChange(PRODUCT, 5, trades=True), BasisChange(PRODUCT, 6, trades=False))
    assert basis_change(Change("k", None, 7)) is None
    assert [prices_live_on(dataset, both) for dataset in ("ticks", "trades", "own-ticks")] == [False, True, True]
    assert [prices_live_on(dataset, ticks) for dataset in ("ticks", "trades", "own-ticks")] == [True, False, True]


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=8), st.integers(0, 60))
def test_the_last_change_at_a_time_or_before_it_is_in_force(said: list[tuple[int, bool]], at: int) -> None:
    said.sort(key=lambda pair: pair[0])
    bases = Bases()
    for appended_at, trades in said:
        bases.learn(BasisChange(PRODUCT, appended_at, trades=trades))
    bases = Bases.restored(sort(dict([basis_entry(PRODUCT, bases.of(PRODUCT))])).bases)

    before = [trades for appended_at, trades in said if appended_at <= at]
    assert bases.in_force(PRODUCT, at).trades is (before[-1] if before else True)


def test_what_changed_more_than_a_day_before_the_newest_is_forgotten() -> None:
    bases = Bases()
    for at, trades in ((1, False), (2, True), (3, False)):
        bases.learn(BasisChange(PRODUCT, at, trades=trades))

    bases.learn(BasisChange(PRODUCT, 3 + KEPT, trades=True))

    assert [change.at for change in bases.of(PRODUCT)] == [2, 3, 3 + KEPT]


def told(world: World, prices: list[float]) -> None:
    for price in prices:
        number = len(world.logs.get(tenant_topic("acme", "ticks"), [])) + 1
        world.append("acme", [make_tick(EXCHANGE, "BTC-USD", number, price, at=world.now)])
        world.now += SECOND // 10


def test_what_is_open_on_ticks_is_closed_by_the_first_record_after_a_change() -> None:
    world = World()
    world.put_rule(ActiveRule("acme", "rule", 1, definition({"above": 102}), 0), "rule", 1)
    told(world, [103.0, 103.0])
    world.change_basis(*PRODUCT, trades=True)
    changed_at = world.bases[-1].at
    told(world, [103.0, 101.0])

    world.fold("acme")

    alerts = world.alerts("acme")
    assert [alert.state for alert in alerts] == ["firing", "resolved"]
    assert (alerts[-1].reason, alerts[-1].at) == ("basis_changed", changed_at)
    assert not world.shard.states[KEY].prices


def test_what_is_open_on_ticks_is_closed_once_they_are_read_to_their_end_where_none_follows() -> None:
    world = World()
    world.put_rule(ActiveRule("acme", "rule", 1, definition({"above": 102}), 0), "rule", 1)
    told(world, [103.0])
    world.fold("acme")
    world.change_basis(*PRODUCT, trades=True)

    world.tick(0)
    before = [alert.state for alert in world.alerts("acme")]
    world.checkpoint()

    assert before == ["firing"]
    assert [(alert.state, alert.reason) for alert in world.alerts("acme")][1:] == [("resolved", "basis_changed")]


def test_a_change_that_no_record_showed_before_a_crash_still_acts_after_it() -> None:
    world = World()
    told(world, [103.0])
    world.fold("acme")
    world.change_basis(*PRODUCT, trades=True)
    world.checkpoint()
    world.bases.clear()  # compacted away: only the checkpoint remembers
    world.crash()

    world.tick(0)

    assert not world.shard.states[KEY].prices


def stats_of(world: World) -> list[Stat]:
    return [codec(Stat).decode(output.value) for output in world.sent if output.dataset == "stats"]


def test_trades_have_the_prices_and_ticks_the_quotes_where_a_tenant_gets_both() -> None:
    world = World()
    for second in range(5):
        at = world.now
        world.append_trades("acme", [make_trade("BTC-USD", second + 1, at, EXCHANGE, at)])
        world.append("acme", [make_tick(EXCHANGE, "BTC-USD", second + 1, 100.0, at=at)])
        world.now += SECOND
    for dataset in ("ticks", "trades"):
        world.fold("acme", dataset=dataset)

    assert set(world.shard.states) == {KEY, KEY.replace("ticks", "trades")}
    assert {(stat.basis, stat.as_of.topic_id) for stat in stats_of(world)} == {
        ("trades", "id-of-ps.acme.trades.v1"),
        ("quotes", "id-of-ps.acme.ticks.v1"),
    }


def test_a_rule_over_prices_goes_on_where_the_trades_are_with_numbers_above_those_of_the_ticks() -> None:
    world = World()
    world.put_rule(ActiveRule("acme", "rule", 1, definition({"above": 102}), 0), "rule", 1)
    told(world, [103.0])
    world.change_basis(*PRODUCT, trades=True)
    told(world, [103.0])
    world.append_trades("acme", [replace_price(make_trade("BTC-USD", 1, world.now, EXCHANGE, world.now), 104.0)])
    for dataset in ("ticks", "trades"):
        world.fold("acme", dataset=dataset)

    alerts = world.alerts("acme")
    assert [(alert.state, alert.reason) for alert in alerts][1] == ("resolved", "basis_changed")
    assert [alert.state for alert in alerts] == ["firing", "resolved", "firing"]
    assert alerts[2].seq > alerts[1].seq


def replace_price(trade: Trade, price: float) -> Trade:
    return msgspec.structs.replace(trade, price=price)


steps = st.lists(st.sampled_from(["tick", "tick", "both", "ticks", "fold", "checkpoint", "crash"]), max_size=30)


@given(steps, st.integers(0, 1_000))
def test_wherever_it_crashes_the_statistics_are_those_of_an_uninterrupted_run(events: list[str], seed: int) -> None:
    chance, worlds = random.Random(seed), (World(), World())
    for event in events:
        price = chance.choice([100.0, 101.0, 103.0])
        for world in worlds:
            if event == "tick":
                told(world, [price])
            elif event in {"both", "ticks"}:
                world.change_basis(*PRODUCT, trades=event == "both")
                world.now += SECOND // 100
    whole, torn = worlds
    for event in events:
        if event == "fold":
            torn.fold("acme", 2)
        elif event == "checkpoint":
            torn.checkpoint()
        elif event == "crash":
            torn.crash()
    for world in worlds:
        world.fold("acme")

    assert final(torn) == final(whole)


def final(world: World) -> dict[str, Any]:
    return {stat.event_id: stat for stat in stats_of(world)}
