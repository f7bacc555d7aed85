"""The tests of a rule file: what their ticks bring about, and how that differs from what they expect. Pure.

The evaluation is the live engine's. A test over a recorded source is evaluated by whoever can read sources; `compare`
is for both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isclose

from schemas.records import Alert
from schemas.validate import EVERY_EXCHANGE
from streams.engine import divergence
from streams.engine.divergence import DivergenceState, Priced
from streams.engine.durations import MAX_DURATION, format_duration
from streams.engine.fold import Folded, advance, end, fold, new_state, silence
from streams.engine.inputs import Row
from streams.engine.rulefile import Expected, RuleTest, TestTick
from streams.engine.rules import EVERY_PRODUCT, ActiveRule, RuleDefinition, applies
from streams.engine.transitions import QUIET_MARKET

DEFAULT_PRODUCT = "BTC-USD"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Seen:
    """A tick of a test: on which exchange, and the record."""

    exchange: str
    row: Row


def product_of(test: RuleTest, rules: Sequence[RuleDefinition]) -> str:
    """Return the product that a test's ticks are of."""
    named = [name for rule in rules for name in ([rule.product] if isinstance(rule.product, str) else rule.product)]
    return test.product or next((name for name in named if name != EVERY_PRODUCT), DEFAULT_PRODUCT)


def ticks_of(test: RuleTest) -> list[Seen]:
    """Return a test's ticks in order of time; of one time in the order of the file."""
    moments = sorted(
        ((at, place, number) for place, tick in enumerate(test.ticks or ()) for number, at in enumerate(tick.times)),
    )
    return [
        _seen(test, (test.ticks or ())[place], test.start + at, number, offset)
        for offset, (at, place, number) in enumerate(moments)
    ]


def transitions_of(test: RuleTest, rules: Sequence[RuleDefinition]) -> list[Alert]:
    """Return every transition that a test's ticks bring about, by time and then by rule."""
    product, seen = product_of(test, rules), ticks_of(test)
    active = [ActiveRule("test", rule.name, 1, rule, 0) for rule in rules]
    until = None if test.until is None else test.start + test.until
    alerts = []
    for exchange in dict.fromkeys(one.exchange for one in seen):
        applying = [rule for rule in active if applies(rule, exchange, product)]
        alerts += _of_exchange(
            exchange, product, [one.row for one in seen if one.exchange == exchange], applying, until
        )
    comparing = [rule for rule in active if rule.source == "product" and applies(rule, EVERY_EXCHANGE, product)]
    alerts += _of_product(product, seen, comparing, until)
    order = {rule.rule_id: number for number, rule in enumerate(active)}
    return sorted(alerts, key=lambda alert: (alert.at, order[alert.rule_id], alert.exchange, alert.seq))


def compare(test: RuleTest, alerts: Sequence[Alert]) -> str:
    """Return how transitions differ from those that a test expects, line by line; empty where they do not."""
    pairs, missing, unexpected = _matched(test, alerts)
    wrong = len(missing) + len(unexpected)
    shown = [(one.at.absolute(test.start), f"- {_expected_line(test, one)}") for one in missing]
    shown += [(alert.at, f"+ {_found_line(test, alert)}") for alert in unexpected]
    for expected, found in pairs:
        faults = "".join(f"; expected {fault}" for fault in _faults(expected, found))
        wrong += bool(faults)
        shown.append((found.at, f"{'! ' if faults else '  '}{_found_line(test, found)}{faults}"))
    if not wrong:
        return ""
    title = f"test {test.name!r}: {wrong} of {len(shown)} transitions differ (- missing, + unexpected, ! another value)"
    return "\n".join([title, *(f"  {line}" for _, line in sorted(shown, key=lambda pair: pair[0]))])


