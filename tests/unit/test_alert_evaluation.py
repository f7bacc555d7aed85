import functools
import operator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Alert
from streams.engine import fold as engine
from streams.engine.alerts import AlertFold
from streams.engine.conditions import possible, read
from streams.engine.definitions import compared_with
from streams.engine.rules import ActiveRule
from tests.support.oracle import Sourced, transitions
from tests.support.ticking import SECOND, Run, folded, inputs, micros, rule, splits, streams, tick


def priced(*steps: tuple[float, float]) -> list[Sourced]:
    """Return records of (seconds, price)."""
    return inputs([tick(seconds, price, number) for number, (seconds, price) in enumerate(steps)])


def found(active: ActiveRule, *steps: tuple[float, float]) -> list[tuple[str, float]]:
    """Return the transitions of a rule over (seconds, price)."""
    return Run([active]).fold(priced(*steps)).transitions


# ---- times ----


def test_without_a_hold_a_rule_fires_and_resolves_at_its_ticks() -> None:
    assert found(rule({"above": 100}), (0, 100), (1, 101), (2, 102), (3, 100), (4, 101)) == [
        ("firing", 1),
        ("resolved", 3),
        ("firing", 4),
    ]


def test_below_is_above_mirrored() -> None:
    assert found(rule({"below": 100, "clear": 102}), (0, 100), (1, 99), (2, 101), (3, 102)) == [
        ("firing", 1),
        ("resolved", 3),
    ]


def test_a_hold_ends_at_its_own_time_and_not_at_the_next_tick() -> None:
    run = Run([rule({"above": 100}, for_="60s")]).fold(priced((0.25, 101), (59, 102)))
    assert run.transitions == [("pending", 0.25)]

    run.fold(inputs([tick(75, 103, 9)], first_offset=9))

    assert run.transitions == [("pending", 0.25), ("firing", 60.25)]
    assert run.alerts[1].value == 102


def test_at_an_equal_time_the_timer_acts_before_the_tick() -> None:
    assert found(rule({"above": 100}, for_="60s"), (0, 101), (60, 99)) == [
        ("pending", 0),
        ("firing", 60),
        ("resolved", 60),
    ]
    assert found(rule({"above": 100}, for_="60s"), (0, 101), (59.999_999, 99)) == [
        ("pending", 0),
        ("inactive", 59.999_999),
    ]


def test_a_price_between_threshold_and_clear_keeps_a_pending_rule_pending() -> None:
    active = rule({"above": 100, "clear": 98}, for_="60s")

    assert found(active, (0, 101), (30, 99), (60, 99)) == [("pending", 0), ("firing", 60)]
    assert found(active, (0, 101), (30, 98), (60, 99)) == [("pending", 0), ("inactive", 30)]


def test_a_firing_rule_resolves_after_an_unbroken_run_of_clear_ticks() -> None:
    active = rule({"above": 100, "clear": 98}, keep_firing_for="10s")

    assert found(active, (0, 101), (1, 98), (5, 97), (30, 97)) == [("firing", 0), ("resolved", 11)]
    assert found(active, (0, 101), (1, 98), (5, 99), (6, 98), (30, 97)) == [("firing", 0), ("resolved", 16)]
    assert found(active, (0, 101), (1, 98), (5, 101), (30, 101)) == [("firing", 0)]


def test_nothing_is_pending_before_the_cooldown_has_passed() -> None:
    active = rule({"above": 100}, cooldown="10s")

    assert found(active, (0, 101), (1, 99), (5, 101), (6, 99), (20, 99)) == [("firing", 0), ("resolved", 1)]
    assert found(active, (0, 101), (1, 99), (5, 101), (20, 101)) == [("firing", 0), ("resolved", 1), ("firing", 11)]
    assert found(active, (0, 101), (1, 99), (11, 101)) == [("firing", 0), ("resolved", 1), ("firing", 11)]


def test_several_timers_between_two_ticks_act_in_order() -> None:
    active = rule({"above": 100}, for_="5s", cooldown="10s")

    assert found(active, (0, 101), (5, 99), (6, 101), (100, 99)) == [
        ("pending", 0),
        ("firing", 5),
        ("resolved", 5),
        ("pending", 15),
        ("firing", 20),
        ("resolved", 100),
    ]


