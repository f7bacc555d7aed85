"""Every trade that REST can tell: those of the market since it started, and a made-up past before it. Pure.

Memory is bounded: of the market's own trades the last MAX_TRADES over all products are kept, 57 bytes each (shared out
evenly, at least a thousand of each product, and a quarter more before the oldest are dropped).
The past of a self-made market is a function of seed and trade id alone, so it is the same in every answer, and its
candles are those of its trades. Trade ids count back from the id at which the market started, without gaps.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Final

from producers.exchange.instrument import Listing
from producers.exchange.market import UNIT_DIGITS, Trade
from pulsestream.core.clock import MICROS_PER_SECOND

MAX_TRADES: Final = 1_000_000
"""Trades of the market that are kept, over all products."""
PAST_SECONDS: Final = 24 * 3600
"""How far the past of a self-made market reaches."""
PAST_INTERVAL: Final = 2 * MICROS_PER_SECOND
"""Mean time between two past trades of a product, at least."""

_BLOCK, _BLOCKS = 64, 2048
_MASK: Final = (1 << 64) - 1
_OCTAVES: Final = ((7, 3e-4), (60, 9e-4), (600, 3e-3), (7_200, 1e-2), (43_200, 2.5e-2))
"""Trades between two points of each wave of the past's log price, and how far it goes."""


@dataclass(frozen=True, slots=True)
class Candle:
    """Trades of a product in [start, start + period): times in micros, prices in ticks of `decimals`, sizes in 1e-8.

    A candle without trades has first_id 0 and the close before it as all four prices.
    """

    start: int
    decimals: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote_volume: int = 0
    buy_volume: int = 0
    buy_quote_volume: int = 0
    trades: int = 0
    first_id: int = 0
    last_id: int = 0


