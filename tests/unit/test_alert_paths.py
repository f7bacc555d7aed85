"""Rules over single records: columns say what rows say, in whatever batches they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.engine import batches
from streams.engine.alerts import AlertFold
from streams.engine.rules import ActiveRule
from tests.support.alerting import Reading, columns, cuts, record_rules, row, rows
from tests.support.ticking import micros, rule


@given(st.data())
def test_columns_give_the_alerts_and_the_book_that_rows_give(data: st.DataObject) -> None:
    records, rules = data.draw(rows()), data.draw(record_rules())
    by_row, by_column = Reading(rules).read(records), Reading(rules, as_columns=True)

    for batch in data.draw(cuts(records)):
        by_column.read(batch)

    assert by_column.alerts == by_row.alerts
    assert by_column.book == by_row.book


@given(st.data())
def test_rows_give_the_same_in_any_batches(data: st.DataObject) -> None:
    records, rules = data.draw(rows()), data.draw(record_rules())
    whole, parts = Reading(rules).read(records), Reading(rules)

    for batch in data.draw(cuts(records)):
        parts.read(batch)

    assert parts.alerts == whole.alerts
    assert parts.book == whole.book


@given(rows())
def test_a_batch_of_columns_shows_what_a_batch_of_rows_shows(records: list[batches.Row]) -> None:
    one, other = batches.RowBatch(records), batches.ColumnBatch(columns(records))

    assert (one.prices, one.spreads, one.appended, one.last_time) == (
        other.prices,
        other.spreads,
        other.appended,
        other.last_time,
    )
    for stop in range(len(records) + 1):
        assert one.seen_prices(3, stop) == other.seen_prices(3, stop)
        assert one.seen_spread(stop) == other.seen_spread(stop)


def test_a_spread_is_read_where_both_sides_are_known() -> None:
    reading = Reading([rule({"type": "spread", "above_bps": 20, "clear_bps": 10})])

    reading.read(
        [
            row(0, 100, bid=99.9, ask=100.1),
            row(1, 100, bid=99.8, ask=100.1),
            row(2, 100, bid=None, ask=100.1),
            row(3, 100, bid=99.92, ask=100.07),
            row(4, 100, bid=99.98, ask=100.02),
        ]
    )

    assert reading.transitions == [("firing", 1), ("resolved", 4)]
    first = reading.alerts[0]
    assert (first.threshold, first.reason) == (20, "spread 30.015 bps is above 20 bps")
    assert first.value == pytest.approx(10_000 * 0.3 / 99.95)
    assert [point.price for point in first.last_prices] == [100, 100]


def test_a_timer_shows_the_last_spread_and_not_one_before_the_rule() -> None:
    active = rule({"type": "spread", "above_bps": 20}, for_="5s", effective_at=micros(1))
    reading = Reading([active])

    reading.read([row(0, 100, bid=99, ask=101), row(1, 100, bid=99.5, ask=100.5)])
    reading.read([row(2, 100), row(10, 100)])

    assert reading.transitions == [("pending", 1), ("firing", 6)]
    assert reading.alerts[1].value == 100


def test_a_key_without_rules_remembers_nothing() -> None:
    assert Reading([]).read([row(0, 100)]).book == Reading([]).book


def test_the_alerts_of_a_source_that_takes_over_count_on() -> None:
    reading = Reading([rule({"above": 100})], first_seq=7).read([row(0, 101), row(1, 99)])

    assert [alert.seq for alert in reading.alerts] == [8, 9]
    assert reading.book.last_seq == 9


@pytest.mark.parametrize("as_columns", [False, True])
def test_columns_that_prove_no_change_are_not_searched(monkeypatch: pytest.MonkeyPatch, as_columns: bool) -> None:  # noqa: FBT001
    searched: list[ActiveRule] = []
    for name in ("_search", "_walk"):
        monkeypatch.setattr(AlertFold, name, lambda _fold, watch, _batch: searched.append(watch.rule))
    rules = [rule({"above": 102}, "quiet"), rule({"above": 101}, "loud"), rule({"below": 98, "clear": 99}, "low")]

    Reading(rules, as_columns).read([row(0, 99), row(1, 101.5), row(2, 100)])

    assert [each.rule_id for each in searched] == ["loud"]


def test_closing_all_names_the_reason_and_forgets_the_machines() -> None:
    rules = [rule({"above": 100}, "open"), rule({"above": 200}, "idle"), rule({"above": 100}, "held", for_="1m")]
    reading = Reading(rules).read([row(0, 101)])
    fold = AlertFold(reading.book, "coinbase", "BTC-USD")

    fold.close_all(rules, micros(5), "basis_changed")

    assert [(alert.rule_id, alert.state, alert.at, alert.reason) for alert in fold.alerts] == [
        ("open", "resolved", micros(5), "basis_changed"),
        ("held", "inactive", micros(5), "basis_changed"),
    ]
    assert fold.finish().machines == {}


def test_no_number_of_a_column_is_a_numpy_scalar_in_an_alert() -> None:
    reading = Reading([rule({"above": 100}), rule({"type": "spread", "above_bps": 1}, "s")], as_columns=True)

    reading.read([row(0, 101, bid=100, ask=102)])

    for alert in reading.alerts:
        assert type(alert.at) is int
        assert type(alert.value) is float
        assert not isinstance(alert.last_prices[0].price, np.floating)
