from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.records import Alert, PricePoint, Tick
from tests.support.oracle import (
    SECOND,
    applies,
    assert_alerts_equal,
    by_key,
    duration,
    frame_ticks,
    micros,
    sourced,
    transitions,
)

Step = tuple[float, float]
"""Seconds and price of a tick."""


def ticks(*steps: Step) -> list[Tick]:
    return [
        Tick(
            event_id=f"coinbase:BTC-USD:{number}",
            exchange="coinbase",
            product="BTC-USD",
            sequence=number,
            price=price,
            exchange_time=round((1_000 + seconds) * SECOND),
            received_time=round((1_000 + seconds) * SECOND),
        )
        for number, (seconds, price) in enumerate(steps)
    ]


def rule(condition: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "r", "product": "BTC-USD", "condition": {"type": "price", **condition}} | {
        name.removesuffix("_"): value for name, value in fields.items()
    }


def states(definition: dict[str, Any], steps: Sequence[Step], until: float | None = None) -> list[tuple[str, float]]:
    clock = None if until is None else round((1_000 + until) * SECOND)
    found = transitions(definition, sourced(ticks(*steps)), until=clock)
    return [(alert.state, alert.at / SECOND - 1_000) for alert in found]


def test_without_a_hold_the_rule_fires_and_resolves_at_the_ticks() -> None:
    found = states(rule({"above": 100}), [(0, 100), (1, 101), (2, 102), (3, 100), (4, 101)])

    assert found == [("firing", 1), ("resolved", 3), ("firing", 4)]


def test_below_is_above_mirrored() -> None:
    found = states(rule({"below": 100, "clear": 102}), [(0, 99), (1, 101), (2, 102), (3, 99)])

    assert found == [("firing", 0), ("resolved", 2), ("firing", 3)]


def test_a_held_condition_fires_exactly_after_its_hold() -> None:
    found = states(rule({"above": 100}, for_="10s"), [(0, 101), (4, 102), (30, 103)])

    assert found == [("pending", 0), ("firing", 10)]


def test_a_timer_at_the_time_of_a_tick_acts_before_it() -> None:
    found = states(rule({"above": 100}, for_="10s"), [(0, 101), (10, 99)])

    assert found == [("pending", 0), ("firing", 10), ("resolved", 10)]


def test_a_pending_rule_is_cancelled_by_a_clear_tick_but_not_by_a_price_between() -> None:
    definition = rule({"above": 100, "clear": 98}, for_="10s")

    assert states(definition, [(0, 101), (5, 99), (11, 99)]) == [("pending", 0), ("firing", 10)]
    assert states(definition, [(0, 101), (5, 98), (11, 99)]) == [("pending", 0), ("inactive", 5)]


def test_timers_beyond_the_last_record_act_only_where_the_clock_ran_on() -> None:
    definition = rule({"above": 100}, for_="10s")

    assert states(definition, [(0, 101)]) == [("pending", 0)]
    assert states(definition, [(0, 101)], until=9.9) == [("pending", 0)]
    assert states(definition, [(0, 101)], until=10) == [("pending", 0), ("firing", 10)]


def test_firing_ends_after_an_unbroken_run_of_clear_ticks() -> None:
    definition = rule({"above": 100, "clear": 98}, keep_firing_for="5s")

    found = states(definition, [(0, 101), (1, 97), (4, 99), (6, 98), (8, 97), (20, 97)])

    assert found == [("firing", 0), ("resolved", 11)]


def test_no_new_pending_before_the_cooldown_has_passed() -> None:
    definition = rule({"above": 100}, cooldown="10s")

    assert states(definition, [(0, 101), (1, 99), (2, 101), (3, 99), (12, 101)]) == [
        ("firing", 0),
        ("resolved", 1),
        ("firing", 12),
    ]
    assert states(definition, [(0, 101), (1, 99), (2, 101), (20, 101)]) == [
        ("firing", 0),
        ("resolved", 1),
        ("firing", 11),
    ]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("up", [("firing", 1), ("resolved", 2), ("firing", 5), ("resolved", 6)]),
        ("down", [("firing", 3), ("resolved", 4)]),
        ("both", [("firing", 1), ("resolved", 2), ("firing", 3), ("resolved", 4), ("firing", 5), ("resolved", 6)]),
    ],
)
def test_a_crossing_fires_on_its_edge_and_is_over_with_the_next_tick(
    direction: str, expected: list[tuple[str, float]]
) -> None:
    prices = [(0, 99.0), (1, 101.0), (2, 102.0), (3, 99.0), (4, 100.0), (5, 101.0), (6, 101.0)]

    assert states(rule({"crosses": 100, "direction": direction}), prices) == expected


