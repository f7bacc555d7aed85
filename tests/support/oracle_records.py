"""What the oracle reads: records with their places, recordings, and which of the records count.

A *source* is one dataset of a key (tenant, exchange, product): its ticks or its trades. Each source has a watermark, a
grace and known ids of its own, so that trades read long after their ticks make nothing late, and the reverse.
"""

import csv
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

from schemas.records import AsOf, Tick, Trade
from schemas.validate import check

SECOND: Final = 1_000_000
"""Microseconds."""
MINUTE: Final = 60 * SECOND
GRACE: Final = 10 * SECOND
CLOCK_DELAY: Final = 2 * SECOND
"""Without records, a pane closes when the event clock is this far past its end."""

Basis = str | Sequence[tuple[int, str]]
"""Where prices come from, `ticks` or `trades`; or (append time from which on, where), oldest first."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAKER: Final = {"buy": "sell", "sell": "buy"}
"""By the maker's side, which Coinbase's matches give."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """A tick or trade with where it stands in its topic and when the broker appended it (microseconds)."""

    record: Tick | Trade
    as_of: AsOf
    appended_at: int = 0
    dataset: str = "ticks"
    backfill: bool = False

    @property
    def time(self) -> int:
        """Event time in microseconds."""
        return self.record.exchange_time

    @property
    def price(self) -> float:
        """Price in quote currency."""
        return self.record.price

    @property
    def size(self) -> float:
        """Size in base currency; one that the exchange did not say counts as 0."""
        return self.record.size or 0.0

    @property
    def quotes(self) -> tuple[float, float] | None:
        """Best bid and ask of a tick that has both."""
        tick = self.record
        if isinstance(tick, Trade) or tick.best_bid is None or tick.best_ask is None:
            return None
        return (tick.best_bid, tick.best_ask)

    @property
    def quoted_at(self) -> int:
        """When the quotes were valid: the quote's own time, otherwise the tick's."""
        return (isinstance(self.record, Tick) and self.record.quote_time) or self.time


@dataclass(frozen=True, slots=True)
class Series:
    """Records in event order: by exchange_time, at an equal time by offset."""

    records: list[Sourced]
    times: list[int]
    exact: dict[str, "Exact"] = field(default_factory=dict)
    columns: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Sourced]) -> Self:
        """Order the records."""
        ordered = sorted(records, key=lambda record: (record.time, record.as_of.offset))
        return cls(ordered, [record.time for record in ordered])

    def place(self, start: int, end: int) -> slice:
        """Return where the records with start <= exchange_time < end stand."""
        return slice(bisect_left(self.times, start), bisect_left(self.times, end))

    def between(self, start: int, end: int) -> list[Sourced]:
        """Return the records with start <= exchange_time < end."""
        return self.records[self.place(start, end)]

    def numbers(self, name: str, of: Callable[[Sourced], float], place: slice) -> list[float]:
        """Return something of each record; it is computed once a record and kept by its name."""
        if name not in self.columns:
            self.columns[name] = [of(record) for record in self.records]
        return self.columns[name][place]

    def total(self, name: str, of: Callable[[Sourced], Fraction], place: slice) -> Fraction:
        """Return the exact sum of something of each record, kept likewise."""
        if name not in self.exact:
            self.exact[name] = Exact.of(map(of, self.records))
        return self.exact[name].sum(place)

    def before(self, time: int) -> Sourced | None:
        """Return the last record with exchange_time < time."""
        index = bisect_left(self.times, time)
        return self.records[index - 1] if index else None

    def pane_ends(self, pane: int = SECOND) -> list[int]:
        """Return the end of each pane of this length (microseconds) that holds records, ascending."""
        return sorted({(time // pane + 1) * pane for time in self.times})


@dataclass(frozen=True, slots=True)
class Exact:
    """Rational numbers whose denominators are powers of two, as every double's is, over the greatest of these."""

    numerators: list[int]
    denominator: int

    @classmethod
    def of(cls, numbers: Iterable[Fraction]) -> Self:
        """Bring numbers to one denominator."""
        found = list(numbers)
        denominator = max((number.denominator for number in found), default=1)
        return cls([number.numerator * (denominator // number.denominator) for number in found], denominator)

    def sum(self, place: slice) -> Fraction:
        """Return the exact sum of the numbers at these places."""
        return Fraction(sum(self.numerators[place]), self.denominator)


# ---- recordings ----


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


def frame_trades(path: Path, exchange: str = "coinbase") -> list[Trade]:
    """Return the trades that a Coinbase recording holds, in its order, with the taker's side."""
    found = [(receipt, frame) for receipt, frame in read_frames(path) if frame["type"] in {"match", "last_match"}]
    return [_trade(frame, exchange, receipt) for receipt, frame in found]


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


def _trade(frame: Mapping[str, Any], exchange: str, receipt: int) -> Trade:
    product, number = str(frame["product_id"]), int(frame["trade_id"])
    return Trade(
        event_id=f"{exchange}:{product}:t{number}",
        exchange=exchange,
        product=product,
        trade_id=number,
        price=float(frame["price"]),
        size=float(frame["size"]),
        side=_TAKER[frame["side"]],
        exchange_time=micros(frame["time"]),
        received_time=receipt,
        sequence=int(frame["sequence"]),
    )


def bar_trades(path: Path, *, exchange: str = "coinbase", product: str = "BTC-USD") -> list[Trade]:
    """Return a CSV's bars as trades, one a bar: its close and volume at the bar's start plus half a second.

    The file's name holds the UTC day (`…-20170903-trade.csv`); its lines are milliseconds since midnight, open, high,
    low, close, volume.
    """
    day = micros(f"{path.stem.split('-')[2]}T00:00:00+00:00")
    trades = []
    for number, (at, *_, close, volume) in enumerate(csv.reader(path.read_text().splitlines())):
        time = day + int(at) * 1_000 + SECOND // 2
        trades.append(
            Trade(
                event_id=f"{exchange}:{product}:t{number}",
                exchange=exchange,
                product=product,
                trade_id=number,
                price=float(close),
                size=float(volume),
                side=("buy", "sell")[number % 2],
                exchange_time=time,
                received_time=time,
            )
        )
    return trades


def sourced(
    records: Iterable[Tick | Trade], *, topic_id: str = "topic", partition: int = 0, dataset: str | None = None
) -> list[Sourced]:
    """Return records as if they stood at offsets 0, 1, 2 … of a partition, appended when they were received."""
    return [
        Sourced(
            record,
            AsOf(topic_id=topic_id, partition=partition, offset=offset),
            record.received_time,
            dataset or ("trades" if isinstance(record, Trade) else "ticks"),
        )
        for offset, record in enumerate(records)
    ]


def by_key(records: Iterable[Sourced]) -> dict[tuple[str, str], list[Sourced]]:
    """Return the records of each (exchange, product), in their order."""
    keys: dict[tuple[str, str], list[Sourced]] = {}
    for record in records:
        keys.setdefault((record.record.exchange, record.record.product), []).append(record)
    return keys


# ---- which records count ----


def well_formed(records: Iterable[Sourced]) -> Iterator[Sourced]:
    """Yield the records of one source that are sound, each id once, without what a backfill brought."""
    known: set[str] = set()
    for record in records:
        name = record.record.event_id
        if check(record.record, record.dataset) is None and not record.backfill and name not in known:
            known.add(name)
            yield record


def accepted(records: Iterable[Sourced]) -> list[Sourced]:
    """Return what statistics and bars take of one source: well-formed, at most 10 s behind the watermark."""
    taken: list[Sourced] = []
    watermark = -math.inf
    for record in well_formed(records):
        if record.time < watermark - GRACE:
            continue
        watermark = max(watermark, record.time)
        taken.append(record)
    return taken


def of_trades(record: Sourced) -> bool:
    """Return whether a record came from the source of trades."""
    return record.dataset == "trades"


def carries_prices(record: Sourced, basis: Basis) -> bool:
    """Return whether prices come from this record: its source was the basis when the broker appended it."""
    name = basis if isinstance(basis, str) else [name for since, name in basis if since <= record.appended_at][-1]
    return of_trades(record) is (name == "trades")
