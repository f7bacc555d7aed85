"""Forecasts of volatility and price against the naive baseline, on recorded days and on markets that are made up.

The baseline: the price stays (random walk), with the volatility of all history so far. Judged out of sample: constants
were chosen on 2017-09-03 and the morning of 2016-10-07, and each forecast sees nothing but what lies before it.

- `coverage_min`, `coverage_max`: per cent of prices within the 95 % interval, least and most of all recorded parts
- `qlike_gain`, `rmse_ratio`, `interval_score_ratio`, `width_ratio` with `_60`, `_300`, `_900`: means over the recorded
  days that no constant was chosen on; gain: baseline - ours (above 0: better), ratio: ours / baseline (below 1: better)
- `call_us`: median time of one call with a full day of history
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

import numpy as np

from benchmarks import markets
from benchmarks.forecast_choice import Part, show_choices
from benchmarks.forecast_scores import Judged, Market
from benchmarks.markets import DAY
from benchmarks.table import show
from streams.engine.forecast import HORIZONS, MIN_MINUTES, forecast
from streams.engine.inputs import Ints

_DAYS: Final = ("20170903", "20170904")
_FIRST: Final = 60 * (MIN_MINUTES + 1)
_COLUMNS: Final = ("market, ahead", "coverage, %", "width, bp", "interval score, bp", "QLIKE", "RMSE of volatility")


@dataclass(frozen=True, slots=True)
class Case:
    """A market and the part of it that is judged; `tested`: no constant was chosen on it."""

    name: str
    market: Market
    start: int
    end: int
    tested: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Forecasts of one case and horizon beside the baseline's."""

    case: Case
    seconds: int
    ours: Judged
    baseline: Judged


def run(quick: bool) -> dict[str, float]:  # noqa: FBT001 - what the command line says
    """Judge, print tables, and return the figures."""
    folder = markets.data_folder()
    pair = {name: Market(markets.recorded(folder, name, "minute", _DAYS)) for name in ("btcusd", "ethusd")}
    sparse = Market(markets.by_minute(markets.recorded(folder, "btcusd", "second", ("20161007",))))
    show_choices([*(Part(market, DAY) for market in pair.values()), Part(sparse, DAY // 2)])
    days = [
        *(Case(f"{name} 2017-09-03 (trained on)", market, _FIRST, DAY, tested=False) for name, market in pair.items()),
        Case("btcusd 2016-10-07, a.m. (trained on)", sparse, _FIRST, DAY // 2, tested=False),
        *(Case(f"{name} 2017-09-04", market, DAY, 2 * DAY) for name, market in pair.items()),
        Case("btcusd 2016-10-07, p.m.", sparse, DAY // 2, DAY),
    ]
    results = [result for case in days for result in _judge(case, 5 if quick else 1)]
    _show("recorded: ours / baseline (* where the baseline is not beaten)", results)
    _show("made up: ours / baseline", [result for case in _made_up(quick=quick) for result in _judge(case, 3)])
    _show_short([*pair.values(), sparse], 20 if quick else 5)
    return _figures(results) | {"call_us": _microseconds(pair["btcusd"])}


def _made_up(*, quick: bool) -> list[Case]:
    days = 4 if quick else 21
    made = {
        "made up: GARCH": markets.garch(days, 1),
        "made up: constant volatility": markets.constant_volatility(days, 2),
    }
    return [Case(name, Market(bars), DAY, days * DAY) for name, bars in made.items()]


def _judge(case: Case, every: int) -> list[Result]:
    at = case.market.minutes(case.start, case.end, every)
    ours, baseline = case.market.ours(at), case.market.baseline(at)
    return [Result(case, *three) for three in zip(HORIZONS, ours, baseline, strict=True)]


def _show(title: str, results: Sequence[Result]) -> None:
    rows = []
    for result in results:
        ours, base = result.ours, result.baseline
        rows.append((
            f"{result.case.name}, {result.seconds // 60} m",
            f"{ours.coverage:.1f} / {base.coverage:.1f}",
            f"{ours.width:.1f} / {base.width:.1f}",
            _pair(ours.interval_score, base.interval_score, 1),
            _pair(ours.qlike, base.qlike, 3),
            _pair(ours.rmse, base.rmse, 3),
        ))  # fmt: skip
    show(title, _COLUMNS, rows)


def _pair(ours: float, baseline: float, digits: int) -> str:
    mark = "" if ours < baseline else " *"
    return f"{ours:.{digits}f} / {baseline:.{digits}f}{mark}"


def _show_short(shown: Sequence[Market], every: int) -> None:
    """Show what little history does: each forecast is given the last minutes alone, and so is its baseline."""
    rows = []
    for minutes in (30, 60, 120, 180, 240, 480):
        cells = []
        for number in range(len(HORIZONS)):
            ours, baseline = [], []
            for market in shown:
                at = market.minutes(max(DAY // 12, 60 * (minutes + 2)), int(market.times[-1]), every)
                at = at[_moved(market, at, minutes)]
                ours.append(market.ours(at, 60 * minutes)[number])
                baseline.append(market.baseline(at, 60 * minutes)[number])
            covered, other = fmean(one.coverage for one in ours), fmean(one.coverage for one in baseline)
            cells.append(f"{covered:.1f} / {other:.1f}")
            cells.append(_pair(fmean(one.interval_score for one in ours), fmean(b.interval_score for b in baseline), 1))
        rows.append((f"{minutes} m", *cells))
    names = [f"{seconds // 60} m: {what}" for seconds in HORIZONS for what in ("coverage, %", "score, bp")]
    show("history of so many minutes alone, mean of the recorded markets: ours / baseline", ("history", *names), rows)


def _moved(market: Market, at: Ints, minutes: int) -> Ints:
    """Return the indices of the times whose history holds a pane in its first minute and a price that moved."""
    starts = at - 60 * minutes
    found = np.flatnonzero(np.isin(starts, market.bars.second))
    bars, seconds = market.bars, market.bars.second
    spans = [(seconds.searchsorted(starts[i]), seconds.searchsorted(at[i])) for i in found]
    return np.array([i for i, (one, two) in zip(found, spans, strict=True) if np.ptp(bars.close[one:two]) > 0])


def _figures(results: Sequence[Result]) -> dict[str, float]:
    covered = [result.ours.coverage for result in results]
    figures = {"coverage_min": min(covered), "coverage_max": max(covered)}
    for seconds in HORIZONS:
        tested = [
            (result.ours, result.baseline) for result in results if result.seconds == seconds and result.case.tested
        ]
        figures[f"qlike_gain_{seconds}"] = fmean(base.qlike - ours.qlike for ours, base in tested)
        for name in ("rmse", "interval_score", "width"):
            ratios = [getattr(ours, name) / getattr(base, name) for ours, base in tested]
            figures[f"{name}_ratio_{seconds}"] = fmean(ratios)
    return figures


def _microseconds(market: Market) -> float:
    taken = []
    for at in market.minutes(DAY, 2 * DAY).tolist():
        began = time.perf_counter()
        forecast(market.bars.second, market.bars.close, at)
        taken.append(time.perf_counter() - began)
    return 1e6 * median(taken)
