"""Bars in CSV files as a source: one day of one product each, as the Lean project writes those of Coinbase.

`btcusd-second-20161007-trade.csv`: rows of milliseconds since midnight UTC, open, high, low, close, volume; a second
(or a minute) without a trade has none. A bar is a trade at its end less 1 us, with its close and its volume. A row
that is no bar, or does not come after the one before it, is skipped and counted with its line.
"""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np

from pulsestream.commands.bar_text import Rows, read_rows
from pulsestream.commands.reading import Skipped, SourceError, product_of
from pulsestream.core.clock import to_micros
from schemas.validate import MAX_PRICE, MAX_SIZE
from streams.engine.inputs import UNKNOWN_TIME, Bools, Columns, Floats, Ints
from streams.engine.reading import Batch, Candles, Key, Slice, Span

EXCHANGE: Final = "coinbase"
"""Whose bars these files hold."""
PERIODS: Final = {"second": 1_000_000, "minute": 60_000_000}
"""Microseconds of a bar, by the word in the file's name."""
DAY_MS: Final = 86_400_000

BAR_FILES: Final = "*-trade.csv"
"""What a folder's files of bars are called."""
_NAME: Final = re.compile(r"(?P<symbol>[a-z0-9]+)-(?P<period>[a-z]+)-(?P<day>\d{8})-(?P<kind>[a-z]+)\.csv", re.ASCII)
_EXPECTED: Final = "bars are named like btcusd-second-20161007-trade.csv, or btcusd-minute-…"
_MICROS_PER_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class BarFile:
    """A file, and what its name says: product, microseconds of a bar, midnight (micros)."""

    path: Path
    product: str
    period: int
    midnight: int

    @classmethod
    def of(cls, path: Path) -> "BarFile":
        """Read a file's name; raises SourceError for one that cannot be."""
        named = _NAME.fullmatch(path.name)
        if named is None or named["period"] not in PERIODS:
            raise SourceError(f"{path}: {_EXPECTED}")
        if named["kind"] != "trade":
            raise SourceError(f"{path}: holds {named['kind']} bars, and only bars of trades are read; {_EXPECTED}")
        product = product_of(named["symbol"])
        if product is None:
            raise SourceError(f"{path}: cannot tell which currency {named['symbol']!r} ends with; {_EXPECTED}")
        try:
            day = datetime.strptime(named["day"], "%Y%m%d").replace(tzinfo=UTC)
        except ValueError as error:
            raise SourceError(f"{path}: {named['day']} is no day; {_EXPECTED}") from error
        return cls(path, product, PERIODS[named["period"]], to_micros(day))


