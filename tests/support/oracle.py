"""What the platform must compute, by definition: statistics and price alerts of one key, brute force and sequential.

The key is one (tenant, exchange, product); its records come in offset order. Each statistic is computed from the raw
ticks of its window with exact sums, without any state carried from one window to the next; each alert by walking the
records once. Nothing here is shared with the product but the record types and the validator.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from schemas.records import Alert, AsOf, PricePoint, Stat, Tick
from schemas.validate import check

SECOND: Final = 1_000_000
"""Microseconds."""
GRACE: Final = 10 * SECOND
CLOCK_DELAY: Final = 2 * SECOND
"""Without records, a pane closes when the event clock is this far past its end."""
WINDOWS: Final = {"1m": 60 * SECOND, "5m": 300 * SECOND, "15m": 900 * SECOND}
GRID: Final = {"1m": SECOND, "5m": 5 * SECOND, "15m": 5 * SECOND}
"""Step of the clock grid that volatility is computed on."""
YEAR_SECONDS: Final = 365 * 86_400
LEAST_RETURNS: Final = 10
LAST_PRICES: Final = 5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = {"ms": 1_000, "s": SECOND, "m": 60 * SECOND, "h": 3_600 * SECOND, "d": 86_400 * SECOND}


@dataclass(frozen=True, slots=True)
class Sourced:
    """A tick with where it stands in its topic and when the broker appended it (microseconds)."""

    tick: Tick
    as_of: AsOf
    appended_at: int = 0
    dataset: str = "ticks"
    backfill: bool = False


# ---- recorded frames ----


def micros(text: str) -> int:
    """Return an RFC 3339 time as microseconds since 1970."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def read_frames(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (time of receipt in microseconds, message) of each line of a recording."""
    for line in path.read_text().splitlines():
        receipt, _, text = line.partition(" ")
        yield int(Fraction(receipt) * SECOND), json.loads(text)


def frame_ticks(path: Path, exchange: str = "coinbase") -> list[Tick]:
    """Return the ticks that a Coinbase recording holds, in its order; a ticker of price 0 is none."""
    messages = [(receipt, frame) for receipt, frame in read_frames(path) if frame["type"] == "ticker"]
    return [_tick(frame, exchange, receipt) for receipt, frame in messages if float(frame["price"]) != 0]


def _tick(frame: Mapping[str, Any], exchange: str, receipt: int) -> Tick:
    def number(name: str) -> float | None:
        return float(frame[name]) if frame.get(name) else None

    product, sequence = str(frame["product_id"]), int(frame["sequence"])
    return Tick(
        event_id=f"{exchange}:{product}:{sequence}",
        exchange=exchange,
        product=product,
        sequence=sequence,
        trade_id=frame.get("trade_id"),
        side=frame.get("side"),
        price=float(frame["price"]),
        size=number("last_size"),
        best_bid=number("best_bid"),
        best_bid_size=number("best_bid_size"),
        best_ask=number("best_ask"),
        best_ask_size=number("best_ask_size"),
        open_24h=number("open_24h"),
        high_24h=number("high_24h"),
        low_24h=number("low_24h"),
        volume_24h=number("volume_24h"),
        volume_30d=number("volume_30d"),
        exchange_time=micros(frame["time"]),
        received_time=receipt,
    )


def sourced(ticks: Iterable[Tick], *, topic_id: str = "topic", partition: int = 0) -> list[Sourced]:
    """Return ticks as if they stood at offsets 0, 1, 2 … of a partition."""
    return [
        Sourced(tick, AsOf(topic_id=topic_id, partition=partition, offset=offset), tick.received_time)
        for offset, tick in enumerate(ticks)
    ]


def by_key(records: Iterable[Sourced]) -> dict[tuple[str, str], list[Sourced]]:
    """Return the records of each (exchange, product), in their order."""
    keys: dict[tuple[str, str], list[Sourced]] = {}
    for record in records:
        keys.setdefault((record.tick.exchange, record.tick.product), []).append(record)
    return keys


# ---- which records count ----


def accepted(records: Iterable[Sourced]) -> list[Sourced]:
    """Return what statistics take: well-formed, each id once, no backfill, at most 10 s behind the watermark."""
    taken: list[Sourced] = []
    watermark = -math.inf
    for record in _well_formed(records):
        if record.tick.exchange_time < watermark - GRACE:
            continue
        watermark = max(watermark, record.tick.exchange_time)
        taken.append(record)
    return taken


