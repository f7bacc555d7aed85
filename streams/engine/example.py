"""A small market in which a rule goes through its states: what happens, in words and as ticks. Pure.

Made from the rule's own numbers. What the ticks bring about is not foretold here: the live evaluator says it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from streams.engine.definitions import (
    SECONDS_UP_TO,
    WINDOW_SECONDS,
    Change,
    Divergence,
    Limit,
    NoData,
    PriceCross,
    PriceLevel,
    Spread,
    Volatility,
    Volume,
    ZScore,
    compared_with,
)
from streams.engine.durations import format_duration
from streams.engine.expectations import DEFAULT_PRODUCT
from streams.engine.measures import GRIDS
from streams.engine.rulefile import RuleTest, TestTick
from streams.engine.rules import EVERY_PRODUCT, RuleDefinition
from streams.engine.statistics import YEAR_SECONDS

SECOND: Final = 1_000_000
MOST_TICKS: Final = 20_000
"""A rule whose example would take more has none."""
LONGEST: Final = 7 * 86_400 * SECOND
"""A rule that takes longer has no example, micros."""
PAUSE: Final = 10 * SECOND
"""How long the example lets a rule fire before it ends."""
PRICE: Final = 100.0
"""Where prices start that the rule does not name."""
_MARGIN: Final = 0.5
"""How far beyond a threshold, as a part of it, the example goes."""
_PARTS: Final = 6
"""Ticks of a window."""


@dataclass(frozen=True, slots=True)
class Example:
    """What happens and when (micros since the start), in words; and the same as a test without expectations."""

    steps: list[tuple[int, str]]
    test: RuleTest


@dataclass(frozen=True, slots=True)
class _Market:
    """Ticks, what they are in words, and up to when the clock runs on."""

    ticks: list[TestTick]
    steps: list[tuple[int, str]]
    end: int


def example_of(definition: RuleDefinition) -> Example | None:
    """Return a market in which a rule becomes true and then clear; None where that would take too long."""
    condition = definition.condition
    silence = condition.after if isinstance(condition, NoData) else 0
    if definition.for_ + definition.keep_firing_for + silence > LONGEST:
        return None
    market = _MARKETS[type(condition)](definition)
    if market is None or sum(len(tick.times) for tick in market.ticks) > MOST_TICKS:
        return None
    test = RuleTest(
        name=f"example of {definition.name}"[:200],
        exchange=_first(definition.exchange) or "coinbase",
        product=next((n for n in [_first(definition.product)] if n != EVERY_PRODUCT), DEFAULT_PRODUCT),
        ticks=market.ticks,
        until=_d(market.end),
        expect=[],
    )
    return Example(market.steps, test)


# ---- rules over single records ----


def _level(rule: RuleDefinition) -> _Market:
    limit = _limit_of(rule)
    step = 10.0 ** (math.floor(math.log10(limit.threshold)) - 2)
    price = _shown(limit.threshold + (step if limit.above else -step))
    clear = PAUSE + rule.for_
    ticks = [TestTick(at=_d(0), price=price), TestTick(at=_d(clear), price=limit.clear)]
    return _Market(
        ticks, [(0, f"price {price:.15g}"), (clear, f"price {limit.clear:.15g}")], clear + rule.keep_firing_for
    )


def _cross(rule: RuleDefinition) -> _Market:
    condition = _of(rule, PriceCross)
    step = 10.0 ** (math.floor(math.log10(condition.crosses)) - 2)
    under, over = _shown(condition.crosses - step), _shown(condition.crosses + step)
    before, after = (over, under) if condition.direction == "down" else (under, over)
    clear = SECOND + PAUSE + rule.for_
    ticks = [
        TestTick(at=_d(0), price=before),
        TestTick(at=_d(SECOND), price=after),
        TestTick(at=_d(clear), price=after),
    ]
    return _Market(ticks, [(tick.at, f"price {tick.price:.15g}") for tick in ticks], clear + rule.keep_firing_for)


def _spread(rule: RuleDefinition) -> _Market:
    limit = _limit_of(rule)
    wide, narrow = limit.threshold * (1 + _MARGIN) + 1, limit.clear / 2 if limit.clear >= 0 else limit.clear - 1
    clear = PAUSE + rule.for_
    ticks = [_quoted(0, wide), _quoted(clear, narrow)]
    words = [(tick.at, f"bid {tick.bid:.9g}, ask {tick.ask:.9g}") for tick in ticks]
    return _Market(ticks, words, clear + rule.keep_firing_for)


def _quoted(at: int, bps: float) -> TestTick:
    half = PRICE * bps / 20_000
    return TestTick(at=_d(at), price=PRICE, bid=_shown(PRICE - half), ask=_shown(PRICE + half))


def _divergence(rule: RuleDefinition) -> _Market:
    condition, limit = _of(rule, Divergence), _limit_of(rule)
    first, second, *_ = condition.exchanges
    ahead, clear = _shown(PRICE * (1 + (limit.threshold * (1 + _MARGIN) + 1) / 10_000)), PAUSE + rule.for_
    path = [(0, first, PRICE), (SECOND, second, ahead), (clear, first, PRICE), (clear + SECOND, second, PRICE)]
    ticks = [TestTick(at=_d(at), price=price, exchange=exchange) for at, exchange, price in path]
    return _Market(
        ticks, [(at, f"{exchange} {price:.15g}") for at, exchange, price in path], clear + SECOND + rule.keep_firing_for
    )


def _silence(rule: RuleDefinition) -> _Market:
    after = _of(rule, NoData).after
    heard, every = after + rule.for_ + PAUSE, format_duration(after // 2)
    again = TestTick(at=_d(heard), every=every, to=_d(heard + rule.keep_firing_for), price=PRICE)
    words = [(0, "a record"), (heard, f"records again, every {every}")]
    return _Market([TestTick(at=_d(0), price=PRICE), again], words, heard + rule.keep_firing_for)


# ---- rules over windows ----


def _change(rule: RuleDefinition) -> _Market | None:
    """Let the price move evenly, so that each window shows the same change; then by as much as is clear."""
    condition, limit = _of(rule, Change), _limit_of(rule)
    window = WINDOW_SECONDS[condition.window]
    true = _beyond(limit.threshold, above=limit.above)
    still = limit.clear >= 0.0 if limit.above else limit.clear <= 0.0
    clear = 0.0 if still else _beyond(limit.clear, above=not limit.above)
    step = window * SECOND // _PARTS
    first, second = (
        -(-(2 * window * SECOND + rule.for_) // step),
        -(-(2 * window * SECOND + rule.keep_firing_for) // step),
    )
    if min(true, clear) <= -100 or (first + second) > MOST_TICKS:  # noqa: PLR2004 (per cent)
        return None
    prices = [PRICE]
    for number in range(first + second):
        prices.append(prices[-1] * (1 + (true if number < first else clear) / 100) ** (1 / _PARTS))
    if not all(1e-9 < price < 1e12 for price in prices):  # noqa: PLR2004 (far within what is a price)
        return None
    turn = first * step
    words = [
        (0, f"a price of {PRICE:.15g}, from here on {_moving(true)} {condition.window}"),
        (turn, "the price stands" if clear == 0 else f"the price is now {_moving(clear)} {condition.window}"),
    ]
    return _Market(list(_even(0, step, prices)), words, (first + second) * step)


def _volatility(rule: RuleDefinition) -> _Market:
    """Let the price go up and down at each step of the window's grid by what makes the volatility."""
    condition, limit = _of(rule, Volatility), _limit_of(rule)
    window = WINDOW_SECONDS[condition.window]
    grid = GRIDS[window]
    wild = (limit.threshold if limit.above else limit.clear) * (1 + _MARGIN) + (0.1 if limit.above else 0)
    moved = PRICE * math.exp(wild * math.sqrt(grid / YEAR_SECONDS))
    turn = 2 * window * SECOND + rule.for_ // (grid * SECOND) * grid * SECOND
    end = turn + 2 * window * SECOND + rule.keep_firing_for // (grid * SECOND) * grid * SECOND
    prices: tuple[list[float], list[float]] = ([PRICE, moved], [PRICE])
    phases = prices if limit.above else prices[::-1]
    every = format_duration(grid * SECOND)
    ticks = [
        TestTick(at=_d(0), every=every, to=_d(turn), price=phases[0]),
        TestTick(at=_d(turn + grid * SECOND), every=every, to=_d(end), price=phases[1]),
    ]
    moving, still = f"every {every} a price, {PRICE:.15g} and {moved:.8g} in turn", f"{PRICE:.15g} every {every}"
    said = (moving, still) if limit.above else (still, moving)
    return _Market(ticks, [(0, said[0]), (turn + grid * SECOND, said[1])], end)