def _matched(
    test: RuleTest, alerts: Sequence[Alert]
) -> tuple[list[tuple[Expected, Alert]], list[Expected], list[Alert]]:
    """Return which expectation is about which transition, the other expectations, and the other transitions."""
    pairs, missing, left = list[tuple[Expected, Alert]](), list[Expected](), list(alerts)
    for expected in test.expect:
        found = next((alert for alert in left if _is_about(test, expected, alert)), None)
        if found is None:
            missing.append(expected)
        else:
            left.remove(found)
            pairs.append((expected, found))
    return pairs, missing, left


def _is_about(test: RuleTest, expected: Expected, alert: Alert) -> bool:
    return (
        (expected.at.absolute(test.start), expected.state) == (alert.at, alert.state)
        and expected.rule in {None, alert.rule_name}
        and expected.exchange in {None, alert.exchange}
        and expected.product in {None, alert.product}
    )


def _of_exchange(
    exchange: str, product: str, rows: list[Row], rules: Sequence[ActiveRule], until: int | None
) -> list[Alert]:
    """Return the transitions of a product on one exchange, whose ticks all its rules read."""
    folded = fold(new_state(exchange, product), rows, rules)
    if until is None:
        return folded.alerts + end(folded.state, rules).alerts
    steps = (_ran_on(folded, until, rules), _silent(folded, until, rules))
    return folded.alerts + [alert for step in steps for alert in step.alerts]


def _ran_on(folded: Folded, until: int, rules: Sequence[ActiveRule]) -> Folded:
    return advance(folded.state, until, [rule for rule in rules if rule.silence is None])


def _silent(folded: Folded, until: int, rules: Sequence[ActiveRule]) -> Folded:
    return silence(folded.state, until, rules, reason=QUIET_MARKET)


def _of_product(product: str, seen: Sequence[Seen], rules: Sequence[ActiveRule], until: int | None) -> list[Alert]:
    prices = [Priced(one.exchange, one.row.time, one.row.price, one.row.appended_at) for one in seen]
    folded = divergence.fold(DivergenceState(product), prices, rules)
    after = [] if until is None else divergence.advance(folded.state, until, rules).alerts
    return [*folded.alerts, *after]


def _seen(test: RuleTest, tick: TestTick, time: int, number: int, offset: int) -> Seen:
    row = Row(
        offset=offset,
        appended_at=time,
        time=time,
        price=tick.price_at(number),
        size=tick.size,
        buy=tick.side == "buy",
        identity=offset,
        bid=tick.bid,
        ask=tick.ask,
        quote_time=time,
    )
    return Seen(tick.exchange or test.exchange, row)


def _faults(expected: Expected, found: Alert) -> Iterator[str]:
    if expected.value is not None and (found.value is None or not isclose(expected.value, found.value, rel_tol=_CLOSE)):
        yield f"value {expected.value:.15g}"
    if expected.reason is not None and expected.reason not in found.reason:
        yield f"a reason with {expected.reason!r}"


def _expected_line(test: RuleTest, expected: Expected) -> str:
    named = [one for one in (expected.rule, expected.exchange, expected.product) if one]
    value = [] if expected.value is None else [f"value {expected.value:.15g}"]
    return "  ".join([_time(test, expected.at.absolute(test.start)), f"{expected.state:8}", *named, *value])


def _found_line(test: RuleTest, alert: Alert) -> str:
    value = "" if alert.value is None else f"  value {alert.value:.15g}"
    named = f"{alert.rule_name}  {alert.exchange}  {alert.product}"
    return f"{_time(test, alert.at)}  {alert.state:8}  {named}{value}  ({alert.reason})"


def _time(test: RuleTest, at: int) -> str:
    """Return a time as the test writes it: since its start for ticks that it lists, else as a date."""
    since = at - test.start
    if test.source is None and 0 <= since <= MAX_DURATION:
        return format_duration(since)
    moment = _EPOCH + timedelta(microseconds=at)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def counted(results: Mapping[str, str]) -> str:
    """Return a line that says how many of the tests, by name, hold."""
    failed = [name for name, difference in results.items() if difference]
    held = len(results) - len(failed)
    return f"{held} of {len(results)} tests hold" + (f"; not: {', '.join(failed)}" if failed else "")