class BarSource:
    """Files of bars, read as one."""

    def __init__(self, paths: Sequence[Path], span: Span) -> None:
        self.skipped = Skipped()
        self._files = sorted((BarFile.of(path) for path in paths), key=_product_and_day)
        self._span = span
        _refuse_twice(self._files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.path.stat().st_size for file in self._files)

    def divided(self, parts: int) -> list["BarSource"]:
        """Return sources of about so many equal parts, each product whole in one of them."""
        products = [[file.path for file in files] for _, files in groupby(self._files, _product)]
        chosen = [[path for paths in products[part::parts] for path in paths] for part in range(parts)]
        return [BarSource(paths, self._span) for paths in chosen if paths]

    def traded(self) -> set[tuple[str, str]]:
        """Return every product: bars are made of trades."""
        return {(EXCHANGE, file.product) for file in self._files}

    def slices(self, span: int | None) -> Iterator[Slice]:
        """Yield every product's bars of `span` microseconds at once; None: a file at once, product by product."""
        self.skipped = Skipped()
        streams = [self._of_product(list(files), span) for _, files in groupby(self._files, _product)]
        if span is None:
            for stream in streams:
                yield from (Slice(number, [batch]) for number, batch in stream)
            return
        merged = heapq.merge(*streams, key=_number)
        for number, parts in groupby(merged, _number):
            yield Slice(number * span, [batch for _, batch in parts])

    def _of_product(self, files: list[BarFile], span: int | None) -> Iterator[tuple[int, Batch]]:
        """Yield a product's bars, a batch for each span, with the number of the span; None: for each file."""
        offset = 0
        for file in files:
            bars = self._sound(file, read_rows(file.path))
            for number, part in bars.parts(span) if len(bars.time) else ():
                yield number, part.batch(Key("trades", EXCHANGE, file.product), offset)
                offset += len(part.time)

    def _sound(self, file: BarFile, rows: Rows) -> "_Bars":
        """Return the bars that are sound and within the span of times."""
        sound = _are_bars(rows.values)
        sound[sound] = _ascend(rows.values[0, sound])
        bad = [(int(rows.lines[index]), _fault(rows.values[:, index])) for index in np.flatnonzero(~sound)]
        for line, reason in sorted([*rows.faults, *bad]):
            self.skipped.add(f"{file.path}: line {line}", reason)
        ms, *columns = rows.values if sound.all() else rows.values[:, sound]
        time = file.midnight + ms.astype(np.int64) * _MICROS_PER_MS + (file.period - 1)
        bars = _Bars(time, *columns)
        return bars.part(*np.searchsorted(time, [self._span.begin, self._span.end]).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Bars:
    """Bars of a product, ascending by time, which is their end less 1 us."""

    time: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def part(self, start: int, stop: int) -> "_Bars":
        """Return the bars from `start` to before `stop`."""
        return _Bars(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def parts(self, span: int | None) -> Iterator[tuple[int, "_Bars"]]:
        """Yield what lies in each span of event time, with the span's number; None: all, numbered by its time."""
        if span is None:
            yield int(self.time[0]), self
            return
        numbers = self.time // span
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
            yield int(numbers[start]), self.part(start, stop)

    def batch(self, key: Key, offset: int) -> Batch:
        """Return the bars as records of which the first has this offset."""
        count = len(self.time)
        unknown = np.full(count, np.nan)
        records = Columns(
            offset=np.arange(offset, offset + count),
            appended_at=self.time,
            time=self.time,
            price=self.close,
            size=self.volume,
            buy=np.zeros(count, np.bool_),
            identity=self.time,
            bid=unknown,
            ask=unknown,
            quote_time=np.full(count, UNKNOWN_TIME),
        )
        return Batch(key, records, Candles(self.open, self.high, self.low))


def is_bar_file(path: Path) -> bool:
    """Tell whether a path names a file of bars, or wants to."""
    return path.suffix == ".csv"


def _product(file: BarFile) -> str:
    return file.product


def _product_and_day(file: BarFile) -> tuple[str, int]:
    return file.product, file.midnight


def _number(numbered: tuple[int, Batch]) -> int:
    return numbered[0]


def _refuse_twice(files: Sequence[BarFile]) -> None:
    """Refuse two files of one product and day: their bars are of the same trades."""
    known: dict[tuple[str, int], Path] = {}
    for file in files:
        other = known.setdefault(_product_and_day(file), file.path)
        if other is not file.path:
            raise SourceError(f"{other} and {file.path} hold the same day of {file.product}: name one of them")


def _are_bars(values: Floats) -> Bools:
    """Tell of each row whether it is a bar: a time of the day, prices that contain each other, a volume."""
    ms, opened, high, low, close, volume = values
    in_day = (ms >= 0) & (ms < DAY_MS) & (ms == np.floor(ms))
    priced = (low > 0) & (high <= MAX_PRICE) & (low <= np.minimum(opened, close)) & (high >= np.maximum(opened, close))
    sound: Bools = in_day & priced & (volume >= 0) & (volume <= MAX_SIZE)
    return sound


def _ascend(ms: Floats) -> Bools:
    """Tell of each row whether it is later than all before it."""
    if not len(ms):
        return np.ones(0, np.bool_)
    ascends: Bools = np.r_[True, ms[1:] > np.maximum.accumulate(ms)[:-1]]
    return ascends


def _fault(row: Floats) -> str:
    """Say what is wrong with a row of six numbers."""
    ms, opened, high, low, close, volume = row.tolist()
    if not _are_bars(row.reshape(-1, 1))[0]:
        in_day = 0 <= ms < DAY_MS and ms == int(ms)
        if not in_day:
            return f"{ms:.15g} is no whole millisecond of a day"
        if not 0 <= volume <= MAX_SIZE:
            return f"volume {volume!r} is not from 0 to {MAX_SIZE:g}"
        return f"open {opened!r}, high {high!r}, low {low!r}, close {close!r} are not the prices of a bar"
    return f"{ms:.15g} does not come after the row before it"
