"""Divergence of a product's prices across exchanges, against a walk over all prices that keeps no state."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Alert
from schemas.validate import check
from streams.engine import divergence
from streams.engine.divergence import DivergenceState, Priced, StoredDivergence
from streams.engine.rules import ActiveRule
from tests.support.alerting import DURATIONS
from tests.support.oracle_alerts import Machine, Rule
from tests.support.ticking import SECOND, micros, rule

EXCHANGES = ("coinbase", "kraken", "binance")


def divergent(condition: dict[str, Any] | None = None, **fields: Any) -> ActiveRule:
    given_as = {"type": "divergence", "exchanges": ["coinbase", "kraken"], "above_bps": 50}
    return rule(given_as | (condition or {}), **fields)


def price(seconds: float, exchange: str, value: float, appended: float | None = None) -> Priced:
    return Priced(exchange, micros(seconds), value, micros(seconds if appended is None else appended))


def transitions(alerts: Iterable[Alert]) -> list[tuple[str, float]]:
    return [(alert.state, (alert.at - micros(0)) / SECOND) for alert in alerts]


@st.composite
def prices(draw: st.DrawFn) -> list[Priced]:
    """Draw prices of three exchanges in offset order, whose clocks differ and which pause."""
    now, drawn = 20.0, list[Priced]()
    for _ in range(draw(st.integers(1, 60))):
        now += draw(st.sampled_from([0, 0.25, 1, 1, 2.5, 4, 6, 30]))
        behind = draw(st.sampled_from([0, 0, 0.1, 0.5, 3, 12]))
        value = draw(st.sampled_from([99.4, 99.8, 100.0, 100.0, 100.3]))
        drawn.append(price(now - behind, draw(st.sampled_from(EXCHANGES)), value, now))
    return drawn


@st.composite
def divergence_rules(draw: st.DrawFn) -> ActiveRule:
    condition = draw(
        st.sampled_from([{}, {"clear_bps": 25}, {"exchanges": list(EXCHANGES)}, {"exchanges": ["binance", "coinbase"]}])
    )
    return divergent(
        condition,
        for_=draw(DURATIONS),
        keep_firing_for=draw(DURATIONS),
        cooldown=draw(DURATIONS),
        effective_at=draw(st.sampled_from([0, 0, micros(40)])),
    )


def expected(active: ActiveRule, read: Sequence[Priced], until: int | None = None) -> list[Alert]:
    """Return the transitions by the design's words, from all prices so far at each of them."""
    definition = active.definition.model_dump(mode="json", exclude_none=True)
    machine = Machine(Rule.of(definition, active.rule_id, active.version), "*", "BTC-USD")
    names, taken = definition["condition"]["exchanges"], list[Priced]()
    for one in read:
        if any(other.exchange == one.exchange and other.time > one.time for other in taken):
            continue
        taken.append(one)
        now = max(other.time for other in taken)
        if one.appended_at < active.effective_at:
            continue
        machine.run_to(now)
        last = {other.exchange: other for other in taken if other.exchange in names}
        fresh = [other.price for other in last.values() if now - other.time <= 5 * SECOND]
        if one.exchange in names and len(fresh) > 1:
            value = (max(fresh) - min(fresh)) / ((max(fresh) + min(fresh)) / 2) * 10_000
            machine.judge(machine.rule.verdict(value), value, now)
    if until is not None:
        machine.run_to(until)
    return machine.alerts


def shown(alerts: Iterable[Alert]) -> list[tuple[Any, ...]]:
    return [(a.state, a.at, a.seq, a.exchange, a.threshold, pytest.approx(a.value, rel=1e-9)) for a in alerts]


@given(prices(), divergence_rules(), st.data())
def test_a_walk_over_all_prices_sees_the_same_transitions(
    read: list[Priced], active: ActiveRule, data: st.DataObject
) -> None:
    whole = divergence.fold(DivergenceState("BTC-USD"), read, [active])
    cut = data.draw(st.integers(0, len(read)))

    first = divergence.fold(DivergenceState("BTC-USD"), read[:cut], [active])
    second = divergence.fold(first.state, read[cut:], [active])

    assert shown(whole.alerts) == shown(expected(active, read))
    assert [*first.alerts, *second.alerts] == whole.alerts
    assert second.state == whole.state


