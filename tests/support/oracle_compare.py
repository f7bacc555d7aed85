"""Comparison of what came out with what the oracle says: final revisions, one content each, transitions in order.

Counts, extremes, prices and times are equal; sums agree to a relative 1e-12, what is derived from them to 1e-9.
Log returns cannot be better than the rounding of a ratio of prices: figures over them may also differ by 1e-12.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from schemas.records import Alert, AsOf, Bar, Stat
from tests.support.oracle_bars import received_times
from tests.support.oracle_records import Sourced

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORECAST: Final = ("forecast_volatility", "forecast_low", "forecast_high")
_EXACT: Final = ("exchange", "product", "window", "at", "basis", "count", "open", "high", "low", "close", *_FORECAST)
_SUMS: Final = ("volume", "quote_volume", "buy_volume", "mean")
_OF_RETURNS: Final = ("volatility", "stddev_log_return")
_DERIVED: Final = (
    *("vwap", "stddev", "coverage_seconds", "reference_price", "change", "change_pct"),
    *("spread_mean", "spread_bps", "quote_age", "range_position"),
)
_BAR_EXACT: Final = ("exchange", "product", "period", "start", "open", "high", "low", "close", "trades", "origin")


# ---- statistics ----


def newest(stats: Iterable[Stat]) -> dict[str, Stat]:
    """Return the revision of each statistic that wins: the one with the greatest as_of."""
    winners: dict[str, Stat] = {}
    for stat in stats:
        held = winners.get(stat.event_id)
        if held is None or stat.as_of.offset >= held.as_of.offset:
            winners[stat.event_id] = stat
    return winners


def assert_stats_equal(
    actual: Iterable[Stat], expected: Mapping[str, Stat], *, allowed: Mapping[str, Stat] | None = None
) -> None:
    """Compare final revisions: the same ids, equal fields, as_of not before the last record included.

    `allowed` statistics may be missing, but are compared where present.
    """
    found = newest(actual)
    known = {**(allowed or {}), **expected}
    problems = [f"missing: {_stat_line(expected[name])}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"not expected: {_stat_line(found[name])}" for name in sorted(found.keys() - known.keys())]
    for name in sorted(found.keys() & known.keys()):
        problems += [f"{name}: {difference}" for difference in stat_differences(found[name], known[name])]
    _raise(problems, f"{len(found)} statistics, {len(expected)} expected")


def stat_differences(actual: Stat, expected: Stat) -> list[str]:
    """Return what differs between two revisions of a statistic, a line each."""
    return [
        *_unequal(actual, expected, _EXACT),
        *_apart(actual, expected, _SUMS, relative=1e-12),
        *_apart(actual, expected, _DERIVED, relative=1e-9),
        *_apart(actual, expected, _OF_RETURNS, relative=1e-9, absolute=1e-12),
        *_as_of_differences(actual.as_of, expected.as_of),
    ]


def assert_one_content_each(stats: Iterable[Stat]) -> None:
    """Assert that statistics of the same id and as_of say the same: a consumer could not choose between them."""
    seen: dict[tuple[str, AsOf], Stat] = {}
    problems = []
    for stat in stats:
        first = seen.setdefault((stat.event_id, stat.as_of), stat)
        problems += [f"{stat.event_id} as of {stat.as_of.offset}: {line}" for line in stat_differences(stat, first)]
    _raise(problems, "statistics of one id and as_of differ")


def _stat_line(stat: Stat) -> str:
    return f"{stat.event_id} (count {stat.count}, close {stat.close}, as of {stat.as_of.offset})"


# ---- bars ----


def newest_bars(bars: Iterable[Bar]) -> dict[str, Bar]:
    """Return the revision of each bar that wins: the one with the greatest as_of."""
    winners: dict[str, Bar] = {}
    for bar in bars:
        held = winners.get(bar.event_id)
        if held is None or _offset(bar) >= _offset(held):
            winners[bar.event_id] = bar
    return winners


def assert_bars_equal(
    actual: Iterable[Bar], expected: Mapping[str, Bar], records: Iterable[Sourced], *, known: Iterable[str] = ()
) -> None:
    """Compare final revisions: the same ids, equal fields, `received_time` that of the record which as_of names.

    Bars whose id is in `known` may be there beside the expected ones.
    """
    records = list(records)
    found, appended = newest_bars(actual), received_times(records)
    began: dict[tuple[str, str, str], int] = {}
    for record in records:
        began.setdefault((record.dataset, record.record.exchange, record.record.product), record.time)
    strange = found.keys() - expected.keys() - set(known)
    problems = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"not expected: {name}" for name in sorted(strange)]
    for name in sorted(found.keys() & expected.keys()):
        problems += [f"{name}: {line}" for line in bar_differences(found[name], expected[name], appended)]
        problems += [f"{name}: {line}" for line in _completeness(found[name], expected[name], began)]
    _raise(problems, f"{len(found)} bars, {len(expected)} expected")


def bar_differences(actual: Bar, expected: Bar, appended: Mapping[tuple[str, int, int], int]) -> list[str]:
    """Return what differs between two revisions of a bar, a line each."""
    lines = [
        *_unequal(actual, expected, _BAR_EXACT),
        *_apart(actual, expected, ("volume", "quote_volume", "buy_volume", "vwap"), relative=1e-12),
    ]
    if actual.as_of is None or expected.as_of is None:
        return [*lines, "as_of is missing"]
    place = (actual.as_of.topic_id, actual.as_of.partition, actual.as_of.offset)
    if appended.get(place) != actual.received_time:
        lines.append(f"received_time is {actual.received_time}, record {place} was appended at {appended.get(place)}")
    return [*lines, *_as_of_differences(actual.as_of, expected.as_of)]


def _completeness(actual: Bar, expected: Bar, began: Mapping[tuple[str, str, str], int]) -> list[str]:
    """Allow a bar to be incomplete that only a late record, from before its key's first one, makes complete."""
    first = began.get((expected.origin, expected.exchange, expected.product), 0)
    late = expected.complete and first > expected.start
    wrong = actual.complete is not expected.complete and not late
    return [f"complete is {actual.complete}, expected {expected.complete}"] if wrong else []


