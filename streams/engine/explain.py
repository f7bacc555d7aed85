"""A rule in plain words: what it watches, when it becomes pending, fires and resolves, and an example. Pure.

The example's transitions are those of the live evaluator.
"""

from collections.abc import Iterator

from pulsestream.core.clock import MICROS_PER_SECOND
from streams.engine.definitions import (
    WINDOW_SECONDS,
    Change,
    Condition,
    Divergence,
    Limit,
    NoData,
    PriceCross,
    Spread,
    Volatility,
    Volume,
    ZScore,
    compared_with,
)
from streams.engine.durations import format_duration
from streams.engine.example import Example, example_of
from streams.engine.expectations import transitions_of
from streams.engine.measures import measure_of
from streams.engine.rules import EVERY_PRODUCT, RuleDefinition
from streams.engine.words import clear_when, true_when


def explain(definition: RuleDefinition) -> str:
    """Return what a rule does, as lines of text."""
    lines = [f"{definition.name} ({definition.severity}) watches {_watched(definition)}."]
    if not definition.enabled:
        lines.append("It is not enabled: nothing happens until it is.")
    lines += [*_conditions(definition), *_states(definition), ""]
    example = example_of(definition)
    if example is None:
        lines.append("An example of it would be too long to show.")
    else:
        lines += ["For example, times since the first record:", *_timeline(definition, example)]
    return "\n".join(lines)


def _watched(definition: RuleDefinition) -> str:
    condition = definition.condition
    if isinstance(condition, Divergence):
        return f"the last prices of {_product(definition)} on {' and '.join(condition.exchanges)} together"
    what = {
        Change: "the change of the price",
        Volatility: "the annualised realised volatility",
        Volume: "the volume",
        ZScore: f"the log return of each {_step(condition)}",
        Spread: "the spread between bid and ask",
        NoData: "the time without a record",
    }.get(type(condition), "the price")
    exchange = definition.exchange
    where = "each exchange" if exchange is None else exchange if isinstance(exchange, str) else _listed(exchange)
    several = definition.product == EVERY_PRODUCT or exchange is None or isinstance(definition.product, list)
    return f"{what} of {_product(definition)} on {where}{', each by itself' if several else ''}"


def _product(definition: RuleDefinition) -> str:
    product = definition.product
    if product == EVERY_PRODUCT:
        return "every subscribed product"
    return product if isinstance(product, str) else _listed(product)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _conditions(definition: RuleDefinition) -> Iterator[str]:
    """Give when the condition is true and when it is clear, and when it is looked at."""
    condition = definition.condition
    limit = compared_with(condition)
    if isinstance(condition, NoData):
        yield f"The condition is true {format_duration(condition.after)} after a record, if none came since."
        yield "It is clear at the next record. The reason: quiet_market, or feed_down where the exchange is not heard."
    elif isinstance(condition, PriceCross):
        way = {"up": "from below to above", "down": "from above to below", "both": "to the other side of"}
        yield f"The condition is true at a price that has moved {way[condition.direction]} {condition.crosses:.15g}."
        yield "It is clear at the next price that has not. A price of just that lies on neither side."
    elif isinstance(limit, Limit):
        yield f"The condition is true while {_value(definition)} is {true_when(condition, limit)}."
        between = "" if limit.threshold == limit.clear else "; in between nothing changes"
        yield f"It is clear while it is {clear_when(condition, limit)}{between}."
    yield from _looked_at(definition)


def _value(definition: RuleDefinition) -> str:
    condition = definition.condition
    window = getattr(condition, "window", "")
    return {
        Change: f"the change since the last price before the last {window}, in per cent,",
        Volatility: f"the volatility of the last {window} (1 is 100 % a year)",
        Volume: f"the volume of the last {window}, as a multiple of its mean over the {_baseline(condition)} before,",
        ZScore: f"the last {_step(condition)}'s distance from the median of the last {window}, in scaled deviations,",
        Spread: "the spread, in hundredths of a per cent of the middle,",
        Divergence: "the distance of the highest from the lowest, in hundredths of a per cent of their middle,",
    }.get(type(condition), "the price")


def _step(condition: Condition) -> str:
    """Return how often a condition over a window is looked at."""
    measure = measure_of(condition)
    return "minute" if measure is not None and measure.by_minute else "second"


def _baseline(condition: Condition) -> str:
    return condition.baseline if isinstance(condition, Volume) else ""


def _looked_at(definition: RuleDefinition) -> Iterator[str]:
    condition, measure = definition.condition, measure_of(definition.condition)
    if isinstance(condition, Divergence):
        yield "It is looked at with each price of one of them; prices more than 5 s older than the newest are left out."
    elif isinstance(condition, Spread):
        yield "It is looked at with each tick that has bid and ask."
    elif measure is not None:
        step = _step(condition)
        yield f"It is looked at after each {step} with records, and when one leaves the window; a quiet market counts."
    if isinstance(condition, Volume):
        total = (WINDOW_SECONDS[condition.window] + WINDOW_SECONDS[condition.baseline]) * MICROS_PER_SECOND
        yield f"Before {format_duration(total)} have been observed there is no value, and nothing happens."
    if isinstance(condition, Volatility | ZScore):
        moved = ", or under 5 that are not 0," if isinstance(condition, ZScore) else ""
        yield f"Under 10 returns{moved} there is no value, and nothing happens."
    if isinstance(condition, ZScore) and definition.for_ > 0:
        step = _step(condition)
        yield f"A z-score is that of one {step}: it fires only where each {step} of `for` is as unusual."


def _states(definition: RuleDefinition) -> Iterator[str]:
    """Give when the rule changes its state."""
    hold, keep, cooldown = (
        format_duration(one) for one in (definition.for_, definition.keep_firing_for, definition.cooldown)
    )
    if definition.for_:
        yield f"When it becomes true the rule is pending; it fires exactly {hold} later, if it is not clear before."
        yield "If it is clear before, the rule is inactive again at that time."
    else:
        yield "When it becomes true the rule fires at that time."
    if definition.keep_firing_for:
        yield f"Firing, it resolves exactly {keep} after it became clear, if it stays clear until then."
    else:
        yield "Firing, it resolves as soon as it is clear."
    if definition.cooldown:
        yield f"For {cooldown} after that nothing happens; if the condition is true when they end, it begins anew."


def _timeline(definition: RuleDefinition, example: Example) -> Iterator[str]:
    alerts = transitions_of(example.test, [definition.model_copy(update={"enabled": True})])
    start = example.test.start
    lines = [(at, words) for at, words in example.steps]
    lines += [(alert.at - start, f"-> {alert.state}: {alert.reason}") for alert in alerts]
    for at, words in sorted(lines, key=lambda line: line[0]):
        yield f"  {_clock(at):>8}  {words}"


def _clock(micros: int) -> str:
    """Return a time since the start as hours, minutes and seconds."""
    seconds, rest = divmod(micros, MICROS_PER_SECOND)
    return f"{seconds // 3_600}:{seconds // 60 % 60:02}:{seconds % 60:02}{f'.{rest:06}'.rstrip('0') if rest else ''}"
