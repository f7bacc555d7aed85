"""Rules on missing records: against the oracle, by records and by the clock, with and without the feed."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Alert, AsOf
from streams.engine import fold as engine
from streams.engine.alerts import AlertFold
from streams.engine.inputs import Row
from streams.engine.rules import ActiveRule, lives_on
from streams.engine.transitions import FEED_DOWN, QUIET_MARKET
from tests.support.alerting import DURATIONS, Reading, cuts, rows
from tests.support.oracle import Sourced, transitions
from tests.support.ticking import EXCHANGE, PRODUCT, SECOND, Run, inputs, micros, rule, tick


def silent_for(after: str, **fields: Any) -> ActiveRule:
    return rule({"type": "no_data", "after": after}, **fields)


@st.composite
def silent_rules(draw: st.DrawFn) -> ActiveRule:
    return silent_for(
        draw(st.sampled_from(["1s", "2500ms", "10s", "11s"])),
        for_=draw(DURATIONS),
        keep_firing_for=draw(DURATIONS),
        cooldown=draw(DURATIONS),
        effective_at=draw(st.sampled_from([0, 0, micros(3), micros(15)])),
    )


def expected(active: ActiveRule, records: Sequence[Row], until: int | None = None) -> list[tuple[str, int, int]]:
    """Return what the oracle says of a rule."""
    sourced = [
        Sourced(
            tick((record.time - micros(0)) / SECOND, record.price, record.offset),
            AsOf(topic_id="topic", partition=0, offset=record.offset),
            record.appended_at,
        )
        for record in records
    ]
    definition = active.definition.model_dump(mode="json", exclude_none=True)
    return shown(transitions(definition, sourced, effective_at=active.effective_at, until=until))


def shown(alerts: Iterable[Alert]) -> list[tuple[str, int, int]]:
    return [(alert.state, alert.at, alert.seq) for alert in alerts]


@given(rows(), silent_rules(), st.booleans(), st.data())
def test_the_oracle_hears_the_same_silences(
    records: list[Row],
    active: ActiveRule,
    as_columns: bool,  # noqa: FBT001
    data: st.DataObject,
) -> None:
    reading = Reading([active], as_columns)

    for batch in data.draw(cuts(records)):
        reading.read(batch)

    assert shown(reading.alerts) == expected(active, records)
    assert reading.alerts == Reading([active]).read(records).alerts


@given(rows(max_size=20), silent_rules(), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_the_clock_says_what_a_later_record_would(records: list[Row], active: ActiveRule, steps: list[int]) -> None:
    reading = Reading([active]).read(records)
    last = records[-1]
    if last.appended_at < active.effective_at:
        return
    until = last.time

    for step in steps:
        until += step * SECOND
        fold = AlertFold(reading.book, EXCHANGE, PRODUCT)
        fold.silence(last.time, until, [active], QUIET_MARKET)
        reading.book = fold.finish()
        reading.alerts += fold.alerts

    assert shown(reading.alerts) == expected(active, records, until)


def test_silence_is_told_at_its_exact_time_with_what_is_known_of_the_feed() -> None:
    quiet, down = Run([silent_for("60s")]), Run([silent_for("60s")])
    for run in (quiet, down):
        run.fold(inputs([tick(0.5, 100, 1)]))
    assert engine.silence_deadline(quiet.state, quiet.rules) == micros(60.5)
    assert engine.silence(quiet.state, micros(60.4), quiet.rules, reason=QUIET_MARKET).state is quiet.state

    quiet.take(engine.silence(quiet.state, micros(70), quiet.rules, reason=QUIET_MARKET))
    down.take(engine.silence(down.state, micros(70), down.rules, reason=FEED_DOWN))
    down.fold(inputs([tick(71, 100, 2)], first_offset=1))

    assert quiet.transitions == [("firing", 60.5)]
    assert [(alert.reason, alert.threshold, alert.value) for alert in quiet.alerts] == [("quiet_market", 60, None)]
    assert quiet.state.clock_mark == micros(60.5)
    assert engine.silence_deadline(quiet.state, quiet.rules) is None
    assert down.transitions == [("firing", 60.5), ("resolved", 71)]
    assert [alert.reason for alert in down.alerts] == ["feed_down", "a record came"]


def test_the_clock_of_a_silence_is_not_the_event_clock_that_stands_still_without_a_feed() -> None:
    run = Run([silent_for("60s", for_="30s")]).fold(inputs([tick(0, 100, 1)]))
    run.take(engine.silence(run.state, micros(61), run.rules, reason=FEED_DOWN))

    run.advance(micros(500))

    assert run.transitions == [("pending", 60)]
    assert engine.silence_deadline(run.state, run.rules) == micros(90)
    run.take(engine.silence(run.state, micros(90), run.rules, reason=FEED_DOWN))
    assert run.transitions == [("pending", 60), ("firing", 90)]


def test_a_product_that_never_had_a_record_is_silent_since_it_was_subscribed() -> None:
    run = Run([silent_for("60s")])
    assert engine.silence_deadline(run.state, run.rules, since=micros(5)) == micros(65)

    run.take(engine.silence(run.state, micros(66), run.rules, reason=QUIET_MARKET, since=micros(5)))

    assert run.transitions == [("firing", 65)]


def test_a_silence_that_is_told_again_is_the_same() -> None:
    run = Run([silent_for("60s", cooldown="10m")]).fold(inputs([tick(0, 100, 1)]))

    for until in (60, 61, 300, 900):
        run.take(engine.silence(run.state, micros(until), run.rules, reason=QUIET_MARKET))

    assert run.transitions == [("firing", 60)]


def test_a_rule_hears_no_silence_from_before_it() -> None:
    active = silent_for("60s", effective_at=micros(50))

    run = Run([active]).fold(inputs([tick(0, 100, 1), tick(100, 100, 2), tick(200, 100, 3)]))

    assert run.transitions == [("firing", 160), ("resolved", 200)]


@pytest.mark.parametrize(
    ("condition", "ticks", "trades"),
    [
        ({"type": "no_data", "after": "60s"}, False, True),
        ({"above": 1}, False, True),
        ({"type": "change", "window": "1m", "above_pct": 1}, False, True),
        ({"type": "spread", "above_bps": 1}, True, False),
        ({"type": "divergence", "exchanges": ["a", "b"], "above_bps": 1}, False, False),
    ],
)
def test_a_rule_lives_on_the_source_of_what_it_watches(condition: dict[str, Any], ticks: bool, trades: bool) -> None:  # noqa: FBT001
    active = rule(condition)

    assert lives_on(active, "ticks", prices=False) is ticks
    assert lives_on(active, "trades", prices=True) is trades


def test_a_silence_that_changes_nothing_to_report_leaves_no_trace() -> None:
    run = Run([silent_for("10s", keep_firing_for="30s")]).fold(inputs([tick(0, 100, 1), tick(12, 100, 2)]))
    assert run.transitions == [("firing", 10)]

    again = engine.silence(run.state, micros(100), run.rules, reason=QUIET_MARKET)

    assert again.state is run.state
    assert engine.silence_deadline(run.state, run.rules) is None
    run.fold(inputs([tick(21, 100, 3), tick(30, 100, 4), tick(39, 100, 5)], first_offset=2))
    assert engine.silence_deadline(run.state, run.rules) == micros(42)


def test_a_silence_within_a_cooldown_is_told_when_that_ends() -> None:
    run = Run([silent_for("10s", cooldown="60s")]).fold(inputs([tick(0, 100, 1), tick(12, 100, 2)]))
    assert engine.silence_deadline(run.state, run.rules) == micros(72)
    assert engine.silence(run.state, micros(71), run.rules, reason=QUIET_MARKET).state is run.state

    run.take(engine.silence(run.state, micros(72), run.rules, reason=QUIET_MARKET))

    assert run.transitions == [("firing", 10), ("resolved", 12), ("firing", 72)]
