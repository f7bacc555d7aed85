"""Rolling statistics by definition: each from the raw records of its window, with exact rationals.

How the design is read where it leaves room:
- coverage counts from the least exchange_time of the series' own source (for quotes: of the ticks, quoted or not);
- a window becomes empty where its last pane leaves it: at the pane's end plus the window, if no pane closed since;
- the statistic of an empty window has count 0, the reference price, and volatility over the price that stood still;
- of 1 h and 24 h there is one for each minute that holds records, at the minute's end;
- where the basis changed, prices are those of the records appended while their source was the basis.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Final, Self

import numpy as np

from schemas.records import Stat
from streams.engine.forecast import forecast
from tests.support.oracle_records import (
    CLOCK_DELAY,
    MINUTE,
    SECOND,
    Basis,
    Series,
    Sourced,
    accepted,
    carries_prices,
    of_trades,
)

WINDOWS: Final = {
    "1m": MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "1h": 60 * MINUTE,
    "24h": 24 * 60 * MINUTE,
}
DAY: Final = 24 * 60 * MINUTE
GRID: Final = {
    MINUTE: SECOND,
    5 * MINUTE: 5 * SECOND,
    15 * MINUTE: 5 * SECOND,
    60 * MINUTE: MINUTE,
    24 * 60 * MINUTE: 5 * MINUTE,
}
"""Step of the clock grid that the log returns of a window of that length are computed on."""
YEAR_SECONDS: Final = 365 * 86_400
LEAST_RETURNS: Final = 10

Fields = dict[str, float | None]


def pane_of(window: int) -> int:
    """Return the length of the panes that serve a window, both in microseconds."""
    return SECOND if window <= 15 * MINUTE else MINUTE


def final_stats(
    records: Iterable[Sourced],
    windows: Sequence[str] = ("1m", "5m"),
    *,
    basis: Basis = "ticks",
    until: int | None = None,
    ended: bool = True,
) -> dict[str, Stat]:
    """Return the final revision of each statistic of one key, by event_id.

    One a window for each pane that holds records, and one where the window becomes empty. The latter is known when a
    record of the source reaches its time, or when the event clock, which ran to `until`, is 2 s past it. `ended`: the
    panes that are still open after that are closed too, as at the end of a file.
    """
    return {stat.event_id: stat for stat in _all_stats(records, windows, basis, until=until, ended=ended)}


def passing_stats(
    records: Iterable[Sourced],
    windows: Sequence[str] = ("1m", "5m"),
    *,
    basis: Basis = "ticks",
    until: int | None = None,
) -> dict[str, Stat]:
    """Return statistics that may have been published beside the final ones, as their last revision.

    Windows that looked empty when the clock or the watermark passed their end, whether a later record fell into them
    or not. Where one was published it has to be right.
    """
    stats: dict[str, Stat] = {}
    for feed in feeds(records, basis):
        for window in windows:
            for end in feed.series.pane_ends(pane_of(WINDOWS[window])):
                at = end + WINDOWS[window]
                if at <= feed.reached(until):
                    stat = feed.stat(window, at)
                    stats[stat.event_id] = stat
    return stats


def _all_stats(
    records: Iterable[Sourced], windows: Sequence[str], basis: Basis, *, until: int | None, ended: bool
) -> Iterator[Stat]:
    for feed in feeds(records, basis):
        reached = feed.reached(until)
        for window in windows:
            for end in feed.series.pane_ends(pane_of(WINDOWS[window])):
                if ended or end <= reached:
                    yield feed.stat(window, end)
                emptied = end + WINDOWS[window]
                if emptied <= reached and not feed.series.between(end, emptied):
                    yield feed.stat(window, emptied)


@dataclass(frozen=True, slots=True)
class PriceFeed:
    """What the statistics of one basis of a key are computed from."""

    basis: str
    series: Series
    watermark: int
    """Largest exchange_time of the source."""
    first_time: int

    @classmethod
    def of(cls, basis: str, records: Iterable[Sourced], source: Sequence[Sourced]) -> Self:
        """Take `records`, of a source whose accepted records are `source`."""
        series, times = Series.of(records), [record.time for record in source]
        first = min(times if basis == "quotes" else series.times, default=0)
        return cls(basis, series, max(times, default=0), first)

    def reached(self, until: int | None) -> int:
        """Return the event time up to which panes are known to be over."""
        return self.watermark if until is None else max(self.watermark, until - CLOCK_DELAY)

    def stat(self, window: str, at: int) -> Stat:
        """Return the statistic of a window at `at`, over all records."""
        length = WINDOWS[window]
        inside = self.series.between(at - length, at)
        included = inside or self.series.between(0, at)
        example = included[-1].record
        values = quote_fields(self.series, length, at) if self.basis == "quotes" else self.prices(length, at)
        return Stat(
            event_id=f"{example.exchange}:{example.product}:{window}:{at // SECOND}:{self.basis}",
            exchange=example.exchange,
            product=example.product,
            window=window,
            at=at,
            basis=self.basis,
            count=len(inside),
            coverage_seconds=min(length, at - self.first_time) / SECOND,
            as_of=max(included, key=lambda record: record.as_of.offset).as_of,
            revision=0,
            **values,
        )

    def prices(self, length: int, at: int) -> Fields:
        """Return the fields over prices of the window of this length that ends at `at`."""
        place = self.series.place(at - length, at)
        prices = self.series.numbers("price", lambda record: record.price, place)
        earlier = self.series.before(at - length)
        reference = earlier.price if earlier else (prices[0] if prices else None)
        change = None if not prices or reference is None else Fraction(prices[-1]) - Fraction(reference)
        return {
            **extremes(prices),
            **volumes(self.series, place),
            **moments(self.series, place),
            "reference_price": reference,
            "change": None if change is None else float(change),
            "change_pct": None if change is None or reference is None else float(100 * change / Fraction(reference)),
            **volatilities(self.series, length, at),
            **outlook(self.series, length, at),
        }


def feeds(records: Iterable[Sourced], basis: Basis) -> list[PriceFeed]:
    """Return what one key's statistics come from: its prices by their basis, and the quotes of its ticks."""
    records = list(records)
    ticks = accepted(record for record in records if not of_trades(record))
    trades = accepted(record for record in records if of_trades(record))
    return [
        PriceFeed.of("ticks", [record for record in ticks if carries_prices(record, basis)], ticks),
        PriceFeed.of("trades", [record for record in trades if carries_prices(record, basis)], trades),
        PriceFeed.of("quotes", [record for record in ticks if record.quotes], ticks),
    ]