def test_records_behind_the_watermark_and_before_the_rule_are_ignored() -> None:
    steps = [(0, 101.0), (5, 99.0), (4, 101.0), (6, 101.0)]

    found = transitions(rule({"above": 100}), sourced(ticks(*steps)), effective_at=1_001 * SECOND)

    assert [(alert.state, alert.at / SECOND) for alert in found] == [("firing", 1_006)]


def test_a_repeated_record_changes_nothing() -> None:
    first, second = ticks((0, 101), (1, 99))

    assert len(transitions(rule({"above": 100}), sourced([first, second, first, second]))) == 2


def test_an_alert_carries_what_led_to_it() -> None:
    steps = [(float(number), 90.0 + number) for number in range(8)]

    (alert,) = transitions(
        rule({"above": 96.5}, severity="critical", labels={"desk": "spot"}), sourced(ticks(*steps)), version=3
    )

    assert (alert.seq, alert.value, alert.threshold, alert.rule_version) == (1, 97, 96.5, 3)
    assert (alert.severity, alert.labels) == ("critical", {"desk": "spot"})
    assert [point.price for point in alert.last_prices] == [93, 94, 95, 96, 97]


def test_a_rule_watches_what_it_names() -> None:
    assert applies({"product": "*"}, "coinbase", "BTC-USD")
    assert applies({"product": ["ETH-USD", "BTC-USD"], "exchange": "coinbase"}, "coinbase", "BTC-USD")
    assert not applies({"product": "ETH-USD"}, "coinbase", "BTC-USD")
    assert not applies({"product": "*", "exchange": ["kraken"]}, "coinbase", "BTC-USD")


def test_durations_are_microseconds() -> None:
    assert [duration(text) for text in ("0s", "250ms", "5m", "1h", "1.5s")] == [
        0,
        250_000,
        300 * SECOND,
        3_600 * SECOND,
        1_500_000,
    ]


def test_the_recording_fires_resolves_and_fires_again(shared_data: Path) -> None:
    keys = by_key(sourced(frame_ticks(shared_data / "coinbase" / "2021-04-17.frames")))

    found = transitions(rule({"above": 0.7915}, product="SKL-USD"), keys["coinbase", "SKL-USD"])

    assert [(alert.state, alert.at) for alert in found] == [
        ("firing", micros("2021-04-17T16:43:37.314473Z")),
        ("resolved", micros("2021-04-17T16:43:47.839396Z")),
        ("firing", micros("2021-04-17T16:43:55.539586Z")),
    ]


# ---- comparison ----


def three() -> list[Alert]:
    found = transitions(rule({"above": 100}), sourced(ticks((0, 101), (1, 99), (2, 101))))
    return [msgspec.structs.replace(alert, reason="said so") for alert in found]


def test_equal_alerts_compare_equal_with_repeats_and_ids_of_their_own() -> None:
    found = [msgspec.structs.replace(alert, alert_id=f"hash-{alert.seq}") for alert in three()]

    assert_alerts_equal([*found, found[0]], three())


def test_missing_and_unexpected_alerts_are_shown_side_by_side() -> None:
    with pytest.raises(AssertionError, match=r"(?s)transitions differ.*actual.*expected"):
        assert_alerts_equal(three()[:2], three())
    with pytest.raises(AssertionError, match="transitions differ"):
        assert_alerts_equal(three(), three()[:2])


@pytest.mark.parametrize(
    "fields",
    [
        {"value": 7.0},
        {"threshold": None},
        {"reason": ""},
        {"seq": 9},
        {"severity": "info"},
        {"last_prices": [PricePoint(time=1, price=2.0)]},
    ],
)
def test_a_different_field_of_an_alert_is_named(fields: dict[str, Any]) -> None:
    first, *others = three()

    with pytest.raises(AssertionError, match=next(iter(fields))):
        assert_alerts_equal([msgspec.structs.replace(first, **fields), *others], three())


def test_two_contents_of_one_alert_are_refused() -> None:
    first, *others = three()

    with pytest.raises(AssertionError, match="two contents"):
        assert_alerts_equal([first, *others, msgspec.structs.replace(first, value=1.0)], three())


def test_two_ids_of_one_transition_are_refused() -> None:
    first, *others = three()

    with pytest.raises(AssertionError, match="two ids"):
        assert_alerts_equal([first, *others, msgspec.structs.replace(first, alert_id="again")], three())
