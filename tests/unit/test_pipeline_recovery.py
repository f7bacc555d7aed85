"""A shard that crashes anywhere between folding, sending and checkpoints ends as one that never did."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.engine.rules import ActiveRule
from tests.support.machines import assert_consistent
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import assert_alerts_are, assert_stats_are, engine_run, make_tick
from tests.support.ticking import definition

TENANTS = ("acme", "zeta")
MILLISECOND = 1_000
LEVEL: dict[str, Any] = {"for_": "1s", "keep_firing_for": "1s", "condition": {"above": 102, "clear": 101}}

batches = st.tuples(st.just("append"), st.sampled_from(TENANTS), st.integers(1, 8))
folds = st.tuples(st.sampled_from(["fold", "take", "take"]), st.sampled_from(TENANTS), st.integers(1, 6))
steps = st.sampled_from([("checkpoint",), ("crash",), ("acknowledge",), ("crash",), ("checkpoint",)])
ticks = st.tuples(st.just("tick"), st.sampled_from([50, 400, 1_100, 2_500]))
parkings = st.tuples(st.sampled_from(["park", "unpark"]), st.sampled_from(TENANTS))
rule_changes = st.sampled_from([("change_rule",), ("delete_rule",)])


def make_rule(tenant: str, version: int, at: int) -> ActiveRule:
    return ActiveRule(tenant, f"{tenant}-rule", version, definition(**LEVEL), at)


class Story:
    """Does what is drawn, one thing after the other."""

    def __init__(self, seed: int) -> None:
        self.world = World()
        self.chance = random.Random(seed)
        self.numbers = dict.fromkeys(TENANTS, 0)
        self.version = 0
        self.rule(deleted=False)

    def append(self, tenant: str, count: int) -> None:
        for _ in range(count):
            self.numbers[tenant] += 1
            self.world.now += self.chance.choice((5, 60, 300)) * MILLISECOND
            product = self.chance.choice(("BTC-USD", "ETH-USD"))
            price = self.chance.choice((100.0, 101.5, 103.0))
            at = self.world.now - self.chance.choice((0, 0, 0, 400)) * MILLISECOND
            self.world.append(tenant, [make_tick(EXCHANGE, product, self.numbers[tenant], price, at=at)])

    def fold(self, tenant: str, count: int) -> None:
        self.world.fold(tenant, count)

    def take(self, tenant: str, count: int) -> None:
        self.world.fold(tenant, count, at_once=False)

    def tick(self, milliseconds: int) -> None:
        self.world.tick(milliseconds * MILLISECOND)

    def checkpoint(self) -> None:
        self.world.checkpoint()

    def acknowledge(self) -> None:
        self.world.acknowledge()

    def crash(self) -> None:
        self.world.crash()

    def park(self, tenant: str) -> None:
        self.world.park(tenant)

    def unpark(self, tenant: str) -> None:
        self.world.shard.unpark(tenant)
        self.world.send_pending()

    def change_rule(self) -> None:
        self.rule(deleted=False)

    def delete_rule(self) -> None:
        self.rule(deleted=True)

    def rule(self, *, deleted: bool) -> None:
        self.version += 1
        self.world.now += MILLISECOND  # append times decide, and they are milliseconds
        for tenant in TENANTS:
            rule = None if deleted else make_rule(tenant, self.version, self.world.now)
            self.world.put_rule(rule, f"{tenant}-rule", self.version)


def told(seed: int, events: list[tuple[Any, ...]]) -> World:
    story = Story(seed)
    for name, *arguments in events:
        getattr(story, name)(*arguments)
    story.world.finish(*TENANTS)
    return story.world


@given(st.integers(0, 1_000), st.lists(batches | folds | steps | parkings, max_size=60))
def test_without_the_clock_the_outputs_are_those_of_one_uninterrupted_run(
    seed: int, events: list[tuple[Any, ...]]
) -> None:
    world = told(seed, events)

    for tenant in TENANTS:
        rules = [change.rule for change in world.rules if change.rule and change.rule.tenant == tenant]
        expected = engine_run(world.sourced(tenant), rules)
        assert_stats_are(world.stats(tenant), expected)
        assert_alerts_are(world.alerts(tenant), expected.alerts)
        assert_consistent(world.alerts(tenant))


@given(st.integers(0, 1_000), st.lists(batches | folds | steps | parkings | ticks | rule_changes, max_size=80))
def test_with_the_clock_and_changing_rules_no_alert_is_doubled_lost_or_overtaken(
    seed: int, events: list[tuple[Any, ...]]
) -> None:
    world = told(seed, events)

    for tenant in TENANTS:
        machines = assert_consistent(world.alerts(tenant))
        open_machines = {key for key, alerts in machines.items() if alerts[-1].state in {"pending", "firing"}}
        assert {version for _, version, _ in open_machines} <= {world.rules[-1].version}
        assert {key: alerts[-1].seq for key, alerts in machines.items() if key in numbers(world, tenant)} == numbers(
            world, tenant
        )


def numbers(world: World, tenant: str) -> dict[tuple[str, int, str], int]:
    """The number of the last alert of each machine, as the state has it."""
    return {
        (rule_id, version, state.product): machine.seq
        for key, state in world.shard.states.items()
        for (rule_id, version), machine in state.book.machines.items()
        if key.startswith(f"{tenant}/") and machine.seq
    }