# ---- crossing ----


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("up", [("firing", 1), ("resolved", 2), ("firing", 5), ("resolved", 6)]),
        ("down", [("firing", 3), ("resolved", 4)]),
        ("both", [("firing", 1), ("resolved", 2), ("firing", 3), ("resolved", 4), ("firing", 5), ("resolved", 6)]),
    ],
)
def test_a_crossing_fires_at_the_tick_that_is_on_the_other_side(
    direction: str, expected: list[tuple[str, float]]
) -> None:
    steps = [(0, 99.0), (1, 101.0), (2, 102.0), (3, 99.0), (4, 100.0), (5, 101.0), (6, 101.0)]

    assert found(rule({"crosses": 100, "direction": direction}), *steps) == expected


def test_touching_the_threshold_is_no_crossing_and_forgets_no_side() -> None:
    active = rule({"crosses": 100})

    assert found(active, (0, 99), (1, 100), (2, 99)) == []
    assert found(active, (0, 99), (1, 100), (2, 101)) == [("firing", 2)]
    assert found(active, (0, 100), (1, 101)) == []


def test_the_first_price_of_a_rule_version_crosses_nothing() -> None:
    run = Run([rule({"crosses": 100}, effective_at=micros(1))]).fold(priced((0, 99), (1, 101), (2, 99)))

    assert run.transitions == [("firing", 2)]


# ---- which records ----


def test_only_records_appended_while_the_version_is_in_force_are_evaluated() -> None:
    active = rule({"above": 100}, effective_at=50, ended_at=60)
    ticks = [tick(0, 101, 1), tick(1, 101, 2), tick(2, 99, 3), tick(3, 101, 4)]
    records = [replace(r, appended_at=a) for r, a in zip(inputs(ticks), (49, 50, 59, 60), strict=True)]

    assert Run([active]).fold(records).transitions == [("firing", 1), ("resolved", 2)]


def test_records_behind_the_watermark_are_ignored_and_counted() -> None:
    run = folded([tick(5, 99, 1), tick(4.999_999, 101, 2), tick(5, 101, 3)], [rule({"above": 100})])

    assert run.transitions == [("firing", 5)]
    assert run.counts["late_for_alerts"] == 1
    assert [point.price for point in run.alerts[0].last_prices] == [99, 101]


def test_a_repeated_record_is_not_evaluated_again() -> None:
    ticks = [tick(1, 101, 1), tick(1, 99, 2)]

    assert folded([*ticks, *ticks], [rule({"above": 100})]).transitions == [("firing", 1), ("resolved", 1)]


# ---- the clock ----


def test_the_clock_lets_timers_act_at_their_own_times() -> None:
    run = folded([tick(0, 101, 1)], [rule({"above": 100}, for_="60s")])

    assert run.advance(micros(60) - 1).transitions == [("pending", 0)]
    assert run.advance(micros(64)).transitions == [("pending", 0), ("firing", 60)]
    assert run.state.clock_mark == micros(60)


def test_what_the_clock_decided_stands_against_older_records() -> None:
    run = folded([tick(0, 101, 1)], [rule({"above": 100}, for_="60s")]).advance(micros(61))

    run.fold(inputs([tick(59.9, 99, 2), tick(60, 99, 3)], first_offset=1))

    assert run.transitions == [("pending", 0), ("firing", 60), ("resolved", 60)]
    assert run.counts["late_for_alerts"] == 1
    assert run.state.watermark == micros(60)


def test_the_clock_sets_no_mark_where_it_decides_nothing() -> None:
    run = folded([tick(0, 101, 1)], [rule({"above": 100})]).advance(micros(30))

    run.fold(inputs([tick(1, 99, 2)], first_offset=1))

    assert run.state.clock_mark == 0
    assert run.transitions == [("firing", 0), ("resolved", 1)]


def test_the_end_of_a_cooldown_is_the_clocks_business_only_where_the_condition_waits() -> None:
    quiet = folded([tick(0, 101, 1), tick(1, 99, 2)], [rule({"above": 100}, cooldown="10m")])
    waiting = folded([tick(0, 101, 1), tick(1, 99, 2), tick(2, 101, 3)], [rule({"above": 100}, cooldown="10m")])
    for run in (quiet, waiting):
        run.advance(micros(400))

    assert engine.next_deadline(quiet.state, quiet.rules) == engine.next_deadline(quiet.state, ())
    assert engine.next_deadline(waiting.state, waiting.rules) == micros(601)
    assert waiting.advance(micros(700)).transitions[-1] == ("firing", 601)


def test_the_next_deadline_is_the_first_of_panes_and_timers() -> None:
    run = folded([tick(0, 101, 1)], [rule({"above": 100}, for_="2s"), rule({"above": 100}, "other", for_="5m")])

    assert engine.next_deadline(run.state, run.rules) == micros(2)
    assert engine.next_deadline(run.advance(micros(2)).state, run.rules) == micros(3)