def _offset(bar: Bar) -> int:
    return -1 if bar.as_of is None else bar.as_of.offset


# ---- fields ----


def _unequal(actual: object, expected: object, names: Iterable[str]) -> list[str]:
    return [
        f"{name} is {getattr(actual, name)!r}, expected {getattr(expected, name)!r}"
        for name in names
        if getattr(actual, name) != getattr(expected, name)
    ]


def _apart(
    actual: object, expected: object, names: Iterable[str], *, relative: float, absolute: float = 1e-300
) -> list[str]:
    return [
        f"{name} is {getattr(actual, name)!r}, expected {getattr(expected, name)!r}"
        for name in names
        if not _close(getattr(actual, name), getattr(expected, name), relative, absolute)
    ]


def _close(actual: float | None, expected: float | None, relative: float, absolute: float) -> bool:
    if actual is None or expected is None:
        return actual is expected
    return math.isclose(actual, expected, rel_tol=relative, abs_tol=absolute)


def _as_of_differences(actual: AsOf, expected: AsOf) -> list[str]:
    if (actual.topic_id, actual.partition) != (expected.topic_id, expected.partition):
        return [f"as_of is {actual}, expected {expected}"]
    if actual.offset < expected.offset:
        return [f"as_of is offset {actual.offset}, but offset {expected.offset} is included"]
    return []


# ---- alerts ----


def assert_alerts_equal(actual: Iterable[Alert], expected: Sequence[Alert]) -> None:
    """Compare transitions of any number of rules and keys: each once, in order, with what it saw.

    Repeats (the same alert_id) are taken once and must be equal. The text of reason and alert_id is the product's, and
    so is what it shows of prices where the oracle names none.
    """
    found = _once(actual)
    problems = _id_faults(found)
    groups = {_alert_group(alert) for alert in [*found, *expected]}
    for group in sorted(groups):
        got = sorted((a for a in found if _alert_group(a) == group), key=lambda alert: alert.seq)
        wanted = [alert for alert in expected if _alert_group(alert) == group]
        problems += [f"{group}: {line}" for line in _group_differences(got, wanted)]
    _raise(problems, f"{len(found)} alerts, {len(expected)} expected")


def _once(alerts: Iterable[Alert]) -> list[Alert]:
    known: dict[str, Alert] = {}
    for alert in alerts:
        first = known.setdefault(alert.alert_id, alert)
        assert first == alert, f"two contents of one alert_id:\n  {first}\n  {alert}"
    return list(known.values())


def _id_faults(alerts: list[Alert]) -> list[str]:
    places = [(*_alert_group(alert), alert.state, alert.at, alert.seq, alert.alert_id) for alert in alerts]
    return [f"two ids of one transition: {place}" for place in places if sum(p[:-1] == place[:-1] for p in places) > 1]


def _alert_group(alert: Alert) -> tuple[str, int, str, str]:
    return (alert.rule_id, alert.rule_version, alert.exchange, alert.product)


def _group_differences(actual: list[Alert], expected: list[Alert]) -> list[str]:
    if [(a.state, a.at) for a in actual] != [(a.state, a.at) for a in expected]:
        return [
            "transitions differ",
            *(f"  actual   {_alert_line(alert)}" for alert in actual),
            *(f"  expected {_alert_line(alert)}" for alert in expected),
        ]
    sequences = [alert.seq for alert in actual]
    lines = [] if sequences == list(range(sequences[0], sequences[0] + len(sequences))) else [f"seq are {sequences}"]
    for got, wanted in zip(actual, expected, strict=True):
        lines += [f"{_alert_line(wanted)}: {line}" for line in _alert_differences(got, wanted)]
    return lines


def _alert_differences(actual: Alert, expected: Alert) -> list[str]:
    lines = [
        *_unequal(actual, expected, ("rule_name", "severity", "labels", "window")),
        *_apart(actual, expected, ("value", "threshold"), relative=1e-9, absolute=1e-12),
    ]
    shown = actual.last_prices
    if expected.last_prices and (not shown or shown != expected.last_prices[-len(shown) :]):
        lines.append(f"last_prices are {shown}, expected {expected.last_prices}")
    return lines if actual.reason else [*lines, "reason is empty"]


def _alert_line(alert: Alert) -> str:
    at = _EPOCH + timedelta(microseconds=alert.at)
    return f"{alert.state} at {at:%H:%M:%S.%f} value {alert.value} seq {alert.seq}"


def _raise(problems: list[str], summary: str, shown: int = 30) -> None:
    if problems:
        more = [f"… and {len(problems) - shown} more"] if len(problems) > shown else []
        raise AssertionError("\n".join([f"{summary}; {len(problems)} differences", *problems[:shown], *more]))
