"""Transitions of alert rules by definition: the records of a key walked once in offset order, windows from raw records.

How the design is read where it leaves room:
- a record older than its source's watermark is ignored by conditions on records; within the grace it still counts in
  the windows of those instants that are evaluated after it, never in those that were evaluated before it;
- a window condition is evaluated at each whole second (minute, where window or baseline exceeds 15 m) at which a pane
  closes, leaves the window or leaves the baseline, once the watermark has reached it, or the clock 2 s after it;
- in an empty window the price stands: its change is 0;
- what has no value (under 10 returns, a return off the median where more than half are equal, a baseline not yet seen
  whole or empty) is neither true nor clear and changes nothing;
- the baseline of a volume is what lies before the window: its volume divided by how many windows fit into it;
- a z-score judges the last of the window's 1 s returns against all of them, itself included;
- at one instant timers come first, then the windows that end there, then records;
- timers of rules over windows act where windows do: by the clock, 2 s later than those of rules over records;
- a rule over records or windows sees what was appended at or after `effective_at` pass by; the windows themselves hold
  older records, too;
- no data: true at the last record's time + `after`, where no record of a lesser time came; clear at the next record.
  The product lets the clock alone decide it: it agrees where the clock ran on before the next record was read.
"""

import math
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import median
from typing import Any, Final

from schemas.records import Alert, PricePoint
from tests.support.oracle_records import (
    CLOCK_DELAY,
    GRACE,
    MINUTE,
    SECOND,
    Basis,
    Series,
    Sourced,
    carries_prices,
    of_trades,
    well_formed,
)
from tests.support.oracle_stats import GRID, LEAST_RETURNS, grid_returns, pane_of, spread_bps, volatilities

LAST_PRICES: Final = 5
LEAST_MOVES: Final = 5
"""Returns other than 0 that a z-score needs."""
UNNAMED: Final = math.nan
"""A value that the oracle leaves to the product."""
_UNITS: Final = {"us": 1, "ms": 1_000, "s": SECOND, "m": MINUTE, "h": 60 * MINUTE, "d": 24 * 60 * MINUTE}
_OVER_RECORDS: Final = frozenset({"price", "spread", "no_data"})


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
    basis: Basis = "ticks",
) -> list[Alert]:
    """Return each transition of a rule over the records of one key, in order.

    Timers act up to the last record's time, or up to `until`, the event time to which the clock ran. The alert_id is
    the tuple that identifies a transition, as text: the product may hash it.
    """
    if not definition.get("enabled", True):
        return []
    rule = Rule.of(definition, rule_id, version)
    source = [record for record in records if _feeds(record, rule.kind, basis)]
    if not source:
        return []
    machine = Machine(rule, source[0].record.exchange, source[0].record.product)
    if rule.kind in _OVER_RECORDS:
        _walk_records(machine, source, effective_at, until)
    else:
        _walk_windows(machine, source, effective_at, until)
    return machine.alerts


def _feeds(record: Sourced, kind: str, basis: Basis) -> bool:
    """Say whether a record belongs to the source that a rule of this kind lives on."""
    return not of_trades(record) if kind == "spread" else carries_prices(record, basis)


# ---- rules over records ----


def _walk_records(machine: "Machine", source: Iterable[Sourced], effective_at: int, until: int | None) -> None:
    watermark = -math.inf
    for record in well_formed(source):
        if record.time >= watermark and record.appended_at >= effective_at:
            _take(machine, record)
        watermark = max(watermark, record.time)
    if until is not None:
        machine.run_to(until)


def _take(machine: "Machine", record: Sourced) -> None:
    machine.run_to(record.time)
    machine.remember(record)
    kind = machine.rule.kind
    if kind == "price":
        machine.judge(machine.rule.price_verdict(record.price, machine.side), record.price, record.time)
        machine.side = _sign(record.price - machine.rule.threshold) or machine.side
    elif kind == "spread" and record.quotes is not None:
        value = float(spread_bps(*record.quotes))
        machine.judge(machine.rule.verdict(value), value, record.time)
    elif kind == "no_data":
        machine.judge("clear", UNNAMED, record.time)
        machine.silent_at = record.time + duration(machine.rule.condition["after"])