def extremes(prices: list[float]) -> Fields:
    """Return first, highest, lowest and last price, and where between the extremes the last one lies."""
    if not prices:
        return {}
    high, low = max(prices), min(prices)
    position = None
    if high > low:
        position = float((Fraction(prices[-1]) - Fraction(low)) / (Fraction(high) - Fraction(low)))
    return {"open": prices[0], "high": high, "low": low, "close": prices[-1], "range_position": position}


def moments(series: Series, place: slice) -> Fields:
    """Return mean and sample standard deviation (none under 2) of prices, exact up to the root."""
    count = len(series.records[place])
    if not count:
        return {}
    total = series.total("price", lambda record: Fraction(record.price), place)
    squares = series.total("price squared", lambda record: Fraction(record.price) ** 2, place)
    deviations = squares - total * total / count
    return {"mean": float(total / count), "stddev": root(deviations / (count - 1)) if count > 1 else None}


def volumes(series: Series, place: slice) -> Fields:
    """Return the sums over sizes, and the price weighted by them."""
    volume = series.total("size", lambda record: Fraction(record.size), place)
    quote_volume = series.total("value", lambda record: Fraction(record.price) * Fraction(record.size), place)
    bought = series.total("bought", _bought, place)
    return {
        "volume": float(volume),
        "quote_volume": float(quote_volume),
        "buy_volume": float(bought),
        "vwap": float(quote_volume / volume) if volume else None,
    }