# ---- the end of a version ----


@pytest.mark.parametrize(
    ("fields", "steps", "closed"),
    [
        ({}, [(0, 101)], [("resolved", 5)]),
        ({"keep_firing_for": "9s"}, [(0, 101), (1, 99)], [("resolved", 5)]),
        ({"for_": "60s"}, [(0, 101)], [("inactive", 5)]),
        ({}, [(0, 99)], []),
        ({"cooldown": "60s"}, [(0, 101), (1, 99)], []),
    ],
)
def test_retiring_a_version_closes_what_is_open(
    fields: dict[str, Any], steps: list[tuple[float, float]], closed: list[tuple[str, float]]
) -> None:
    active = rule({"above": 100}, version=3, **fields)
    run = Run([active]).fold(priced(*steps))
    before = len(run.alerts)

    run.take(engine.retire(run.state, active, micros(5)))

    assert run.transitions[before:] == closed
    assert run.state.book.machines == {}
    for alert in run.alerts[before:]:
        assert (alert.reason, alert.rule_version, alert.value, alert.threshold) == ("rule_changed", 3, None, None)
        assert alert.seq == before + 1


def test_retiring_an_unknown_version_changes_nothing() -> None:
    state = engine.new_state("coinbase", "BTC-USD")

    assert engine.retire(state, rule({"above": 100}), 5).state is state


def test_the_first_record_of_the_next_version_ends_the_one_before() -> None:
    old = rule({"above": 100}, version=1, for_="4s", ended_at=micros(5))
    new = rule({"above": 100}, version=2, effective_at=micros(5))

    run = Run([old, new]).fold(priced((0, 99), (3, 101), (6, 101), (9, 102)))

    assert [(a.rule_version, a.state, (a.at - micros(0)) / SECOND) for a in run.alerts] == [
        (1, "pending", 3),
        (1, "inactive", 5),
        (2, "firing", 6),
    ]
    assert {version for _, version in run.state.book.machines} == {2}


# ---- what an alert says ----


def test_an_alert_carries_what_led_to_it() -> None:
    active = rule(
        {"above": 96.5}, "r1", 7, severity="critical", labels={"desk": "spot"}, name="btc", effective_at=micros(4)
    )
    run = Run([active]).fold(priced(*[(n, 90.0 + n) for n in range(8)]))

    (alert,) = run.alerts

    assert alert == Alert(
        alert_id=f"r1:7:coinbase:BTC-USD:firing:{micros(7)}",
        seq=1,
        rule_id="r1",
        rule_name="btc",
        rule_version=7,
        exchange="coinbase",
        product="BTC-USD",
        state="firing",
        at=micros(7),
        value=97.0,
        threshold=96.5,
        reason="price 97 is above 96.5",
        severity="critical",
        labels={"desk": "spot"},
        last_prices=alert.last_prices,
    )
    assert [(point.time, point.price) for point in alert.last_prices] == [(micros(n), 90.0 + n) for n in range(4, 8)]


@pytest.mark.parametrize(
    ("condition", "fields", "steps", "reasons"),
    [
        (
            {"above": 100, "clear": 98.5},
            {"for_": "60s", "keep_firing_for": "5s"},
            [(0, 101), (61, 98), (70, 98)],
            [
                "price 101 is above 100: fires if it is not at or below 98.5 within 1m",
                "price 101 is above 100, for 1m",
                "price 98 is at or below 98.5, for 5s",
            ],
        ),
        (
            {"above": 100, "clear": 98.5},
            {"for_": "1s"},
            [(0, 101), (0.5, 99), (2, 99)],
            [
                "price 101 is above 100: fires if it is not at or below 98.5 within 1s",
                "price 99 is not at or below 98.5 since it was above 100, for 1s",
            ],
        ),
        (
            {"below": 0.5},
            {"for_": "90s"},
            [(0, 0.4), (1, 0.5)],
            [
                "price 0.4 is below 0.5: fires if it is not at or above 0.5 within 90s",
                "price 0.5 is at or above 0.5 before 90s had passed",
            ],
        ),
        (
            {"crosses": 100},
            {},
            [(0, 99), (1, 101), (2, 102)],
            ["price 101 crossed 100 up", "price 102 did not cross 100 again"],
        ),
        (
            {"crosses": 100},
            {"for_": "5s"},
            [(0, 101), (1, 99), (8, 98), (9, 101), (10, 102)],
            [
                "price 99 crossed 100 down: fires if no price follows within 5s",
                "price 99 crossed 100 down and no price followed for 5s",
                "price 98 did not cross 100 again",
                "price 101 crossed 100 up: fires if no price follows within 5s",
                "price 102 followed before 5s had passed",
            ],
        ),
    ],
)
def test_the_reason_is_in_words(
    condition: dict[str, Any], fields: dict[str, Any], steps: list[tuple[float, float]], reasons: list[str]
) -> None:
    run = Run([rule(condition, **fields)]).fold(priced(*steps))

    assert [alert.reason for alert in run.alerts] == reasons


