"""Bars by definition: each from the raw records of its period, with exact rationals.

How the design is read where it leaves room:
- a bar is final once the source's records, or 2 s later its clock, passed the period's end; until then there is none;
- `trades` counts the records where the origin is trades, and is null where it is ticks;
- `complete` means that the source had been seen before the period, or at its first microsecond;
- `received_time` is when the broker appended the record that `as_of` names.
"""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Final

from schemas.records import Bar, bar_id
from tests.support.oracle_records import MINUTE, SECOND, Basis, Sourced
from tests.support.oracle_stats import PriceFeed, extremes, feeds, volumes

PERIODS: Final = {
    "1s": SECOND,
    "1m": MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "1h": 60 * MINUTE,
    "1d": 24 * 60 * MINUTE,
}


def final_bars(
    records: Iterable[Sourced],
    periods: Iterable[str] = tuple(PERIODS),
    *,
    basis: Basis = "ticks",
    until: int | None = None,
    ended: bool = True,
) -> dict[str, Bar]:
    """Return the final revision of each bar of one key, by event_id; `until` and `ended` as for statistics."""
    wanted = list(periods)
    priced = [feed for feed in feeds(records, basis) if feed.basis != "quotes"]
    bars = [bar for feed in priced for bar in _bars(feed, wanted, until=until, ended=ended)]
    return {bar.event_id: bar for bar in bars}


def _bars(feed: PriceFeed, periods: Iterable[str], *, until: int | None, ended: bool) -> Iterator[Bar]:
    for period in periods:
        length = PERIODS[period]
        for end in feed.series.pane_ends(length):
            if ended or end <= feed.reached(until):
                yield _bar(feed, period, end - length)


def _bar(feed: PriceFeed, period: str, start: int) -> Bar:
    place = feed.series.place(start, start + PERIODS[period])
    inside = feed.series.records[place]
    last = max(inside, key=lambda record: record.as_of.offset)
    exchange, product = last.record.exchange, last.record.product
    prices = {name: value or 0.0 for name, value in extremes([record.price for record in inside]).items()}
    del prices["range_position"]
    amounts = volumes(feed.series, place)
    return Bar(
        event_id=bar_id(exchange, product, period, start, feed.basis),
        exchange=exchange,
        product=product,
        period=period,
        start=start,
        **prices,
        volume=amounts["volume"] or 0.0,
        quote_volume=amounts["quote_volume"],
        vwap=amounts["vwap"],
        trades=len(inside) if feed.basis == "trades" else None,
        buy_volume=amounts["buy_volume"],
        complete=feed.first_time <= start,
        revision=0,
        as_of=last.as_of,
        origin=feed.basis,
        received_time=last.appended_at,
    )


def received_times(records: Iterable[Sourced]) -> Mapping[tuple[str, int, int], int]:
    """Return when each record was appended, by (topic id, partition, offset)."""
    return {
        (record.as_of.topic_id, record.as_of.partition, record.as_of.offset): record.appended_at for record in records
    }


def bars_of_bars(bars: Iterable[Bar], period: str) -> dict[int, tuple[float, float, float, float, Fraction]]:
    """Return (open, high, low, close, volume) by start, put together from finer bars in their order: a cross-check."""
    merged: dict[int, tuple[float, float, float, float, Fraction]] = {}
    for bar in sorted(bars, key=lambda one: one.start):
        start = bar.start // PERIODS[period] * PERIODS[period]
        held = merged.get(start)
        volume = Fraction(bar.volume)
        if held is None:
            merged[start] = (bar.open, bar.high, bar.low, bar.close, volume)
        else:
            merged[start] = (held[0], max(held[1], bar.high), min(held[2], bar.low), bar.close, held[4] + volume)
    return merged
