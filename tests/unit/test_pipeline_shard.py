"""One shard: what batches, rule changes, the clock and broken tenants do to it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import codec
from schemas.records import Alert, Tick
from streams.engine import fold as engine
from streams.engine.inputs import Row
from streams.engine.rules import ActiveRule
from streams.entries import Position
from streams.intake import source_topic
from tests.support.sharding import EXCHANGE, World
from tests.support.streaming import make_tick
from tests.support.ticking import definition

SECOND = 1_000_000
LEVEL = {"for_": "1s", "condition": {"above": 102, "clear": 101}}


def rule(version: int = 1, effective_at: int = 0, tenant: str = "acme") -> ActiveRule:
    return ActiveRule(tenant, "rule", version, definition(**LEVEL), effective_at)  # type: ignore[arg-type] # **: fields


def prices(world: World, *values: float, tenant: str = "acme", product: str = "BTC-USD") -> None:
    for price in values:
        number = len(world.logs.get(f"ps.{tenant}.ticks.v1", [])) + 1
        world.append(tenant, [make_tick(EXCHANGE, product, number, price, at=world.now)])
        world.now += SECOND // 10


def states(world: World, tenant: str = "acme") -> list[str]:
    return [alert.state for alert in world.alerts(tenant)]


def test_records_are_folded_by_key_and_leave_for_their_tenants_topics() -> None:
    world = World()
    for product in ("BTC-USD", "ETH-USD"):
        prices(world, *range(100, 125), product=product)
    folding = world.fold("acme")

    assert folding.folded == 50
    assert {output.topic for output in folding.outputs} == {"ps.acme.stats.v1", "ps.acme.bars.v1"}
    assert {output.key for output in folding.outputs} == {b"BTC-USD", b"ETH-USD"}
    assert set(world.shard.states) == {"acme/ticks/coinbase/BTC-USD", "acme/ticks/coinbase/ETH-USD"}
    assert world.shard.positions["ps.acme.ticks.v1"] == Position("id-of-ps.acme.ticks.v1", 50)


def test_what_cannot_be_taken_is_counted_by_its_reason() -> None:
    world = World()
    good = codec(Tick).encode(make_tick(EXCHANGE, "BTC-USD", 1, 100.0, at=world.now))
    world.append_raw("acme", None)
    world.append_raw("acme", good[:-1])
    world.append_raw("acme", b"\x00\x00\x00\xff\xff" + good[5:])
    world.append_raw("acme", good, ("ps-backfill", b"1"))
    world.append("acme", [make_tick(EXCHANGE, "BTC-USD", 2, -5.0, at=world.now)])
    world.append_raw("acme", good)
    world.append_raw("acme", good)

    folding = world.fold("acme")

    assert folding.folded == 1
    assert folding.skipped == {
        "undecodable": 2,
        "unknown_schema": 1,
        "backfill": 1,
        "invalid_price": 1,
        "duplicate": 1,
    }


def test_a_record_that_the_engine_cannot_fold_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    prices(world, *range(100, 140))
    fold = engine.fold

    def fragile(state: engine.KeyState, inputs: list[Row], rules: list[ActiveRule]) -> engine.Folded:
        if any(item.price in {107.0, 108.0, 131.0} for item in inputs):
            raise ZeroDivisionError
        return fold(state, inputs, rules)

    monkeypatch.setattr(engine, "fold", fragile)

    folding = world.fold("acme")

    assert folding.folded == 37
    assert folding.skipped["fold_error"] == 3
    assert world.shard.positions["ps.acme.ticks.v1"].next_offset == 40


def test_a_clock_alert_waits_for_its_checkpoint_and_later_alerts_wait_behind_it() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    world.checkpoint()

    world.tick(2 * SECOND)
    prices(world, 100.0)
    world.fold("acme")
    assert states(world) == ["pending"]
    world.checkpoint()

    assert states(world) == ["pending", "firing", "resolved"]


def test_a_clock_alert_is_sent_again_after_a_crash_until_it_is_acknowledged() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    world.tick(2 * SECOND)
    world.checkpoint()

    world.crash()
    assert states(world) == ["pending", "firing", "firing"]
    world.acknowledge()
    world.checkpoint()
    world.crash()

    assert states(world) == ["pending", "firing", "firing"]
    assert len({alert.alert_id for alert in world.alerts("acme")}) == 2


def test_a_clock_decision_that_no_checkpoint_holds_was_never_made() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    world.checkpoint()

    world.tick(2 * SECOND)
    world.crash()

    assert states(world) == ["pending"]
    assert len(world.shard.outbox) == 0


@pytest.mark.parametrize("hindrance", ["disconnected", "behind", "parked"])
def test_the_clock_does_not_act(hindrance: str) -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    world.checkpoint()
    if hindrance == "behind":
        prices(world, 105.0)
    if hindrance == "parked":
        world.park("acme")

    world.tick(5 * SECOND, connected=hindrance != "disconnected")
    world.checkpoint()

    assert states(world) == ["pending"]


def test_a_duplicate_does_not_hold_the_clock_back() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    again = make_tick(EXCHANGE, "BTC-USD", 1, 105.0, at=world.now - SECOND // 10)

    for _ in range(12):
        world.append("acme", [again])
        world.fold("acme")
        world.tick(SECOND // 10)
    world.checkpoint()

    assert states(world) == ["pending", "firing"]


def test_an_edited_rule_closes_what_its_old_version_left_open() -> None:
    world = World()
    world.put_rule(rule(1), "rule", 1)
    prices(world, 105.0, 105.0)
    world.fold("acme")

    world.put_rule(rule(2, world.now), "rule", 2)
    world.tick(0)
    assert states(world) == ["pending"]
    world.checkpoint()

    last = world.alerts("acme")[-1]
    assert (last.rule_version, last.reason, last.at) == (1, "rule_changed", world.now)
    assert not [name for name in world.committed if name.startswith("_rule/rule/1")]


def test_an_ended_rule_stays_for_the_records_that_were_appended_before_its_end() -> None:
    world = World()
    world.put_rule(rule(1), "rule", 1)
    prices(world, 105.0)
    world.put_rule(rule(2, world.now), "rule", 2)
    world.now += SECOND
    prices(world, 106.0)
    world.tick(0)

    world.fold("acme")

    versions = [(alert.rule_version, alert.state) for alert in world.alerts("acme")]
    assert versions == [(1, "pending"), (1, "inactive"), (2, "pending")]


def test_another_tenants_rule_is_not_applied() -> None:
    world = World()
    world.put_rule(rule(tenant="zeta"), "rule", 1)
    prices(world, 105.0)

    world.fold("acme")

    assert states(world) == []


def test_a_parked_tenant_goes_back_to_its_last_checkpoint_and_the_others_stay() -> None:
    world = World()
    prices(world, *range(100, 130))
    prices(world, *range(100, 130), tenant="zeta")
    for tenant in ("acme", "zeta"):
        world.fold(tenant, 10)
    world.checkpoint()
    before = {key: world.shard.states[key] for key in world.shard.states}
    for tenant in ("acme", "zeta"):
        world.fold(tenant, 10)

    world.park("acme")

    assert world.shard.states["acme/ticks/coinbase/BTC-USD"] is before["acme/ticks/coinbase/BTC-USD"]
    assert world.shard.states["zeta/ticks/coinbase/BTC-USD"] is not before["zeta/ticks/coinbase/BTC-USD"]
    assert [world.position(f"ps.{tenant}.ticks.v1") for tenant in ("acme", "zeta")] == [10, 20]
    cut = world.shard.cut()
    assert list(cut.tenants) == ["zeta"]


def test_parking_takes_a_tenant_out_of_a_checkpoint_that_still_waits_for_its_outputs() -> None:
    world = World()
    prices(world, *range(100, 130))
    world.fold("acme", 10)
    world.checkpoint()
    world.fold("acme", 10)
    waiting = world.shard.cut()
    world.fold("acme", 10)

    world.park("acme", waiting)

    assert waiting.tenants == {}
    assert world.position("ps.acme.ticks.v1") == 10


def test_a_new_key_of_a_parked_tenant_is_forgotten() -> None:
    world = World()
    prices(world, 100.0)
    world.fold("acme")

    world.park("acme")

    assert list(world.shard.states) == []
    assert world.shard.positions == {}


def test_a_topic_made_anew_begins_anew_and_leaves_no_entries() -> None:
    world = World()
    prices(world, *range(100, 110))
    world.append("zeta", [make_tick(EXCHANGE, "BTC-USD", 1, 100.0, at=world.now)])
    for tenant in ("acme", "zeta"):
        world.fold(tenant)
    world.checkpoint()
    names = [name for name in world.committed if name.startswith("acme/")]
    assert names

    world.shard.forget("ps.acme.ticks.v1", names)
    world.checkpoint()

    assert list(world.shard.states) == ["zeta/ticks/coinbase/BTC-USD"]
    assert not [name for name in world.committed if name.startswith("acme/")]


@pytest.mark.parametrize("crashed", [False, True], ids=["known", "restored"])
def test_of_an_erased_tenant_no_entry_stays_and_the_others_go_on(*, crashed: bool) -> None:
    world = World()
    for tenant in ("acme", "zeta"):
        apart = replace(rule(tenant=tenant), rule_id=f"{tenant}-rule")
        world.put_rule(apart, apart.rule_id, 1)
        world.change_basis(tenant, EXCHANGE, "BTC-USD", trades=False)
        prices(world, 105.0, tenant=tenant)
        world.fold(tenant)
    world.checkpoint()
    world.tick(2 * SECOND)
    world.checkpoint()  # an alert of each that the clock decided is not acknowledged
    if crashed:
        world.crash()
    else:
        prices(world, 106.0, product="ETH-USD")
        world.fold("acme")
    assert world.shard.tenants() == {"acme", "zeta"}

    world.park("acme")
    world.shard.erase("acme")
    world.checkpoint()

    assert not [name for name, value in world.committed.items() if b"acme" in name.encode() + value]
    assert world.shard.tenants() == {"zeta"}
    assert not world.shard.dirty
    prices(world, 100.0, tenant="zeta")
    world.fold("zeta")
    world.checkpoint()
    world.acknowledge()
    world.checkpoint()
    assert states(world, "zeta")[-1] == "resolved"


def test_a_checkpoint_writes_only_what_changed() -> None:
    world = World()
    prices(world, 100.0)
    prices(world, 100.0, product="ETH-USD")
    world.fold("acme")
    world.checkpoint()
    prices(world, 101.0)
    world.fold("acme")

    entries = world.shard.cut().entries()

    assert {name.split("|")[0] for name in entries} == {"acme/ticks/coinbase/BTC-USD", "_source/ps.acme.ticks.v1"}
    assert not world.shard.dirty


def test_a_keys_source_is_its_tenants_topic_of_own_or_platform_ticks() -> None:
    assert source_topic("acme/ticks/coinbase/BTC/USD") == "ps.acme.ticks.v1"
    assert source_topic("acme/own-ticks/x-desk/BTC-USD") == "ps.acme.own-ticks.v1"


def test_alerts_and_statistics_of_a_restored_shard_go_on_where_they_were() -> None:
    whole, parted = World(), World()
    for world in (whole, parted):
        world.put_rule(rule(), "rule", 1)
        prices(world, *([100.0, 103.0, 105.0, 100.0] * 10))
    whole.fold("acme")

    while parted.fold("acme", 3):
        parted.checkpoint()
        parted.crash()

    def sent(world: World) -> list[tuple[str, bytes]]:
        return sorted((output.dataset, output.value) for output in world.sent)

    assert sent(parted) == sent(whole)
    assert {codec(Alert).decode(value).state for dataset, value in sent(whole) if dataset == "alerts"} >= {"pending"}


def test_an_alert_decided_while_a_checkpoint_is_written_waits_for_the_next() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    cut = world.shard.cut()

    world.tick(2 * SECOND)
    world.shard.written(cut)

    assert world.shard.pending() == []
    world.checkpoint()
    assert states(world) == ["pending", "firing"]


def test_a_decision_about_a_tenant_that_is_parked_is_taken_back() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    world.checkpoint()
    world.tick(2 * SECOND)

    world.park("acme")

    assert len(world.shard.outbox) == 0
    world.shard.unpark("acme")
    world.tick(2 * SECOND)
    world.checkpoint()
    assert states(world) == ["pending", "firing"]


@given(st.binary(max_size=80) | st.none())
def test_no_bytes_stop_a_shard(value: bytes | None) -> None:
    world = World()
    world.append_raw("acme", value)
    world.append("acme", [make_tick(EXCHANGE, "BTC-USD", 1, 100.0, at=world.now)])

    folding = world.fold("acme")

    assert folding.folded == 1


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_damage_to_a_record_stops_a_shard(damage: list[tuple[int, int]]) -> None:
    world = World()
    value = bytearray(codec(Tick).encode(make_tick(EXCHANGE, "BTC-USD", 1, 100.0, at=world.now)))
    for place, byte in damage:
        value[place % len(value)] = byte
    world.append_raw("acme", bytes(value))
    world.append("acme", [make_tick(EXCHANGE, "ETH-USD", 1, 100.0, at=world.now)])

    folding = world.fold("acme")

    assert folding.folded + sum(folding.skipped.values()) == 2
    world.tick(10 * SECOND)
    world.checkpoint()


def test_a_pending_alert_that_finds_the_buffer_full_is_sent_later_in_order() -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    prices(world, 105.0)
    world.fold("acme")
    world.tick(2 * SECOND)
    cut = world.shard.cut()
    world.shard.written(cut)
    world.shard.put_off(world.shard.pending()[0])

    prices(world, 100.0)
    world.fold("acme")
    world.checkpoint()

    assert states(world) == ["pending", "firing", "resolved"]


def test_a_key_whose_clock_fails_leaves_the_others_their_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.put_rule(rule(), "rule", 1)
    for product in ("BAD-USD", "BTC-USD"):
        prices(world, 105.0, product=product)
    world.fold("acme")
    advance = engine.advance

    def fragile(state: engine.KeyState, clock: int, rules: list[ActiveRule]) -> engine.Folded:
        if state.product == "BAD-USD":
            raise ZeroDivisionError
        return advance(state, clock, rules)

    monkeypatch.setattr(engine, "advance", fragile)
    world.tick(2 * SECOND)
    world.checkpoint()

    assert [alert.product for alert in world.alerts("acme") if alert.state == "firing"] == ["BTC-USD"]