def test_a_state_that_comes_twice_at_one_time_has_an_id_of_its_own() -> None:
    run = Run([rule({"above": 100})]).fold(priced((1, 101), (1, 99), (1, 101), (1, 99), (2, 101)))

    assert [alert.alert_id.partition("BTC-USD:")[2] for alert in run.alerts] == [
        f"firing:{micros(1)}",
        f"resolved:{micros(1)}",
        f"firing:{micros(1)}:1",
        f"resolved:{micros(1)}:1",
        f"firing:{micros(2)}",
    ]
    assert [alert.seq for alert in run.alerts] == [1, 2, 3, 4, 5]


# ---- the cheap check ----


@given(
    st.sampled_from([{"above": 100}, {"above": 100, "clear": 98}, {"below": 100}, {"below": 100, "clear": 102}]),
    st.lists(st.sampled_from([97.0, 98.0, 99.0, 100.0, 101.0, 102.0, 103.0]), min_size=1),
)
def test_the_extremes_of_a_level_say_which_signals_are_possible(condition: dict[str, Any], prices: list[float]) -> None:
    level = compared_with(rule(condition).definition.condition)
    assert level is not None
    every = [price for price in (97.0, 98.0, 99.0, 100.0, 101.0, 102.0, 103.0) if min(prices) <= price <= max(prices)]

    mask = possible(level, min(prices), max(prices), 0)

    assert mask == functools.reduce(operator.or_, {read(level, price, 0)[0] for price in every}, 0)


@pytest.mark.parametrize(
    ("active", "before", "batch", "read"),
    [
        (rule({"above": 100}), [(0, 99)], [(1, 90), (2, 100)], False),
        (rule({"above": 100}), [(0, 99)], [(1, 90), (2, 101)], True),
        (rule({"above": 100, "clear": 98}), [(0, 99)], [(1, 97), (2, 99)], False),
        (rule({"above": 100}), [(0, 101)], [(1, 105), (2, 102)], False),
        (rule({"above": 100}), [(0, 101)], [(1, 105), (2, 99)], True),
        (rule({"above": 100}, for_="5s"), [(0, 101)], [(1, 105), (4, 102)], False),
        (rule({"above": 100}, for_="5s"), [(0, 101)], [(1, 105), (5, 102)], True),
        (rule({"crosses": 100}), [(0, 101)], [(1, 105), (4, 100)], False),
        (rule({"crosses": 100}), [(0, 101)], [(1, 105), (4, 99)], True),
        (rule({"above": 100}, ended_at=micros(3)), [(0, 99)], [(1, 90), (4, 101)], True),
        (rule({"above": 100}, ended_at=micros(1)), [(0, 99)], [(1, 90), (4, 101)], False),
        (rule({"above": 100}, effective_at=micros(9)), [(0, 99)], [(1, 90), (4, 101)], False),
    ],
)
def test_records_are_read_one_by_one_only_where_their_extremes_may_change_something(
    monkeypatch: pytest.MonkeyPatch,
    active: ActiveRule,
    before: list[tuple[float, float]],
    batch: list[tuple[float, float]],
    read: bool,  # noqa: FBT001 (a parameter of the table above)
) -> None:
    run = Run([active]).fold(priced(*before))
    reads = []
    price = AlertFold._price
    monkeypatch.setattr(AlertFold, "_price", lambda *args: (reads.append(args), price(*args)))

    run.fold(inputs([tick(seconds, value, 50 + n) for n, (seconds, value) in enumerate(batch)], first_offset=50))

    assert bool(reads) is read


# ---- against the oracle ----

_HOLDS = st.sampled_from(["0s", "1us", "1s", "2500ms", "10s", "1m", "5m"])
_CONDITIONS = st.sampled_from(
    [
        {"above": 100},
        {"above": 100, "clear": 99},
        {"below": 100},
        {"below": 100, "clear": 100.5},
        {"crosses": 100},
        {"crosses": 100, "direction": "up"},
        {"crosses": 99.5, "direction": "down"},
    ]
)