@given(prices(), divergence_rules(), st.integers(0, 60))
def test_the_clock_lets_timers_act_at_their_own_times(read: list[Priced], active: ActiveRule, seconds: int) -> None:
    folded = divergence.fold(DivergenceState("BTC-USD"), read, [active])
    until = folded.state.watermark + seconds * SECOND

    advanced = divergence.advance(folded.state, until, [active])

    assert shown([*folded.alerts, *advanced.alerts]) == shown(expected(active, read, until))
    if not advanced.alerts:
        assert advanced.state.clock_mark == 0


@given(prices(), st.lists(divergence_rules(), max_size=2))
def test_a_stored_state_is_read_back(read: list[Priced], drawn: list[ActiveRule]) -> None:
    rules = [
        divergent(one.definition.condition.model_dump(), rule_id=f"r{n}", for_="1m") for n, one in enumerate(drawn)
    ]
    state = divergence.fold(DivergenceState("BTC-USD"), read, rules).state

    packed = msgspec.msgpack.encode(divergence.stored(state))

    assert divergence.restored(msgspec.msgpack.decode(packed, type=StoredDivergence)) == state


def test_an_alert_names_the_prices_that_lie_apart() -> None:
    active = divergent(for_="10s")

    found = divergence.fold(
        DivergenceState("BTC-USD"),
        [
            price(0, "coinbase", 100.5),
            price(2, "kraken", 99.5),
            price(11, "coinbase", 100.5),
            price(13, "kraken", 100.5),
        ],
        [active],
    )

    assert transitions(found.alerts) == [("pending", 2), ("firing", 12), ("resolved", 13)]
    pending = found.alerts[0]
    assert (pending.exchange, pending.value, pending.threshold) == ("*", pytest.approx(100), 50)
    assert pending.reason == (
        "divergence 100 bps is above 50 bps: fires if it is not at or below 50 bps within 10s"
        " (coinbase 100.5, kraken 99.5)"
    )
    assert [(point.time, point.price) for point in pending.last_prices] == [(micros(0), 100.5), (micros(2), 99.5)]
    assert check(pending, "alerts") is None


def test_a_price_that_is_older_than_five_seconds_is_not_compared() -> None:
    read = [price(0, "coinbase", 101), price(5.000_001, "kraken", 99), price(5.1, "coinbase", 101)]

    found = divergence.fold(DivergenceState("BTC-USD"), read, [divergent()])

    assert transitions(found.alerts) == [("firing", 5.1)]


def test_what_the_clock_decided_stands_against_older_prices() -> None:
    active = divergent(for_="10s")
    state = divergence.fold(
        DivergenceState("BTC-USD"), [price(0, "coinbase", 101), price(1, "kraken", 99)], [active]
    ).state
    assert divergence.deadline(state, [active]) == micros(11)
    assert divergence.advance(state, micros(11) - 1, [active]).state is state

    advanced = divergence.advance(state, micros(20), [active])
    after = divergence.fold(advanced.state, [price(10.9, "kraken", 101), price(11, "kraken", 101)], [active])

    assert transitions(advanced.alerts) == [("firing", 11)]
    assert after.late == 1
    assert transitions(after.alerts) == []
    assert after.state.legs["kraken"].time == micros(11)


def test_the_end_of_a_version_closes_what_it_has_open() -> None:
    old, new = divergent(ended_at=micros(3)), divergent(version=2, effective_at=micros(3))
    read = [price(0, "coinbase", 101), price(1, "kraken", 99), price(3, "kraken", 99)]

    found = divergence.fold(DivergenceState("BTC-USD"), read, [old, new])
    retired = divergence.retire(found.state, new, micros(9))

    assert [(a.rule_version, a.state, a.at, a.value is None) for a in [*found.alerts, *retired.alerts]] == [
        (1, "firing", micros(1), False),
        (1, "resolved", micros(3), True),
        (2, "firing", micros(3), False),
        (2, "resolved", micros(9), True),
    ]
    assert retired.state.machines == {}
    assert divergence.retire(retired.state, new, micros(9)).state is retired.state


def test_rules_of_other_kinds_are_left_alone() -> None:
    found = divergence.fold(DivergenceState("BTC-USD"), [price(0, "coinbase", 101)], [rule({"above": 1})])

    assert found.alerts == []
    assert found.state.machines == {}
