"""Rules that compare a product's exchanges, in a shard: prices of all of them, clocks, crashes and ends."""

import json
import random
import uuid
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams import kinds
from streams.engine.divergence import DivergenceState, Leg
from streams.engine.machine import Phase, Standing
from streams.engine.rules import ActiveRule, parse_rule
from streams.engine.transitions import Machine
from tests.support.sharding import World
from tests.support.streaming import assert_alerts_are, make_tick

SECOND = 1_000_000
KEY = "acme/ticks/*/BTC-USD"
APART = {"type": "divergence", "exchanges": ["coinbase", "kraken"], "above_bps": 50}


def make_rule(version: int = 1, at: int = 0, **fields: Any) -> ActiveRule:
    definition = {"name": "apart", "product": "BTC-USD", "condition": APART} | fields
    return ActiveRule("acme", "apart", version, parse_rule(json.dumps(definition)), at)


def told(world: World, exchange: str, price: float) -> None:
    number = len(world.logs.get("ps.acme.ticks.v1", [])) + 1
    world.append("acme", [make_tick(exchange, "BTC-USD", number, price, at=world.now)])
    world.now += SECOND // 10


def states(world: World) -> list[tuple[str, str]]:
    return [(alert.exchange, alert.state) for alert in world.alerts("acme")]


def test_prices_of_two_exchanges_are_compared_in_the_order_of_the_topic() -> None:
    world = World()
    world.put_rule(make_rule(), "apart", 1)
    for exchange, price in (("coinbase", 100.0), ("kraken", 100.1), ("coinbase", 102.0), ("kraken", 102.0)):
        told(world, exchange, price)

    world.fold("acme")

    assert states(world) == [("*", "firing"), ("*", "resolved")]
    assert [alert.product for alert in world.alerts("acme")] == ["BTC-USD"] * 2


def test_without_a_rule_that_compares_nothing_is_kept_of_all_exchanges() -> None:
    world = World()
    told(world, "coinbase", 100.0)

    world.fold("acme")

    assert KEY not in world.shard.states


def test_a_comparison_fires_by_the_clock_after_its_time_and_a_crash() -> None:
    world = World()
    world.put_rule(make_rule(**{"for": "2s"}), "apart", 1)
    told(world, "coinbase", 100.0)
    told(world, "kraken", 102.0)
    world.fold("acme")
    world.checkpoint()
    world.crash()
    world.tick(0)  # the worker ticks ten times a second

    world.tick(3 * SECOND)
    before = states(world)
    world.checkpoint()

    assert before == [("*", "pending")]
    assert states(world) == [("*", "pending"), ("*", "firing")]


def test_an_ended_comparison_is_closed_also_of_a_restored_shard() -> None:
    world = World()
    world.put_rule(make_rule(), "apart", 1)
    told(world, "coinbase", 100.0)
    told(world, "kraken", 102.0)
    world.fold("acme")
    world.checkpoint()
    world.put_rule(None, "apart", 2)
    world.crash()

    world.tick(0)
    world.checkpoint()

    assert [(alert.state, alert.reason) for alert in world.alerts("acme")][1:] == [("resolved", "rule_changed")]


def test_a_parked_tenants_comparison_goes_back_to_its_checkpoint() -> None:
    world = World()
    world.put_rule(make_rule(), "apart", 1)
    told(world, "coinbase", 100.0)
    world.fold("acme")
    world.checkpoint()
    before = world.shard.states[KEY]
    told(world, "kraken", 102.0)
    world.fold("acme")

    world.park("acme")

    assert world.shard.states[KEY] is before


events = st.lists(st.sampled_from(["coinbase", "kraken", "kraken", "fold", "checkpoint", "crash"]), max_size=30)


@given(events, st.integers(0, 1_000))
def test_wherever_it_crashes_the_alerts_are_those_of_an_uninterrupted_run(story: list[str], seed: int) -> None:
    chance, whole, torn = random.Random(seed), World(), World()
    for world in (whole, torn):
        world.put_rule(make_rule(at=world.now), "apart", 1)
    for event in story:
        price = chance.choice([100.0, 100.2, 101.0])
        for world in (whole, torn):
            if event in {"coinbase", "kraken"}:
                told(world, event, price)
        if event == "fold":
            torn.fold("acme", 3)
        elif event == "checkpoint":
            torn.checkpoint()
        elif event == "crash":
            torn.crash()
    for world in (whole, torn):
        world.fold("acme")

    assert_alerts_are(torn.alerts("acme"), whole.alerts("acme"))


def test_the_entries_of_thousands_of_rules_are_small_and_go_with_them() -> None:
    machine = Machine(Standing(Phase.FIRING, 2**60), 1, 2**60, 2**60, 15, 3, 1e-300 / 3)
    many = DivergenceState(
        "BTC-USD",
        {"coinbase": Leg("coinbase", 2**60, 100.1)},
        {(str(uuid.UUID(int=number)), 2**40): machine for number in range(2_500)},
        2**60,
        2**60,
    )
    few = replace(many, machines={rule: many.machines[rule] for rule in list(many.machines)[:1_200]})

    written = kinds.entries(KEY, None, many, 0)
    after = written | kinds.entries(KEY, many, few, 0)

    assert len(written) == 3
    assert max(len(value or b"") for value in written.values()) < 256 * 1024
    assert kinds.load(KEY, parts(written)) == many
    assert [name for name, value in after.items() if value is None] == [f"{KEY}|product:2"]
    assert kinds.load(KEY, parts(after)) == few


def parts(entries: dict[str, bytes | None]) -> dict[str, bytes]:
    return {name.partition("|")[2]: value for name, value in entries.items() if value is not None}