@st.composite
def rules(draw: st.DrawFn) -> list[ActiveRule]:
    """Draw a few rules, some of which take effect later."""
    return [
        rule(
            draw(_CONDITIONS),
            f"rule-{number}",
            for_=draw(_HOLDS),
            keep_firing_for=draw(_HOLDS),
            cooldown=draw(_HOLDS),
            effective_at=draw(st.sampled_from([0, micros(505), micros(800)])),
        )
        for number in range(draw(st.integers(1, 3)))
    ]


def expected(active: ActiveRule, records: list[Sourced], until: int | None = None) -> list[tuple[Any, ...]]:
    """Return what the oracle says of a rule."""
    as_given = active.definition.model_dump(mode="json")
    condition = {name: value for name, value in as_given.pop("condition").items() if value is not None}
    sourced = [Sourced(record.record, record.as_of, record.appended_at) for record in records]
    return seen(
        transitions(
            {**as_given, "condition": condition}
            | {name: f"{getattr(active.definition, field) / SECOND:.6f}s" for name, field in _DURATIONS.items()},
            sourced,
            rule_id=active.rule_id,
            effective_at=active.effective_at,
            until=until,
        ),
        active,
    )


_DURATIONS = {"for": "for_", "keep_firing_for": "keep_firing_for", "cooldown": "cooldown"}


def seen(alerts: list[Alert], active: ActiveRule) -> list[tuple[Any, ...]]:
    """Return what matters of a rule's alerts."""
    return [
        (alert.state, alert.at, alert.seq, alert.value, alert.threshold, list(alert.last_prices))
        for alert in alerts
        if alert.rule_id == active.rule_id
    ]


def is_first(record: Sourced, records: list[Sourced]) -> bool:
    """Tell whether no record before it has the same id."""
    return record is next(other for other in records if other.record.event_id == record.record.event_id)


def visible(records: list[Sourced], mark: int) -> list[Sourced]:
    """Return the records that alerts take: none older than one before it or than the mark."""
    taken = []
    for record in records:
        if record.record.exchange_time >= mark:
            taken.append(record)
            mark = record.record.exchange_time
    return taken


@given(st.data())
def test_the_oracle_reports_the_same_transitions_however_records_are_batched(data: st.DataObject) -> None:
    records, active = data.draw(streams()), data.draw(rules())
    whole, parts = Run(active).fold(records), Run(active)

    for batch in data.draw(splits(records)):
        parts.fold(batch)

    assert parts.alerts == whole.alerts
    assert parts.state == whole.state
    for each in active:
        assert seen(whole.alerts, each) == expected(each, records)


@given(st.data())
def test_what_the_clock_decides_is_what_the_timers_say(data: st.DataObject) -> None:
    records, active = data.draw(streams()), data.draw(rules())
    run, taken, clock = Run(active), list[Sourced](), 0
    for batch in data.draw(splits(records)):
        mark = max(run.state.watermark, run.state.clock_mark)
        taken += visible([record for record in batch if is_first(record, records)], mark)
        run.fold(batch)
        for step in data.draw(st.lists(st.integers(0, 400 * SECOND), max_size=2)):
            clock = max(clock, run.state.watermark + step)
            run.advance(run.state.watermark + step)
    run.advance(clock)

    assert len({alert.alert_id for alert in run.alerts}) == len(run.alerts)
    for each in active:
        assert seen(run.alerts, each) == expected(each, taken, until=clock)


# ---- another source of prices ----


def test_what_is_open_ends_when_prices_live_on_another_source() -> None:
    active = [rule({"above": 100})]
    run = folded([tick(0, 101, 1)], active)

    run.take(engine.switch(run.state, micros(5), active, prices=False))

    assert run.transitions == [("firing", 0), ("resolved", 5)]
    assert run.alerts[-1].reason == "basis_changed"
    assert not run.state.book.machines


def test_a_source_that_takes_over_counts_on_above_the_one_before() -> None:
    active = [rule({"above": 100})]
    before = folded([tick(0, 101, 1), tick(1, 99, 2), tick(2, 101, 3)], active)
    after = Run(active, engine.new_state("coinbase", "BTC-USD", "trades", prices=False))

    after.take(engine.switch(after.state, micros(5), active, prices=True)).fold(inputs([tick(6, 101, 4)]))

    assert after.transitions == [("firing", 6)]
    assert after.alerts[0].seq > before.alerts[-1].seq


def test_prices_that_stay_change_nothing() -> None:
    state = folded([tick(0, 101, 1)], [rule({"above": 100})]).state

    assert engine.switch(state, micros(5), [rule({"above": 100})], prices=True).state is state