class Past:
    """A product's trades before the market started, each computed from its id."""

    def __init__(self, listing: Listing, seed: int, started: int, rate: float) -> None:
        """Take the trades a second of the market and the wall time (also the id) at which it starts."""
        self._listing = listing
        self._started = started
        self._interval = max(PAST_INTERVAL, round(MICROS_PER_SECOND / rate))
        self._depth = PAST_SECONDS * MICROS_PER_SECOND // self._interval
        self._salt = _salt(f"{seed}/{listing.product}")
        self._origin = self._wave(0)
        self.first_id = started - self._depth + 1
        self.last_id = started

    def trade(self, trade_id: int) -> Trade:
        """Return the trade of an id from first_id to last_id."""
        age = self._started - trade_id
        dice = _mix(self._salt + 3 * age)
        side = "buy" if dice & 1 else "sell"
        log_price = math.log(self._listing.price) + self._wave(age) - self._origin
        middle = math.exp(log_price) * 10.0**self._listing.decimals
        price = max(1, round(middle * (1 + 2e-5 if side == "buy" else 1 - 2e-5)))
        median = self._listing.size * 10.0**UNIT_DIGITS
        size = max(1, round(median * math.exp(1.1 * _normal(_mix(self._salt + 3 * age + 1)))))
        return Trade(
            self._listing.product, trade_id, self._started - 20 * age, self._time(age), price, self._listing.decimals,
            size, side, dice >> 4,
        )  # fmt: skip

    def id_at(self, time: int) -> int:
        """Return the id of the first trade at or after a time; last_id + 1 if there is none."""
        age = min((self._started - time) // self._interval + 1, self._depth - 1)
        if age < 0:
            return self.last_id + 1
        while age >= 0 and self._time(age) < time:
            age -= 1
        return self._started - age

    def _time(self, age: int) -> int:
        jitter = _mix(self._salt + 3 * age + 2) % (9 * self._interval // 10)
        return self._started - age * self._interval - jitter

    def _wave(self, age: int) -> float:
        """Return the log price `age` trades ago, but for a constant: random points, smoothly joined."""
        total = 0.0
        for number, (span, height) in enumerate(_OCTAVES):
            point, rest = divmod(age, span)
            share = (1 - math.cos(math.pi * rest / span)) / 2
            here, there = (_mix(self._salt + (number + 1 << 48) + point + step) / _MASK * 2 - 1 for step in (0, 1))
            total += height * (here + (there - here) * share)
        return total


class _Log:
    """One product's trades since the start, in columns, by rising id; the oldest are forgotten."""

    __slots__ = ("_columns", "_limit", "_product")

    def __init__(self, product: str, limit: int) -> None:
        self._product = product
        self._limit = limit
        self._columns = tuple(array(code) for code in "qqqqbqbq")

    def append(self, trade: Trade) -> None:
        ids = self._columns[0]
        if ids and trade.trade_id <= ids[-1]:
            return
        values = (
            trade.trade_id, trade.sequence, trade.time, trade.price, trade.decimals, trade.size,
            trade.side == "buy", trade.order,
        )  # fmt: skip
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        surplus = self._limit // 4
        if len(ids) >= self._limit + surplus:
            for column in self._columns:
                del column[:surplus]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int) -> Trade:
        trade_id, sequence, time, price, decimals, size, buy, order = (column[index] for column in self._columns)
        side = "buy" if buy else "sell"
        return Trade(self._product, trade_id, sequence, time, price, decimals, size, side, order)

    def index_of(self, trade_id: int) -> int:
        return bisect_left(self._columns[0], trade_id)

    def index_at(self, time: int) -> int:
        return bisect_left(self._columns[2], time)


class History:
    """The trades of all products, oldest first, and what REST must not know of them."""

    def __init__(self, products: Collection[str], limit: int = MAX_TRADES) -> None:
        self._logs = {product: _Log(product, max(1000, limit // max(1, len(products)))) for product in products}
        self._pasts: Mapping[str, Past] = {}
        self._hidden: dict[str, set[int]] = {}
        self._block: Callable[[str, int], tuple[Trade, ...]] = lru_cache(_BLOCKS)(self._make_block)

    def begin(self, pasts: Mapping[str, Past]) -> None:
        """Put the past of each product before its first trade."""
        self._pasts = pasts

    def publish(self, trades: Iterable[Trade]) -> None:
        """Take trades that the market made."""
        for trade in trades:
            self._logs[trade.product].append(trade)

    def hide(self, product: str, trade_id: int) -> None:
        """Never tell of a trade, though it took place."""
        self._hidden.setdefault(product, set()).add(trade_id)

    def last(self, product: str) -> Trade | None:
        """Return a product's newest trade, None if it never traded."""
        log, past = self._logs[product], self._pasts.get(product)
        if len(log):
            return log[-1]
        return None if past is None else past.trade(past.last_id)

    def decimals(self, product: str) -> int:
        """Return the digits of a product's prices."""
        last = self.last(product)
        return 2 if last is None else last.decimals

    def upwards(self, product: str, from_id: int, limit: int) -> list[Trade]:
        """Return the first `limit` trades with an id from `from_id` on, by rising id."""
        return list(islice(self._seen(product, self._from(product, from_id)), limit))

    def downwards(self, product: str, below: int | None, limit: int, above: int = 0) -> list[Trade]:
        """Return the last `limit` trades with ids between `above` and `below`, both left out, by falling id."""
        found = takewhile_above(self._backwards(product, below), above)
        return list(islice(self._seen(product, found), limit))

    def since(self, product: str, time: int, limit: int | None = None) -> Iterator[Trade]:
        """Yield the first trades at or after a time, by rising id; None: all."""
        return islice(self._seen(product, self._all_since(product, time)), limit)

    def candles(self, product: str, seconds: int, start: int, end: int, *, empty: bool = False) -> Iterator[Candle]:
        """Yield the candles that begin in [start, end), times in micros; with `empty` also those without trades.

        A trade that REST does not know is in its candle all the same.
        """
        period = seconds * MICROS_PER_SECOND
        begin = -(-start // period) * period
        group: list[Trade] = []
        close: Candle | None = None
        for trade in chain(self._all_since(product, begin), [None]):
            if trade is not None and (not group or trade.time // period == group[0].time // period):
                group.append(trade)
                continue
            if group and group[0].time // period * period < end:
                candle = _candle(group, period)
                if empty and close is not None:
                    yield from _empty(close, candle.start, period)
                yield candle
                close = candle
            if trade is None or trade.time // period * period >= end:
                return
            group = [trade]

    def _all_since(self, product: str, time: int) -> Iterator[Trade]:
        past, log = self._pasts.get(product), self._logs[product]
        older = () if past is None else self._past(product, past.id_at(time), past.last_id)
        return chain(older, (log[index] for index in range(log.index_at(time), len(log))))

    def _from(self, product: str, trade_id: int) -> Iterator[Trade]:
        past, log = self._pasts.get(product), self._logs[product]
        older = () if past is None else self._past(product, trade_id, past.last_id)
        return chain(older, (log[index] for index in range(log.index_of(trade_id), len(log))))

    def _backwards(self, product: str, below: int | None) -> Iterator[Trade]:
        past, log = self._pasts.get(product), self._logs[product]
        yield from (log[i] for i in range((len(log) if below is None else log.index_of(below)) - 1, -1, -1))
        if past is not None:
            last = past.last_id if below is None else min(past.last_id, below - 1)
            for trade_id in range(last, past.first_id - 1, -1):
                yield self._past_trade(product, trade_id)

    def _past(self, product: str, first: int, last: int) -> Iterator[Trade]:
        first = max(first, self._pasts[product].first_id)
        return (self._past_trade(product, trade_id) for trade_id in range(first, last + 1))

    def _past_trade(self, product: str, trade_id: int) -> Trade:
        number, place = divmod(self._pasts[product].last_id - trade_id, _BLOCK)
        return self._block(product, number)[place]

    def _make_block(self, product: str, number: int) -> tuple[Trade, ...]:
        past = self._pasts[product]
        ages = range(number * _BLOCK, min((number + 1) * _BLOCK, past.last_id - past.first_id + 1))
        return tuple(past.trade(past.last_id - age) for age in ages)

    def _seen(self, product: str, trades: Iterable[Trade]) -> Iterator[Trade]:
        hidden = self._hidden.get(product, ())
        return (trade for trade in trades if trade.trade_id not in hidden)


def takewhile_above(trades: Iterable[Trade], above: int) -> Iterator[Trade]:
    """Yield trades of falling ids as long as they lie above one."""
    for trade in trades:
        if trade.trade_id <= above:
            return
        yield trade


def _candle(trades: list[Trade], period: int) -> Candle:
    bought = [trade for trade in trades if trade.side == "buy"]
    prices = [trade.price for trade in trades]
    return Candle(
        start=trades[0].time // period * period,
        decimals=trades[0].decimals,
        open=prices[0],
        high=max(prices),
        low=min(prices),
        close=prices[-1],
        volume=sum(trade.size for trade in trades),
        quote_volume=sum(trade.price * trade.size for trade in trades),
        buy_volume=sum(trade.size for trade in bought),
        buy_quote_volume=sum(trade.price * trade.size for trade in bought),
        trades=len(trades),
        first_id=trades[0].trade_id,
        last_id=trades[-1].trade_id,
    )


def _empty(before: Candle, until: int, period: int) -> Iterator[Candle]:
    for start in range(before.start + period, until, period):
        yield Candle(start, before.decimals, *(before.close,) * 4)


def _salt(text: str) -> int:
    number = 0
    for character in text.encode():
        number = _mix(number + character)
    return number


def _mix(number: int) -> int:
    """Return 64 bits that look random: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


def _normal(bits: int) -> float:
    """Return a number that is nearly normally distributed: the sum of four uniform ones, scaled."""
    total = sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48)) / 0xFFFF
    return (total - 2) * math.sqrt(3)
