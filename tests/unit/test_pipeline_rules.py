"""Many rules and many keys: who is concerned by what, and what is left undecoded until it is asked for."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsestream.core.headers import cloud_event
from schemas.codec import codec
from schemas.records import Alert, Bar, Stat
from streams.engine import fold as engine
from streams.engine import snapshot
from streams.engine.rules import ActiveRule, applies, parse_rule
from streams.engine.snapshot import SnapshotError
from streams.rulebook import RuleChange
from streams.ruleset import RuleSet
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import make_tick

SECOND = 1_000_000
TENANTS, PRODUCTS, EXCHANGES = ("acme", "zeta"), ("BTC-USD", "ETH-USD", "A/B"), ("coinbase", "kraken")
LEVEL = {"type": "price", "above": 102, "clear": 101}
FALL = {"type": "change", "window": "1m", "below_pct": -2}

names = st.sampled_from(["*", *PRODUCTS, list(PRODUCTS[:2])])
changed = st.lists(
    st.tuples(
        st.sampled_from(["r", "s", "t"]),
        st.sampled_from(TENANTS),
        names,
        st.sampled_from([None, *EXCHANGES]),
        st.booleans(),
    ),
    max_size=12,
)


def make_rule(rule_id: str, tenant: str, version: int, at: int = 0, **fields: Any) -> ActiveRule:
    definition = {"name": "a", "product": "*", "condition": LEVEL} | fields
    return ActiveRule(tenant, rule_id, version, parse_rule(json.dumps(definition)), at)


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[Any, ...]]:
    """Return the list of the arguments that a function is called with from now on."""
    calls: list[tuple[Any, ...]] = []
    function: Callable[..., Any] = getattr(module, name)

    def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(module, name, noted)
    return calls


def world_of(products: int) -> World:
    world = World()
    for number in range(products):
        world.append("acme", [make_tick(EXCHANGE, f"P{number}-USD", 1, 100.0, at=world.now)])
    world.fold("acme")
    world.checkpoint()
    return world


@given(changed)
def test_a_key_finds_exactly_the_versions_about_it(changes: list[tuple[str, str, Any, str | None, bool]]) -> None:
    rules, known = RuleSet([]), {}
    for version, (name, tenant, product, exchange, deleted) in enumerate(changes, 1):
        rule_id = f"{tenant}-{name}"
        rule = None if deleted else make_rule(rule_id, tenant, version, version, product=product, exchange=exchange)
        for put in rules.learn(RuleChange(rule_id, version, version, rule)):
            known[put.key] = put

    for tenant in TENANTS:
        for exchange in EXCHANGES:
            for product in PRODUCTS:
                expected = [rule for rule in known.values() if rule.tenant == tenant]
                expected = [rule for rule in expected if applies(rule, exchange, product)]
                assert {rule.key: rule for rule in rules.of(tenant, exchange, product)} == {
                    rule.key: rule for rule in expected
                }
    assert sorted(rule.key for ended in rules.ended.values() for rule in ended) == sorted(
        rule.key for rule in known.values() if rule.ended_at is not None
    )
    for rule in known.values():
        rules.remove(rule)
    assert [*rules.of("acme", "coinbase", "BTC-USD"), *rules.ended] == []


def test_rules_over_prices_ask_no_key_for_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(20)
    asked = counted(monkeypatch, engine, "next_deadline")

    world.shard.learn([RuleChange(f"r{n}", 1, world.now, make_rule(f"r{n}", "acme", 1, world.now)) for n in range(50)])
    world.tick(0)

    assert asked == []


def test_a_rule_over_a_window_asks_only_the_keys_that_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(20)
    asked = counted(monkeypatch, engine, "next_deadline")

    rule = make_rule("r", "acme", 1, world.now, product=["P3-USD", "P4-USD"], condition=FALL)
    world.shard.learn([RuleChange("r", 1, world.now, rule)])
    world.tick(0)

    assert sorted(state.product for state, _ in asked) == ["P3-USD", "P4-USD"]


def test_a_restored_key_is_decoded_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(20)
    world.tick(86_400 * 2 * SECOND)  # nothing is open any more
    world.checkpoint()
    loaded = counted(monkeypatch, snapshot, "load")
    world.crash()
    world.tick(SECOND)
    world.append("acme", [make_tick(EXCHANGE, "P7-USD", 2, 100.0, at=world.now)])

    world.fold("acme")

    assert [key for key, _ in loaded] == ["acme/ticks/coinbase/P7-USD"]
    assert len(world.shard.states) == 20


def test_a_restored_keys_clock_goes_on_by_what_its_entries_say() -> None:
    world = World()
    world.put_rule(make_rule("r", "acme", 1, world.now, **{"for": "5s"}), "r", 1)
    world.append("acme", [make_tick(EXCHANGE, "BTC-USD", 1, 105.0, at=world.now)])
    world.fold("acme")
    world.checkpoint()
    world.crash()

    world.tick(5 * SECOND - 1)
    world.checkpoint()
    before = [alert.state for alert in world.alerts("acme")]
    world.tick(1)
    world.checkpoint()

    assert before == ["pending"]
    assert [alert.state for alert in world.alerts("acme")] == ["pending", "firing"]


def test_a_rule_over_a_window_that_came_after_a_keys_checkpoint_acts_by_the_clock_of_the_restored_key() -> None:
    world = World()
    for number, price in enumerate((100.0, 97.0), 1):
        world.append("acme", [make_tick(EXCHANGE, "BTC-USD", number, price, at=world.now)])
        world.now += SECOND
    world.fold("acme")
    world.tick(3 * SECOND)  # every pane is closed
    world.checkpoint()
    world.put_rule(make_rule("r", "acme", 1, world.now, condition=FALL, keep_firing_for="0s"), "r", 1)
    world.checkpoint()
    world.crash()

    world.tick(0)
    key = "acme/ticks/coinbase/BTC-USD"

    assert world.shard._deadlines.due(key) == engine.next_deadline(
        world.shard.states[key], world.shard._rules_for(key, world.shard.states[key])
    )


def test_state_of_a_format_that_nobody_knows_is_refused_with_what_to_do() -> None:
    world = world_of(1)
    name = next(name for name in world.committed if name.endswith("|head"))
    world.committed[name] = b"\xfe" + world.committed[name][1:]

    with pytest.raises(SnapshotError, match=r"pulsestream stream --rebuild"):
        world.crash()


def test_ended_rules_are_worked_off_without_a_look_at_the_keys_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(20)
    rule = make_rule("r", "acme", 1, world.now, product="P3-USD")
    world.put_rule(rule, "r", 1)
    world.append("acme", [make_tick(EXCHANGE, "P3-USD", 2, 105.0, at=world.now)])
    world.fold("acme")
    retired = counted(monkeypatch, engine, "retire")
    world.put_rule(None, "r", 2)

    world.tick(0)
    world.checkpoint()

    assert [state.product for state, _, _ in retired] == ["P3-USD"]
    assert [alert.state for alert in world.alerts("acme")] == ["firing", "resolved"]


def test_every_output_carries_the_headers_of_a_cloud_event() -> None:
    world = World()
    world.put_rule(make_rule("r", "acme", 1), "r", 1)
    for number in range(1, 130):
        world.append("acme", [make_tick(EXCHANGE, "BTC-USD", number, 100.0 + number, at=world.now)])
        world.now += SECOND
    world.fold("acme")

    kinds: dict[str, Any] = {"stats": Stat, "bars": Bar, "alerts": Alert}
    assert {output.dataset for output in world.sent} == kinds.keys()
    for output in world.sent:
        record = codec(kinds[output.dataset]).decode(output.value)
        name = record.alert_id if isinstance(record, Alert) else record.event_id
        at = record.start if isinstance(record, Bar) else record.at
        kind = f"pulsestream.{output.dataset.removesuffix('s')}.v1"
        assert output.headers == cloud_event(name, kind, f"/{EXCHANGE}", at)


def test_a_key_at_rest_is_bytes_and_goes_on_as_if_it_had_not_been() -> None:
    rested, awake = world_of(20), world_of(20)
    for world in (rested, awake):
        for _ in range(3):
            if world is rested:
                world.shard.rest(world.now)
            world.tick(61 * SECOND)
            world.checkpoint()
        world.append("acme", [make_tick(EXCHANGE, "P7-USD", 2, 100.0, at=world.now)])
        world.tick(0)
    rested.shard.rest(rested.now)
    at_rest = len(rested.shard.states) - len(rested.shard.states.loaded())

    for world in (rested, awake):
        world.fold("acme")
        world.tick(3 * SECOND)
        world.checkpoint()

    assert at_rest == 20
    assert [(output.topic, output.value) for output in rested.sent] == [
        (output.topic, output.value) for output in awake.sent
    ]
    assert rested.committed == awake.committed


def test_a_key_that_changed_since_the_last_checkpoint_is_not_put_to_rest() -> None:
    world = world_of(2)
    world.append("acme", [make_tick(EXCHANGE, "P1-USD", 2, 100.0, at=world.now)])
    world.fold("acme")

    for _ in range(3):
        world.now += 61 * SECOND
        world.shard.rest(world.now)

    assert world.shard.states.loaded() == ["acme/ticks/coinbase/P1-USD"]


def test_alerts_leave_before_the_statistics_of_all_keys_of_their_batch() -> None:
    world = World()
    world.put_rule(make_rule("r", "acme", 1), "r", 1)
    for number in range(1, 130):
        for product in ("A-USD", "B-USD"):
            world.append("acme", [make_tick(EXCHANGE, product, number, 100.0 + number % 5, at=world.now)])
        world.now += SECOND

    datasets = [output.dataset for output in world.fold("acme").outputs]

    alerts = datasets.count("alerts")
    assert alerts > 0
    assert set(datasets[:alerts]) == {"alerts"}
    assert set(datasets[alerts:]) == {"stats", "bars"}