# ---- rules over windows ----


@dataclass(slots=True)
class _Windows:
    """The accepted records of a source so far, and the instants at which a rule over their windows is evaluated."""

    condition: Mapping[str, Any]
    records: list[Sourced] = field(default_factory=list)

    @property
    def length(self) -> int:
        return duration(self.condition["window"])

    @property
    def behind(self) -> list[int]:
        """How long after its end a pane matters: at its close, where it leaves the window, where the baseline."""
        baseline = self.condition.get("baseline")
        return [0, self.length, *([self.length + duration(baseline)] if baseline else [])]

    def add(self, record: Sourced) -> None:
        insort(self.records, record, key=lambda one: (one.time, one.as_of.offset))

    def instants(self, after: float, until: float) -> list[int]:
        """Return when a pane closes or leaves, in (after, until], ascending."""
        if after // SECOND == until // SECOND:
            return []
        pane = pane_of(max(self.length, max(self.behind) - self.length))
        ends = Series.of(self.records).pane_ends(pane)
        return sorted({end + gap for end in ends for gap in self.behind if after < end + gap <= until})

    def value(self, at: int) -> float | None:
        """Return what the condition compares at this instant, or None where there is none."""
        series = Series.of(self.records)
        return _VALUES[self.condition["type"]](series, self.condition, at)


def _change(series: Series, condition: Mapping[str, Any], at: int) -> float | None:
    start = at - duration(condition["window"])
    inside, earlier = series.between(start, at), series.before(start)
    if not inside:
        return 0.0 if earlier else None
    reference = Fraction((earlier or inside[0]).price)
    return float(100 * (Fraction(inside[-1].price) - reference) / reference)


def _volatility(series: Series, condition: Mapping[str, Any], at: int) -> float | None:
    return volatilities(series, duration(condition["window"]), at).get("volatility")


def _volume_ratio(series: Series, condition: Mapping[str, Any], at: int) -> float | None:
    length, baseline = duration(condition["window"]), duration(condition["baseline"])
    start = at - length
    before = _volume(series, start - baseline, start)
    if series.times[0] > start - baseline or not before:
        return None
    return float(_volume(series, start, at) / (before / Fraction(baseline, length)))


def _volume(series: Series, start: int, end: int) -> Fraction:
    return sum((Fraction(record.size) for record in series.between(start, end)), Fraction())


def _zscore(series: Series, condition: Mapping[str, Any], at: int) -> float | None:
    length = duration(condition["window"])
    returns, _ = grid_returns(series, length, at, pane_of(length))
    if len(returns) < LEAST_RETURNS:
        return None
    middle = median(returns)
    distance = abs(returns[-1] - middle)
    moves = [abs(one) for one in returns if one]
    if not distance or len(moves) < LEAST_MOVES:
        return None if distance else 0.0
    return distance / (1.4826 * max(median(abs(one - middle) for one in returns), median(moves)))


_VALUES: Final[Mapping[str, Callable[[Series, Mapping[str, Any], int], float | None]]] = {
    "change": _change,
    "volatility": _volatility,
    "volume": _volume_ratio,
    "zscore": _zscore,
}


def _walk_windows(machine: "Machine", source: Iterable[Sourced], effective_at: int, until: int | None) -> None:
    windows = _Windows(machine.rule.condition)
    assert machine.rule.kind != "volatility" or windows.length in GRID
    watermark = -math.inf
    for record in well_formed(source):
        if record.time < watermark - GRACE:
            continue
        if record.appended_at >= effective_at:
            _pass(machine, windows, watermark, record.time)
        windows.add(record)
        watermark = max(watermark, record.time)
    if until is not None:
        _pass(machine, windows, watermark, until - CLOCK_DELAY)


def _pass(machine: "Machine", windows: _Windows, after: float, until: int) -> None:
    """Let event time run on from `after` to `until`."""
    for instant in windows.instants(after, until):
        machine.run_to(instant)
        value = windows.value(instant)
        if value is not None:
            machine.judge(machine.rule.verdict(value), value, instant)
    machine.run_to(until)