def _well_formed(records: Iterable[Sourced]) -> Iterator[Sourced]:
    known: set[str] = set()
    for record in records:
        fault = check(record.tick, record.dataset)
        if fault is None and not record.backfill and record.tick.event_id not in known:
            known.add(record.tick.event_id)
            yield record


def _event_order(record: Sourced) -> tuple[int, int]:
    return (record.tick.exchange_time, record.as_of.offset)


# ---- statistics ----


def final_stats(
    records: Iterable[Sourced], windows: Sequence[str] = ("1m", "5m"), *, until: int | None = None
) -> dict[str, Stat]:
    """Return the final revision of each statistic of one key, by event_id.

    One a window for each pane of 1 s that holds records, and one where the window becomes empty. The latter is known
    when a record reaches its time, or when the event clock, which ran to `until`, is 2 s past it (None: the source
    ended with its last record).
    """
    return {stat.event_id: stat for stat in _all_stats(records, windows, until)}


def passing_stats(
    records: Iterable[Sourced], windows: Sequence[str] = ("1m", "5m"), *, until: int | None = None
) -> dict[str, Stat]:
    """Return statistics that may have been published beside the final ones, as their last revision.

    Windows that looked empty when the clock or the watermark passed their end, whether a later record fell into them
    or not. Where one was published it has to be right.
    """
    key = _Key.of(records)
    stats: dict[str, Stat] = {}
    for window in windows:
        for basis, series in key.series.items():
            for end in series.pane_ends():
                at = end + WINDOWS[window]
                if at <= key.reached(until):
                    stat = key.stat(basis, window, at)
                    stats[stat.event_id] = stat
    return stats


def _all_stats(records: Iterable[Sourced], windows: Sequence[str], until: int | None) -> Iterator[Stat]:
    key = _Key.of(records)
    for basis, series in key.series.items():
        for window in windows:
            for end in series.pane_ends():
                yield key.stat(basis, window, end)
                emptied = end + WINDOWS[window]
                if emptied <= key.reached(until) and not series.between(end, emptied):
                    yield key.stat(basis, window, emptied)