def _volume(rule: RuleDefinition) -> _Market | None:
    """Let sizes be 1 for a baseline, then large enough, then 0."""
    condition, limit = _of(rule, Volume), _limit_of(rule)
    window, baseline = (WINDOW_SECONDS[name] * SECOND for name in (condition.window, condition.baseline))
    step = window // _PARTS
    busy = window + -(-(rule.for_ + 60 * SECOND) // step) * step
    room = 1 - limit.threshold * max(busy - window, 0) / baseline
    if room <= 0:
        return None
    size = _shown(limit.threshold * (1 + _MARGIN) / room + 1)
    surge = baseline + 2 * window
    calm = surge + busy
    end = calm + 2 * window + -(-rule.keep_firing_for // step) * step
    every = format_duration(step)
    ticks = [
        TestTick(at=_d(at), every=every, to=_d(to - step), price=PRICE, size=amount)
        for at, to, amount in ((0, surge, 1.0), (surge, calm, size), (calm, end, 0.0))
    ]
    words = [(0, f"size 1 every {every}"), (surge, f"size {size:.15g} every {every}"), (calm, "no volume any more")]
    return _Market(ticks, words, end)


def _zscore(rule: RuleDefinition) -> _Market:
    """Let small moves go on, and one be large."""
    condition, limit = _of(rule, ZScore), _limit_of(rule)
    window = WINDOW_SECONDS[condition.window] * SECOND
    small, step = 1e-5, 60 * SECOND if window > SECONDS_UP_TO * SECOND else SECOND
    jump = _shown(PRICE * (1 + small * (limit.threshold * 10 + 10)))
    path = [PRICE, _shown(PRICE * (1 + small)), _shown(PRICE * (1 + 3 * small)), _shown(PRICE * (1 + small))]
    end = window + 2 * step + PAUSE + rule.keep_firing_for + rule.for_
    every = format_duration(step)
    ticks = [
        TestTick(at=_d(0), every=every, to=_d(window - step), price=path),
        TestTick(at=_d(window), every=every, to=_d(end), price=jump),
    ]
    return _Market(ticks, [(0, f"every {every} a price near {PRICE:.15g}"), (window, f"from here on {jump:.15g}")], end)


_MARKETS: Final[dict[type, Callable[[RuleDefinition], _Market | None]]] = {
    PriceLevel: _level,
    PriceCross: _cross,
    Spread: _spread,
    Divergence: _divergence,
    NoData: _silence,
    Change: _change,
    Volatility: _volatility,
    Volume: _volume,
    ZScore: _zscore,
}


# ---- numbers and words ----

_C = TypeVar("_C")


def _of(rule: RuleDefinition, kind: type[_C]) -> _C:
    if not isinstance(rule.condition, kind):
        raise TypeError(f"a condition of type {rule.condition.type} is no {kind.__name__}")
    return rule.condition


def _limit_of(rule: RuleDefinition) -> Limit:
    limit = compared_with(rule.condition)
    if not isinstance(limit, Limit):
        raise TypeError(f"a condition of type {rule.condition.type} has no limit")
    return limit


def _even(start: int, step: int, prices: list[float]) -> Iterator[TestTick]:
    for number, price in enumerate(prices):
        yield TestTick(at=_d(start + number * step), price=_shown(price))


def _beyond(threshold: float, *, above: bool) -> float:
    """Return a change in per cent beyond a threshold; never a fall of all."""
    distance = max(abs(threshold) * _MARGIN, 0.5)
    return _shown(threshold + distance if above else max(threshold - distance, (threshold - 100) / 2))


def _moving(percent: float) -> str:
    return f"{'rising' if percent > 0 else 'falling'} by {abs(percent):.6g} % every"


def _shown(number: float) -> float:
    """Return a number of at most 9 digits."""
    return float(f"{number:.9g}")


def _first(names: str | list[str] | None) -> str | None:
    return names[0] if isinstance(names, list) else names


def _d(micros: int) -> str:
    return format_duration(micros)