# ---- the state machine ----


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's definition with its durations in microseconds."""

    definition: Mapping[str, Any]
    rule_id: str
    version: int
    hold: int
    keep: int
    cooldown: int

    @classmethod
    def of(cls, definition: Mapping[str, Any], rule_id: str, version: int) -> "Rule":
        """Read a definition as a rule file gives it."""
        hold, keep, cooldown = (duration(definition.get(n) or "0s") for n in ("for", "keep_firing_for", "cooldown"))
        return cls(definition, rule_id, version, hold, keep, cooldown)

    @property
    def condition(self) -> Mapping[str, Any]:
        """The condition's fields that are given."""
        return {name: value for name, value in self.definition["condition"].items() if value is not None}

    @property
    def kind(self) -> str:
        """What the condition is about."""
        return str(self.condition["type"])

    @property
    def threshold(self) -> float:
        """What the value is compared with."""
        return float(self._named("above", "below", "crosses"))

    def _named(self, *prefixes: str, default: float = math.nan) -> float:
        found = (value for name, value in self.condition.items() if name.startswith(prefixes))
        return float(next(found, default))

    def verdict(self, value: float) -> str:
        """Return what a value says: true, clear or neither (between the threshold and where it is clear again)."""
        clear = self._named("clear", default=self.threshold)
        if any(name.startswith("above") for name in self.condition):
            return "true" if value > self.threshold else "clear" if value <= clear else "neither"
        return "true" if value < self.threshold else "clear" if value >= clear else "neither"

    def price_verdict(self, price: float, side: int) -> str:
        """Return what a price says; `side` is where the price last stood off a crossing."""
        if "crosses" not in self.condition:
            return self.verdict(price)
        now = _sign(price - self.threshold)
        wanted = {"up": (1,), "down": (-1,), "both": (1, -1)}[self.condition.get("direction") or "both"]
        return "true" if now in wanted and side == -now else "clear"


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


@dataclass(slots=True)
class Machine:
    """inactive -> pending -> firing -> resolved; `latched` says that the condition holds, whatever the state."""

    rule: Rule
    exchange: str
    product: str
    state: str = "inactive"
    latched: bool = False
    side: int = 0
    value: float | None = None
    due: int | None = None
    """When the pending rule fires, the firing one resolves or the cooldown ends."""
    silent_at: int | None = None
    """When a rule on missing data becomes true."""
    prices: list[PricePoint] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def remember(self, record: Sourced) -> None:
        """Keep a price to be shown."""
        self.prices = [*self.prices, PricePoint(time=record.time, price=record.price)][-LAST_PRICES:]

    def run_to(self, time: int) -> None:
        """Let what is due up to this event time act, in order; of one instant the timers first."""
        while (self.due is not None and self.due <= time) or (self.silent_at is not None and self.silent_at <= time):
            if self.silent_at is not None and (self.due is None or self.silent_at < self.due):
                at, self.silent_at = self.silent_at, None
                self.judge("true", UNNAMED, at)
            else:
                self._timer()

    def _timer(self) -> None:
        assert self.due is not None
        at, self.due = self.due, None
        if self.state == "pending":
            self._enter("firing", at)
        elif self.state == "firing":
            self._resolve(at)
        elif self.latched:
            self._begin(at)

    def judge(self, verdict: str, value: float | None, at: int) -> None:
        """Take what the condition says at an event time."""
        self.value = value
        self.latched = verdict == "true" or (verdict == "neither" and self.latched)
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
        rule = self.rule
        self.alerts.append(
            Alert(
                alert_id=f"{rule.rule_id}:{rule.version}:{self.exchange}:{self.product}:{state}:{at}",
                seq=len(self.alerts) + 1,
                rule_id=rule.rule_id,
                rule_name=rule.definition["name"],
                rule_version=rule.version,
                exchange=self.exchange,
                product=self.product,
                state=state,
                at=at,
                value=self.value,
                threshold=UNNAMED if rule.kind == "no_data" else rule.threshold,
                reason="",
                severity=rule.definition.get("severity") or "warning",
                labels=dict(rule.definition.get("labels") or {}),
                window=rule.condition.get("window"),
                last_prices=self.prices,
            )
        )