@dataclass(frozen=True, slots=True)
class _Series:
    """Records in event order: by exchange_time, at an equal time by offset."""

    records: list[Sourced]
    times: list[int]

    @classmethod
    def of(cls, records: Iterable[Sourced]) -> "_Series":
        ordered = sorted(records, key=_event_order)
        return cls(ordered, [record.tick.exchange_time for record in ordered])

    def between(self, start: int, end: int) -> list[Sourced]:
        """Return the records with start <= exchange_time < end."""
        return self.records[bisect_left(self.times, start) : bisect_left(self.times, end)]

    def before(self, time: int) -> Sourced | None:
        """Return the last record with exchange_time < time."""
        index = bisect_left(self.times, time)
        return self.records[index - 1] if index else None

    def pane_ends(self) -> list[int]:
        """Return the end of each pane of 1 s that holds records."""
        return sorted({(time // SECOND + 1) * SECOND for time in self.times})


@dataclass(frozen=True, slots=True)
class _Key:
    """The accepted records of a key, as the bases see them: all of them, and those with both quotes."""

    series: dict[str, _Series]

    @classmethod
    def of(cls, records: Iterable[Sourced]) -> "_Key":
        taken = accepted(records)
        quoted = [r for r in taken if r.tick.best_bid is not None and r.tick.best_ask is not None]
        return cls({"ticks": _Series.of(taken), "quotes": _Series.of(quoted)})

    def reached(self, until: int | None) -> int:
        """Return the event time up to which windows are known to be over."""
        watermark = max(self.series["ticks"].times, default=0)
        return watermark if until is None else max(watermark, until - CLOCK_DELAY)

    def stat(self, basis: str, window: str, at: int) -> Stat:
        length = WINDOWS[window]
        series = self.series[basis]
        inside = series.between(at - length, at)
        included = inside or series.between(0, at)
        first = self.series["ticks"].times[0]
        covered = min(length, at - first) / SECOND
        values = _quote_fields(series, inside, at) if basis == "quotes" else _price_fields(series, inside, window, at)
        example = included[-1].tick
        return Stat(
            event_id=f"{example.exchange}:{example.product}:{window}:{at // SECOND}:{basis}",
            exchange=example.exchange,
            product=example.product,
            window=window,
            at=at,
            basis=basis,
            count=len(inside),
            coverage_seconds=covered,
            as_of=max((record.as_of for record in included), key=lambda as_of: as_of.offset),
            revision=0,
            **values,
        )


def _price_fields(series: _Series, inside: list[Sourced], window: str, at: int) -> dict[str, float | None]:
    start = at - WINDOWS[window]
    earlier = series.before(start)
    prices = [record.tick.price for record in inside]
    reference = earlier.tick.price if earlier else (prices[0] if prices else None)
    close = prices[-1] if prices else None
    change = None if close is None or reference is None else close - reference
    return {
        **_extremes(prices),
        **_volumes(inside),
        "mean": _mean(prices) if prices else None,
        "stddev": _sample_stddev(prices) if len(prices) > 1 else None,
        "reference_price": reference,
        "change": change,
        "change_pct": None if change is None or reference is None else 100 * change / reference,
        **_volatilities(series, window, at),
    }


def _extremes(prices: list[float]) -> dict[str, float | None]:
    if not prices:
        return {}
    high, low = max(prices), min(prices)
    return {
        "open": prices[0],
        "high": high,
        "low": low,
        "close": prices[-1],
        "range_position": (prices[-1] - low) / (high - low) if high > low else None,
    }


def _volumes(inside: list[Sourced]) -> dict[str, float | None]:
    ticks = [record.tick for record in inside]
    volume = math.fsum(tick.size or 0.0 for tick in ticks)
    quote_volume = math.fsum(tick.price * (tick.size or 0.0) for tick in ticks)
    return {
        "volume": volume,
        "quote_volume": quote_volume,
        "buy_volume": math.fsum(tick.size or 0.0 for tick in ticks if tick.side == "buy"),
        "vwap": quote_volume / volume if volume else None,
    }


def _volatilities(series: _Series, window: str, at: int) -> dict[str, float | None]:
    returns, covered = _grid_returns(series, window, at)
    if len(returns) < LEAST_RETURNS:
        return {}
    squares = math.fsum(r * r for r in returns)
    return {
        "volatility": math.sqrt(squares * YEAR_SECONDS / (covered / SECOND)),
        "stddev_log_return": _sample_stddev(returns),
    }


def _grid_returns(series: _Series, window: str, at: int) -> tuple[list[float], int]:
    """Return the log returns from one point of the grid to the next, and the microseconds that they cover.

    The grid ends at `at`; its price at a point is the last one before it. It starts at the window's start with the
    reference price, or with the key's first record where that lies inside the window.
    """
    start, step = at - WINDOWS[window], GRID[window]
    earlier = series.before(start)
    first = earlier or series.records[0]
    points = [point for point in range(start + step, at + 1, step) if point > first.tick.exchange_time]
    seen = [series.before(point) for point in points]
    prices = [first.tick.price, *(record.tick.price for record in seen if record)]
    returns = [math.log(price / previous) for previous, price in pairwise(prices)]
    return returns, min(WINDOWS[window], at - first.tick.exchange_time)


def _quote_fields(series: _Series, inside: list[Sourced], at: int) -> dict[str, float | None]:
    last = series.before(at)
    age = None if last is None else (at - (last.tick.quote_time or last.tick.exchange_time)) / SECOND
    if not inside:
        return {"quote_age": age}
    sides = [(r.tick.best_bid or 0.0, r.tick.best_ask or 0.0) for r in inside]
    return {
        "spread_mean": _mean([ask - bid for bid, ask in sides]),
        "spread_bps": _mean([(ask - bid) / ((ask + bid) / 2) * 10_000 for bid, ask in sides]),
        "quote_age": age,
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sample_stddev(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


# ---- price alerts ----


def applies(definition: Mapping[str, Any], exchange: str, product: str) -> bool:
    """Return whether a rule watches this product of this exchange."""
    return _names(definition["product"], product) and _names(definition.get("exchange") or "*", exchange)


def _names(wanted: str | Sequence[str], name: str) -> bool:
    chosen = [wanted] if isinstance(wanted, str) else wanted
    return "*" in chosen or name in chosen


def duration(text: str) -> int:
    """Return a duration such as 60s, 5m or 250ms in microseconds."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(Fraction(digits) * _UNITS[text[len(digits) :]])


def transitions(
    definition: Mapping[str, Any],
    records: Iterable[Sourced],
    *,
    rule_id: str = "rule",
    version: int = 1,
    effective_at: int = 0,
    until: int | None = None,
) -> list[Alert]:
    """Return each transition of a price rule over the records of one key, in order.

    The rule sees records appended at or after `effective_at` that are not older than the watermark. Timers act up to
    the last record's time, or up to `until`, the event time to which the clock ran. The alert_id is the tuple that
    identifies a transition, as text: the product may hash it.
    """
    machine = _Machine(_Rule.of(definition, rule_id, version))
    if not definition.get("enabled", True):
        return []
    watermark = -math.inf
    for record in _well_formed(records):
        if record.tick.exchange_time >= watermark and record.appended_at >= effective_at:
            machine.take(record.tick)
        watermark = max(watermark, record.tick.exchange_time)
    if until is not None:
        machine.run_to(until)
    return machine.alerts


@dataclass(frozen=True, slots=True)
class _Rule:
    definition: Mapping[str, Any]
    rule_id: str
    version: int
    hold: int
    keep: int
    cooldown: int

    @classmethod
    def of(cls, definition: Mapping[str, Any], rule_id: str, version: int) -> "_Rule":
        hold, keep, cooldown = (duration(definition.get(n) or "0s") for n in ("for", "keep_firing_for", "cooldown"))
        return cls(definition, rule_id, version, hold, keep, cooldown)

    @property
    def threshold(self) -> float:
        condition = self.definition["condition"]
        return float(next(condition[name] for name in ("above", "below", "crosses") if condition.get(name) is not None))

    def verdict(self, price: float, side: int) -> str:
        """Return what a price says: true, clear or neither; `side` is where the price last stood off a crossing."""
        condition = self.definition["condition"]
        clear = float(self.threshold if condition.get("clear") is None else condition["clear"])
        if condition.get("above") is not None:
            return "true" if price > self.threshold else "clear" if price <= clear else "neither"
        if condition.get("below") is not None:
            return "true" if price < self.threshold else "clear" if price >= clear else "neither"
        now = _sign(price - self.threshold)
        wanted = {"up": (1,), "down": (-1,), "both": (1, -1)}[condition.get("direction") or "both"]
        return "true" if now in wanted and side == -now else "clear"


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


@dataclass(slots=True)
class _Machine:
    """inactive -> pending -> firing -> resolved; `latched` says that the condition holds, whatever the state."""

    rule: _Rule
    state: str = "inactive"
    latched: bool = False
    side: int = 0
    due: int | None = None
    """When the pending rule fires, the firing one resolves or the cooldown ends."""
    prices: list[PricePoint] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def take(self, tick: Tick) -> None:
        """Take the next record: timers that are due at its time or before act first."""
        self.run_to(tick.exchange_time)
        verdict = self.rule.verdict(tick.price, self.side)
        self.side = _sign(tick.price - self.rule.threshold) or self.side
        self.ticks.append(tick)
        self.prices = [*self.prices, PricePoint(time=tick.exchange_time, price=tick.price)][-LAST_PRICES:]
        self.latched = verdict == "true" or (verdict == "neither" and self.latched)
        self._judge(verdict, tick.exchange_time)

    def run_to(self, time: int) -> None:
        """Let the timers act that are due up to this event time."""
        while self.due is not None and self.due <= time:
            at, self.due = self.due, None
            if self.state == "pending":
                self._enter("firing", at)
            elif self.state == "firing":
                self._resolve(at)
            elif self.latched:
                self._begin(at)

    def _judge(self, verdict: str, at: int) -> None:
        if self.state == "inactive" and verdict == "true" and self.due is None:
            self._begin(at)
        elif self.state == "pending" and verdict == "clear":
            self.due = None
            self._enter("inactive", at)
        elif self.state == "firing" and verdict != "clear":
            self.due = None
        elif self.state == "firing" and self.due is None:
            self.due = at + self.rule.keep
            self.run_to(at)

    def _begin(self, at: int) -> None:
        if self.rule.hold == 0:
            self._enter("firing", at)
            return
        self.due = at + self.rule.hold
        self._enter("pending", at)

    def _resolve(self, at: int) -> None:
        self._enter("resolved", at)
        self.state = "inactive"
        self.due = at + self.rule.cooldown if self.rule.cooldown else None

    def _enter(self, state: str, at: int) -> None:
        self.state = state
        tick, rule = self.ticks[-1], self.rule
        self.alerts.append(
            Alert(
                alert_id=f"{rule.rule_id}:{rule.version}:{tick.exchange}:{tick.product}:{state}:{at}",
                seq=len(self.alerts) + 1,
                rule_id=rule.rule_id,
                rule_name=rule.definition["name"],
                rule_version=rule.version,
                exchange=tick.exchange,
                product=tick.product,
                state=state,
                at=at,
                value=tick.price,
                threshold=rule.threshold,
                reason="",
                severity=rule.definition.get("severity") or "warning",
                labels=dict(rule.definition.get("labels") or {}),
                last_prices=self.prices,
            )
        )


# ---- comparison ----

_STAT_FLOATS: Final = tuple(
    name for name, kind in Stat.__annotations__.items() if "float" in str(kind) and name != "revision"
)


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
    """Compare final revisions: the same ids, floats to a relative 1e-9, as_of not before the last record included.

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
    scale = max(abs(expected.high or 0.0), abs(expected.reference_price or 0.0))
    lines = [
        f"{name} is {getattr(actual, name)!r}, expected {getattr(expected, name)!r}"
        for name in ("exchange", "product", "window", "at", "basis", "count")
        if getattr(actual, name) != getattr(expected, name)
    ]
    for name in _STAT_FLOATS:
        got, wanted = getattr(actual, name), getattr(expected, name)
        # a difference of nearly equal prices cannot be better than the prices' own rounding
        slack = scale * 1e-14 if name in {"stddev", "change", "mean"} else 1e-12
        if not _close(got, wanted, slack):
            lines.append(f"{name} is {got!r}, expected {wanted!r}")
    if (actual.as_of.topic_id, actual.as_of.partition) != (expected.as_of.topic_id, expected.as_of.partition):
        lines.append(f"as_of is {actual.as_of}, expected {expected.as_of}")
    elif actual.as_of.offset < expected.as_of.offset:
        lines.append(f"as_of is offset {actual.as_of.offset}, but offset {expected.as_of.offset} is included")
    return lines


def _close(actual: float | None, expected: float | None, slack: float) -> bool:
    if actual is None or expected is None:
        return actual is expected
    return math.isclose(actual, expected, rel_tol=1e-9, abs_tol=slack)


def _stat_line(stat: Stat) -> str:
    return f"{stat.event_id} (count {stat.count}, close {stat.close}, as of {stat.as_of.offset})"


def assert_one_content_each(stats: Iterable[Stat]) -> None:
    """Assert that statistics of the same id and as_of say the same: a consumer could not choose between them."""
    seen: dict[tuple[str, AsOf], Stat] = {}
    problems = []
    for stat in stats:
        first = seen.setdefault((stat.event_id, stat.as_of), stat)
        problems += [f"{stat.event_id} as of {stat.as_of.offset}: {line}" for line in stat_differences(stat, first)]
    _raise(problems, "statistics of one id and as_of differ")


def assert_alerts_equal(actual: Iterable[Alert], expected: Sequence[Alert]) -> None:
    """Compare transitions of any number of rules and keys: each once, in order, with what it saw.

    Repeats (the same alert_id) are taken once and must be equal. The text of reason and alert_id is the product's.
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
        f"{name} is {getattr(actual, name)!r}, expected {getattr(expected, name)!r}"
        for name in ("rule_name", "value", "threshold", "severity", "labels", "window")
        if getattr(actual, name) != getattr(expected, name)
    ]
    shown = actual.last_prices
    if not shown or shown != expected.last_prices[-len(shown) :]:
        lines.append(f"last_prices are {shown}, expected {expected.last_prices}")
    return lines if actual.reason else [*lines, "reason is empty"]


def _alert_line(alert: Alert) -> str:
    at = _EPOCH + timedelta(microseconds=alert.at)
    return f"{alert.state} at {at:%H:%M:%S.%f} value {alert.value} seq {alert.seq}"


def _raise(problems: list[str], summary: str, shown: int = 30) -> None:
    if problems:
        more = [f"… and {len(problems) - shown} more"] if len(problems) > shown else []
        raise AssertionError("\n".join([f"{summary}; {len(problems)} differences", *problems[:shown], *more]))
