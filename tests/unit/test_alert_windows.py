"""Rules over windows against the oracle's brute force, and what the clock may decide about them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Alert, AsOf
from streams.engine import alerts as engine
from streams.engine.alerts import AlertBook, AlertFold
from streams.engine.definitions import WINDOW_SECONDS
from streams.engine.inputs import Row
from streams.engine.measures import Measure, value_at
from streams.engine.rules import ActiveRule
from streams.engine.series import SeriesFold
from streams.engine.statistics import Subject
from tests.support.alerting import DURATIONS, row
from tests.support.oracle import Sourced, transitions
from tests.support.raw_panes import RawPanes
from tests.support.ticking import EXCHANGE, PRODUCT, SECOND, START, Run, micros, rule, splits, tick

GRACE = 10 * SECOND

CONDITIONS: tuple[dict[str, Any], ...] = (
    {"type": "change", "window": "1m", "below_pct": -0.5},
    {"type": "change", "window": "1m", "above_pct": 0.5, "clear_pct": 0.2},
    {"type": "change", "window": "5m", "above_pct": 0.4},
    {"type": "change", "window": "1h", "below_pct": -0.3},
    {"type": "volatility", "window": "1m", "above": 1.5, "clear": 1.2},
    {"type": "volatility", "window": "1m", "below": 1.0},
    {"type": "volatility", "window": "15m", "above": 0.8},
    {"type": "volume", "window": "1m", "baseline": "5m", "above_ratio": 1.5},
    {"type": "volume", "window": "1m", "baseline": "15m", "above_ratio": 2, "clear_ratio": 1},
    {"type": "volume", "window": "1m", "baseline": "1h", "above_ratio": 1.5},
    {"type": "zscore", "window": "1m", "above": 2},
    {"type": "zscore", "window": "5m", "above": 3, "clear": 1},
    {"type": "zscore", "window": "1h", "above": 2, "clear": 1},
)


@dataclass
class Market:
    """A source whose records and clock act on rules over windows, with panes worked out from the raw records."""

    rules: Sequence[ActiveRule]
    panes: RawPanes = field(default_factory=RawPanes)
    watermark: int = 0
    mark: int = 0
    book: AlertBook = field(default_factory=AlertBook)
    alerts: list[Alert] = field(default_factory=list)

    def read(self, records: Iterable[Row]) -> "Market":
        for record in records:
            if record.time >= self.watermark - GRACE:
                self._read(record)
        return self

    def _read(self, record: Row) -> None:
        fold = AlertFold(self.book, EXCHANGE, PRODUCT, watermark=self.watermark)
        fold.windows(self.panes, record.time // SECOND, self.rules, record.appended_at)
        self.panes.add(record)
        if record.time >= max(self.watermark, self.mark):
            fold.records([record], self.rules)
        self.watermark = max(self.watermark, record.time)
        self._take(fold)

    def clock(self, now: int) -> "Market":
        fold = AlertFold(self.book, EXCHANGE, PRODUCT, watermark=self.watermark)
        fold.clock(self.panes, now, self.rules)
        self.mark = max(self.mark, fold.acted_at)
        self._take(fold)
        return self

    def _take(self, fold: AlertFold) -> None:
        self.book = fold.finish()
        self.alerts += fold.alerts

    @property
    def deadline(self) -> int | None:
        return engine.deadline(self.book, self.rules, self.panes, self.watermark)

    @property
    def transitions(self) -> list[tuple[str, float]]:
        return [(alert.state, (alert.at - micros(0)) / SECOND) for alert in self.alerts]


@st.composite
def markets(draw: st.DrawFn) -> list[Row]:
    """Draw records of some minutes: bursts, pauses, late ones, volumes that jump."""
    time, drawn = draw(st.integers(0, 90)) * SECOND, list[Row]()
    for offset in range(draw(st.integers(1, 50))):
        time += draw(
            st.sampled_from([0, 250_000, SECOND, SECOND, SECOND, 3_500_000, 20 * SECOND, 61 * SECOND, 300 * SECOND])
        )
        late = draw(st.sampled_from([0, 0, 0, 0, 0, 500_000, 4 * SECOND, 9 * SECOND, 30 * SECOND]))
        price = draw(st.sampled_from([99.0, 99.5, 99.9, 100.0, 100.0, 100.1, 100.5, 101.0]))
        size = draw(st.sampled_from([None, 0.25, 0.5, 1.0, 8.0]))
        drawn.append(row(max(time - late, 0) / SECOND, price, offset, size=size, appended_at=micros(time / SECOND + 1)))
    return drawn


@st.composite
def window_rules(draw: st.DrawFn) -> ActiveRule:
    return rule(
        draw(st.sampled_from(CONDITIONS)),
        for_=draw(DURATIONS),
        keep_firing_for=draw(DURATIONS),
        cooldown=draw(DURATIONS),
        effective_at=draw(st.sampled_from([0, 0, micros(70), micros(400)])),
    )


def decided(market: Market) -> int:
    """Return the last second up to which the clock decided about a rule."""
    return max(held.decided for held in market.book.machines.values())


def expected(active: ActiveRule, records: Sequence[Row], until: int | None = None) -> list[Alert]:
    """Return what the oracle says of a rule."""
    given_as = active.definition.model_dump(mode="json", exclude_none=True)
    sourced = [
        Sourced(
            tick((record.time - micros(0)) / SECOND, record.price, record.offset, size=record.size),
            AsOf(topic_id="topic", partition=0, offset=record.offset),
            record.appended_at,
        )
        for record in records
    ]
    return transitions(given_as, sourced, effective_at=active.effective_at, until=until)


def shown(alerts: Iterable[Alert]) -> list[tuple[Any, ...]]:
    return [
        (
            alert.state,
            alert.at,
            alert.seq,
            alert.threshold,
            alert.window,
            pytest.approx(alert.value, rel=1e-9, abs=1e-9),
        )
        for alert in alerts
    ]


@given(markets(), window_rules())
def test_the_oracle_sees_the_same_transitions(records: list[Row], active: ActiveRule) -> None:
    market = Market([active]).read(records)

    assert shown(market.alerts) == shown(expected(active, records))


@given(markets(), window_rules(), st.data())
def test_clocks_that_look_and_do_not_decide_change_nothing(
    records: list[Row], active: ActiveRule, data: st.DataObject
) -> None:
    plain, watched = Market([active]), Market([active])

    for record in records:
        plain.read([record])
        watched.read([record])
        looking = Market([active], watched.panes, watched.watermark, watched.mark, watched.book)
        looking.clock(watched.watermark + data.draw(st.integers(0, 400)) * SECOND)
        if not looking.alerts and looking.mark == watched.mark:
            watched.book = looking.book
    last = row((plain.watermark - micros(0)) / SECOND + 5_000, 100, 1_000)
    plain.read([last])
    watched.read([last])

    assert watched.alerts == plain.alerts
    assert watched.book == plain.book


@given(markets(), window_rules(), st.integers(0, 2_000))
def test_the_clock_runs_on_where_records_end(records: list[Row], active: ActiveRule, seconds: int) -> None:
    market = Market([active]).read(records)
    if all(record.appended_at < active.effective_at for record in records):
        return
    until = market.watermark + seconds * SECOND + 2 * SECOND

    market.clock(until)

    assert shown(market.alerts) == shown(expected(active, records, until))


@given(markets(), window_rules(), st.data())
def test_a_deadline_comes_no_later_than_anything_the_clock_does(
    records: list[Row], active: ActiveRule, data: st.DataObject
) -> None:
    market = Market([active]).read(records)

    for _ in range(data.draw(st.integers(1, 5))):
        deadline = market.deadline
        early = (market.watermark + 4_000 * SECOND if deadline is None else deadline) - 1
        before, known = len(market.alerts), market.book
        market.clock(early)
        assert (len(market.alerts), market.book) == (before, known)
        if deadline is None:
            break
        market.clock(deadline)
        assert market.deadline is None or market.deadline > deadline


CHANGE = {"type": "change", "window": "1m", "below_pct": -2}


def test_an_alert_over_a_window_says_what_was_measured() -> None:
    active = rule(CHANGE, for_="10s", name="drop")
    market = Market([active]).read([row(0.5, 100, 0), row(5.2, 97, 1), row(20, 97, 2), row(67, 97, 3)])

    assert market.transitions == [("pending", 6), ("firing", 16), ("resolved", 66)]
    assert [(alert.value, alert.threshold, alert.window) for alert in market.alerts] == [
        (-3, -2, "1m"),
        (-3, -2, "1m"),
        (0, -2, "1m"),
    ]
    assert [alert.reason for alert in market.alerts] == [
        "change over 1m -3 % is below -2 %: fires if it is not at or above -2 % within 10s",
        "change over 1m -3 % is below -2 %, for 10s",
        "change over 1m 0 % is at or above -2 %",
    ]
    assert [point.price for point in market.alerts[0].last_prices] == [100, 97]


def test_a_rule_over_a_window_resolves_in_a_quiet_market_by_the_clock() -> None:
    market = Market([rule(CHANGE)]).read([row(0.5, 100, 0), row(5.2, 97, 1)])

    market.clock(micros(7.9))
    assert market.transitions == []
    market.clock(micros(8))
    assert market.transitions == [("firing", 6)]
    assert (market.mark, decided(market)) == (micros(6), START + 6)
    market.clock(micros(300))
    assert market.mark == micros(66)
    assert market.transitions == [("firing", 6), ("resolved", 66)]


def test_a_new_version_closes_the_one_before_at_its_own_time() -> None:
    old = rule(CHANGE, ended_at=micros(9))
    new = rule(CHANGE, version=2, effective_at=micros(9))
    market = Market([old, new]).read([row(0.5, 100, 0), row(5.2, 97, 1), row(8, 97, 2), row(10, 97, 3)])

    assert [(a.rule_version, a.state, a.at, a.reason == "rule_changed") for a in market.alerts] == [
        (1, "firing", micros(6), False),
        (1, "resolved", micros(9), True),
        (2, "firing", micros(9), False),
    ]


def test_what_the_clock_decided_is_not_evaluated_again() -> None:
    market = Market([rule(CHANGE), rule(CHANGE, "slow", for_="30s")])
    market.read([row(0.5, 100, 0), row(5.2, 97, 1)]).clock(micros(9))
    assert decided(market) == START + 6

    market.read([row(4.9, 97.5, 2), row(12, 97, 3)])

    assert [(alert.rule_id, alert.state, alert.at) for alert in market.alerts] == [
        ("rule", "firing", micros(6)),
        ("slow", "pending", micros(6)),
    ]


def test_a_timer_by_the_clock_is_a_decision_and_the_end_of_a_cooldown_is_none() -> None:
    market = Market([rule(CHANGE, for_="2500ms"), rule(CHANGE, "cooling", cooldown="1s")])
    market.read([row(0.5, 100, 0), row(5.2, 97, 1), row(6, 97, 2), row(7, 100, 3), row(8, 100, 4)])
    before = len(market.alerts)

    market.clock(micros(60))

    assert len(market.alerts) == before
    assert market.mark == 0
    market.read([row(59, 97, 5)]).clock(micros(64.5))
    assert [(alert.rule_id, alert.state, alert.at) for alert in market.alerts[before:]] == [
        ("rule", "pending", micros(60)),
        ("cooling", "firing", micros(60)),
        ("rule", "firing", micros(62.5)),
    ]
    assert (market.mark, decided(market)) == (micros(62.5), START + 62)


def test_a_cooldown_that_a_look_passed_still_holds_for_records_before_its_end() -> None:
    market = Market([rule(CHANGE, cooldown="30s")])
    market.read([row(0.5, 100, 0), row(5.2, 97, 1), row(7, 100, 2), row(8, 100, 3)])

    market.clock(micros(80)).read([row(20, 97, 4), row(21, 97, 5), row(50, 97, 6)])

    assert market.transitions == [("firing", 6), ("resolved", 8), ("firing", 38)]


def test_the_mark_is_the_last_decision_and_not_the_last_look() -> None:
    market = Market([rule(CHANGE, for_="2500ms")]).read([row(0.5, 100, 0), row(5.2, 97, 1)])

    market.clock(micros(64))

    assert market.transitions == [("pending", 6), ("firing", 8.5)]
    assert (market.mark, decided(market)) == (micros(8.5), START + 8)


# ---- through the whole engine ----


def market_records(records: Sequence[Row]) -> list[Sourced]:
    """Return rows as records of a topic."""
    return [
        Sourced(
            tick((record.time - micros(0)) / SECOND, record.price, record.offset, size=record.size),
            AsOf(topic_id="topic", partition=0, offset=record.offset),
            record.appended_at,
        )
        for record in records
    ]


@given(markets(), st.lists(window_rules(), min_size=1, max_size=2), st.data())
def test_the_engine_reports_what_the_oracle_sees_however_records_are_batched(
    records: list[Row], drawn: list[ActiveRule], data: st.DataObject
) -> None:
    active = [replace(each, rule_id=f"rule-{number}") for number, each in enumerate(drawn)]
    sourced = market_records(records)
    whole, parts = Run(active).fold(sourced), Run(active)

    for batch in data.draw(splits(sourced)):
        parts.fold(batch)

    assert parts.alerts == whole.alerts
    assert parts.state == whole.state
    for each in active:
        assert shown(alert for alert in whole.alerts if alert.rule_id == each.rule_id) == shown(expected(each, records))


@settings(max_examples=60, deadline=None)
@given(markets(), window_rules(), st.data())
def test_the_engine_goes_on_from_what_the_clock_decided(
    records: list[Row], active: ActiveRule, data: st.DataObject
) -> None:
    run = Run([active])
    for batch in data.draw(splits(market_records(records))):
        run.fold(batch)
        run.advance(run.state.watermark + data.draw(st.integers(0, 200)) * SECOND)

    times = [alert.at for alert in run.alerts]
    assert times == sorted(times)
    assert len({alert.alert_id for alert in run.alerts}) == len(run.alerts)
    assert [alert.seq for alert in run.alerts] == list(range(1, len(run.alerts) + 1))


@given(markets())
def test_a_measure_is_to_the_last_bit_what_the_statistic_says(records: list[Row]) -> None:
    run = Run().fold(market_records(records))
    run.advance(run.state.watermark + 100 * SECOND)
    state = run.state
    view = SeriesFold(state.series, Subject(state.exchange, state.product, "ticks", "", 0), state.lines)

    recent = [stat for stat in run.final.values() if stat.basis == "ticks" and stat.at > state.watermark - 60 * SECOND]

    assert recent
    for stat in recent:
        length = WINDOW_SECONDS[stat.window]
        change = value_at(Measure("change", stat.window, length), view, stat.at // SECOND)
        volatility = value_at(Measure("volatility", stat.window, length), view, stat.at // SECOND)
        assert (change, volatility) == (stat.change_pct if stat.count else 0.0, stat.volatility)


def test_a_baseline_of_a_quarter_of_an_hour_is_kept_behind_its_window() -> None:
    active = rule({"type": "volume", "window": "5m", "baseline": "15m", "above_ratio": 2})
    records = [row(n * 10, 100, n, size=1.0 if n < 130 else 9.0, appended_at=micros(n * 10)) for n in range(300)]
    run = Run([active])

    for start in range(0, 300, 7):
        run.fold(market_records(records[start : start + 7]))

    assert [state for state, _ in run.transitions] == ["firing", "resolved"]
    assert shown(run.alerts) == shown(expected(active, records))


def test_a_change_without_a_word_is_only_looked_at_until_a_record_or_a_report() -> None:
    rules = [rule(CHANGE, keep_firing_for="30s")]
    falling = [row(0.5, 100, 0), row(5.2, 97, 1), row(7, 97, 2), row(8, 100, 3)]
    still, moved = Market(rules).read(falling).clock(micros(12)), Market(rules).read(falling).clock(micros(12))
    assert still.book == Market(rules).read(falling).book
    assert still.deadline == micros(41)

    still.clock(micros(41))
    moved.read([row(8.9, 97, 4), row(50, 97, 5)])

    assert still.transitions == [("firing", 6), ("resolved", 39)]
    assert moved.transitions == [("firing", 6)]