def _bought(record: Sourced) -> Fraction:
    return Fraction(record.size if record.record.side == "buy" else 0)


def volatilities(series: Series, length: int, at: int) -> Fields:
    """Return the fields over log returns; empty under 10 of them."""
    returns, covered = grid_returns(series, length, at, GRID[length])
    if len(returns) < LEAST_RETURNS:
        return {}
    squares = math.fsum(one * one for one in returns)
    return {
        "volatility": math.sqrt(squares * YEAR_SECONDS * SECOND / covered),
        "stddev_log_return": sample_stddev(returns),
    }


def outlook(series: Series, length: int, at: int) -> Fields:
    """Return the forecast fields: of a minute's first statistic, made of the closes of its minutes before."""
    start = at // MINUTE * MINUTE
    if length > 15 * MINUTE or series.between(start - SECOND, at - SECOND):
        return {}
    closes = {record.time // MINUTE * 60: record.price for record in series.between(start - DAY, start)}
    made = forecast(np.array([*closes], np.int64), np.array([*closes.values()]), start // SECOND)
    if made is None:
        return {}
    found = next(one for one in made.outlooks if one.seconds * SECOND == length)
    return {"forecast_volatility": found.volatility, "forecast_low": found.low, "forecast_high": found.high}


def grid_returns(series: Series, length: int, at: int, step: int) -> tuple[list[float], int]:
    """Return the log returns on the clock grid of a window, and the time (microseconds) that they cover.

    The grid is anchored at `at`; at each of its points the price is the last one before it. It starts from the last
    price before the window, otherwise from the first price of all.
    """
    start = at - length
    first = series.before(start) or series.records[0]
    points = [point for point in range(start + step, at + 1, step) if point > first.time]
    seen = [series.before(point) for point in points]
    prices = [first.price, *(record.price for record in seen if record)]
    return [log_ratio(previous, price) for previous, price in pairwise(prices)], min(length, at - first.time)


@cache
def log_ratio(previous: float, price: float) -> float:
    """Return ln(price / previous), precise also where the two hardly differ."""
    growth = Fraction(price) / Fraction(previous) - 1
    return math.log1p(float(growth)) if abs(growth) < Fraction(1, 2) else math.log(price) - math.log(previous)


def quote_fields(series: Series, length: int, at: int) -> Fields:
    """Return the fields over quotes, of a series that has them; `quote_age` in seconds also of an empty window."""
    last, place = series.before(at), series.place(at - length, at)
    age = None if last is None else (at - last.quoted_at) / SECOND
    count = len(series.records[place])
    if not count:
        return {"quote_age": age}
    return {
        "spread_mean": float(series.total("spread", _spread, place) / count),
        "spread_bps": math.fsum(series.numbers("bps", _bps, place)) / count,
        "quote_age": age,
    }


def _spread(record: Sourced) -> Fraction:
    bid, ask = record.quotes or (0.0, 0.0)
    return Fraction(ask) - Fraction(bid)


def _bps(record: Sourced) -> float:
    return float(spread_bps(*(record.quotes or (1.0, 1.0))))


def spread_bps(bid: float, ask: float) -> Fraction:
    """Return the spread in hundredths of a per cent of the middle."""
    width, middle = Fraction(ask) - Fraction(bid), (Fraction(ask) + Fraction(bid)) / 2
    return width / middle * 10_000


def mean(values: Sequence[float]) -> Fraction:
    """Return the exact mean."""
    return sum(map(Fraction, values), Fraction()) / len(values)


def sample_stddev(values: Sequence[float]) -> float:
    """Return the sample standard deviation of at least two values, exact up to its root."""
    middle = mean(values)
    squares = sum(((Fraction(value) - middle) ** 2 for value in values), Fraction())
    return root(squares / (len(values) - 1))


def root(square: Fraction) -> float:
    """Return the square root, also of what is too small or too large for a double."""
    if not square:
        return 0.0
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(float(square / Fraction(4) ** shift)), shift)
